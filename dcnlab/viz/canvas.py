"""What all pictures share: colours, axes, the image underneath, and the checks of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.geometry import SamplingGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

# Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart by colour-blind readers too.
GROUP_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442", "#999999")
VALUE_MAP = "viridis"  # values: uniform in lightness, so that it also works in grey
DEPTH_MAP = "cividis"


def group_colour(group: int) -> str:
    """Return the colour of a group; after eight groups they repeat."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)]


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.0, 5.4), projection: str = "rectilinear") -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches; refuse axes of another projection."""
    if ax is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=size, layout="constrained")
        return figure.add_subplot(projection=projection)
    if getattr(ax, "name", None) != projection:
        raise ValueError(f"ax must be matplotlib axes with projection {projection!r}, got {getattr(ax, 'name', ax)!r}")
    return ax


def require_image(image: Array, grid: SamplingGrid | None = None) -> np.ndarray:
    """Return `image` as (H, W) or (H, W, 3 or 4), having checked that `grid` was made for its size."""
    picture = as_numpy(image)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (3, 4)) or 0 in picture.shape:
        raise ValueError(f"image must have shape (H, W), (H, W, 3) or (H, W, 4), got {picture.shape}")
    if grid is None:
        return picture
    for axis, side in enumerate(("height", "width")):
        _require_side(side, picture.shape[axis], axis, grid)
    return picture


def _require_side(side: str, size: int, axis: int, grid: SamplingGrid) -> None:
    """Refuse an image side that does not give this grid's number of output pixels."""
    half = tap_centre(grid)[axis]
    line = np.moveaxis(kernel_centres(grid), axis, 0)[:, 0, axis]
    padding, span = round(half - line[0]), 2 * half  # span: dilation * (kernel - 1)
    stride = int(line[1] - line[0]) if len(line) > 1 else size + 2 * padding  # one row: any stride will do
    need = line[-1] - line[0] + span + 1 - 2 * padding
    slack = abs(grid.offset_scale - 1)  # even kernels are not scaled around their exact middle
    if not need - slack <= size < need + stride + slack:
        raise ValueError(
            f"image {side} {size} does not belong to this grid: {len(line)} output pixels with padding "
            f"{padding} need {side} {need:g}" + (f" to {need + stride - 1:g}" if stride > 1 and len(line) > 1 else "")
        )


def kernel_centres(grid: SamplingGrid) -> np.ndarray:
    """Return where each output pixel has the middle of its regular kernel, (Ho, Wo, 2) as (y, x)."""
    return as_numpy(grid.origins).T.reshape(*grid.output_size, 2) + tap_centre(grid)


def tap_centre(grid: SamplingGrid) -> np.ndarray:
    """Return the middle of the regular kernel relative to its first corner, (y, x)."""
    taps = as_numpy(grid.taps) + as_numpy(grid.residual)
    return (taps.min(axis=0) + taps.max(axis=0)) / 2


def require_modulation(modulation: Array | None, grid: SamplingGrid) -> np.ndarray:
    """Return the modulation (N, Ho, Wo, G, K) of `grid`; ones where there is none."""
    n, _, g, k, _ = grid.offset.shape
    expected = (n, *grid.output_size, g, k)
    if modulation is None:
        return np.ones(expected)
    values = as_numpy(modulation)
    if values.shape != expected:
        raise ValueError(
            f"modulation must have shape (N, Ho, Wo, G, K) = {expected}, got {values.shape}; "
            "dcnlab.sampling_modulation brings published masks into this order"
        )
    return values


def require_index(name: str, value: Any, size: int, first: int = 0) -> int:
    """Return `value` as an int of range(first, size)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not first <= value < size:
        raise ValueError(f"{name} must be in {first}..{size - 1}, got {value}")
    return int(value)


def require_pixel(pixel: Any, grid: SamplingGrid) -> tuple[int, int]:
    """Return an output pixel as (y, x) ints."""
    height, width = grid.output_size
    if len(np.shape(pixel)) != 1 or len(pixel) != 2:
        raise ValueError(f"an output pixel must be a pair (y, x), got {pixel!r}")
    y, x = pixel
    return require_index("output pixel y", y, height), require_index("output pixel x", x, width)


def show_image(ax: Axes, picture: np.ndarray) -> AxesImage:
    """Draw the image with pixel (y, x) centred on the point (x, y), +y down."""
    if picture.ndim == 2:
        return ax.imshow(picture, cmap="gray", interpolation="nearest")
    if np.issubdtype(picture.dtype, np.floating):
        picture = np.clip(np.nan_to_num(picture), 0, 1)
    return ax.imshow(picture, interpolation="nearest")


def frame_view(ax: Axes, points: np.ndarray, picture: np.ndarray, margin: float | None) -> None:
    """Show a square around `points` (x, y), `margin` pixels wider than they are, or the whole image for None.

    Points more than a pixel outside the image sample nothing and do not count.
    """
    height, width = picture.shape[:2]
    ax.set_aspect("equal")
    finite = points[np.isfinite(points).all(axis=-1)].clip([-1.5, -1.5], [width + 0.5, height + 0.5])
    if margin is None or len(finite) == 0:
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        return
    middle = (finite.min(axis=0) + finite.max(axis=0)) / 2
    half = np.ptp(finite, axis=0).max() / 2 + margin
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))


def halo(width: float = 2.5, colour: str = "black") -> list[Any]:
    """Return path effects that keep a thin line or a small letter readable on any photo."""
    import matplotlib.patheffects as effects

    return [effects.withStroke(linewidth=width, foreground=colour)]
