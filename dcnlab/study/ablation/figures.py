"""The figures of a study, drawn from its record alone: one for each thing that is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.pages import new_figure
from dcnlab.study.ablation.studies import require_study
from dcnlab.study.ablation.verdicts import CHANCE, accuracies, best_rate, by_rate, counted_accuracy
from dcnlab.viz.canvas import group_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
Runs = list[dict[str, Any]]

MARKERS = "osD^vP"
LEAST_SPAN, MOST_LABELLED = 10.0, 1e4  # highest over lowest of a logarithmic axis
SCALES = {
    "operator": "output of the core operator",
    "stream": "residual stream after the block",
    "gradient": "gradient at the block's input",
}


def all_figures(record: Record) -> dict[str, tuple[Figure, str]]:
    """Return the figures of training by name, each with its caption."""
    seeds, epochs = record["size"]["seeds"], record["size"]["epochs"]
    found = {
        "accuracy": (
            accuracy(record),
            f"Accuracy on the {record['size']['test']:,} held-out digits, a dot for each of {seeds} seeds, a line for "
            "their mean, at the learning rate where the mean is best. A cross is a run that diverged: it counts as "
            "guessing.",
        ),
        "curves": (
            curves(record),
            f"The {epochs} epochs at that rate: mean over the seeds, and from the worst to the best run. Accuracy "
            "and loss in training: on digits with random rotation and size, the loss with label smoothing.",
        ),
        "sums": (
            sums(record),
            "Sum of the modulation over the taps, in every block in the order in which they run: mean, and standard "
            "deviation over pixels, groups and seeds. A regular convolution with its weights divided by 9 is at 1.",
        ),
        "scales": (
            scales(record),
            "Root mean square of what passes each block, mean over the seeds; dotted before training, solid after. "
            "The gradient is that of the mean loss.",
        ),
    }
    if any(len(c["rates"]) > 1 for c in record["configurations"].values()):
        found["rates"] = (
            rates(record),
            "Accuracy against the highest learning rate: a mark for each run, a line through the means. A cross is a "
            "run that diverged. The dotted line is guessing.",
        )
    return found


# -- accuracy ------------------------------------------------------------------------------------------------------


def accuracy(record: Record) -> Figure:
    """Draw the accuracy of every run of each configuration at its best rate, and the means."""
    names = list(record["configurations"])
    figure = new_figure(max(8.5, 1.8 + 1.45 * len(names)), 4.4)
    ax = figure.subplots()
    for place, name in enumerate(names):
        runs = by_rate(record, name)[best_rate(record, name)]
        values = accuracies(record, name)
        _runs(ax, place + _apart(len(runs), min(0.1, 0.5 / len(runs))), runs, **_style(record, name))
        mean = float(np.mean(values))
        ax.hlines(mean, place - 0.3, place + 0.3, color="0.2", linewidth=2, zorder=2)
        ax.annotate(f"{mean:.1f}", (place + 0.32, mean), va="center", fontsize=10)
    labels = [f"{_wrapped(name)}\nrate {best_rate(record, name):g}" for name in names]
    ax.set_xticks(range(len(names)), labels)
    ax.set(ylabel="accuracy on held-out digits (%)", xlim=(-0.6, len(names) - 0.3))
    ax.margins(y=0.1)
    ax.grid(axis="y", alpha=0.3)
    return figure


def rates(record: Record) -> Figure:
    """Draw accuracy against learning rate, for the configurations that have several."""
    several = [name for name, c in record["configurations"].items() if len(c["rates"]) > 1]
    figure = new_figure(8.5, 4.6)
    ax = figure.subplots()
    for place, (name, aside) in enumerate(zip(several, _apart(len(several), 0.07), strict=True)):
        found, style = by_rate(record, name), _style(record, name)
        x = np.array(list(found)) * np.exp(aside)  # side by side on the logarithmic axis
        places = np.repeat(x, [len(runs) for runs in found.values()])
        _runs(ax, places, [run for runs in found.values() for run in runs], **style)
        means = [100 * np.mean([counted_accuracy(r) for r in runs]) for runs in found.values()]
        line = ("-", "--", "-.", ":")[place % 4]
        ax.plot(x, means, line, linewidth=2, color=style["color"], zorder=1)
        ax.plot([], [], line, linewidth=2, label=name, **style)  # for the legend: the line with the mark of its runs
    ticks = sorted({rate for name in several for rate in by_rate(record, name)})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.axhline(100 * CHANCE, color="0.4", linestyle=":", zorder=0)
    ax.set(xlabel="highest learning rate", ylabel="accuracy on held-out digits (%)", ylim=(0, 103))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.grid(alpha=0.3)
    return figure


def curves(record: Record) -> Figure:
    """Draw accuracy and loss in training over the epochs, mean and range over the seeds."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for name in record["configurations"]:
        runs = [run for run in by_rate(record, name)[best_rate(record, name)] if not run["diverged"]]
        for ax, column, factor in ((left, "train_accuracy", 100), (right, "train_loss", 1)):
            _range(ax, [[row[column] * factor for row in run["rows"]] for run in runs], name, _style(record, name))
    left.set(ylabel="accuracy in training (%)")
    right.set(ylabel="loss in training")
    for ax in (left, right):
        ax.set(xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
    _one_legend(figure, left)
    return figure


# -- inside the nets -----------------------------------------------------------------------------------------------


def sums(record: Record) -> Figure:
    """Draw the sum over the taps by block, before and after training."""
    depths = _by_depth(record)
    figure = new_figure(11, 0.6 + 3.4 * len(depths))
    grid = figure.subplots(len(depths), 2, squeeze=False, sharey="row")
    for row, (labels, names) in zip(grid, depths.items(), strict=True):
        for ax, when in zip(row, ("before", "after"), strict=True):
            for name, aside in zip(names, _apart(len(names), 0.12), strict=True):
                mean, spread = _blocks(record, name, when, "sum_mean"), _blocks(record, name, when, "sum_std")
                if mean is not None and spread is not None:
                    x, between = np.arange(len(labels)) + aside, np.nanstd(mean, axis=0)
                    # Within an image and between the seeds.
                    whole = np.sqrt(np.nanmean(spread**2, axis=0) + between**2)
                    style = {**_style(record, name), "markersize": 6}
                    ax.errorbar(x, np.nanmean(mean, axis=0), whole, label=name, linestyle="none", capsize=3, **style)
            _block_axis(ax, labels, f"{when} training")
        low, high = row[0].get_ylim()
        row[0].set(ylabel="sum of the modulation", ylim=(min(low, 0), max(high, 1.2)))
        _legend_beside(row)
    return figure


def scales(record: Record) -> Figure:
    """Draw the root mean squares by block, before and after training."""
    depths = _by_depth(record)
    figure = new_figure(13, 0.6 + 3.4 * len(depths))
    grid = figure.subplots(len(depths), len(SCALES), squeeze=False)
    for row, (labels, names) in zip(grid, depths.items(), strict=True):
        for ax, (column, title) in zip(row, SCALES.items(), strict=True):
            for name in names:
                for when, line in (("before", ":"), ("after", "-")):
                    found = _blocks(record, name, when, column)
                    if found is not None:
                        label = name if when == "after" else None
                        style = {**_style(record, name), "linestyle": line, "markersize": 5, "label": label}
                        ax.semilogy(np.arange(len(labels)), np.nanmean(found, axis=0), **style)
            _block_axis(ax, labels, title)
            readable_decades(ax)
        row[0].set_ylabel("root mean square")
        _legend_beside(row)
    return figure


def _blocks(record: Record, name: str, when: str, column: str) -> np.ndarray | None:
    """Return a number of every block at the best rate, (seeds, blocks); None if no run has any."""
    runs = by_rate(record, name)[best_rate(record, name)]
    found = [[layer[column] for layer in run[when]["layers"]] for run in runs if run[when] is not None]
    values = np.array(found, np.float64)  # None becomes NaN
    if not len(values) or np.isnan(values).all(axis=0).any():
        return None
    return values


def _by_depth(record: Record) -> dict[tuple[str, ...], list[str]]:
    """Return the configurations by the blocks of their nets, which are named as "3.1": stage and block."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in record["configurations"]:
        run = next(run for run in record["runs"] if run["configuration"] == name)
        labels = tuple(f"{layer['stage'] + 1}.{layer['block'] + 1}" for layer in run["before"]["layers"])
        found.setdefault(labels, []).append(name)
    return found


# -- parts ---------------------------------------------------------------------------------------------------------


def _style(record: Record, name: str) -> dict[str, Any]:
    """Return the colour and the marker of a configuration: the same in every figure."""
    place = list(require_study(record["study"]).configurations).index(name)
    return {"color": group_colour(place), "marker": MARKERS[place % len(MARKERS)]}


def _runs(ax: Axes, x: np.ndarray, runs: Runs, color: str, marker: str) -> None:
    """Draw a mark for each run, and a cross for those that diverged."""
    y = np.array([100 * counted_accuracy(run) for run in runs])
    lost = np.array([run["diverged"] is not None for run in runs])
    ax.scatter(x[~lost], y[~lost], s=42, color=color, marker=marker, zorder=3)
    ax.scatter(x[lost], y[lost], s=42, color="black", marker="x", zorder=3)


def _range(ax: Axes, values: list[list[float]], name: str, style: dict[str, Any]) -> None:
    """Draw the mean of several runs over the epochs, and their range."""
    if not values:
        return
    found, epochs = np.array(values, np.float64), np.arange(1, len(values[0]) + 1)
    ax.plot(epochs, found.mean(axis=0), label=name, markersize=5, **style)
    ax.fill_between(epochs, found.min(axis=0), found.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)


def _apart(count: int, gap: float) -> np.ndarray:
    """Return places side by side around 0."""
    return gap * (np.arange(count) - (count - 1) / 2)


def _block_axis(ax: Axes, labels: Iterable[str], title: str) -> None:
    names = list(labels)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel="block (stage.block)", xlim=(-0.5, len(names) - 0.5))
    ax.set_title(title, fontsize=11)
    ax.grid(alpha=0.3)


def readable_decades(ax: Axes) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, and let it span enough to have several labels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = ax.get_ylim()
    wider = max(1.0, math.sqrt(LEAST_SPAN * low / high))
    ax.set_ylim(low / wider, high * wider)
    if high / low < MOST_LABELLED:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())


def _legend_beside(row: Iterable[Axes]) -> None:
    """Put one legend beside the last of several axes."""
    *_, last = row
    if last.get_legend_handles_labels()[0]:
        last.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _one_legend(figure: Figure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)


def _wrapped(name: str) -> str:
    return name.replace(", ", ",\n").replace(" a group", "\na group")
