"""The fused rungs of deformable convolution: their tiles and grids. `rungs` puts them into the one table."""

from __future__ import annotations

import math
from collections.abc import Callable

from dcnlab.compiled.rung import MOST_IMAGES, THREADS, Launch, Problem, Rung

# What a block of the fused rungs of deformable convolution has (kernels/include/tiles.cuh), and how the gradient of the
# weights is cut into parts: enough blocks for a GPU, each with work for a while, and sums that keep their accuracy.
TILE_PIXELS, TILE_OUTPUTS, TILE_CHANNELS, TILE_DEPTH = 64, 64, 32, 16
ENOUGH_BLOCKS = 512
PART_PIXELS = (256, 2**14)  # of a part: at least, and about at most


def channel_slice(problem: Problem) -> int:
    """Return how many neighbouring channels always have one offset group and one conv group in common.

    >>> channel_slice(Problem("cpu", "float32", 4, 1, sizes=(("channels", 12), ("groups", 3), ("conv_groups", 2))))
    2
    """
    channels = problem["channels"]
    return math.gcd(channels // problem["groups"], channels // problem["conv_groups"])


def _packed(problem: Problem) -> tuple[str]:
    """Return whether 4 channels of a pixel are one load."""
    return ("true" if channel_slice(problem) % 4 == 0 else "false",)


PACKED = (("true",), ("false",))


def _batch_pixels(problem: Problem) -> int:
    return problem["batch"] * problem["out_height"] * problem["out_width"]


def _output_tiles(problem: Problem) -> int:
    """Return how many tiles the outputs of a conv group are."""
    return -(-problem["outputs"] // problem["conv_groups"] // TILE_OUTPUTS)


def _fused_forward(problem: Problem) -> Launch:
    pixels = -(-_batch_pixels(problem) // TILE_PIXELS)
    return Launch((pixels * problem["conv_groups"] * _output_tiles(problem),), THREADS)


def _fused_backward(problem: Problem) -> Launch:
    pixels = -(-_batch_pixels(problem) // (TILE_PIXELS // 2))
    return Launch((pixels * problem["groups"] * problem["taps"],), THREADS)


def _weight_tiles(problem: Problem) -> int:
    width = channel_slice(problem)
    tiles = problem["channels"] // width * -(-width // TILE_CHANNELS)
    return _output_tiles(problem) * problem["taps"] * tiles


def weight_parts(problem: Problem) -> tuple[int, int]:
    """Return in how many parts the gradient of the weights is summed up, and how many pixels a part has."""
    pixels, (least, most) = _batch_pixels(problem), PART_PIXELS
    parts = min(max(ENOUGH_BLOCKS // _weight_tiles(problem), pixels // most, 1), MOST_IMAGES)
    each = max(-(-pixels // parts // TILE_DEPTH) * TILE_DEPTH, least)
    return -(-pixels // each), each


def _weight_backward(problem: Problem) -> Launch:
    return Launch((_weight_tiles(problem), weight_parts(problem)[0]), THREADS)


def _fits_a_grid(plan: Callable[[Problem], Launch]) -> Callable[[Problem], bool]:
    """Return whether a problem's blocks can be numbered; a GPU's grid has up to 2^31 - 1 in its first dimension."""
    return lambda problem: plan(problem).grid[0] < 2**31


FUSED_RUNGS = (
    Rung(
        "deform_conv2d_forward",
        "3_fused",
        "deform_conv2d_fused",
        fits=_fits_a_grid(_fused_forward),
        plan=_fused_forward,
        choices=PACKED,
        choose=_packed,
    ),
    Rung(
        "deform_conv2d_backward",
        "3_fused",
        "deform_conv2d_fused_backward",
        fits=_fits_a_grid(_fused_backward),
        plan=_fused_backward,
    ),
    Rung(
        "deform_conv2d_weight_backward",
        "1_parts",
        "deform_conv2d_weight_parts",
        plan=_weight_backward,
        choices=PACKED,
        choose=_packed,
    ),
)
