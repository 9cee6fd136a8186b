"""Where one output pixel samples through several deformable layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.geometry import SamplingGrid
from dcnlab.viz.canvas import (
    DEPTH_MAP,
    axes_or_new,
    frame_view,
    halo,
    kernel_centres,
    require_image,
    require_index,
    require_modulation,
    require_pixel,
    show_image,
    tap_centre,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.image import AxesImage

MOST_POINTS = 200_000


class StackedPoints(NamedTuple):
    """What `stacked_sampling_points` drew, the deepest layer first."""

    ax: Axes
    image: AxesImage
    layers: list[PathCollection]  # the points of every layer, in pixels of the image, as (x, y)
    weights: list[np.ndarray]  # the product of the modulations on the way to each point
    pixel: PathCollection


def stacked_sampling_points(
    image: Array,
    grids: Sequence[SamplingGrid],
    modulations: Sequence[Array | None] | None = None,
    pixel: tuple[int, int] | None = None,
    *,
    group: int = 0,
    batch: int = 0,
    margin: float | None = None,
    ax: Axes | None = None,
) -> StackedPoints:
    """Draw the points that one output pixel of a stack of layers reads, layer by layer.

    The deepest layer samples K points of the map below; each is an output position of the layer below, which
    samples K points itself, and so on down to the image: K^L points, weighed by the product of the
    modulations on the way. Between the output pixels of a layer its offsets and modulation are interpolated
    bilinearly; a point beyond the border of a map weighs what the zeros around it leave. Points fade with
    depth: those of the first layer, which read the image itself, are the strongest. Points of deeper layers
    stand where the middle of their kernel lies in the image.

    Parameters
    ----------
    image : (H, W), (H, W, 3) or (H, W, 4)
    grids : list of SamplingGrid
        First layer first, deepest last; the output of each is the input of the next.
    modulations : list of (N, Ho, Wo, G, K) or None, optional
    pixel : (y, x), optional
        Output pixel of the last layer; its middle if not given.
    group : int
        The group that is followed, the same in every layer.
    margin : float or None
        Pixels of the image shown around the points; None shows the whole image.

    Raises
    ------
    ValueError
        When there is no layer, when two layers do not fit together, or for more than 200 000 points.
    """
    picture, weights_of, pixel = _check(image, grids, modulations, pixel, group, batch)
    positions, weights = _trace(grids, weights_of, pixel, group, batch)
    ax = axes_or_new(ax)
    shown = show_image(ax, picture)
    drawn = []
    for depth, (points, weight) in enumerate(zip(positions, weights, strict=True)):
        layer = len(grids) - depth
        drawn.append(_scatter(ax, points[:, ::-1], weight, layer, len(grids)))
    centre = _to_image(grids, np.array([pixel], float), len(grids))
    style: dict[str, Any] = {"s": 90, "marker": "+", "c": "white", "linewidths": 2, "path_effects": halo(4)}
    cross = ax.scatter(*centre[0, ::-1], zorder=9, label="output pixel", **style)
    frame_view(ax, np.concatenate(positions)[:, ::-1], picture, margin)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, frameon=False, fontsize=9)
    return StackedPoints(ax, shown, drawn, weights, cross)


def _check(
    image: Array,
    grids: Sequence[SamplingGrid],
    modulations: Sequence[Array | None] | None,
    pixel: tuple[int, int] | None,
    group: int,
    batch: int,
) -> tuple[np.ndarray, list[np.ndarray], tuple[int, int]]:
    if len(grids) == 0:
        raise ValueError("grids must hold at least one layer")
    if modulations is not None and len(modulations) != len(grids):
        raise ValueError(f"modulations must hold one entry a layer, {len(grids)}, got {len(modulations)}")
    given = modulations if modulations is not None else [None] * len(grids)
    weights = [require_modulation(m, g) for m, g in zip(given, grids, strict=True)]
    picture = require_image(image, grids[0])
    for below, above in pairwise(grids):
        require_image(np.zeros(below.output_size), above)
    for grid in grids:
        require_index("group", group, grid.groups)
        require_index("batch", batch, len(grid.offset))
    count = int(np.prod([len(grid.taps) for grid in grids]))
    if count > MOST_POINTS:
        raise ValueError(f"at most {MOST_POINTS} points can be drawn, these layers have K^L = {count}")
    height, width = grids[-1].output_size
    return picture, weights, require_pixel((height // 2, width // 2) if pixel is None else pixel, grids[-1])


def _trace(
    grids: Sequence[SamplingGrid],
    modulations: list[np.ndarray],
    pixel: tuple[int, int],
    group: int,
    batch: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the points of every layer, deepest first, as (y, x) of the image, and their weights."""
    here, weight = np.array([pixel], float), np.ones(1)
    points, weights = [], []
    for layer in reversed(range(len(grids))):
        grid = grids[layer]
        start = _affine(grid, here)[:, None] + (as_numpy(grid.taps) + as_numpy(grid.residual) - tap_centre(grid))
        moved = as_numpy(grid.positions())[batch, :, :, group] - as_numpy(grid.regular())  # (Ho, Wo, K, 2)
        field = np.concatenate([moved, modulations[layer][batch, :, :, group, :, None]], axis=-1)
        read, inside = _between(field, here)  # (points, K, 3), (points,)
        here = (start + read[..., :2]).reshape(-1, 2)
        weight = ((weight * inside)[:, None] * read[..., 2]).reshape(-1)
        points.append(_to_image(grids, here, layer))
        weights.append(weight)
    return points, weights


