"""Bilinear sampling with typical mistakes made on purpose: what the exercises' diagnoses are computed with.

Without a mistake, `corners` is `dcnlab.reference.loops.corners`; the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np

from dcnlab.exercises.function_check import Mistake

Corner = tuple[int, int, float, float, float]  # row, column, weight, slopes of the weight along y and x
End = tuple[int, float, float]  # the same along one axis

# -- mistakes in reading the image -------------------------------------------------------------------------------

SWAPPED = Mistake(
    "swapped",
    "The roles of x and y are swapped. y counts rows, downwards, and comes first; x counts columns.",
)
CLAMPED = Mistake(
    "clamped",
    "Outside the image you repeat its border. A corner outside counts as 0: the value fades to 0 within one pixel.",
)
WRAPPED = Mistake(
    "wrapped",
    "A corner at row or column -1 reads the last row or column: NumPy counts negative indices from the end. It counts "
    "as 0.",
)
DROPPED = Mistake(
    "dropped",
    "You drop a sample as soon as one of its corners is outside. Only those corners count as 0; the others stay.",
)
FENCED = Mistake(
    "fenced",
    "You return 0 as soon as the position is outside [0, H - 1] x [0, W - 1]. Within one pixel of the image some of "
    "the four corners are still in it: only the others count as 0.",
)
TRUNCATED = Mistake(
    "truncated",
    "int() rounds towards 0. The cell of -0.3 begins at -1, not at 0: use math.floor or np.floor.",
)
MIRRORED = Mistake(
    "mirrored",
    "The weights are mirrored. The nearer a corner, the heavier: the top left one weighs (1 - ly) * (1 - lx).",
)
NEAREST = Mistake("nearest", "You read the nearest pixel. Bilinear sampling blends the four around the position.")

# What goes wrong wherever samples lie between pixels and across the border, in the order in which it is tried.
BETWEEN_PIXELS = (CLAMPED, WRAPPED, DROPPED, FENCED, TRUNCATED)

# -- mistakes in the slopes --------------------------------------------------------------------------------------

LEFT = Mistake(
    "left",
    "On a lattice line you give the slope of the cell to the left. Both slopes are true there: a kink, not an error of "
    "yours. The promised one is that of the cell floor(y), floor(x), to the right.",
    kink=True,
)
CENTRAL = Mistake(
    "central",
    "On a lattice line you give the mean of the two slopes, as a central difference does. A kink, not an error of "
    "yours; but no position has that slope. The promised one is that of the cell floor(y), floor(x), to the right.",
    kink=True,
)
UNGATED = Mistake(
    "ungated",
    "Exactly one pixel outside the image you give a slope that looks inwards. Both slopes are true there: a kink, not "
    "an error of yours, and torchvision does the same. The promised one, that of the published kernels, is 0: they "
    "skip every sample that is not inside (-1, H) x (-1, W).",
    kink=True,
)

# -- mistakes in the channels of a group -------------------------------------------------------------------------

ALL_CHANNELS = Mistake(
    "all_channels",
    "You sum over all channels. Group g has its own: C/G of them, from g * C/G on.",
)
INTERLEAVED = Mistake(
    "interleaved",
    "You deal the channels out to the groups in turn. The channels of a group lie together: channel c belongs to "
    "group c // (C/G).",
)


def corners(y: float, x: float, size: tuple[int, ...], mistakes: Set[str] = frozenset()) -> list[Corner]:
    """Return the corners of the cell of (y, x) that lie in the image, with weights and slopes of the weights.

    Parameters
    ----------
    y, x : float
    size : (H, W)
    mistakes : set of str
        Names of the mistakes above that are to be made.
    """
    height, width = size
    if "swapped" in mistakes:
        y, x = x, y
    if "fenced" in mistakes and not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        return []
    gate = -1 < y < height and -1 < x < width
    if not gate and not mistakes & {"clamped", "wrapped", "truncated", "ungated"}:
        return []
    rows, columns = _ends(y, height, mistakes), _ends(x, width, mistakes)
    found = [(row, column, wy * wx, sy * wx, wy * sx) for row, wy, sy in rows for column, wx, sx in columns]
    inside = [corner for corner in found if 0 <= corner[0] < height and 0 <= corner[1] < width]
    return [] if "dropped" in mistakes and len(inside) < len(found) else inside


def _ends(p: float, size: int, mistakes: Set[str]) -> list[End]:
    """Return the two ends of the cell along one axis: coordinate, weight, slope of the weight."""
    if "nearest" in mistakes:
        return [(math.floor(p + 0.5), 1.0, 0.0)]
    below = math.ceil(p) - 1 if "left" in mistakes else int(p) if "truncated" in mistakes else math.floor(p)
    fraction = p - below
    if "mirrored" in mistakes:
        fraction = 1 - fraction
    ends = [(below, 1 - fraction, -1.0), (below + 1, fraction, 1.0)]
    if "clamped" in mistakes:
        ends = [(min(max(at, 0), size - 1), weight, slope) for at, weight, slope in ends]
    if "wrapped" in mistakes:
        ends = [(at % size if -size <= at < 0 else at, weight, slope) for at, weight, slope in ends]
    return ends


def value(image: np.ndarray, y: float, x: float, mistakes: Set[str] = frozenset()) -> np.ndarray:
    """Return the sample of an image (H, W, ...) as (...)."""
    total = np.zeros(image.shape[2:])
    for row, column, weight, _, _ in corners(y, x, image.shape[:2], mistakes):
        total = total + weight * image[row, column]
    return total


def slopes(image: np.ndarray, y: float, x: float, mistakes: Set[str] = frozenset()) -> np.ndarray:
    """Return the slopes along y and x of an image (H, W, ...) as (2, ...)."""
    if "central" in mistakes:
        others = (mistakes - {"central"}) | {"ungated"}
        right, left = (slopes(image, y, x, others | side) for side in (set(), {"left"}))
        return (right + left) / 2
    total = np.zeros((2, *image.shape[2:]))
    for row, column, _, along_y, along_x in corners(y, x, image.shape[:2], mistakes):
        total[0] += along_y * image[row, column]
        total[1] += along_x * image[row, column]
    return total


def channels_of_group(group: int, groups: int, channels: int, mistakes: Set[str] = frozenset()) -> slice:
    """Return which channels belong to a group."""
    if "all_channels" in mistakes:
        return slice(None)
    if "interleaved" in mistakes:
        return slice(group, None, groups)
    per_group = channels // groups
    return slice(group * per_group, (group + 1) * per_group)
