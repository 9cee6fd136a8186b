"""The figures of the comparison of operators, drawn from its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.internimage.receptive import Pixel
from dcnlab.pages import new_figure
from dcnlab.study.operator_fields import unpacked
from dcnlab.study.operator_layers import OPERATORS, PATCH, sample_photo, shown_photo
from dcnlab.study.receptive_figures import circle_legend, field_colourbar, mark, show_field
from dcnlab.viz.canvas import group_colour, halo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = dict(zip(OPERATORS, map(group_colour, (4, 0, 5, 2, 7)), strict=True))
OPACITY = 0.9  # of a field on the photo
CLOSE_UP = 9  # pixels of the features: a field that reaches no farther is enlarged
MARKERS = dict(zip(OPERATORS, "os^Dv", strict=True))


def all_figures(record: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Return the figures by file name, each with its caption.

    Parameters
    ----------
    record : dict
        What `dcnlab.study.operators.run` returned or wrote to operators.json.
    """
    side, directions = record["side"], record["directions"]
    return {
        "fields.png": (
            fields(record),
            f"What one output pixel (cross) depends on: |gradient| over the {side}x{side} features of the photo, mean "
            f"over {directions} random signs of the channels, on a logarithmic scale; grey where there is no gradient. "
            "First and second row: the same pixel, and the photo mirrored. Third row: another pixel. The circles hold "
            "50 % (solid) and 90 % (dashed) of a field; px are pixels of the features. Framed: enlarged in the corner.",
        ),
        "adaptation.png": (
            adaptation(record),
            "How much the derivative of an output pixel changes when the photo is mirrored and the pixel stays. Left: "
            "the share of the pixels it reads for one of the two only. Right: how far apart the derivatives are on the "
            "pixels it reads for both, 1 for two that have nothing in common. Mean over "
            f"{record['adaptation']['pixels']} pixels of {record['adaptation']['side']}x{record['adaptation']['side']} "
            "features.",
        ),
        "growth.png": (
            growth(record),
            "Cost of one image of side x side pixels, both axes logarithmic. In brackets the exponent e, fitted to the "
            "three largest sides: cost grows as the e-th power of the number of pixels n. Multiply-adds by formula; "
            "memory, the most that forward and backward hold at once; time of the forward pass on this machine, "
            f"{record['machine']['cpu']}, one thread. Left out is what would need more than 2 GB or 2 s.",
        ),
    }


# -- receptive fields ----------------------------------------------------------------------------------------------


def fields(record: dict[str, Any]) -> Figure:
    """Draw the field of every operator on the photo: for two photos at one pixel, and at another pixel."""
    views = record["views"]
    figure = new_figure(14, 7.6)
    axes = figure.subplots(len(views), 1 + len(OPERATORS))
    for row, (name, view) in zip(axes, views.items(), strict=True):
        photo = _photo(record, view["mirrored"])
        row[0].imshow(photo)
        y, x = (PATCH * (p + 0.5) - 0.5 for p in view["pixel"])
        row[0].scatter(x, y, s=90, marker="+", c="white", linewidths=1.8, path_effects=halo(3.4))
        row[0].set_ylabel(name, fontsize=10)
        grey = 150 + 0.4 * (photo @ np.array([0.299, 0.587, 0.114]))  # light, so that colours stand out
        for ax, operator in zip(row[1:], OPERATORS, strict=True):
            ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
            found = record["operators"][operator]["fields"][name]
            field = unpacked(found["levels"], record["side"])
            shown = show_field(ax, field, OPACITY, PATCH)
            if found["farthest"] > CLOSE_UP:
                mark(ax, field, view["pixel"], PATCH, size=14)
            else:
                _close_up(ax, grey, field, view["pixel"])
            ax.set_xlabel(f"90 % within {found['radii'][1]:.3g} px", fontsize=9)
    for ax, title in zip(axes[0], ("photo", *OPERATORS), strict=True):
        ax.set_title(title, fontsize=11)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], xlim=(-0.5, len(photo) - 0.5), ylim=(len(photo) - 0.5, -0.5))
    field_colourbar(figure, shown, axes[:, 1:], shrink=0.6)
    circle_legend(figure)
    return figure