def _affine(grid: SamplingGrid, outputs: np.ndarray) -> np.ndarray:
    """Return where output positions (y, x), whole or not, have the middle of their kernel."""
    centres = kernel_centres(grid)
    stride = [
        centres[1, 0, 0] - centres[0, 0, 0] if len(centres) > 1 else 1.0,
        centres[0, 1, 1] - centres[0, 0, 1] if centres.shape[1] > 1 else 1.0,
    ]
    there: np.ndarray = outputs * stride + centres[0, 0]
    return there


def _to_image(grids: Sequence[SamplingGrid], points: np.ndarray, layer: int) -> np.ndarray:
    """Return positions in the output of `layer` layers as pixels of the image, along the regular grids."""
    for grid in reversed(grids[:layer]):
        points = _affine(grid, points)
    return points


def _between(field: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `field` (Ho, Wo, K, 3) at fractional outputs (points, 2), and how much of each lies inside.

    Bilinear, constant beyond the border; inside is 1 within the map and falls to 0 one pixel outside.
    """
    from dcnlab.reference.sampling import sampling_matrix

    height, width = field.shape[:2]
    known = np.nan_to_num(at)
    inside = np.asarray(sampling_matrix(known, None, height, width).sum(axis=1)).ravel()
    matrix = sampling_matrix(known.clip(0, [height - 1, width - 1]), None, height, width)
    read = (matrix @ field.reshape(height * width, -1)).reshape(len(at), *field.shape[2:])
    return read, np.where(np.isfinite(at).all(axis=1), inside, np.nan)


def _scatter(ax: Axes, points: np.ndarray, weight: np.ndarray, layer: int, layers: int) -> PathCollection:
    import matplotlib as mpl

    # Strongest at the image (layer 1); a layer that stands alone is drawn as such.
    strength = 1.0 if layers == 1 else 1 - (layer - 1) / (layers - 1)
    finite = np.where(np.isfinite(weight), np.abs(weight), 0.0)
    share = finite / finite.max() if finite.max() > 0 else np.ones_like(finite)
    style: dict[str, Any] = {
        "s": (8 + 50 * share) * (1.0 if layer == 1 else 1.8),
        "color": mpl.colormaps[DEPTH_MAP](strength),
        "edgecolors": "black" if strength > 0.5 else "white",
    }
    name = f"layer {layer}: {len(points)} points" + (" of the image" if layer == 1 else "")
    return ax.scatter(
        *points.T, linewidths=0.6, alpha=0.6 + 0.35 * strength, zorder=2 + layers - layer, label=name, **style
    )
