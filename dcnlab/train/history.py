"""The record of a training: a row of numbers each epoch in a CSV file, and curves drawn from it."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dcnlab.checkpoints.save import replacing
from dcnlab.pages import new_figure, save_small
from dcnlab.viz.canvas import group_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "gradient_norm",
    "seconds",
)
WHOLE = ("epoch", "step")  # columns of ints
OPTIONAL = ("test_loss", "test_accuracy")  # columns that may be empty: not every epoch is tested
_HEADER = ",".join(COLUMNS)
MOST_BYTES = 100_000_000  # a row takes about 150

_STYLES = {
    "train": {"color": group_colour(5), "linestyle": "-", "marker": "o"},
    "test": {"color": group_colour(4), "linestyle": "--", "marker": "s"},
}
_MOST_MARKERS = 40  # rows, up to which each is marked

Row = dict[str, Any]  # of COLUMNS: int for WHOLE, otherwise float, or None where OPTIONAL is empty


class History:
    """A CSV file with the columns `COLUMNS`, to which a training appends.

    A row is on the disk when `append` returns. A crash in the middle of one leaves a line without an end, which readers
    leave out and the next `append` removes.

    Parameters
    ----------
    path : path
        Of a file that is there, or will be: its folder must exist.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = History(os.path.join(folder, "history.csv"))
    ...     for step in 100, 200:
    ...         history.append({"epoch": step // 100, "step": step, "lr": 1e-3, "train_loss": 0.5,
    ...                         "train_accuracy": 0.8, "gradient_norm": 1.5, "seconds": 9.0})
    ...     history.truncate(after_step=100)
    ...     [(row["step"], row["train_loss"], row["test_loss"]) for row in history.rows()]
    [(100, 0.5, None)]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, and flush it to the disk.

        Parameters
        ----------
        row : mapping
            A number for each of `COLUMNS`; those that are `OPTIONAL` may be absent or None.

        Raises
        ------
        ValueError, TypeError
            For other columns, a value that is no number, or a file that is no history. Nothing is written then.
        """
        line = _line(row)
        text = self._text()
        if text and not text.endswith("\n"):  # cut short by a crash
            self._rewrite(_parsed(self.path, text))
            text = self._text()
        if text:
            _check_header(self.path, text)
        with open(self.path, "ab") as file:
            file.write((line if text else f"{_HEADER}\n{line}").encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """Return all whole rows; none if there is no file.

        Raises
        ------
        ValueError
            Naming the file and the line that is not as `append` writes it.
        """
        return _parsed(self.path, self._text())

    def truncate(self, after_step: int) -> None:
        """Remove the rows after a step, for a training that goes on from there.

        The file is replaced as a whole: a crash leaves the old one or the new one.
        """
        rows = self.rows()
        kept = [row for row in rows if row["step"] <= after_step]
        if len(kept) < len(rows):
            self._rewrite(kept)

    def _text(self) -> str:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return ""
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(f"{self.path}: expected a history of at most {MOST_BYTES} bytes, a regular file")
        return self.path.read_bytes().decode("ascii", errors="replace")

    def _rewrite(self, rows: Sequence[Row]) -> None:
        file: BinaryIO
        with replacing(Path(os.path.realpath(self.path))) as file:  # a link stays a link
            file.write(f"{_HEADER}\n{''.join(map(_line, rows))}".encode("ascii"))


def _line(row: Mapping[str, Any]) -> str:
    unknown = [name for name in row if name not in COLUMNS]
    missing = [name for name in COLUMNS if row.get(name) is None and name not in OPTIONAL]
    if unknown or missing:
        raise ValueError(f"a row of a history has {_HEADER}; missing {missing}, unexpected {unknown}")
    return ",".join(_cell(name, row.get(name)) for name in COLUMNS) + "\n"


def _cell(name: str, value: Any) -> str:
    """Return a number as text that reads back as the same number."""
    if value is None:
        return ""
    try:
        number = int(value) if name in WHOLE else float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if name in WHOLE and (number != value or number < 0):
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
    return repr(number)


def _parsed(path: Path, text: str) -> list[Row]:
    whole = text[: text.rfind("\n") + 1].splitlines()  # what a crash has cut short has no end of line
    if not whole:
        if not _HEADER.startswith(text):
            _check_header(path, text)
        return []
    _check_header(path, text)
    rows = []
    for number, line in enumerate(whole[1:], start=2):
        try:
            cells = zip(COLUMNS, line.split(","), strict=True)
            rows.append({name: _value(name, cell) for name, cell in cells})
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected {_HEADER}, got {line[:100]!a}") from None
    return rows


def _check_header(path: Path, text: str) -> None:
    first = text.partition("\n")[0]
    if first.rstrip("\r") != _HEADER:
        raise ValueError(f"{path} is no history: expected a first line {_HEADER}, got {first[:100]!a}")


def _value(name: str, cell: str) -> int | float | None:
    if cell == "" and name in OPTIONAL:
        return None
    return int(cell) if name in WHOLE else float(cell)


# -- curves --------------------------------------------------------------------------------------------------------


def draw_curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss, accuracy and learning rate over the epochs, as a PNG file.

    Parameters
    ----------
    rows : sequence of rows
        Such as `History.rows` returns, at least one. Accuracies are shares, 0 to 1. Values that are empty or not
        finite are left out; an epoch that was not tested does not interrupt the curve of the test.
    path : path
    """
    if not rows:
        raise ValueError("there are no rows to draw: the history is empty")
    figure = new_figure(12, 3.6)
    loss, accuracy, rate = figure.subplots(1, 3)
    for part in _STYLES:
        _curve(loss, rows, f"{part}_loss", part, "{:.3f}")
        _curve(accuracy, rows, f"{part}_accuracy", part, "{:.1%}")
    _curve(rate, rows, "lr", "train")
    for ax, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate")):
        ax.set_title(title, fontsize=11)
        _finish(ax, rows)
    accuracy.set_ylim(-0.03, 1.03)
    accuracy.yaxis.set_major_formatter("{x:.0%}")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    save_small(figure, Path(path))


def _curve(ax: Axes, rows: Sequence[Mapping[str, Any]], column: str, part: str, number: str | None = None) -> None:
    """Draw a column; with the format of a `number`, its last value stands in the legend."""
    points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
    points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
    if not points:  # no empty line in the legend
        return
    style: dict[str, Any] = dict(_STYLES[part])
    if len(points) > _MOST_MARKERS:
        style.pop("marker")
    epochs, values = zip(*points, strict=True)
    label = f"{part}: {number.format(values[-1])}" if number else None
    ax.plot(epochs, values, label=label, linewidth=1.5, markersize=4, **style)


def _finish(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    if not ax.lines:
        ax.text(0.5, 0.5, "no finite values", ha="center", transform=ax.transAxes)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    margin = max(0.03 * (last - first), 1)  # a single row stands between whole epochs
    ax.set_xlim(first - margin, last + margin)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    top = 1.05 * ax.get_ylim()[1]
    ax.set_ylim(-0.03 * top, top)  # from 0: what looks small is small
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
