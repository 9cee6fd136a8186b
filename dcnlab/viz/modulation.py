"""Modulation: a map for every tap, and what the taps add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.geometry import SamplingGrid
from dcnlab.viz.canvas import (
    VALUE_MAP,
    axes_or_new,
    group_colour,
    require_index,
    require_modulation,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.container import BarContainer
    from matplotlib.image import AxesImage
    from matplotlib.text import Text


class ModulationMaps(NamedTuple):
    """What `modulation_maps` drew."""

    ax: Axes
    maps: list[AxesImage]  # one a tap, in the layout's order, each (Ho, Wo)
    numbers: list[Text]
    colorbar: Colorbar


class ModulationSums(NamedTuple):
    """What `modulation_sums` drew."""

    ax: Axes
    bars: dict[str, BarContainer]  # heights are shares of all sums, in percent
    sums: dict[str, np.ndarray]
    edges: np.ndarray


def modulation_maps(
    grid: SamplingGrid,
    modulation: Array,
    *,
    group: int = 0,
    batch: int = 0,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> ModulationMaps:
    """Draw one small map of the modulation for every tap, laid out as the taps stand in the kernel.

    Parameters
    ----------
    grid : SamplingGrid
        Knows the order of the taps.
    modulation : (N, Ho, Wo, G, K)
    limits : (low, high), optional
        Of the colour scale that all maps share; 0 (or the smallest, if negative) to the largest if not given.
    """
    from matplotlib.colors import Normalize

    group = require_index("group", group, grid.groups)
    values = require_modulation(modulation, grid)
    values = values[require_index("batch", batch, len(values)), :, :, group]  # (Ho, Wo, K)
    finite = values[np.isfinite(values)]
    low, high = limits or (float(np.min(finite, initial=0.0)), float(np.max(finite, initial=0.0)))
    norm = Normalize(low, high if high > low else low + 1.0)
    rows, columns = _kernel_cells(grid)
    height, width = grid.output_size
    gap = 0.06 * max(height, width)
    ax = axes_or_new(ax)
    maps, numbers = [], []
    for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
        left, top = column * (width + gap), row * (height + gap)
        extent = (left, left + width, top + height, top)
        maps.append(ax.imshow(values[..., k], cmap=VALUE_MAP, norm=norm, extent=extent, interpolation="nearest"))
        numbers.append(
            ax.text(left + 0.03 * width, top + 0.03 * height, f"tap {k}", va="top", fontsize=9, bbox=_plate())
        )
    ax.set(
        xlim=(-gap / 2, (columns.max() + 1) * (width + gap) - gap / 2),
        ylim=((rows.max() + 1) * (height + gap) - gap / 2, -gap / 2),
    )
    standing = set(zip(rows.tolist(), columns.tolist(), strict=True))
    for row, column in np.ndindex(rows.max() + 1, columns.max() + 1):
        if (row, column) not in standing:
            middle = (column * (width + gap) + width / 2, row * (height + gap) + height / 2)
            ax.text(*middle, "removed", ha="center", va="center", fontsize=9, color="0.4")
    ax.set_axis_off()
    return ModulationMaps(ax, maps, numbers, ax.figure.colorbar(maps[0], ax=ax, label="modulation", shrink=0.8))


def modulation_sums(
    modulations: Mapping[str, Array], *, bins_per_unit: int = 5, ax: Axes | None = None
) -> ModulationSums:
    """Draw a histogram of the sum of the modulation over the taps, for each kind of modulation.

    Softmax adds up to exactly 1; the sum of K sigmoids is anything from 0 to K, and it scales the output.

    Parameters
    ----------
    modulations : mapping of a name to (..., K)
        For example ``{"sigmoid": ..., "softmax": ...}`` of the same logits.
    bins_per_unit : int
        Bins in a sum of 1; whole sums lie in the middle of a bin.

    Examples
    --------
    >>> import numpy as np, dcnlab
    >>> import matplotlib; matplotlib.use("agg")
    >>> logits = np.random.default_rng(0).standard_normal((100, 9))
    >>> kinds = {"sigmoid": dcnlab.sigmoid(logits), "softmax": dcnlab.softmax(logits)}
    >>> drawn = dcnlab.viz.modulation_sums(kinds)
    >>> max(float(bar.get_height()) for bar in drawn.bars["softmax"])
    100.0
    """
    if not modulations:
        raise ValueError('modulations must name at least one kind, e.g. {"softmax": modulation}')
    values = {name: as_numpy(m) for name, m in modulations.items()}
    for name, m in values.items():
        if m.ndim == 0 or m.size == 0 or not np.isfinite(m).all():
            raise ValueError(f"modulation {name!r} must be a finite array (..., K) with K >= 1, got shape {m.shape}")
    sums = {name: m.sum(axis=-1).ravel() for name, m in values.items()}
    taps = max(m.shape[-1] for m in values.values())
    low = np.floor(min(0.0, *(s.min() for s in sums.values())))
    high = np.ceil(max(float(taps), *(s.max() for s in sums.values())))
    step = 1.0 / require_index("bins_per_unit", bins_per_unit, 101, first=1)
    edges = np.arange(low - step / 2, high + step, step)
    ax = axes_or_new(ax, (6.4, 4.0))
    bars = {}
    for index, (name, s) in enumerate(sums.items()):
        share = np.histogram(s, edges)[0] * (100.0 / len(s))
        bars[name] = ax.bar(
            edges[:-1],
            share,
            width=step,
            align="edge",
            color=group_colour(index),
            edgecolor="white",
            linewidth=0.4,
            label=f"{name}: {_spread(s)}",
            zorder=2 + len(sums) - index,
        )
    ax.set(
        xlabel=f"sum of the modulation over {taps} taps",
        ylabel="share of the sums (%)",
        xlim=(edges[0], edges[-1]),
    )
    ax.legend(frameon=False)
    return ModulationSums(ax, bars, sums, edges)


def _spread(sums: np.ndarray) -> str:
    if np.ptp(sums) < 1e-6 * max(1.0, float(np.abs(sums).max())):
        return f"{sums.mean():.3g} everywhere"
    return f"{sums.min():.2f} to {sums.max():.2f}, mean {sums.mean():.2f}"


def _kernel_cells(grid: SamplingGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the column of every tap in the kernel."""
    taps = as_numpy(grid.taps) + as_numpy(grid.residual)
    rows = np.unique(taps[:, 0].round(9), return_inverse=True)[1]
    columns = np.unique(taps[:, 1].round(9), return_inverse=True)[1]
    return rows, columns


def _plate() -> dict[str, object]:
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
