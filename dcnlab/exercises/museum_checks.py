"""Exhibits of the museum: padding, and tests that fail or pass for the wrong reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dcnlab.exercises.function_check import Case
from dcnlab.exercises.museum import Choice, Piece
from dcnlab.geometry import Pair, tap_positions
from dcnlab.ops.deformable import dcnv3, dcnv3_backward
from dcnlab.reference.sampling import sampling_matrix

# -- the wrong axes padded -----------------------------------------------------------------------------------------


def sum_of_samples(padded: np.ndarray, offset: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return DCNv3 (Ho, Wo, C), one group, of an image that has been padded (Hp, Wp, C): 3x3 taps, stride 1."""
    height, width, channels = padded.shape
    rows, columns = np.mgrid[: height - 2, : width - 2]
    first = np.stack([rows, columns], axis=-1)[:, :, None]  # (Hp - 2, Wp - 2, 1, 2)
    pairs = offset.reshape(*offset.shape[:2], 9, 2)[..., ::-1]  # (x, y) -> (y, x)
    positions = first + tap_positions(3, layout="dcnv3") + pairs
    samples = sampling_matrix(positions, mask, height, width) @ padded.reshape(height * width, channels)
    output: np.ndarray = samples.reshape(*mask.shape, channels).sum(axis=2)
    return output


def pads_the_wrong_axes(input: np.ndarray, offset: np.ndarray, mask: np.ndarray, padding: Pair) -> np.ndarray:
    """DCNv3 of an image (H, W, C), channels last, padding (vertical, horizontal)."""
    vertical, horizontal = padding
    padded = np.pad(input, [(horizontal, horizontal), (vertical, vertical), (0, 0)])
    return sum_of_samples(padded, offset, mask)


def pads_the_right_axes(input: np.ndarray, offset: np.ndarray, mask: np.ndarray, padding: Pair) -> np.ndarray:
    """The same, right: the first axis is the height."""
    vertical, horizontal = padding
    padded = np.pad(input, [(vertical, vertical), (horizontal, horizontal), (0, 0)])
    return sum_of_samples(padded, offset, mask)


def true_dcnv3(input: np.ndarray, offset: np.ndarray, mask: np.ndarray, padding: Pair) -> np.ndarray:
    """Return DCNv3 by dcnlab."""
    output: np.ndarray = dcnv3(input[None], offset[None], mask[None], padding=padding, backend="numpy")[0]
    return output


def _padded_arguments(padding: Pair, size: Pair) -> dict[str, Any]:
    rng = np.random.default_rng(10)
    return {
        "input": rng.uniform(-1, 1, (5, 6, 2)).round(2),
        "offset": rng.normal(size=(*size, 18)).round(2),
        "mask": rng.uniform(0, 1, (*size, 9)).round(2),
        "padding": padding,
    }


def _other_way_round() -> tuple[np.ndarray, np.ndarray]:
    arguments = _padded_arguments((1, 0), (3, 6))  # the size of an output that is padded by 0 rows and 1 column
    return true_dcnv3(**{**arguments, "padding": (0, 1)}), pads_the_wrong_axes(**arguments)


PADDED_AXES = Piece(
    name="padded_axes",
    title="Padding that nobody varied",
    story="The version of DCNv3 in plain PyTorch pads its image, which is channels last: (N, H, W, C). torch's F.pad "
    "takes the amounts from the last axis backwards: [0, 0, pad_h, pad_h, pad_w, pad_w]. The exhibit does the same "
    "with np.pad, for one image.",
    source="[InternImage](https://github.com/OpenGVLab/InternImage), ops_dcnv3/functions/dcnv3_func.py, "
    "dcnv3_core_pytorch (commit 31c962dc). The CUDA kernel beside it is right.",
    exhibit=pads_the_wrong_axes,
    corrected=pads_the_right_axes,
    truth=true_dcnv3,
    fails_on=lambda: Case("a padding of 1 row and 0 columns", _padded_arguments((1, 0), (5, 4))),
    passes_on=lambda: Case("a padding of 1 on all sides", _padded_arguments((1, 1), (5, 6))),
    question="Which amount goes where?",
    choices={
        "a": Choice(
            "the rows are padded by the horizontal amount, the columns by the vertical one",
            "After the channels, F.pad's next pair belongs to the width: pad_w has to come first. As long as both are "
            "equal, as in all of InternImage, nobody can tell.",
        ),
        "b": Choice("the channels are padded", "Their amount is 0."),
        "c": Choice("the image must not be padded at all", "It may be: what is outside counts as 0 either way."),
    },
    answer="a",
    reason="the vertical padding widens the image, the horizontal one heightens it",
    evidence=_other_way_round,
    evidence_names=("dcnlab, a padding of 0 rows and 1 column", "exhibit, a padding of 1 row and 0 columns"),
)

