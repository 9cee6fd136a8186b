"""Bilinear sampling with typical mistakes made on purpose: what the exercises' diagnoses are computed with.

Without a mistake, `corners` is `dcnlab.reference.loops.corners`; the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Set

from dcnlab.exercises.function_check import Mistake

Corner = tuple[int, int, float, float, float]  # row, column, weight, slopes of the weight along y and x

SWAPPED = Mistake(
    "swapped", "The roles of x and y are swapped. y counts rows, downwards, and comes first; x counts columns."
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
TRUNCATED = Mistake(
    "truncated",
    "int() rounds towards 0. The cell of -0.3 begins at -1, not at 0: use math.floor or np.floor.",
)
MIRRORED = Mistake(
    "mirrored",
    "The weights are mirrored. The nearer a corner, the heavier: the top left one weighs (1 - ly) * (1 - lx).",
)
NEAREST = Mistake("nearest", "You read the nearest pixel. Bilinear sampling blends the four around the position.")
LEFT = Mistake(
    "left",
    "On a lattice line you give the slope of the cell to the left. Both slopes are true there: a kink, not an error of "
    "yours. The promised one is that of the cell floor(y), floor(x), to the right.",
    kink=True,
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
    gate = all(-1 < p < size for p, size in ((y, height), (x, width)))
    if not gate and not mistakes & {"clamped", "wrapped", "truncated"}:
        return []
    rows, columns = _ends(y, height, mistakes), _ends(x, width, mistakes)
    whole = {(row, column) for row, *_ in rows for column, *_ in columns}
    inside = {(row, column) for row, column in whole if 0 <= row < height and 0 <= column < width}
    if "dropped" in mistakes and whole != inside:
        return []
    return [
        (row, column, wy * wx, sy * wx, wy * sx)
        for row, wy, sy in rows
        for column, wx, sx in columns
        if (row, column) in inside
    ]


def _ends(p: float, size: int, mistakes: Set[str]) -> list[tuple[int, float, float]]:
    """Return the two ends of the cell along one axis: coordinate, weight, slope of the weight."""
    if "nearest" in mistakes:
        return [(math.floor(p + 0.5), 1.0, 0.0)]
    if "clamped" in mistakes:
        p = min(max(p, 0.0), size - 1.0)
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
