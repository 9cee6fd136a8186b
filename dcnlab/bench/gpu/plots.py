"""The picture for kernels/README.md: how far each rung is from the floor of its problem."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcnlab.bench.gpu.report import contender_name, main_rows

# Distinct in hue and lightness, also for colour-blind readers (Okabe and Ito), and told apart by their marks too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
LINES = ("-", "--", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: for DCNv3 forward and backward, by type and size, the time of each contender over the floor."""
    from matplotlib.figure import Figure

    panels = [
        (operator, dtype, rows)
        for operator in ("dcnv3_forward", "dcnv3_backward")
        for dtype in dict.fromkeys(row["dtype"] for row in record["rows"])
        if (rows := main_rows(record, operator, dtype))
    ]
    figure = Figure(figsize=(10, 3.6 * -(-len(panels) // 2)), layout="constrained")
    timed = (c for _, _, rows in panels for row in rows for c in row["contenders"] if "us" in c)
    names = list(dict.fromkeys(map(contender_name, timed)))
    axes = figure.subplots(-(-len(panels) // 2), min(2, len(panels)), squeeze=False, sharey=True).ravel()
    for axis, (operator, dtype, rows) in zip(axes, panels, strict=False):
        _panel(axis, f"{operator}, {dtype}, batch {rows[0]['batch']}", rows, names)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(
        f"{record['gpu']['name']}: time over the largest floor (whoever does all of the work is above 1)", fontsize=11
    )
    figure.savefig(path, dpi=110)


def _panel(axis: Any, title: str, rows: list[Any], names: list[str]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for number, name in enumerate(names):
        points = [
            (place, contender["us"] / max(row["floors"].values()))
            for place, row in enumerate(rows)
            for contender in row["contenders"]
            if contender_name(contender) == name and "us" in contender
        ]
        turn = number // len(COLOURS)
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[(number + turn) % len(MARKS)]}
        style["linestyle"] = LINES[turn % len(LINES)]
        axis.plot(*zip(*points, strict=True) if points else ([], []), lw=1, ms=5, label=name, **style)
    axis.axhline(1, color="0.4", lw=1, ls="--")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(range(len(rows)), [row["size"].split()[0] for row in rows])
    axis.set_title(title, fontsize=10)
    axis.set_ylabel("time / floor")
    axis.grid(alpha=0.3)