# -- a gradient check on the kinks ---------------------------------------------------------------------------------

IMAGE = np.random.default_rng(11).uniform(1, 9, (1, 4, 5, 1)).round(1)
MASK = np.random.default_rng(12).uniform(0.1, 1, (1, 2, 3, 9)).round(2)
STEP = 1e-4  # along one coordinate the surface is straight: there is no truncation error


def differences(offset: np.ndarray, steps: Sequence[float], run: Callable[[np.ndarray], float]) -> np.ndarray:
    """Return (f(offset + steps[1]) - f(offset + steps[0])) / (steps[1] - steps[0]), entry by entry."""
    result = np.empty_like(offset)
    for entry in np.ndindex(offset.shape):
        values = []
        for step in steps:
            moved = offset.copy()
            moved[entry] += step
            values.append(run(moved))
        result[entry] = (values[1] - values[0]) / (steps[1] - steps[0])
    return result


def central_differences(offset: np.ndarray) -> np.ndarray:
    """The gradient of the sum of DCNv3's output, numerically."""
    return differences(offset, (-STEP, STEP), sum_of_output)


def differences_to_the_right(offset: np.ndarray) -> np.ndarray:
    """The same, inside the cell whose slope a backward pass gives."""
    return differences(offset, (0.0, STEP), sum_of_output)


def sum_of_output(offset: np.ndarray) -> float:
    """Return the sum of the output (1, 2, 3, 1) of DCNv3, 3x3 and without padding, for offsets (1, 2, 3, 18)."""
    return float(dcnv3(IMAGE, offset, MASK, padding=0, backend="numpy").sum())


def backward(offset: np.ndarray) -> np.ndarray:
    """Return its gradient by dcnlab."""
    ones = np.ones((1, 2, 3, 1))
    grad: np.ndarray = dcnv3_backward(ones, IMAGE, offset, MASK, padding=0, backend="numpy").offset
    return grad


def _mean_of_two_slopes() -> tuple[np.ndarray, np.ndarray]:
    """Move x or y alone, a little to either side of the kinks: the slopes there belong to the cells left and right."""
    mean = np.zeros((1, 2, 3, 18))
    for axis in (0, 1):
        along = np.zeros_like(mean)
        along[..., axis::2] = STEP
        mean += np.where(along != 0, (backward(along) + backward(-along)) / 2, 0)
    return mean, central_differences(np.zeros_like(mean))


ZERO_OFFSETS = Piece(
    name="zero_offsets",
    title="A gradient check that fails a correct gradient",
    story="A backward pass is compared with central differences, in double precision. Every input passes, except the "
    "offsets, which are 0 as in a fresh layer. With offsets of 0.5 they pass as well.",
    source="[DCNv2](https://github.com/CharlesShang/DCNv2), README, known issues: the author describes exactly this, "
    "and wonders about non-differentiable points.",
    exhibit=central_differences,
    corrected=differences_to_the_right,
    truth=backward,
    fails_on=lambda: Case("at offsets of 0", {"offset": np.zeros((1, 2, 3, 18))}),
    passes_on=lambda: Case("at offsets of 0.5", {"offset": np.full((1, 2, 3, 18), 0.5)}),
    question="Which of the two gradients is wrong at offsets of 0?",
    choices={
        "a": Choice("the backward pass", "It is the slope of the cell to the right, as promised, and agrees with it."),
        "b": Choice(
            "neither: every sample stands on a kink, and a central difference takes the mean of two slopes",
            "The bilinear surface has a slope on either side of a lattice line. Inside a cell, at 0.5, the two methods "
            "agree; on a kink, compare one-sided. dcnlab.gradcheck does, if you tell it the positions.",
        ),
        "c": Choice(
            "the step is too large",
            "Along one coordinate the surface is straight up to the next pixel: a smaller step gives the same mean.",
        ),
    },
    answer="b",
    reason="a central difference across a kink gives the mean of the slopes on its two sides",
    evidence=_mean_of_two_slopes,
    evidence_names=("dcnlab, mean of the gradients left and right", "exhibit, on the kinks"),
)

