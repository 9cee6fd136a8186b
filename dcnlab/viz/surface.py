"""The bilinear surface between the pixels of a small image, and its kinks on the lattice lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.viz.canvas import VALUE_MAP, axes_or_new, group_colour, require_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

FINEST = 24  # points of the drawn surface between two pixels


class BilinearSurface(NamedTuple):
    """What `bilinear_surface` drew."""

    ax: Any  # mpl_toolkits.mplot3d.Axes3D
    surface: Any  # Poly3DCollection
    pixels: Any  # Path3DCollection, one point a pixel
    kinks: list[Any]  # Line3D, one a lattice line
    values: np.ndarray  # the surface itself, (rows, columns), `points` to a pixel


class BilinearSection(NamedTuple):
    """What `bilinear_section` drew."""

    ax: Axes
    value: Line2D
    slope: Line2D
    pixels: Line2D  # where the line passes a lattice line
    slope_ax: Axes


def bilinear_surface(image: Array, *, points: int = 12, ax: Any = None) -> BilinearSurface:
    """Draw the bilinear surface of a small image: a saddle in every cell, a kink on every lattice line.

    Parameters
    ----------
    image : (H, W), 2 to 32 pixels each way
    points : int
        Points of the drawn surface between two pixels, 1 to 24.
    ax : 3-D axes, optional

    Examples
    --------
    >>> import numpy as np, dcnlab
    >>> import matplotlib; matplotlib.use("agg")
    >>> drawn = dcnlab.viz.bilinear_surface(np.array([[0.0, 1.0], [1.0, 0.0]]), points=2)
    >>> drawn.values[1].tolist()
    [0.5, 0.5, 0.5]
    """
    patch = _require_patch(image)
    points = require_index("points", points, FINEST + 1, first=1)
    height, width = patch.shape
    ax = axes_or_new(ax, (6.4, 5.4), "3d")
    y = np.arange((height - 1) * points + 1) / points
    x = np.arange((width - 1) * points + 1) / points
    across, down = np.meshgrid(x, y)
    values = _sample(patch, down, across)[0]
    surface = ax.plot_surface(
        across,
        down,
        values,
        cmap=VALUE_MAP,
        rcount=len(y),
        ccount=len(x),
        linewidth=0,
        antialiased=False,
        alpha=0.9,
    )
    lift = 0.004 * (np.ptp(values) or 1.0)  # lines in the surface itself would be hidden by it here and there
    style: dict[str, Any] = {"color": "black", "linewidth": 1.1, "zorder": 5}
    kinks = [ax.plot(x, np.full_like(x, row), values[row * points] + lift, **style)[0] for row in range(height)]
    kinks += [ax.plot(np.full_like(y, c), y, values[:, c * points] + lift, **style)[0] for c in range(width)]
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    dots = ax.scatter(columns, rows, patch + 2 * lift, color=group_colour(4), s=32, depthshade=False, zorder=6)
    ax.set(xlabel="x (px)", ylabel="y (px)", zlabel="value", xticks=range(width), yticks=range(height))
    ax.view_init(elev=38, azim=-62)
    ax.invert_yaxis()  # +y points down in images
    return BilinearSurface(ax, surface, dots, kinks, values)


def bilinear_section(image: Array, y: float | None = None, *, ax: Axes | None = None) -> BilinearSection:
    """Draw the bilinear surface along the line of constant `y`, and its slope along x.

    The value is continuous, the slope jumps at every pixel: there the gradient of an offset is one-sided.

    Parameters
    ----------
    image : (H, W), 2 to 32 pixels each way
    y : float, optional
        In pixels, 0 to H - 1; the middle if not given.
    """
    patch = _require_patch(image)
    height, width = patch.shape
    y = (height - 1) / 2 if y is None else float(y)
    if not 0 <= y <= height - 1:
        raise ValueError(f"y must be in 0..{height - 1}, got {y}")
    ax = axes_or_new(ax, (6.4, 4.0))
    # Just left and just right of each pixel, so that the jump of the slope is upright.
    inner = (np.arange(width - 1)[:, None] + np.array([0.0, 0.5, 1 - 1e-9])).ravel()
    value, slope = _sample(patch, np.full_like(inner, y), inner)
    knots = _sample(patch, np.full(width, y), np.arange(width, dtype=float))[0]
    for column in range(width):
        ax.axvline(column, color="0.85", linewidth=0.8, zorder=0)
    (line,) = ax.plot(inner, value, color=group_colour(5), linewidth=2, label=f"value at y = {y:g}")
    (dots,) = ax.plot(np.arange(width), knots, "o", color=group_colour(5), markersize=6, label="kinks, at the pixels")
    other = ax.twinx()
    (steps,) = other.plot(inner, slope, color=group_colour(4), linewidth=1.5, linestyle="--", label="slope along x")
    ax.set(xlabel="x (px)", ylabel="value", xticks=range(width))
    other.set_ylabel("slope (per px)", color=group_colour(4))
    other.tick_params(axis="y", colors=group_colour(4))
    ax.legend(
        handles=[line, dots, steps],
        loc="upper center",
        bbox_to_anchor=(0.5, 1.14),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return BilinearSection(ax, line, steps, dots, other)


def _require_patch(image: Array) -> np.ndarray:
    patch = as_numpy(image)
    if patch.ndim != 2 or min(patch.shape) < 2 or max(patch.shape) > 32:
        raise ValueError(f"image must have shape (H, W) with 2 to 32 pixels each way, got {patch.shape}")
    if not np.isfinite(patch).all():
        raise ValueError("image must be finite: a surface cannot be drawn through NaN or inf")
    return patch.astype(np.float64)


def _sample(patch: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the slopes along x at positions of one shape.

    With 1 arriving from above, the gradient of a sample's modulation is its value and that of x its slope.
    """
    from dcnlab.reference.sampling import Frame, sample_gradients

    frame, zero = Frame(patch[..., None], groups=1), np.zeros(1, np.int32)
    cells = frame.locate((zero, zero), (y.reshape(-1, 1), x.reshape(-1, 1)), zero)
    dots = frame.corner_dots(cells, np.ones((y.size, 1)))
    _, slope, value = sample_gradients(cells, dots, None)
    return value.reshape(y.shape), slope.reshape(y.shape)
