"""The upper rungs of DCNv3 forward: what they take, what they compute, and that a wrong one is noticed."""

import re
import shutil

import numpy as np
import pytest
from helpers import GOLDEN, assert_close, expect, golden_dcnv3
from nvrtc import require_nvrtc

from dcnlab import catalogue, modulation
from dcnlab.compiled import calls, dcnv3_rungs
from dcnlab.compiled import deformable as compiled
from dcnlab.compiled.calls import Call
from dcnlab.compiled.dcnv3_rungs import vector_width
from dcnlab.compiled.ladder import instances
from dcnlab.compiled.rung import Problem
from dcnlab.compiled.rungs import RUNGS, pick
from dcnlab.launch import kernels_folder, module
from dcnlab.launch.sources import read_source
from dcnlab.reference import deformable

pytestmark = pytest.mark.usefixtures("compiler")

IDEAS = ("3_vector", "4_records", "5_half")
STEPS = [(idea, dtype) for idea in IDEAS for dtype in RUNGS["dcnv3_forward", idea].dtypes]
FUSED = [(idea, dtype) for idea, dtype in STEPS if RUNGS["dcnv3_forward", idea].takes_logits]
# `vectors` of 16 bytes are a group's channels.
NINE_TAPS = {
    "3x3": {},
    "several blocks, the last not full": {"size": (9, 8), "batch": 3},
    "one vector a group": {"vectors": 1, "groups": 3},
    "five vectors a group": {"vectors": 5, "groups": 1},
    "stride and dilation": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "size": (9, 8)},
    "offset_scale": {"offset_scale": 1.1},
    "one pixel": {"size": (1, 1), "batch": 1},
    "one row, large offsets": {"size": (1, 9), "offsets": "large"},
    "lattice": {"offsets": "zero"},
    "on the border": {"offsets": "integer", "size": (3, 4)},
}
OTHER_TAPS = {
    "1x1": {"kernel_size": 1, "padding": 0},
    "5x5": {"kernel_size": 5, "padding": 2},
    "3x5": {"kernel_size": (3, 5), "padding": (1, 2)},
    "even kernel": {"kernel_size": 2, "stride": 2, "padding": 0},
    "remove_center": {"remove_center": True, "dilation": 2, "padding": 2},
}
ROUNDING = 2.0**-11  # of float16, relative
SMALLEST = 2.0**-25  # half a step of float16 next to 0


def make_case(shapes, dtype, seed=0):
    """Return (arrays, settings) of a geometry."""
    shapes = {"batch": 2, "groups": 2, "padding": 1, **shapes}
    shapes["channels"] = shapes.pop("vectors", 2) * shapes["groups"] * vector_width(dtype)
    known = ("stride", "padding", "dilation", "offset_scale", "remove_center", "kernel_size", "groups")
    rng = np.random.default_rng(seed)
    arrays = catalogue.dcnv3_arguments(rng, **shapes)
    return {k: v.astype(dtype) for k, v in arrays.items()}, {k: shapes[k] for k in known if k in shapes}


def exactly(arrays, settings):
    with np.errstate(all="ignore"):
        return deformable.dcnv3(**{key: value.astype(float) for key, value in arrays.items()}, **settings)


def expect_output(idea, found, arrays, settings):
    wanted = exactly(arrays, settings)
    if idea != "5_half":
        expect(found, wanted, "output")
        return
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    allowed = half_error(arrays, settings)
    finite = np.isfinite(wanted)
    errors = abs(found.astype(float) - wanted)[finite]
    assert (errors <= allowed[finite]).all(), f"{(errors / allowed[finite]).max():.2f} x what is allowed"


