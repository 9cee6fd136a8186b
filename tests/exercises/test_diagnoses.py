"""What the checks of NumPy functions say about typical mistakes, and about functions that do anything at all."""

import inspect
import itertools
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnlab import exercises
from dcnlab.exercises import faulty_sampling
from dcnlab.exercises.function_check import FunctionCheck, Mistake, close
from dcnlab.reference import loops

SOLUTIONS = Path(__file__).resolve().parents[2] / "notebooks" / "exercises" / "solutions"
NAMES = [name for name in exercises.names() if isinstance(exercises.get(name).checker, FunctionCheck)]
EACH_MISTAKE = [(name, mistake) for name in NAMES for mistake in exercises.get(name).checker.mistakes]


def source_of(name):
    return (SOLUTIONS / f"{exercises.get(name).file_name}.py").read_text(encoding="utf-8")


def solution(name):
    exercise = exercises.get(name)
    return runpy.run_path(str(SOLUTIONS / f"{exercise.file_name}.py"))[exercise.answer]


def making(name, *mistakes):
    """Return a function that makes these mistakes."""
    checker = exercises.get(name).checker
    keys = list(checker.cases()[0].arguments)
    return lambda *arguments: checker.simulate(frozenset(mistakes), **dict(zip(keys, arguments, strict=True)))


# -- the computed mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_without_a_mistake_the_simulation_is_right(name):
    checker = exercises.get(name).checker
    for case in checker.cases():
        assert close(making(name)(*case.arguments.values()), checker.reference(**case.arguments), 1e-12).all()


@pytest.mark.parametrize(("name", "mistake"), EACH_MISTAKE, ids=lambda v: v.name if isinstance(v, Mistake) else v)
def test_each_mistake_is_told_from_the_others(name, mistake):
    report = exercises.check(name, making(name, mistake.name))
    assert report.diagnosis == mistake.text
    assert report.kind == ("kink" if mistake.kink else "value")


@pytest.mark.parametrize(
    ("name", "mistakes"),
    [
        ("bilinear_sample", ("swapped", "wrapped")),
        ("bilinear_slopes", ("swapped_result", "left")),
        ("dcnv2_forward", ("no_taps", "no_padding")),
        ("grad_mask", ("all_channels", "dropped")),
        ("grad_offset", ("no_scale", "row_major")),
        ("softmax_backward", ("all_rows", "negated")),
        ("scatter", ("no_modulation", "clamped")),
    ],
)
def test_two_mistakes_at_once(name, mistakes):
    checker = exercises.get(name).checker
    texts = [mistake.text for mistake in checker.mistakes if mistake.name in mistakes]
    report = exercises.check(name, making(name, *mistakes))
    assert report.diagnosis == " Also: ".join(texts)
    assert report.kind == "value"


