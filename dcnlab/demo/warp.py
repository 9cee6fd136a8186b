r"""A smooth bend of the photo, and the offsets that undo it.

The bent photo is :math:`b(p) = f(p + w(p))`. Sampling it at :math:`p + d(p)` gives the photo back when
:math:`d(p) = -w(p + d(p))`: the true offsets, which the demo hides from the learner and measures it by.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dcnlab.geometry import Pair

WARP_CONTROLS = 5  # control points of the bend, each way
PEAK = 7 / 160  # longest shift, in units of the longer side: 7 px at the usual 160


@cache
def spline_basis(length: int, controls: int) -> np.ndarray:
    """Return the clamped uniform cubic B-splines at `length` points of [0, 1], (length, controls).

    A field on a grid of control points P is ``spline_basis(H, n) @ P @ spline_basis(W, n).T``, and the gradient
    of the control points is the transpose of that: a smooth field out of few numbers, linearly.
    """
    from scipy.interpolate import BSpline

    degree = 3
    inner = np.linspace(0, 1, controls - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    basis: np.ndarray = BSpline.design_matrix(np.linspace(0, 1, length), knots, degree).toarray()
    basis.flags.writeable = False  # it is shared by all who ask for this size
    return basis


class Warp:
    """A random smooth bend that tapers to 0 at the border.

    Parameters
    ----------
    shape : (H, W)
        Of the working image; `field` can be asked for at any other size.
    """

    def __init__(self, shape: Pair, rng: np.random.Generator) -> None:
        self.shape = shape
        self._controls = rng.standard_normal((2, WARP_CONTROLS, WARP_CONTROLS))
        self._gain = 1.0
        self._gain = PEAK * max(shape) / np.linalg.norm(self.field(), axis=-1).max()

    def field(self, detail: int = 1) -> np.ndarray:
        """Return w, (H, W, 2) as (y, x), in pixels of an image `detail` times as large."""
        height, width = detail * self.shape[0], detail * self.shape[1]
        smooth = spline_basis(height, WARP_CONTROLS) @ self._controls @ spline_basis(width, WARP_CONTROLS).T
        taper = np.outer(*(np.sin(np.linspace(0, np.pi, n)) for n in (height, width)))
        return detail * self._gain * np.moveaxis(taper * smooth, 0, -1)

    def bend(self, image: np.ndarray, detail: int = 1) -> np.ndarray:
        """Return b, the bent image (H, W[, C]): cubic, which keeps it sharper than bilinear would."""
        from scipy.ndimage import map_coordinates

        where = _pixels(image.shape[:2]) + self.field(detail)
        channels = image.reshape(*image.shape[:2], -1)
        at = np.moveaxis(where, -1, 0)
        bent = [map_coordinates(channel, at, order=3, mode="nearest") for channel in np.moveaxis(channels, -1, 0)]
        return np.clip(np.stack(bent, axis=-1), 0, 1).reshape(image.shape)

    def undone(self) -> np.ndarray:
        """Return d, the offsets that undo the bend, (H, W, 2): the fixed point of d = -w(p + d)."""
        from scipy.ndimage import map_coordinates

        bend, pixels = self.field(), _pixels(self.shape)
        offset = np.zeros_like(bend)
        for _ in range(60):  # a contraction: the bend's slope is well below 1
            at = np.moveaxis(pixels + offset, -1, 0)
            offset = -np.stack([map_coordinates(bend[..., a], at, order=3, mode="nearest") for a in (0, 1)], axis=-1)
        return offset


def _pixels(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1).astype(float)