def half_error(arrays, settings):
    """Return the bound that 5_half.cu derives: 4 roundings of the sum of sizes.

    Besides, numbers next to 0 have an absolute error (a weight, three operations on it, and the output), and positions
    and sums are float32.
    """
    sizes = {key: abs(value) if key in ("input", "mask") else value for key, value in arrays.items()}
    total = exactly(sizes, settings)
    largest = np.nanmax(sizes["input"].astype(float)) + 1
    modulated = sizes["mask"].astype(float).reshape(*sizes["mask"].shape[:3], settings["groups"], 9).sum(axis=-1)
    modulated = np.repeat(modulated, total.shape[-1] // settings["groups"], axis=-1)
    return 4 * ROUNDING * (1 + ROUNDING) * total + (4 * modulated + 1) * largest * SMALLEST + 1e-5 * np.nanmax(total)


def run(idea, arrays, settings, **how):
    call = Call(arrays["input"], rungs={"dcnv3_forward": idea}, **how)
    with np.errstate(all="ignore"):
        return compiled.dcnv3(**arrays, **settings, call=call)


@pytest.mark.parametrize("label", [*NINE_TAPS, *OTHER_TAPS])
@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_every_geometry(idea, dtype, label):
    arrays, settings = make_case((NINE_TAPS | OTHER_TAPS)[label], dtype)
    if label in OTHER_TAPS and idea != "3_vector":
        with pytest.raises(ValueError, match="does not take Problem"):
            run(idea, arrays, settings)
        return
    expect_output(idea, run(idea, arrays, settings), arrays, settings)


@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_an_empty_batch(idea, dtype):
    arrays, settings = make_case({"batch": 0}, dtype)
    assert run(idea, arrays, settings).shape == arrays["input"].shape


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", sorted((GOLDEN / "dcnv3").glob("op_*.npz")), ids=lambda path: path.stem)
def test_golden_files(path, dtype):
    arrays, settings, data = golden_dcnv3(path)
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    whole_vectors = arrays["input"].shape[-1] // settings["groups"] % vector_width(dtype) == 0
    nine = settings["kernel_size"] == (3, 3) and not settings["remove_center"]
    for idea, takes in (("3_vector", whole_vectors), ("4_records", whole_vectors and nine)):
        if takes:
            assert_close(run(idea, arrays, settings), data["output"], name=idea)
        else:
            with pytest.raises(ValueError, match=f"dcnv3_forward {idea} does not take"):
                run(idea, arrays, settings)


def broken(dtype):
    """A case with every value that is not finite, each at its own place; pixels are NaN: inf - inf would be, too."""
    arrays, settings = make_case({}, dtype)
    offset, mask, image = arrays["offset"], arrays["mask"], arrays["input"]
    for number, value in enumerate((np.nan, np.inf, -np.inf, 6e4 if dtype == "float16" else 1e30)):
        offset[0, 1, number, 2 * number] = value
    mask[0, 3, 5, 7] = np.nan
    offset[1, 3, 3, 4] = np.nan
    offset[1, 3, 3, 5] = np.inf
    image[1, 0, 0, 0] = image[1, 4, 5, 1] = image[0, 2, 0, -1] = np.nan
    return arrays, settings


@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_values_that_are_not_finite(idea, dtype):
    arrays, settings = broken(dtype)
    found = run(idea, arrays, settings)
    assert np.isnan(found).any()
    assert np.isfinite(found).any()
    expect_output(idea, found, arrays, settings)


@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_an_infinite_pixel_at_the_border_is_not_multiplied_by_0(idea, dtype):
    arrays, settings = make_case({"groups": 1}, dtype)
    arrays["input"][:, 0] = np.inf
    arrays["offset"][...] = 0.25  # every cell with a pixel of the first row has it with a weight above 0
    found, wanted = run(idea, arrays, settings), exactly(arrays, settings)
    assert np.array_equal(np.isinf(found), np.isinf(wanted))
    assert np.isinf(found).any()
    assert not np.isnan(found).any()


@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_any_order_and_number_of_threads(idea, dtype, monkeypatch):
    arrays, settings = make_case(NINE_TAPS["several blocks, the last not full"], dtype)
    wanted = run(idea, arrays, settings)
    for order in ("backward", 1, 2):
        assert np.array_equal(run(idea, arrays, settings, thread_order=order), wanted)
    for threads in (1, 2):
        monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
        assert np.array_equal(run(idea, arrays, settings), wanted)


@pytest.mark.check_kernels
@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_clean(idea, dtype, mode):
    arrays, settings = broken(dtype)
    expect_output(idea, run(idea, arrays, settings, mode=mode), arrays, settings)


@pytest.mark.parametrize("idea", IDEAS)
def test_a_large_batch_goes_on_in_the_third_dimension_of_the_grid(idea, monkeypatch):
    arrays, settings = make_case({"batch": 5, "size": (2, 3)}, "float16")
    wanted = run(idea, arrays, settings)
    monkeypatch.setattr(dcnv3_rungs, "MOST_IMAGES", 2)
    calls._planned.cache_clear()
    problem = Problem("cpu", "float16", 8, 10, 5, sizes=(("taps", 9),))
    assert RUNGS["dcnv3_forward", idea].launch(problem).grid[1:] == (2, 3)
    assert np.array_equal(run(idea, arrays, settings), wanted)
    monkeypatch.undo()
    calls._planned.cache_clear()


def test_what_a_gpu_uses():
    def used(dtype, channels, taps=9, height=56, target="cuda"):
        sizes = {"taps": taps, "height": height, "width": 56, "groups": 4}
        return pick("dcnv3_forward", Problem(target, dtype, channels, 100, sizes=tuple(sizes.items()))).idea

    assert used("float16", 16) == "5_half"
    assert used("float16", 12) == "2_point", "no whole vectors"
    assert used("float16", 16, taps=25) == "3_vector"
    assert used("float16", 16, height=10**6) == "4_records", "places of 2 GB do not fit beside four bits"
    assert used("float16", 16, height=2 * 10**8) == "2_point", "nor into 32 bits"
    assert used("float32", 16) == used("float64", 2) == "4_records"
    assert used("float32", 16, taps=8) == "3_vector"
    assert used("float16", 16, target="cpu") == "2_point"


@pytest.mark.parametrize(("idea", "dtype"), STEPS)
def test_a_gpu_loads_a_corner_at_once(idea, dtype):
    """What a compiler takes apart is right all the same, only slow."""
    rung = RUNGS["dcnv3_forward", idea]
    name = instances(rung, "cuda", dtype)[0]
    ptx = require_nvrtc().ptx(read_source(rung.path), [name], "sm_90")
    loads, stores = (re.findall(rf"{verb}\.global(?:\.nc)?\.(\S+)", ptx) for verb in ("ld", "st"))
    whole = [form for form in loads if form[:2] + form[-2:] in ("v432", "v264")]
    assert len(whole) == 4 * 9
    assert len(loads) - len(whole) <= 7 * 9, "a tap: its place, residual, offset and mask"
    assert [form[:2] + form[-2:] for form in stores] in (["v432"], ["v264"])


# -- the softmax, fused --------------------------------------------------------------------------------------------


def of_logits(idea, arrays, logits, settings, **how):
    call = Call(logits, rungs={"dcnv3_forward": idea}, **how)
    with np.errstate(all="ignore"):
        return compiled.dcnv3_of_logits(arrays["input"], arrays["offset"], logits, **settings, call=call)


def with_softmax(arrays, logits, settings):
    """Return the arrays with the exact softmax of the logits as their mask."""
    with np.errstate(all="ignore"):
        mask = modulation.normalise_modulation(logits.astype(float), "softmax", settings["groups"])
    return {**arrays, "mask": mask}


@pytest.mark.parametrize("mode", ["fast", pytest.param("check", marks=pytest.mark.check_kernels)])
@pytest.mark.parametrize(("idea", "dtype"), FUSED)
def test_softmax_is_part_of_it(idea, dtype, mode):
    arrays, settings = make_case(NINE_TAPS["several blocks, the last not full"], dtype)
    logits = (3 * np.random.default_rng(1).standard_normal(arrays["mask"].shape)).astype(dtype)
    logits[0, 0, 0, 0] = 1000
    found = of_logits(idea, arrays, logits, settings, mode=mode)
    expect_output(idea, found, with_softmax(arrays, logits, settings), settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("idea", ["2_point", "3_vector"])
def test_softmax_goes_first_where_it_is_no_part_of_it(idea, dtype):
    arrays, settings = make_case({}, dtype)
    logits = np.random.default_rng(1).standard_normal(arrays["mask"].shape).astype(dtype)
    expect_output(idea, of_logits(idea, arrays, logits, settings), with_softmax(arrays, logits, settings), settings)


@pytest.mark.parametrize(("idea", "dtype"), FUSED)
def test_logits_that_are_not_finite(idea, dtype):
    """A NaN or the infinity among them makes the pixel and group NaN; -infinity is a modulation of 0."""
    arrays, settings = make_case({}, dtype)
    logits = np.random.default_rng(1).standard_normal(arrays["mask"].shape).astype(dtype)
    logits[0, 1, 2, 0] = logits[0, 1, 3, 17] = np.nan
    logits[0, 2, 2, 4] = np.inf
    logits[1, 2, 2, 4] = -np.inf
    logits[1, 3, 3, :9] = -np.inf
    found = of_logits(idea, arrays, logits, settings)
    group = found.shape[-1] // 2
    wanted = np.zeros(found.shape, bool)
    for pixel, g in (((0, 1, 2), 0), ((0, 1, 3), 1), ((0, 2, 2), 0), ((1, 3, 3), 0)):
        wanted[pixel][g * group : (g + 1) * group] = True
    assert np.array_equal(np.isnan(found), wanted)
    expect_output(idea, found, with_softmax(arrays, logits, settings), settings)


# -- bugs that check mode cannot see: the comparison does ----------------------------------------------------------

HALF, RECORDS, VECTOR = ("5_half", "5_half.cu"), ("4_records", "4_records.cu"), ("3_vector", "3_vector.cu")
TAP, BILINEAR = ("4_records", "include/tap.cuh"), ("3_vector", "include/bilinear.cuh")
# name: ((rung, file changed), text, what stands in its place)
WRONG = {
    "halves of a pair swapped": (HALF, "v.v[2 * i], v.v[2 * i + 1]", "v.v[2 * i + 1], v.v[2 * i]"),
    "weights of a pair swapped": (HALF, "w00 = __low2half2(tap.upper)", "w00 = __high2half2(tap.upper)"),
    "four roundings too much": (HALF, "tap.modulation * (upper.x", "1.002f * tap.modulation * (upper.x"),
    "records of the row beside": (HALF, "image, records[k * ROWS + r]", "image, records[k * ROWS + (r ^ 1)]"),
    "places of the next tap": (RECORDS, "= places[k * ROWS + r]", "= places[(k + 1) % USUAL * ROWS + r]"),
    "corners multiplied by 0": (TAP, "there >> i & 1)", "true)"),
    "a NaN position is far away": (TAP, "is_number ? modulation : not_a_number<A>()", "modulation"),
    "the lost side of -1": (BILINEAR, "((row >= 0) | (ly > A(0)))", "true"),
    "a tap too few": (VECTOR, "k < count;", "k < count - 1;"),
}


@pytest.mark.parametrize("bug", WRONG)
def test_a_wrong_result_is_noticed(bug, tmp_path, monkeypatch):
    (idea, file), old, new = WRONG[bug]
    shutil.copytree(kernels_folder() / "include", tmp_path / "include")
    for header in (tmp_path / "include").iterdir():
        header.rename(tmp_path / header.name)
    shutil.copy(kernels_folder() / "dcnv3_forward" / f"{idea}.cu", tmp_path)
    changed = tmp_path / file.removeprefix("include/")
    text = changed.read_text()
    assert text.count(old) == 1
    changed.write_text(text.replace(old, new))

    def mutant(rung, name, *_):
        return module(tmp_path / f"{idea}.cu", [name], target="cpu")[name]

    dtype = RUNGS["dcnv3_forward", idea].dtypes[0]
    cases = [broken(dtype), make_case(NINE_TAPS["on the border"], dtype)]
    cases[1][0]["input"][:, 0] = np.nan  # samples at exactly row -1 touch nothing of it

    def compare():
        for arrays, settings in cases:
            expect_output(idea, run(idea, arrays, settings), arrays, settings)

    compare()
    monkeypatch.setattr(calls, "kernel", mutant)
    with pytest.raises(AssertionError):
        compare()
