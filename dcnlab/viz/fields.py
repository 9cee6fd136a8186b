"""The offsets of the whole output at once: as arrows, as colours, as a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.geometry import SamplingGrid
from dcnlab.viz.canvas import (
    axes_or_new,
    frame_view,
    group_colour,
    halo,
    kernel_centres,
    require_image,
    require_index,
    require_modulation,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.image import AxesImage
    from matplotlib.quiver import Quiver

# Rim of the colour wheel: right, down, left, up. Opposite directions differ in blue against yellow or in
# lightness, which every kind of colour vision keeps; a rainbow loses half of its circle.
WHEEL = ("#E69F00", "#7A0C55", "#0072B2", "#35C89A")


class OffsetArrows(NamedTuple):
    """What `offset_arrows` drew."""

    ax: Axes
    arrows: Quiver
    longest: float  # in pixels
    image: AxesImage | None


class OffsetWheel(NamedTuple):
    """What `offset_wheel` drew."""

    ax: Axes
    image: AxesImage  # (Ho, Wo, 3)
    legend: AxesImage
    longest: float  # the offset at the rim of the wheel, in pixels


class SamplingMesh(NamedTuple):
    """What `sampling_mesh` drew: lines of the output grid through the points where they sample."""

    ax: Axes
    rows: LineCollection
    columns: LineCollection
    image: AxesImage | None


def mean_positions(grid: SamplingGrid, modulation: Array | None = None) -> np.ndarray:
    r"""Return where each output pixel samples on average, (N, Ho, Wo, G, 2), last axis (y, x).

    .. math:: \bar p = \sum_k m_k p_k \Big/ \sum_k m_k

    without modulation the plain mean over the taps. NaN where the modulation adds up to 0.
    """
    weight = require_modulation(modulation, grid)[..., None]
    with np.errstate(all="ignore"):
        return (weight * as_numpy(grid.positions())).sum(axis=-2) / weight.sum(axis=-2)


def offset_arrows(
    grid: SamplingGrid,
    modulation: Array | None = None,
    *,
    image: Array | None = None,
    tap: int | None = None,
    group: int = 0,
    batch: int = 0,
    every: int | None = None,
    ax: Axes | None = None,
) -> OffsetArrows:
    """Draw the offsets as arrows of their true length, from the regular position to the sampled one.

    Parameters
    ----------
    grid : SamplingGrid
    modulation : (N, Ho, Wo, G, K), optional
        Weighs the mean over the taps.
    image : (H, W[, 3 or 4]), optional
        Drawn underneath.
    tap : int, optional
        One tap; the modulation-weighted mean of all if not given.
    every : int, optional
        One arrow in so many output pixels each way; about sixteen along the longer side if not given.
    """
    start, move = _field(grid, modulation, tap, group, batch)
    step = _step(every, grid)
    start, move = start[step // 2 :: step, step // 2 :: step], move[step // 2 :: step, step // 2 :: step]
    picture = None if image is None else require_image(image, grid)
    ax = axes_or_new(ax)
    shown = None if picture is None else show_image(ax, picture)
    moved = np.ma.masked_invalid(move)
    arrows = ax.quiver(
        start[..., 1],
        start[..., 0],
        moved[..., 1],
        moved[..., 0],
        angles="xy",
        scale_units="xy",
        scale=1,
        color=group_colour(group),
        width=0.004,
        path_effects=halo(1.8) if picture is not None else None,
    )
    extent = picture if picture is not None else np.zeros(_extent(grid))
    frame_view(ax, np.empty((0, 2)), extent, None)
    longest = float(np.linalg.norm(moved.filled(0), axis=-1).max())
    ax.set_title(f"longest arrow: {longest:.2g} px", loc="right", fontsize=9)
    return OffsetArrows(ax, arrows, longest, shown)


def offset_wheel(
    grid: SamplingGrid,
    modulation: Array | None = None,
    *,
    tap: int | None = None,
    group: int = 0,
    batch: int = 0,
    longest: float | None = None,
    ax: Axes | None = None,
) -> OffsetWheel:
    """Draw the offsets as colours: hue is their direction, saturation their length; white is no offset.

    Parameters
    ----------
    grid, modulation, tap, group, batch
        As in `offset_arrows`.
    longest : float, optional
        The length in pixels of the fullest colour; the longest offset if not given.
    """
    _, move = _field(grid, modulation, tap, group, batch)
    lengths = np.linalg.norm(move, axis=-1)
    if longest is None:
        longest = float(np.max(lengths[np.isfinite(lengths)], initial=0.0)) or 1.0
    if not (np.isfinite(longest) and longest > 0):
        raise ValueError(f"longest must be a positive number of pixels, got {longest!r}")
    ax = axes_or_new(ax, (6.6, 5.0))
    shown = ax.imshow(wheel_colours(move / longest), interpolation="nearest")
    legend = _legend_wheel(ax, longest)
    return OffsetWheel(ax, shown, legend, longest)


def sampling_mesh(
    grid: SamplingGrid,
    modulation: Array | None = None,
    *,
    image: Array | None = None,
    tap: int | None = None,
    group: int = 0,
    batch: int = 0,
    every: int | None = None,
    colour: str | None = None,
    ax: Axes | None = None,
) -> SamplingMesh:
    """Draw the output grid where it samples: straight lines for offset 0, bent ones for a warp.

    Parameters
    ----------
    grid, modulation, image, tap, group, batch, every
        As in `offset_arrows`; a line in every so many output rows and columns.
    colour : str, optional
        The group's if not given.
    """
    from matplotlib.collections import LineCollection

    start, move = _field(grid, modulation, tap, group, batch)
    points = (start + move)[..., ::-1]
    step = _step(every, grid)
    picture = None if image is None else require_image(image, grid)
    ax = axes_or_new(ax)
    shown = None if picture is None else show_image(ax, picture)
    style: dict[str, Any] = {
        "colors": colour or group_colour(group),
        "linewidths": 1.1,
        "path_effects": halo(1.9),
    }
    across = LineCollection(list(points[step // 2 :: step]), **style)
    down = LineCollection(list(points.transpose(1, 0, 2)[step // 2 :: step]), **style)
    for lines in (across, down):
        ax.add_collection(lines, autolim=False)
    frame_view(ax, np.empty((0, 2)), picture if picture is not None else np.zeros(_extent(grid)), None)
    return SamplingMesh(ax, across, down, shown)


def wheel_colours(moves: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3) of offsets (..., 2), (y, x) in units of the longest; NaN is grey."""
    from matplotlib.colors import to_rgb

    rim = np.array([to_rgb(colour) for colour in WHEEL])
    finite = np.isfinite(moves).all(axis=-1)
    y, x = np.moveaxis(np.where(finite[..., None], moves, 0), -1, 0)
    quarter = (np.arctan2(y, x) / (np.pi / 2)) % 4  # 0 right, 1 down, 2 left, 3 up
    first = np.floor(quarter).astype(int) % 4
    part = (quarter % 1)[..., None]
    hue = (1 - part) * rim[first] + part * rim[(first + 1) % 4]
    length = np.clip(np.hypot(y, x), 0, 1)[..., None]
    return np.where(finite[..., None], 1 - length * (1 - hue), 0.5)


