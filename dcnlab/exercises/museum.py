"""The bug museum: real published mistakes, as small exhibits to be diagnosed.

Each `Piece` has an exhibit, a small function that makes the mistake; an input on which it disagrees with dcnlab; a
test that cannot see it; a question; and the reason, with a computation that proves it.

>>> from dcnlab.exercises import museum
>>> [piece.name for piece in museum.pieces()][:2]
['pair_swapped', 'split_in_halves']
>>> museum.get("pair_swapped").run().ok, museum.get("pair_swapped").passed().ok
(False, True)
>>> museum.diagnose("pair_swapped", "a").ok
True
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.exercises.function_check import Case, close
from dcnlab.exercises.report import WIDTH
from dcnlab.tables import format_table

SHOWN = 6  # numbers of a result


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two results beside each other; prints as a table.

    Attributes
    ----------
    ok : bool
        Whether they agree.
    title : str
    names : (str, str)
    results : (array or str, array or str)
        A str says what was raised instead.
    """

    ok: bool
    title: str
    names: tuple[str, str]
    results: tuple[np.ndarray | str, np.ndarray | str]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        verdict = "the two agree" if self.ok else "the two DISAGREE"
        lines = [[name, _shown(result)] for name, result in zip(self.names, self.results, strict=True)]
        return f"{self.title}: {verdict}\n{format_table(['', 'result'], lines)}"


@dataclass(frozen=True, repr=False)
class Verdict:
    """The answer to a diagnosis."""

    ok: bool
    text: str

    def __repr__(self) -> str:
        return textwrap.fill(self.text, WIDTH)


@dataclass(frozen=True)
class Choice:
    """One possible answer, and what is to be said about it."""

    text: str
    reply: str


@dataclass(frozen=True)
class Piece:
    """One mistake.

    Attributes
    ----------
    name, title : str
    story : str
        What was meant to be computed, and what was published, in Markdown.
    source : str
        Where, in Markdown, with links.
    exhibit, corrected, truth : callable
        The function with the mistake, the same without it, and dcnlab's; all take the same arguments.
    fails_on, passes_on : callable
        Return a `Case`: where exhibit and truth disagree, and a test that cannot see the mistake.
    question : str
    choices : mapping
        Letter -> `Choice`.
    answer : str
        The right letter.
    reason : str
        One line.
    evidence : callable
        Returns two arrays that agree if the reason is true: what it predicts, and what happens.
    evidence_names : (str, str)
        What the two are.
    truth_name : str
        What tables call `truth`.
    """

    name: str
    title: str
    story: str
    source: str
    exhibit: Callable[..., Any]
    corrected: Callable[..., Any]
    truth: Callable[..., Any]
    fails_on: Callable[[], Case]
    passes_on: Callable[[], Case]
    question: str
    choices: Mapping[str, Choice]
    answer: str
    reason: str
    evidence: Callable[[], tuple[np.ndarray, np.ndarray]]
    evidence_names: tuple[str, str]
    truth_name: str = "dcnlab"

    def run(self) -> Comparison:
        """Compare the exhibit with dcnlab where they disagree."""
        return self._compare("exhibit", self.exhibit, self.fails_on())

    def passed(self) -> Comparison:
        """Compare them in a test that cannot see the mistake."""
        return self._compare("exhibit", self.exhibit, self.passes_on())

    def repaired(self) -> Comparison:
        """Compare the corrected function with dcnlab where the exhibit fails."""
        return self._compare("corrected", self.corrected, self.fails_on())

    def proof(self) -> Comparison:
        """Compare what the reason predicts with what happens."""
        predicted, happens = self.evidence()
        return _comparison(
            f"The reason: {self.reason}. What follows from it, and what happens",
            self.evidence_names,
            predicted,
            happens,
        )

    def code(self) -> str:
        """Return the source of the exhibit."""
        return inspect.getsource(self.exhibit).rstrip()

    def _compare(self, name: str, function: Callable[..., Any], case: Case) -> Comparison:
        got, expected = (_result(f, case.arguments) for f in (function, self.truth))
        return _comparison(case.title, (name, self.truth_name), got, expected)


def pieces() -> list[Piece]:
    """Return all pieces."""
    from dcnlab.exercises import museum_checks, museum_layouts

    return [*museum_layouts.PIECES, *museum_checks.PIECES]


def get(name: str) -> Piece:
    """Return a piece.

    Raises
    ------
    ValueError
        For an unknown name, with the known ones.
    """
    found = {piece.name: piece for piece in pieces()}
    if name not in found:
        raise ValueError(f"piece must be one of {', '.join(found)}, got {name!r}")
    return found[name]


def diagnose(piece: str | Piece, answer: str) -> Verdict:
    """Say whether an answer is the reason, and why or why not.

    Parameters
    ----------
    piece : str or Piece
    answer : str
        The letter of one of its choices.
    """
    chosen = get(piece) if isinstance(piece, str) else piece
    letter = answer.strip().lower() if isinstance(answer, str) else ""
    if letter not in chosen.choices:
        return Verdict(False, f"{chosen.name}: choose one of {', '.join(chosen.choices)}.")
    right = letter == chosen.answer
    return Verdict(right, f"{chosen.name}: {'right' if right else 'no'}. {chosen.choices[letter].reply}")


def _result(function: Callable[..., Any], arguments: Mapping[str, Any]) -> np.ndarray | str:
    try:
        return np.asarray(function(**arguments))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def _comparison(title: str, names: tuple[str, str], a: np.ndarray | str, b: np.ndarray | str) -> Comparison:
    both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape
    ok = both and bool(close(np.asarray(a), np.asarray(b)).all())
    return Comparison(ok, title, names, (a, b))


def _shown(result: np.ndarray | str) -> str:
    """Return shape and first numbers."""
    if isinstance(result, str):
        return result
    numbers = ", ".join(f"{number:.5g}" for number in result.ravel()[:SHOWN])
    return f"{result.shape}: {numbers}{', ...' if result.size > SHOWN else ''}"
