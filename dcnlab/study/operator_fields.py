"""What one output pixel of an operator depends on, and how much that changes with the input."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.internimage.receptive import Pixel

DIRECTIONS = 4  # random signs that a mean goes over; each takes a backward pass
DECADES = 4  # powers of ten that a stored field holds
_LEVELS = 255


def gradients(
    layer: nn.Module, input: Array, pixels: Sequence[Pixel], directions: int = DIRECTIONS, seed: int = 0
) -> np.ndarray:
    r"""Return the rows :math:`\partial (r \cdot F) / \partial x` of some output pixels.

    F are the C features of the output at a pixel and r random signs, as in
    `dcnlab.internimage.effective_receptive_field`, which says why.

    Parameters
    ----------
    layer : Module
        On (1, H, W, C), in eval mode.
    input : (1, H, W, C)
    pixels : list of (y, x)
    directions : int
    seed : int
        Of the signs: the same for every layer.

    Returns
    -------
    (pixels, directions, H, W, C)
    """
    output = layer(input)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (directions, output.shape[-1])).astype(output.dtype)
    rows = np.empty((len(pixels), directions, *input.shape[1:]), input.dtype)
    for place, (y, x) in enumerate(pixels):
        for number, sign in enumerate(signs):
            grad = np.zeros_like(output)
            grad[0, y, x] = sign
            rows[place, number] = layer.backward(grad)[0]
    return rows


def receptive_field(rows: np.ndarray) -> np.ndarray:
    """Return the effective receptive field (H, W) of one pixel's rows (directions, H, W, C).

    |gradient|, summed over the channels, its mean over the directions.
    """
    return np.abs(rows).sum(axis=-1, dtype=np.float64).mean(axis=0)


def farthest(field: np.ndarray, pixel: Pixel) -> float:
    """Return the distance from a pixel to the farthest pixel that it depends on.

    >>> field = np.zeros((5, 5))
    >>> field[2, 2] = field[0, 2] = 1
    >>> farthest(field, (2, 3))
    2.23606797749979
    """
    y, x = np.nonzero(field)
    return float(np.hypot(y - pixel[0], x - pixel[1]).max())


class Adaptation(NamedTuple):
    """How much the rows of the Jacobian of an operator change from one input to another.

    Attributes
    ----------
    positions : float
        Of the pixels that an output pixel depends on for one input or the other, the share that it does not depend on
        for both: 0 if it reads the same pixels whatever the input, 1 if it reads none of them again.
    weights : float
        With the rows J and J' on the pixels that it depends on for both, ``|J - J'| / sqrt(|J|^2 + |J'|^2)``
        (Frobenius norms): 0 if they are the same, 1 if they are as far apart as rows that have nothing in common.
    """

    positions: float
    weights: float


def adaptation(rows: np.ndarray, others: np.ndarray) -> Adaptation:
    """Compare the rows (pixels, directions, H, W, C) for two inputs; the mean over the pixels.

    An affine operator has the same rows for every input, so that both numbers are exactly 0.

    Examples
    --------
    >>> rows = np.zeros((1, 1, 1, 3, 1))
    >>> rows[..., :2, 0] = 1  # two pixels
    >>> moved = np.roll(rows, 1, axis=3)  # the second of them, and another
    >>> adaptation(rows, rows), adaptation(rows, moved), adaptation(rows, -rows).weights ** 2
    (Adaptation(positions=0.0, weights=0.0), Adaptation(positions=0.6666666666666667, weights=0.0), 2.0000000000000004)
    """
    found = []
    for row, other in zip(rows.astype(np.float64), others.astype(np.float64), strict=True):
        reads, reads_too = (np.any(r != 0, axis=(0, -1)) for r in (row, other))  # (H, W)
        both, either = reads & reads_too, reads | reads_too
        difference = np.linalg.norm((row - other)[:, both])
        size = np.hypot(np.linalg.norm(row[:, both]), np.linalg.norm(other[:, both]))
        found.append((1 - both.sum() / either.sum(), difference / size if size else 0.0))
    return Adaptation(*(float(mean) for mean in np.mean(found, axis=0)))


def points_moved(layer: nn.DCNv3, input: Array, other: Array) -> float:
    """Return how far the sampling points of a DCNv3 layer move from one input to the other: pixels, mean distance."""
    layer(input)
    before = layer.sampling_positions()
    layer(other)
    return float(np.linalg.norm(layer.sampling_positions() - before, axis=-1).mean())


# -- a field in a record -------------------------------------------------------------------------------------------


def packed(field: np.ndarray) -> str:
    """Return a field as text: 255 levels of its logarithm over `DECADES` powers of ten, and 0 for no gradient.

    The bytes of the levels, compressed by zlib, in base64.
    """
    with np.errstate(divide="ignore"):
        logarithm = np.log10(field / field.max())  # 0 down to -DECADES, and further
    level = 1 + np.round((_LEVELS - 1) * np.clip(1 + logarithm / DECADES, 0, 1))
    levels = np.where(field > 0, level, 0).astype(np.uint8)
    return base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode("ascii")


def unpacked(text: str, side: int) -> np.ndarray:
    """Return the field (side, side) of a text that `packed` made, its largest value 1.

    >>> field = np.array([[1.0, 0.01], [0.0, 1e-9]])
    >>> unpacked(packed(field), 2).round(4).tolist()
    [[1.0, 0.01], [0.0, 0.0001]]
    """
    levels = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(side, side)
    values = 10.0 ** (DECADES * ((levels.astype(np.float64) - 1) / (_LEVELS - 1) - 1))
    return np.where(levels > 0, values, 0.0)