def _field(
    grid: SamplingGrid, modulation: Array | None, tap: int | None, group: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the output pixels' centres and offsets in the image, each (Ho, Wo, 2) as (y, x).

    The offset of the mean tap counts from the middle of the kernel, that of one tap from its regular place.
    """
    group = require_index("group", group, grid.groups)
    batch = require_index("batch", batch, len(grid.offset))
    centres = kernel_centres(grid)
    if tap is None:
        return centres, mean_positions(grid, modulation)[batch, :, :, group] - centres
    tap = require_index("tap", tap, len(grid.taps))
    regular = as_numpy(grid.regular())[:, :, tap]
    return regular, as_numpy(grid.positions())[batch, :, :, group, tap] - regular


def _step(every: int | None, grid: SamplingGrid) -> int:
    if every is None:
        return max(1, max(grid.output_size) // 16)
    return require_index("every", every, max(grid.output_size) + 1, first=1)


def _extent(grid: SamplingGrid) -> tuple[int, int]:
    """Return the size of an image just large enough for the grid's centres."""
    last = kernel_centres(grid)[-1, -1]
    return int(np.ceil(last[0])) + 1, int(np.ceil(last[1])) + 1


def _legend_wheel(ax: Axes, longest: float) -> AxesImage:
    inset = ax.inset_axes((1.06, 0.62, 0.3, 0.3))
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    disc = np.where((np.hypot(y, x) <= 1)[..., None], wheel_colours(np.stack([y, x], axis=-1)), 1.0)
    legend = inset.imshow(disc, extent=(-1, 1, 1, -1))
    inset.set_axis_off()
    inset.set_title("offset", fontsize=9)
    inset.text(0, 1.25, f"rim: {longest:.2g} px", ha="center", va="top", fontsize=9)
    return legend
