"""Reports on kernels: with the lines of the source that matter, and with what was asked of memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dcnlab.exercises.report import Report
from dcnlab.launch import Traffic

BAR = 40


@dataclass(frozen=True)
class KernelReport(Report):
    """A `Report` with a picture under it.

    Its `kind` is also "no compiler"; "compile", it does not; "endless loop"; "crash", the process died; what check mode
    finds, such as "out of bounds", "race", "missing barrier"; "traffic", more is read than need be; "line", a line
    named in exercise 11 is sound, and "half", one of its two bugs is found.

    Attributes
    ----------
    line : int
        Of the student's source where it happened, 0 if that is not known.
    picture : str
        Lines of the source, or a table of memory traffic.
    """

    line: int = 0
    picture: str = ""

    def __str__(self) -> str:
        return super().__str__() + (f"\n\n{self.picture}" if self.picture else "")


def excerpt(source: str, marked: Collection[int], around: int = 1) -> str:
    r"""Return the marked lines of a source and those around them, numbered from 1; empty if there are none.

    >>> print(excerpt("int i;\ni = 1;\nf(i);", [2]))
         1 | int i;
      >  2 | i = 1;
         3 | f(i);
    """
    lines = source.split("\n")
    inside = sorted(number for number in set(marked) if 1 <= number <= len(lines))
    shown = sorted({n for m in inside for n in range(m - around, m + around + 1) if 1 <= n <= len(lines)})
    drawn = []
    for before, number in zip([None, *shown], shown, strict=False):
        if before is not None and number > before + 1:
            drawn.append("     ...")
        drawn.append(f"  {'>' if number in inside else ' '}{number:3} | {lines[number - 1]}".rstrip())
    return "\n".join(drawn)


def traffic_table(traffic: Mapping[str, Traffic], most: Mapping[str, int]) -> str:
    """Return what a launch asked of global memory, as bars.

    Parameters
    ----------
    traffic : mapping of str to Traffic
        By argument.
    most : mapping of str to int
        How many bytes need be read, of the arguments for which that is a target.

    >>> print(traffic_table({"x": Traffic(800, 0, 0), "y": Traffic(0, 400, 0)}, {"x": 400}))
      asked of global memory, in bytes
        x            read           800  ████████████████████████████████████████  target 400
        y            written        400  ████████████████████
    """
    rows = [
        (name, what, count)
        for name, counted in traffic.items()
        for what, count in zip(("read", "written", "atomic"), counted, strict=True)
        if count
    ]
    longest = max((count for *_, count in rows), default=1)
    lines = ["  asked of global memory, in bytes"]
    for name, what, count in rows:
        bar = "█" * max(1, round(BAR * count / longest))
        target = f"  target {most[name]:,}" if what == "read" and name in most else ""
        lines.append(f"    {name:<13}{what:<8}{count:>10,}  {bar}{target}")
    return "\n".join(lines)