def _close_up(ax: Axes, grey: np.ndarray, field: np.ndarray, pixel: Pixel) -> None:
    """Draw a small field once more, enlarged, in the lower right corner; a frame shows where it is."""
    from matplotlib.patches import Rectangle

    y, x = (PATCH * (p + 0.5) - 0.5 for p in pixel)
    reach = PATCH * (CLOSE_UP + 0.5)
    frame: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1}
    ax.add_patch(Rectangle((x - reach, y - reach), 2 * reach, 2 * reach, **frame))
    inset = ax.inset_axes((0.48, 0.02, 0.5, 0.5))
    inset.imshow(grey, cmap="gray", vmin=0, vmax=255)
    show_field(inset, field, OPACITY, PATCH)
    mark(inset, field, pixel, PATCH, size=0)
    inset.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach), xticks=[], yticks=[])


def _photo(record: dict[str, Any], mirrored: bool) -> np.ndarray:
    photo = sample_photo()
    return shown_photo(photo[:, ::-1] if mirrored else photo, record["side"])


# -- what adapts ---------------------------------------------------------------------------------------------------


def adaptation(record: dict[str, Any]) -> Figure:
    """Draw how much positions and weights change from one input to another, a bar for each operator."""
    figure = new_figure(11, 3.2)
    figure.set_layout_engine("constrained", wspace=0.08)  # or numbers of the two axes touch
    left, right = figure.subplots(1, 2, sharey=True)
    titles = {"positions": "which pixels are read", "weights": "how much they count"}
    for ax, (what, title) in zip((left, right), titles.items(), strict=True):
        values = [record["operators"][name][what] for name in OPERATORS]
        ax.barh(OPERATORS, values, color=[COLOURS[name] for name in OPERATORS])
        for place, value in enumerate(values):
            ax.text(value + 0.015, place, f"{value:.2f}" if value else "0", va="center", fontsize=10)
        ax.set(xlim=(0, max(1.0, 1.15 * max(values))), xlabel="change (0: none)")
        ax.set_title(title, fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    return figure


# -- growth --------------------------------------------------------------------------------------------------------


def growth(record: dict[str, Any]) -> Figure:
    """Draw multiply-adds, memory and time against the side of the image."""
    figure = new_figure(14, 5)
    counted, held, timed = figure.subplots(1, 3)
    _curves(counted, record, "multiply_adds", "million multiply-adds", lambda m: m / 1e6)
    _curves(held, record, "peak", "MB held at once", lambda m: m / 1e6)
    _curves(timed, record, "forward_ms", "ms, forward", lambda m: m)
    counted.set_title("multiply-adds, by formula", fontsize=11)
    held.set_title("memory, forward and backward", fontsize=11)
    timed.set_title("time on this machine", fontsize=11)
    return figure


def _curves(ax: Axes, record: dict[str, Any], what: str, label: str, scaled: Callable[[Any], Any]) -> None:
    highest = 0.0
    for name in OPERATORS:
        found = record["operators"][name]
        values = scaled(np.array(found[what], np.float64))
        sides = record["sides"][: len(values)]
        title = f"{name} (n$^{{{found['exponents'][what]:.2f}}}$)"
        style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 5, "linewidth": 1.8}
        ax.plot(sides, values, label=title, **style)
        highest = max(highest, values.max())
    ax.set(xscale="log", yscale="log", xlabel="side of the image (pixels)", ylabel=label)
    ax.set_xticks(record["sides"], labels=[str(side) for side in record["sides"]])
    ax.minorticks_off()
    # Room above the curves for the legend.
    lowest = ax.get_ylim()[0]
    ax.set_ylim(lowest, highest * (highest / lowest) ** 0.3)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="upper left", fontsize=9)
