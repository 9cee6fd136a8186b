"""Exhibits of the museum: which offset channel is which, and where the taps stand."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises.function_check import Case
from dcnlab.exercises.museum import Choice, Piece
from dcnlab.geometry import packed_offset, sampling_positions, tap_positions
from dcnlab.ops.deformable import deform_conv2d
from dcnlab.reference.sampling import sampling_matrix

# -- what the exhibits share: a 3x3 kernel, padding 1, one image (C, H, W), offsets (18, H, W) -----------------------


def convolve(input: np.ndarray, dy: np.ndarray, dx: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return DCNv1 (O, H, W) of an image (C, H, W); dy and dx are (9, H, W), taps row by row."""
    channels, height, width = input.shape
    taps = tap_positions(3) - 1  # (9, 2)
    y = np.arange(height)[:, None] + taps[:, 0, None, None] + dy  # (9, H, W)
    x = np.arange(width) + taps[:, 1, None, None] + dx
    samples = sampling_matrix(np.stack([y, x], axis=-1), None, height, width) @ input.reshape(channels, -1).T
    columns = samples.reshape(9, height, width, channels)
    return np.einsum("okc,kyxc->oyx", weight.reshape(len(weight), channels, 9).transpose(0, 2, 1), columns)


def truth(input: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return DCNv1 by dcnlab."""
    output: np.ndarray = deform_conv2d(input[None], offset[None], weight, padding=1, backend="numpy")[0]
    return output


def _arguments(offset: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    return {
        "input": rng.uniform(-1, 1, (2, 4, 5)).round(2),
        "offset": offset,
        "weight": rng.uniform(-1, 1, (1, 2, 3, 3)).round(2),
    }


def _random_offsets() -> np.ndarray:
    return np.random.default_rng(9).normal(size=(18, 4, 5)).round(2)


def learned_offsets() -> Case:
    """Return offsets as a trained layer has them."""
    return Case("with offsets of about a pixel", _arguments(_random_offsets()))


def zero_offsets() -> Case:
    """Return what every fresh layer has."""
    return Case("with offsets of 0, as in every fresh layer", _arguments(np.zeros((18, 4, 5))))


# -- x and y swapped -----------------------------------------------------------------------------------------------


def reads_pairs_as_x_y(input: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The offsets (18, H, W) of torchvision and mmcv, taken apart."""
    dx, dy = offset[0::2], offset[1::2]  # each (9, H, W)
    return convolve(input, dy, dx, weight)


def reads_pairs_as_y_x(input: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same, right."""
    dy, dx = offset[0::2], offset[1::2]
    return convolve(input, dy, dx, weight)


def _swapped_back() -> tuple[np.ndarray, np.ndarray]:
    arguments = learned_offsets().arguments
    pairs = arguments["offset"].reshape(9, 2, 4, 5)[:, ::-1].reshape(18, 4, 5)
    return truth(**{**arguments, "offset": pairs}), reads_pairs_as_x_y(**arguments)


PAIR_SWAPPED = Piece(
    name="pair_swapped",
    title="Which of the two is x?",
    story="The 18 offset channels of a 3x3 deformable convolution in torchvision or mmcv are taken apart by hand, to "
    "compute or to draw what the layer does. Most of us write (x, y), and so did the reader.",
    source="Asked again and again: [mmdetection #2504](https://github.com/open-mmlab/mmdetection/issues/2504); in "
    "[torchvision #3673](https://github.com/pytorch/vision/issues/3673) a user writes down this very layout, and "
    "doubts it.",
    exhibit=reads_pairs_as_x_y,
    corrected=reads_pairs_as_y_x,
    truth=truth,
    fails_on=learned_offsets,
    passes_on=zero_offsets,
    question="What is wrong with the exhibit?",
    choices={
        "a": Choice(
            "channel 2t is the vertical offset of tap t, not the horizontal one",
            "The pairs are (y, x), and the taps count row by row. Offsets of 0 cannot tell: test with offsets that "
            "differ in y and x.",
        ),
        "b": Choice(
            "the first nine channels are y, the last nine x",
            "They alternate, and the exhibit knows that: it takes every other channel.",
        ),
        "c": Choice("the taps count column by column", "In this layout they count row by row; DCNv3's do not."),
    },
    answer="a",
    reason="x and y are swapped within every pair",
    evidence=_swapped_back,
    evidence_names=("dcnlab, offsets with their pairs swapped", "exhibit, offsets as they are"),
)

# -- nine and nine -------------------------------------------------------------------------------------------------


def splits_in_halves(input: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The offsets (18, H, W) of torchvision, taken apart."""
    dy, dx = offset[:9], offset[9:]  # each (9, H, W)
    return convolve(input, dy, dx, weight)


def _interleaved() -> tuple[np.ndarray, np.ndarray]:
    arguments = learned_offsets().arguments
    pairs = arguments["offset"].reshape(2, 9, 4, 5).swapaxes(0, 1).reshape(18, 4, 5)
    return truth(**{**arguments, "offset": pairs}), splits_in_halves(**arguments)


SPLIT_IN_HALVES = Piece(
    name="split_in_halves",
    title="Nine and nine",
    story="18 channels for nine taps: the first nine for one direction, the last nine for the other. That is what a "
    "script for drawing the sampling points assumed, and what its author answered when he was asked.",
    source="[PyTorch-Deformable-Convolution-v2 #15](https://github.com/developer0hye/"
    "PyTorch-Deformable-Convolution-v2/issues/15), the answer; "
    "[#17](https://github.com/developer0hye/PyTorch-Deformable-Convolution-v2/issues/17), the correction by a reader, "
    "which the author accepted.",
    exhibit=splits_in_halves,
    corrected=reads_pairs_as_y_x,
    truth=truth,
    fails_on=learned_offsets,
    passes_on=zero_offsets,
    question="What is wrong with the exhibit?",
    choices={
        "a": Choice("the first nine channels are x", "Then the halves would only have to change places; they do not."),
        "b": Choice(
            "y and x alternate: channels 2t and 2t + 1 belong to tap t",
            "offset[0::2] and offset[1::2]. With the split, the y of tap 1 is the x of tap 0.",
        ),
        "c": Choice("every tap should have one channel", "A tap moves in two directions: 2 * 9 = 18 channels."),
    },
    answer="b",
    reason="y and x alternate, and the exhibit splits them into two blocks",
    evidence=_interleaved,
    evidence_names=("dcnlab, offsets whose blocks are interleaved", "exhibit, offsets as they are"),
)

# -- the base grid, forgotten --------------------------------------------------------------------------------------


def adds_offsets_to_the_pixel(offset: np.ndarray, kernel: int) -> np.ndarray:
    """Where the taps of a kernel x kernel convolution sample, (K, 2, H, W); the second axis is (y, x)."""
    _, height, width = offset.shape
    pixel = np.indices((height, width))  # (2, H, W)
    return pixel + offset.reshape(kernel**2, 2, height, width)


def adds_offsets_to_the_taps(offset: np.ndarray, kernel: int) -> np.ndarray:
    """The same, right."""
    _, height, width = offset.shape
    pixel = np.indices((height, width))
    taps = tap_positions(kernel) - kernel // 2  # (K, 2)
    return pixel + taps[:, :, None, None] + offset.reshape(kernel**2, 2, height, width)


def true_positions(offset: np.ndarray, kernel: int) -> np.ndarray:
    """Return the positions by dcnlab."""
    found = sampling_positions(offset[None], kernel, padding=kernel // 2, layout="deform_conv2d")  # (1, H, W, 1, K, 2)
    positions: np.ndarray = found[0, :, :, 0].transpose(2, 3, 0, 1)
    return positions


def _collapsed() -> tuple[np.ndarray, np.ndarray]:
    offset = _random_offsets()
    taps = np.broadcast_to(tap_positions(3) - 1, (1, 4, 5, 1, 9, 2))  # the offsets that a regular grid would need
    without = offset - packed_offset(taps, layout="deform_conv2d")[0]
    return true_positions(without, 3), adds_offsets_to_the_pixel(offset, 3)


FORGOTTEN_GRID = Piece(
    name="forgotten_grid",
    title="Nine points in one place",
    story="To draw where a layer looks, a script adds its offsets to the output pixel. In a fresh layer all nine "
    "points fall on the pixel itself. Asked why, the author answered that one knows already where a standard "
    "convolution looks.",
    source="[PyTorch-Deformable-Convolution-v2 #15](https://github.com/developer0hye/"
    "PyTorch-Deformable-Convolution-v2/issues/15); a repair was offered in "
    "[#24](https://github.com/developer0hye/PyTorch-Deformable-Convolution-v2/pull/24).",
    exhibit=adds_offsets_to_the_pixel,
    corrected=adds_offsets_to_the_taps,
    truth=true_positions,
    fails_on=lambda: Case("the sampling points of a fresh 3x3 layer", {"offset": np.zeros((18, 4, 5)), "kernel": 3}),
    passes_on=lambda: Case("the sampling points of a 1x1 layer", {"offset": _random_offsets()[:2], "kernel": 1}),
    question="What is missing?",
    choices={
        "a": Choice("the padding", "With padding (k - 1)/2 the middle tap stands on the output pixel, as drawn here."),
        "b": Choice("the stride", "It is 1 here, and would move all taps together."),
        "c": Choice(
            "the regular grid: tap (j, i) stands at (j - 1, i - 1) before any offset moves it",
            "An offset is counted from the tap's place in the regular grid. A 1x1 kernel has no grid to forget.",
        ),
    },
    answer="c",
    reason="the offsets are counted from the output pixel instead of the regular taps",
    evidence=_collapsed,
    evidence_names=("dcnlab, offsets that take the grid back", "exhibit, offsets as they are"),
)

PIECES = (PAIR_SWAPPED, SPLIT_IN_HALVES, FORGOTTEN_GRID)
