"""Where the taps of a few output pixels sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.geometry import SamplingGrid
from dcnlab.viz.canvas import (
    VALUE_MAP,
    axes_or_new,
    frame_view,
    group_colour,
    halo,
    kernel_centres,
    require_image,
    require_index,
    require_modulation,
    require_pixel,
    show_image,
)
from dcnlab.viz.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import AxesImage
    from matplotlib.text import Annotation

SMALLEST, LARGEST = 30.0, 260.0  # marker areas in points^2, for modulation 0 and the largest one shown


class SamplingPoints(NamedTuple):
    """What `sampling_points` drew. Artists hold matplotlib's (x, y)."""

    ax: Axes
    image: AxesImage
    taps: list[PathCollection]  # one a group, (pixels * K) points: the taps of the first pixel come first
    moves: list[LineCollection]  # one a group, from each regular tap to where it samples
    regular: PathCollection  # (pixels * K) hollow points
    pixels: PathCollection  # the output pixels
    numbers: list[Annotation]
    colorbar: Colorbar | None  # None without modulation or legend


def sampling_points(
    image: Array,
    grid: SamplingGrid,
    modulation: Array | None = None,
    pixels: Sequence[tuple[int, int]] | None = None,
    *,
    batch: int = 0,
    numbers: bool | None = None,
    margin: float | None = 2.0,
    limits: tuple[float, float] | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> SamplingPoints:
    """Draw where the taps of some output pixels sample the image.

    A disc a tap: its rim has the colour of its group, its area and its filling show the modulation. A thin
    line leads to it from its place in the regular grid (hollow circle); the cross is the output pixel.

    Parameters
    ----------
    image : (H, W), (H, W, 3) or (H, W, 4)
    grid : SamplingGrid
        For this image.
    modulation : (N, Ho, Wo, G, K), optional
    pixels : list of (y, x), optional
        Output pixels; the middle one if not given.
    batch : int
        Which image of the batch.
    numbers : bool, optional
        Write the number of each tap beside it, as the layout counts them; if not given, only in a close-up.
    margin : float or None
        Pixels of the image shown around the taps; None shows the whole image.
    limits : (low, high), optional
        Of the modulation's scale, for several pictures of one scale; 0 (or the smallest, if negative) to the
        largest shown if not given.
    legend : bool
        Explain the signs below the axes and the modulation in a colour bar beside them.
    ax : matplotlib axes, optional

    Raises
    ------
    ValueError
        When the image, the modulation or a pixel does not fit the grid.

    Examples
    --------
    >>> import numpy as np, dcnlab
    >>> import matplotlib; matplotlib.use("agg")
    >>> grid = dcnlab.sampling_grid(np.full((1, 8, 8, 18), 0.5), 3, padding=1, layout="dcnv3")
    >>> drawn = dcnlab.viz.sampling_points(np.eye(8), grid, pixels=[(4, 4)])
    >>> drawn.taps[0].get_offsets()[0].tolist()
    [3.5, 3.5]
    """
    picture = require_image(image, grid)
    values = require_modulation(modulation, grid)
    batch = require_index("batch", batch, len(values))
    if pixels is None:
        pixels = [(grid.output_size[0] // 2, grid.output_size[1] // 2)]
    chosen = [require_pixel(pixel, grid) for pixel in pixels]
    if not chosen:
        raise ValueError("pixels must name at least one output pixel (y, x)")
    rows, columns = np.array(chosen).T
    moved = as_numpy(grid.positions())[batch, rows, columns][..., ::-1]  # (pixels, G, K, 2) as (x, y)
    regular = as_numpy(grid.regular())[rows, columns][..., ::-1]  # (pixels, K, 2)
    weight = values[batch, rows, columns]  # (pixels, G, K)

    ax = axes_or_new(ax)
    shown = show_image(ax, picture)
    frame_view(ax, np.concatenate([moved.reshape(-1, 2), regular.reshape(-1, 2)]), picture, margin)
    circles = _circles(ax, regular)
    moves = [_moves(ax, regular, moved[:, g], g) for g in range(grid.groups)]
    norm = None if modulation is None else _norm(weight, limits)
    largest = max(abs(norm.vmin), abs(norm.vmax)) if norm else 1.0
    taps = [_discs(ax, moved[:, g], weight[:, g], norm, largest, g) for g in range(grid.groups)]
    cross = _crosses(ax, grid, rows, columns)
    if numbers is None:
        numbers = margin is not None
    texts = _numbers(ax, moved, regular) if numbers else []
    bar = None
    if legend and modulation is not None:
        bar = ax.figure.colorbar(taps[0], ax=ax, label="modulation", shrink=0.8)
    if legend:
        _legend(ax, grid.groups)
    return SamplingPoints(ax, shown, taps, moves, circles, cross, texts, bar)


def _circles(ax: Axes, regular: np.ndarray) -> PathCollection:
    flat = regular.reshape(-1, 2)
    return ax.scatter(
        flat[:, 0],
        flat[:, 1],
        s=34,
        facecolors="none",
        edgecolors="white",
        linewidths=1.2,
        path_effects=halo(2.4),
    )


def _moves(ax: Axes, regular: np.ndarray, moved: np.ndarray, group: int) -> LineCollection:
    from matplotlib.collections import LineCollection

    segments = np.stack([regular, moved], axis=-2).reshape(-1, 2, 2)
    lines = LineCollection(list(segments), colors=group_colour(group), linewidths=1.1, path_effects=halo(2.2))
    ax.add_collection(lines, autolim=False)
    return lines


def _norm(weight: np.ndarray, limits: tuple[float, float] | None) -> Any:
    from matplotlib.colors import Normalize

    finite = weight[np.isfinite(weight)]
    low, high = limits or (finite.min(initial=0.0), finite.max(initial=0.0))
    return Normalize(low, high if high > low else low + 1.0)


def _discs(ax: Axes, moved: np.ndarray, weight: np.ndarray, norm: Any, largest: float, group: int) -> PathCollection:
    share = np.nan_to_num(np.abs(weight).ravel() / largest, posinf=1) if largest > 0 else np.zeros(weight.size)
    area = SMALLEST + (LARGEST - SMALLEST) * share
    if norm is None:  # no modulation, so no size either
        area = np.full(weight.size, 80.0)
        fill: dict[str, Any] = {"facecolors": group_colour(group)}
    else:
        fill = {"c": weight.ravel(), "cmap": VALUE_MAP, "norm": norm}
    return ax.scatter(
        moved[..., 0].ravel(),
        moved[..., 1].ravel(),
        s=area,
        edgecolors=group_colour(group),
        linewidths=2.0,
        path_effects=halo(3.4),
        zorder=3,
        **fill,
    )


def _crosses(ax: Axes, grid: SamplingGrid, rows: np.ndarray, columns: np.ndarray) -> PathCollection:
    y, x = kernel_centres(grid)[rows, columns].T
    return ax.scatter(
        x,
        y,
        s=70,
        marker="+",
        c="white",
        linewidths=1.8,
        path_effects=halo(3.6),
        zorder=4,
    )


def _legend(ax: Axes, groups: int) -> None:
    """Explain the signs below the axes, the groups by the colour of their rims."""
    from matplotlib.lines import Line2D

    def sign(label: str, marker: str, edge: str, size: float) -> Line2D:
        style: dict[str, Any] = {"markeredgecolor": edge, "markerfacecolor": "none", "markeredgewidth": 2.0}
        return Line2D([], [], linestyle="none", marker=marker, markersize=size, label=label, **style)

    signs = [sign("output pixel", "+", "black", 9), sign("regular grid", "o", "0.6", 6)]
    names = ["taps"] if groups == 1 else [f"taps of group {g}" for g in range(groups)]
    signs += [sign(name, "o", group_colour(g), 9) for g, name in enumerate(names)]
    ax.legend(
        handles=signs,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
        ncols=2,
        frameon=False,
        fontsize=9,
    )


def _numbers(ax: Axes, moved: np.ndarray, regular: np.ndarray) -> list[Annotation]:
    points = moved.reshape(-1, 2)
    names = [str(k) for _ in range(points.shape[0] // moved.shape[2]) for k in range(moved.shape[2])]
    centres = np.broadcast_to(regular.mean(axis=1)[:, None, None], moved.shape).reshape(-1, 2)
    return place_labels(ax, points, names, away_from=centres)
