"""What an exercise consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dcnlab.exercises.report import Report


@dataclass(frozen=True)
class Exercise:
    """One exercise: everything that its notebook, its check and its tests need, in one place.

    Attributes
    ----------
    number : int
        Its place in the course of exercises, from 1.
    name : str
        What `dcnlab.exercises.check` calls it; also the name of its module and, after the number, of its notebook.
    title : str
    statement : str
        The task, with its maths, in Markdown.
    stub : str
        Python source that defines `answer`, unfinished: the cell that the student fills in.
    hints : tuple of str
        From a nudge to nearly the solution.
    checker : callable
        ``checker(answer)`` returns a `Report`. It must not raise, whatever it is given.
    go_on : str
        Where to go on, in Markdown; links are relative to notebooks/exercises.
    answer : str
        What stub and solution define, a function or, for a kernel, a string; `name` unless given.
    """

    number: int
    name: str
    title: str
    statement: str
    stub: str
    hints: tuple[str, ...]
    checker: Callable[[Any], Report]
    go_on: str
    answer: str = ""

    def __post_init__(self) -> None:
        if not self.answer:
            object.__setattr__(self, "answer", self.name)

    @property
    def file_name(self) -> str:
        """The stem of its notebook and of its solution, such as "01_bilinear_sample"."""
        return f"{self.number:02d}_{self.name}"