# -- a test that cannot fail ---------------------------------------------------------------------------------------


def never_launched(*arguments: Any, **settings: Any) -> np.ndarray:
    """Stand for a kernel that was not compiled for this GPU: it leaves the zeros that it was given."""
    return np.zeros_like(dcnv3(*arguments, **settings))


def agrees(operator: Callable[..., np.ndarray]) -> bool:
    """Return whether an operator gives what dcnlab's gives."""
    arguments = IMAGE, np.zeros((1, 2, 3, 18)), MASK
    return bool(np.allclose(operator(*arguments, padding=0), dcnv3(*arguments, padding=0)))


def exit_status_of_printing(operators: Sequence[Callable[..., np.ndarray]]) -> list[int]:
    """A test script, run once for each operator; 0 stands for success."""
    printed, status = [], []
    for operator in operators:
        printed.append(f"* {agrees(operator)} check_forward")
        status.append(0)  # nothing has stopped the script
    return status


def exit_status_of_asserting(operators: Sequence[Callable[..., np.ndarray]]) -> list[int]:
    """The same with an assertion, which ends the script."""
    status = []
    for operator in operators:
        try:
            assert agrees(operator)
            status.append(0)
        except AssertionError:
            status.append(1)
    return status


def true_status(operators: Sequence[Callable[..., np.ndarray]]) -> list[int]:
    """Return 1 for every operator that is wrong."""
    return [int(not agrees(operator)) for operator in operators]


PRINTED_NOT_ASSERTED = Piece(
    name="printed_not_asserted",
    title="A test that cannot fail",
    story="The test of a CUDA operator compares it with a reference and prints one line each: `* True check_forward`. "
    "On a GPU for which the kernel had not been compiled, the launch failed, its error was printed as well, and the "
    "lines said `* False`. Then the script went on to its end, as it always does.",
    source="[InternImage](https://github.com/OpenGVLab/InternImage), ops_dcnv3/test.py; users met it in "
    "[#107](https://github.com/OpenGVLab/InternImage/issues/107).",
    exhibit=exit_status_of_printing,
    corrected=exit_status_of_asserting,
    truth=true_status,
    fails_on=lambda: Case(
        "exit status for the operator, and for one that was never launched", {"operators": [dcnv3, never_launched]}
    ),
    passes_on=lambda: Case("exit status for the operator", {"operators": [dcnv3]}),
    question="Why did no continuous integration stop?",
    choices={
        "a": Choice("the tolerance is too wide", "Zeros are far outside any tolerance, and the line did say False."),
        "b": Choice("the reference makes the same mistake", "It does not run the kernel at all."),
        "c": Choice(
            "the result is printed, not asserted: the exit status is 0 whatever the operator does",
            "A test has to be seen failing once. Give yours a broken operator: does it stop?",
        ),
    },
    answer="c",
    reason="the exit status does not depend on the operator",
    evidence=lambda: (
        np.array(exit_status_of_printing([dcnv3])),
        np.array(exit_status_of_printing([never_launched])),
    ),
    evidence_names=("exhibit, a working operator", "exhibit, a broken operator"),
    truth_name="should be",
)

PIECES = (PADDED_AXES, ZERO_OFFSETS, PRINTED_NOT_ASSERTED)