@given(
    st.floats(-3, 8) | st.integers(-2, 7).map(float),
    st.floats(-3, 8) | st.integers(-2, 7).map(float),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_corners_without_mistakes_are_those_of_the_specification(y, x, height, width):
    expected = loops.corners(loops.split(0, y), loops.split(0, x), height, width)
    assert faulty_sampling.corners(y, x, (height, width)) == expected


# -- mistakes as people write them ---------------------------------------------------------------------------------

FLOOR = "y0, x0 = math.floor(y), math.floor(x)"
INSIDE = "if 0 <= row < height and 0 <= column < width:"
OWN = "own = slice(g * per_group, (g + 1) * per_group)"
# exercise, what to replace in its solution, by what, kind of the report, words of its diagnosis, words of its finding
WRITTEN = [
    ("bilinear_sample", FLOOR, "y0, x0 = int(y), int(x)", "value", "int() rounds towards 0", "image[0, 1]"),
    ("bilinear_sample", FLOOR, f"y, x = x, y; {FLOOR}", "value", "x and y are swapped", "expected 4.3"),
    ("bilinear_sample", INSIDE, "if row < height and column < width:", "value", "counts negative indices", "image[0, "),
    ("bilinear_sample", INSIDE, "if True:", "value", "counts negative indices", "image[0, "),
    ("bilinear_sample", INSIDE, "if row >= 0 and column >= 0:", "call", "ask before you read", "IndexError: index 4"),
    (
        "bilinear_sample",
        "row, column = y0 + dy, x0 + dx",
        "row, column = min(max(y0 + dy, 0), height - 1), min(max(x0 + dx, 0), width - 1)",
        "value",
        "you repeat its border",
        "expected 3.78, got 5.4",
    ),
    (
        "bilinear_slopes",
        FLOOR,
        "y0, x0 = math.ceil(y) - 1, math.ceil(x) - 1",
        "kink",
        "not an error of yours",
        "along y",
    ),
    ("bilinear_slopes", "-1 < y < height and -1 < x", "-1 <= y < height and -1 <= x", "kink", "torchvision", "(-1, 1)"),
    ("bilinear_slopes", "return along_y, along_x", "return along_x, along_y", "value", "slopes are swapped", "along y"),
    ("dcnv2_forward", "- padding + j", "- padding + i", "value", "", "tap"),
    ("dcnv2_forward", "2 * t, oy, ox]", "t, oy, ox]", "value", "", "Of 6 taps, each alone, these are wrong: 1 (row 0"),
    ("dcnv2_forward", "j * kernel_width + i", "i * kernel_height + j", "value", "column by column", "tap"),
    ("dcnv2_forward", "mask[t, oy, ox] * ", "", "value", "The mask is not used", "Each tap is wrong"),
    ("dcnv2_forward", "y = oy - padding + j", "y = oy - padding", "value", "", "output channel 0, pixel (0, 0)"),
    ("grad_mask", OWN, "own = slice(None)", "value", "sum over all channels", "output pixel (0, 0), group 0, tap 0"),
    ("grad_mask", OWN, "own = slice(g, None, groups)", "value", "deal the channels out", "group 0"),
    ("grad_offset", "= offset_scale * mask", "= mask", "value", "factor offset_scale is missing", "along x"),
    ("grad_offset", "9 * g + 3 * i + j", "9 * g + 3 * j + i", "value", "count the taps row by row", "tap 3 (row 0"),
    ("grad_offset", FLOOR, "y0, x0 = math.ceil(y) - 1, math.ceil(x) - 1", "kink", "a kink, not an error", "along x"),
    ("grad_offset", "arriving @ along_x", "arriving @ along_y", "value", "", "tap 0 (row 0, column 0), along x"),
    (
        "softmax_backward",
        "(grad_modulation - mean)",
        "grad_modulation",
        "value",
        "Jacobian of softmax without",
        "tap 0",
    ),
    ("softmax_backward", " - logits.max(axis=-1, keepdims=True)", "", "value", "exp overflows", "got nan"),
    (
        "softmax_backward",
        "grad_modulation).sum(axis=-1, keepdims=True)",
        "grad_modulation).sum()",
        "value",
        "axis=-1",
        "",
    ),
    ("scatter", "own] += ", "own] = ", "value", "some are lost. Write += instead of =", "where 2 samples give"),
    ("scatter", "modulation[oy, ox, g, k] * grad", "grad", "value", "modulation is missing", "where 1 sample gives"),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "kind", "diagnosis", "finding"),
    WRITTEN,
    ids=[f"{number}-{name}" for number, (name, *_) in enumerate(WRITTEN)],
)
def test_mistakes_as_people_write_them(name, old, new, kind, diagnosis, finding):
    source = source_of(name)
    assert old in source, "the solution no longer has this line"
    namespace = {}
    exec(compile(source.replace(old, new), "<cell>", "exec"), namespace)
    report = exercises.check(name, namespace[exercises.get(name).answer])
    assert not report.ok
    assert report.kind == kind
    assert diagnosis in report.diagnosis
    assert finding in report.finding


def test_a_central_difference_is_told_that_it_stands_on_a_kink():
    sample, h = solution("bilinear_sample"), 1e-5

    def slopes(image, y, x):
        along_y = sample(image, y + h, x) - sample(image, y - h, x)
        along_x = sample(image, y, x + h) - sample(image, y, x - h)
        return along_y / (2 * h), along_x / (2 * h)

    report = exercises.check("bilinear_slopes", slopes)
    assert report.kind == "kink"
    assert "as a central difference does" in report.diagnosis


@pytest.mark.parametrize("order", [1, -1])
def test_lost_contributions_are_recognised_in_any_order(order):
    """NumPy's buffered +=, which takes the last of those that meet; and the first."""

    def scatter(grad_output, positions, modulation, height, width):
        result = np.zeros((height, width, grad_output.shape[2]))
        groups, each = positions.shape[2], grad_output.shape[2] // positions.shape[2]
        for g in range(groups):
            y, x = (positions[:, :, g, :, axis].ravel()[::order] for axis in (0, 1))
            given = modulation[:, :, g, :, None] * grad_output[:, :, None, g * each : (g + 1) * each]
            given = given.reshape(-1, each)[::order]
            for dy, dx in itertools.product((0, 1), (0, 1)):
                row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                keep = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                rows, columns = row[keep], column[keep]
                result[rows, columns, g * each : (g + 1) * each] += (weight[:, None] * given)[keep]
        return result

    report = exercises.check("scatter", scatter)
    assert "two samples in one cell" in report.case
    assert "np.add.at" in report.diagnosis


def test_no_diagnosis_is_made_up(capsys):
    report = exercises.check("bilinear_sample", lambda image, y, x: 17.0)
    assert report.diagnosis == ""
    assert exercises.check("scatter", lambda g, p, m, h, w: np.full((h, w, g.shape[2]), 17.0)).diagnosis == ""
    capsys.readouterr()
    report = exercises.check("bilinear_sample", lambda image, y, x: 17.0)
    assert report.finding == "the value should be 1 * image[1, 2]: expected 4.3, got 17."
    assert "1 of 12: on a pixel, at y = 1.0, x = 2.0. Of all cases, 12 fail." in " ".join(
        capsys.readouterr().out.split()
    )


