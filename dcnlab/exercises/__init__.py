"""Exercises: the student writes it, the checker says what is wrong.

=======================  ========================================================================
names()                  all exercises, in rising order
check(name, answer)      run a solution, print and return a `Report`: which pixel, which tap, why
hint(name, number)       print one hint; they go from a nudge to nearly the solution
museum.pieces()          real published mistakes, to be diagnosed
=======================  ========================================================================

The notebooks are in notebooks/exercises; solutions are beside them, in solutions/. To add an exercise: write a module
of this package that defines EXERCISE, list it in `_NAMES`, write its solution, and run build.py and execute.py there.

>>> from dcnlab import exercises
>>> report = exercises.check("bilinear_sample", lambda image, y, x: image[int(y), int(x)])  # doctest: +ELLIPSIS
bilinear_sample: not solved yet.
  case ...
>>> report.ok
False
"""

from __future__ import annotations

import dataclasses
import importlib
import textwrap
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.report import WIDTH, Report

if TYPE_CHECKING:
    from dcnlab.exercises import museum as museum

__all__ = ["Exercise", "Report", "check", "get", "hint", "museum", "names"]

# In rising order. Each is a module of this package that defines EXERCISE.
_NAMES = (
    "bilinear_sample",
    "bilinear_slopes",
    "dcnv2_forward",
    "grad_mask",
    "grad_offset",
    "softmax_backward",
    "scatter",
    "first_kernel",
    "shared_taps",
    "atomic_scatter",
    "find_the_race",
)


def names() -> list[str]:
    """Return the names of all exercises, in rising order."""
    return list(_NAMES)


def get(name: str) -> Exercise:
    """Return an exercise.

    Raises
    ------
    ValueError
        For an unknown name, with the known ones.
    """
    if name not in _NAMES:
        raise ValueError(f"exercise must be one of {', '.join(_NAMES)}, got {name!r}")
    exercise: Exercise = importlib.import_module(f"dcnlab.exercises.{name}").EXERCISE
    return exercise


def check(name: str, answer: Any) -> Report:
    """Check a solution; print what was found, and return it.

    Parameters
    ----------
    name : str
        One of `names()`.
    answer : callable or str
        The function that the exercise asks for; for a kernel, its source.

    Returns
    -------
    Report
        With ``.ok``. A wrong answer is reported, never raised.
    """
    report = dataclasses.replace(get(name).checker(answer), exercise=name)
    print(report)
    return report


def hint(name: str, number: int = 1) -> None:
    """Print one hint, and how to get the next.

    Raises
    ------
    ValueError
        For a hint that does not exist.
    """
    hints = get(name).hints
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(hints):
        raise ValueError(f"{name} has hints 1 to {len(hints)}, got {number!r}")
    print(textwrap.fill(f"Hint {number} of {len(hints)}: {hints[number - 1]}", WIDTH))
    if number < len(hints):
        print(f'Still stuck? exercises.hint("{name}", {number + 1})')


def __getattr__(name: str) -> ModuleType:
    if name != "museum":
        raise AttributeError(f"module 'dcnlab.exercises' has no attribute {name!r}")
    return importlib.import_module("dcnlab.exercises.museum")
