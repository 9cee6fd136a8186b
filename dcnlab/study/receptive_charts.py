"""The figures of the study of receptive fields, drawn from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.internimage.receptive import Pixel
from dcnlab.pages import new_figure
from dcnlab.study.operator_fields import unpacked
from dcnlab.study.receptive_figures import (
    before_and_after,
    circle_legend,
    field_colourbar,
    mark,
    show_field,
)
from dcnlab.study.receptive_text import moves, plain, radii, runs_of
from dcnlab.viz.canvas import group_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]

SHOWN_STAGE = 2  # from 0, of the first figure: the first in which the paper sees a difference
MARKERS = "osD^"
PLACES = (5, 4, 2, 0)  # of the nets' colours among those of `group_colour`


def all_figures(record: Record) -> dict[str, tuple[Figure, str]]:
    """Return the figures by file name, each with its caption.

    Parameters
    ----------
    record : dict
        What `dcnlab.study.receptive.run` returned or wrote to receptive.json.
    """
    images, seeds, side = record["measured"], record["seeds"], record["settings"]["size"]
    what = (
        f"mean over {images} held-out digits, {record['directions']} random signs of the channels and {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}; {side}x{side} pixels, shown in squares of {record['pixel_size']}"
    )
    return {
        "receptive_pairs.png": (
            pairs(record),
            f"What the middle pixel of the map of stage {SHOWN_STAGE + 1} depends on, as in figure 7 of the paper: "
            f"|gradient| of the image, {what}. The circles hold 50 % (solid) and 90 % (dashed) of a field. Offsets "
            f"learn at {record['nets'][_fastest(record)]['offset_lr']:g} times the learning rate of the rest.",
        ),
        "receptive_stages.png": (
            stages(record),
            f"All stages, before and after training: {what}. Below each field its radii, mean over the seeds. A new "
            "net of DCNv3 is the same however fast its offsets will learn.",
        ),
        "receptive_radii.png": (
            chart_of_radii(record),
            "Radii of the circles that hold 50 % and 90 % of a field: a small mark for each seed, a line through the "
            "means; dotted before training, solid after. Grey: a field that is the same on the whole image.",
        ),
        "receptive_offsets.png": (
            offsets(record),
            "How far training moved the sampling points of each DCNv3 layer from the regular grid: root mean square "
            "over images, pixels, groups and taps, a small mark for each seed. Grey: the distance between two regular "
            "taps, one pixel of the layer's map.",
        ),
    }


# -- fields --------------------------------------------------------------------------------------------------------


def pairs(record: Record) -> Figure:
    """Draw the fields of one stage, of DCNv3 and of the convolution, before and after training."""
    shown = {
        net: (_field(record, net, "before", SHOWN_STAGE), _field(record, net, "after", SHOWN_STAGE))
        for net in (_fastest(record), plain(record))
    }
    return before_and_after(shown, centre=_centre(record, SHOWN_STAGE), pixel_size=record["pixel_size"])


def _fastest(record: Record) -> str:
    """Return the net of DCNv3 whose offsets learn fastest."""
    nets = {net: facts["offset_lr"] for net, facts in record["nets"].items() if facts["deformable"]}
    return max(nets, key=lambda net: nets[net])


def stages(record: Record) -> Figure:
    """Draw the fields of all stages, a row for each net and time."""
    rows = _distinct(record)
    count = len(record["centres"])
    figure = new_figure(2.75 * count + 0.9, 2.8 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for row, (net, when) in zip(grid, rows, strict=True):
        for stage, ax in enumerate(row):
            shown = show_field(ax, _field(record, net, when, stage), pixel_size=record["pixel_size"])
            mark(ax, _field(record, net, when, stage), _centre(record, stage), record["pixel_size"], size=30)
            half, most = radii(record, net, when)[:, stage].mean(axis=0)
            ax.set_xlabel(f"50 %: {half:.1f} px, 90 %: {most:.1f} px", fontsize=9)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{net}\n{when} training", fontsize=10)
    for stage, ax in enumerate(grid[0]):
        ax.set_title(f"stage {stage + 1}", fontsize=11)
    field_colourbar(figure, shown, grid, shrink=0.4)
    circle_legend(figure)
    return figure


def _distinct(record: Record) -> list[tuple[str, str]]:
    """Return (net, "before" or "after") of the rows; nets that start alike share the row of their start."""
    rows, seen = list[tuple[str, str]](), list[Any]()
    for net, found in record["fields"].items():
        for when in ("before", "after"):
            if when == "after" or found[when] not in seen:
                rows.append((net, when))
                seen.append(found[when])
    return rows


def _field(record: Record, net: str, when: str, stage: int) -> np.ndarray:
    """Return a stored field, (H/pixel_size, W/pixel_size)."""
    return unpacked(record["fields"][net][when][stage], record["settings"]["size"] // record["pixel_size"])


def _centre(record: Record, stage: int) -> Pixel:
    """Return the pixel of a stored field that it belongs to."""
    y, x = record["centres"][stage]
    return y // record["pixel_size"], x // record["pixel_size"]


# -- numbers -------------------------------------------------------------------------------------------------------


def chart_of_radii(record: Record) -> Figure:
    """Draw the radii by stage, a panel for each share, before and after training."""
    figure = new_figure(11, 4.4)
    panels = figure.subplots(1, len(record["shares"]))
    apart = _apart(record)
    for share, ax in enumerate(panels):
        for net, when in _distinct(record):
            values = radii(record, net, when)[..., share]  # (seeds, stages)
            line = {"before": ":", "after": "-"}[when]
            _curve(ax, values, apart[net], {**_style(record, net), "linestyle": line}, f"{net}, {when}")
        ax.axhline(record["even"][share], color="0.55", linewidth=1.2, linestyle="--", label="even field")
        ax.set_xticks(range(values.shape[1]), [str(stage + 1) for stage in range(values.shape[1])])
        ax.set(xlabel="stage", ylabel="radius (pixels of the image)", ylim=(0, None))
        ax.set_title(f"{100 * record['shares'][share]:.0f} % of the field", fontsize=11)
        ax.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def offsets(record: Record) -> Figure:
    """Draw how far training moved the taps, by layer."""
    figure = new_figure(11, 4.4)
    ax = figure.subplots()
    nets = [net for net, facts in record["nets"].items() if facts["deformable"]]
    layers = runs_of(record, nets[0])[0]["after"]["moves"]
    for net in nets:
        label = f"{net} (learning rate x {record['nets'][net]['offset_lr']:g})"
        _curve(ax, moves(record, net), _apart(record)[net], {**_style(record, net), "linestyle": "-"}, label)
    spacing = [layer["spacing"] for layer in layers]
    ax.plot(spacing, color="0.55", linewidth=1.2, linestyle="--", label="between regular taps")
    ax.set_xticks(range(len(layers)), [f"{layer['stage'] + 1}.{layer['block'] + 1}" for layer in layers])
    ax.set(xlabel="layer (stage.block)", ylabel="moved by (pixels of the image)", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="upper left")
    return figure


def _curve(ax: Axes, values: np.ndarray, aside: float, style: dict[str, Any], label: str | None) -> None:
    """Draw the mean of (seeds, places) as a line, and every seed as a small mark."""
    x = np.arange(values.shape[1]) + aside
    ax.plot(x, values.mean(axis=0), label=label, markersize=6, linewidth=1.8, **style)
    for each in values:
        ax.plot(x, each, **{**style, "linestyle": "none"}, markersize=3, markerfacecolor="white", zorder=3)


def _style(record: Record, net: str) -> dict[str, Any]:
    place = list(record["nets"]).index(net)
    return {"color": group_colour(PLACES[place % len(PLACES)]), "marker": MARKERS[place % len(MARKERS)]}


def _apart(record: Record) -> dict[str, float]:
    """Return how far each net is drawn beside the place it belongs to, so that none hides another."""
    nets = list(record["nets"])
    return {net: 0.08 * (place - (len(nets) - 1) / 2) for place, net in enumerate(nets)}