# -- functions that do anything at all -------------------------------------------------------------------------------


class Spiteful(Exception):
    def __str__(self):
        raise RuntimeError


class NoArray:
    def __array__(self, dtype=None, copy=None):
        raise ValueError("not me")


def raises(error):
    def function(grad_modulation, logits):
        raise error

    return function


def recurses(grad_modulation, logits):
    return recurses(grad_modulation, logits)


def changes_its_argument(grad_modulation, logits):
    logits += 1
    return np.zeros_like(logits)


HOSTILE = [
    (raises(ZeroDivisionError("one line\nand another")), "call", "raised ZeroDivisionError: one line (at line"),
    (raises(Spiteful()), "call", "raised Spiteful (at line"),
    (raises(SystemExit(3)), "call", "raised SystemExit: 3"),
    (raises(ValueError("x" * 5000)), "call", "raised ValueError: xxx"),
    (recurses, "call", "raised RecursionError"),
    (changes_its_argument, "call", "it changes its argument logits in place"),
    (lambda g: g, "call", "the function must take (grad_modulation, logits), got (g)"),
    (lambda g, z: None, "result", "it returned None: is a return missing?"),
    (lambda g, z: g[:1], "result", "it returned an array of shape (1,); expected an array of shape (2,)"),
    (lambda g, z: 1.0, "result", "it returned a single number; expected an array of shape (2,)"),
    (lambda g, z: "text", "result", "expected real numbers"),
    (lambda g, z: g + 1j, "result", "type complex128; expected real numbers"),
    (lambda g, z: [1, [2, 3]], "call", "raised ValueError: setting an array element"),
    (lambda g, z: NoArray(), "call", "raised ValueError: not me"),
    (lambda g, z: object(), "result", "type object; expected real numbers"),
    (lambda g, z: np.full_like(g, np.nan), "value", "got nan"),
    (lambda g, z: np.full_like(g, np.inf), "value", "got inf"),
    (lambda g, z: np.log(g - 9), "value", "got nan"),
    (lambda g, z: 10**400 * g, "call", "raised OverflowError"),
]


@pytest.mark.parametrize(("function", "kind", "finding"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_functions_get_one_line(function, kind, finding):
    report = exercises.check("softmax_backward", function)
    assert not report.ok
    assert report.kind == kind
    assert finding in report.finding
    assert "\n" not in report.finding
    assert len(report.finding) < 400


def test_functions_without_a_signature_are_called():
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(max)
    report = exercises.check("bilinear_sample", max)
    assert report.kind == "call"
    assert "raised ValueError: The truth value of an array" in report.finding


def test_a_case_that_is_not_written_yet():
    right = solution("bilinear_sample")

    def inside_only(image, y, x):
        if y < 0:
            raise NotImplementedError
        return right(image, y, x)

    report = exercises.check("bilinear_sample", inside_only)
    assert report.kind == "stub"
    assert "above the first row" in report.case


def test_samples_without_a_pixel_in_reach():
    right = solution("bilinear_sample")
    report = exercises.check("bilinear_sample", lambda image, y, x: right(image, y, x) + (x > 9))
    assert report.finding == "no pixel is in reach: expected 0, got 1."


def test_numbers_that_are_not_finite():
    report = exercises.check("bilinear_sample", lambda image, y, x: np.nan)
    assert "look for a division by 0" in report.diagnosis


def test_the_line_that_raised_is_shown(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def bilinear_sample(image, y, x):\n    return image[99, 99]\n", encoding="utf-8")
    report = exercises.check("bilinear_sample", runpy.run_path(str(path))["bilinear_sample"])
    assert report.finding.endswith("(at line 2, `return image[99, 99]`)")


def test_coarse_types_are_named():
    right = solution("softmax_backward")
    in_float32 = exercises.check("softmax_backward", lambda g, z: right(g.astype("f4"), z.astype("f4")))
    assert "something is float32" in in_float32.diagnosis
    in_integers = exercises.check("softmax_backward", lambda g, z: right(g, z).astype(int))
    assert "The result has type int64" in in_integers.diagnosis


def test_the_next_call_gets_fresh_arguments():
    """A function that spoils its arguments is reported, and does not spoil the case."""
    seen = []
    exercises.check("softmax_backward", lambda g, z: seen.append(z.copy()) or z.fill(np.nan))
    exercises.check("softmax_backward", lambda g, z: seen.append(z.copy()))
    half = len(seen) // 2
    assert all(np.array_equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        exercises.check("softmax_backward", raises(KeyboardInterrupt()))


def test_a_probe_names_the_tap():
    right = solution("dcnv2_forward")

    def forgets_the_last_tap(input, offset, mask, weight, padding):
        weight = weight.copy()
        weight[:, :, -1, -1] *= math.prod(weight.shape[2:]) == 1
        return right(input, offset, mask, weight, padding)

    report = exercises.check("dcnv2_forward", forgets_the_last_tap)
    assert re.search(r"Of 6 taps, each alone, these are wrong: 5 \(row 1, column 2\)\.$", report.finding)
