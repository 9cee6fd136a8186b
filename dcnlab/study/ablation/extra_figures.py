"""The figures of what is measured without training: deep stacks of new layers, and the cost of unshared weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.modulation import KINDS
from dcnlab.pages import new_figure
from dcnlab.study.ablation.cost import BYTES, TRAINED
from dcnlab.study.ablation.depth import LOGITS, STACKS
from dcnlab.study.ablation.figures import MARKERS, readable_decades
from dcnlab.viz.canvas import group_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]

SHORT = {"blocks": "blocks", "layers": "layers alone"}
SHARING = {"shared": group_colour(0), "unshared": group_colour(1)}


def extra_figures(record: Record) -> dict[str, tuple[Figure, str]]:
    """Return the figures by name, each with its caption."""
    found = {}
    if "depth" in record:
        found["depth"] = (
            depth(record),
            f"Without training: standard normal features through {record['size']['blocks']} new layers, and a gradient "
            f"back. Above: {STACKS['blocks']}. Below: {STACKS['layers']}. Solid: {LOGITS['start']}; dashed: "
            f"{LOGITS['random']}. At the start, none (logits of 1/9) is the same as softmax. Norms and shortcuts turn "
            "a growth of many powers of ten into a few times; what is left changes the scale of the gradient that "
            "reaches the first blocks.",
        )
    if "cost" in record:
        found["cost"] = (
            cost(record),
            "Left: the net of the digits, a batch forward and backward, relative to shared weights: parameters, bytes "
            "kept for backward (by walking the layers), and the most held at once (tracemalloc). Right: published "
            f"sizes, counted for one image. Training memory is {TRAINED} arrays of the parameters (value, gradient, "
            "two moments) and what is kept for backward; with im2col, an unshared layer also keeps the samples of all "
            "taps, as dense implementations do.",
        )
    return found


def depth(record: Record) -> Figure:
    """Draw the scale of features and gradient through the stacks."""
    figure = new_figure(11, 7.6)
    grid = figure.subplots(len(STACKS), 2)
    for row, stack in zip(grid, STACKS, strict=True):
        for ax, column in zip(row, ("stream", "gradient"), strict=True):
            for found in record["depth"]:
                if found["stack"] == stack:
                    _stack(ax, found, column)
            ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
            ax.grid(alpha=0.3)
            ax.set(xlabel=f"{stack} below")
            readable_decades(ax)
        row[0].set_title(f"{SHORT[stack]}: features / input", fontsize=11)
        row[1].set_title(f"{SHORT[stack]}: gradient / gradient sent", fontsize=11)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _stack(ax: Axes, found: dict[str, Any], column: str) -> None:
    place = list(KINDS).index(found["kind"])
    values, random = np.array(found[column], np.float64), found["logits"] == "random"
    style = {"color": group_colour(place), "linestyle": "--" if random else "-"}
    # Two kinds may lie on each other: marks at different places keep both in sight.
    marks = {"marker": MARKERS[place], "markevery": (place, len(KINDS) + 1), "markersize": 5}
    sum_mean = "overflow" if found["sum_mean"] is None else f"{found['sum_mean']:.2g}"
    label = f"{found['kind']}{', random' if random else ''}: sum {sum_mean}"
    ax.semilogy(values, label=label, **style, **marks)


def cost(record: Record) -> Figure:
    """Draw what unshared weights cost, measured and counted."""
    figure = new_figure(12.5, 4.4)
    left, *others = figure.subplots(1, 3, width_ratios=(3, 2.2, 3))
    own = record["cost"]["digits"]
    rows = {"parameters": "parameters", "kept_bytes": "kept for\nbackward", "peak_bytes": "peak"}
    for name, colour in SHARING.items():
        ratios = [own[name][key] / own["shared"][key] for key in rows]
        texts = [_amount(own[name][key], key) for key in rows]
        _bars(left, list(rows.values()), name, ratios, texts, colour)
    left.set(ylabel="relative to shared weights")
    left.set_title("net of the digits, measured", fontsize=11)
    published = record["cost"]["published"]
    labels = [f"{p['variant']}, {p['size']} px" for p in published]
    for name, colour in SHARING.items():
        counts = [p["parameters"][name] for p in published]
        _bars(others[0], labels, name, _over(published, counts, "parameters"), [_count(c) for c in counts], colour)
    others[0].set_title("InternImage: parameters, counted", fontsize=11)
    _memory(others[1], published, labels)
    for ax in (left, *others):
        ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the amounts
    figure.legend(*others[1].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _memory(ax: Axes, published: list[dict[str, Any]], labels: list[str]) -> None:
    shared = [memory(p, "shared") for p in published]
    cases = {
        "shared": (shared, SHARING["shared"]),
        "unshared": ([memory(p, "unshared", columns=False) for p in published], SHARING["unshared"]),
        "unshared, im2col": ([memory(p, "unshared") for p in published], group_colour(2)),
    }
    for name, (values, colour) in cases.items():
        ratios = [value / base for value, base in zip(values, shared, strict=True)]
        _bars(ax, labels, name, ratios, [_amount(value, "bytes") for value in values], colour, of=len(cases))
    ax.set_title("InternImage: memory of training, counted", fontsize=11)


def memory(published: dict[str, Any], name: str, columns: bool = True) -> int:
    """Return the bytes of parameters in training and of what is kept, of a model that `cost.counted` counted."""
    numbers = TRAINED * published["parameters"][name] + published["kept"][name]
    return int(BYTES * (numbers + (published["columns"][name] if columns else 0)))


def _over(published: list[dict[str, Any]], values: list[int], key: str) -> list[float]:
    return [value / p[key]["shared"] for value, p in zip(values, published, strict=True)]


def _bars(
    ax: Axes, labels: list[str], name: str, heights: list[float], texts: list[str], colour: str, of: int = 2
) -> None:
    """Add the bars of one case of several beside those that are there, each with its amount above it."""
    width, place = 0.84 / of, len(ax.containers)
    x = np.arange(len(labels)) + width * (place - (of - 1) / 2)
    bars = ax.bar(x, heights, width, color=colour, label=name)
    ax.bar_label(bars, texts, fontsize=9, padding=3, rotation=90)
    ax.set_xticks(range(len(labels)), labels)


def _amount(value: float, key: str) -> str:
    if key == "parameters":
        return _count(value)
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _count(value: float) -> str:
    return f"{value / 1e6:,.0f} M" if value >= 1e7 else f"{value / 1e3:,.0f} k"
