"""Checking a NumPy function case by case, and recognising the mistakes that people make.

A diagnosis is never read off the student's code. For each typical mistake there is a computation that makes it;
if its results are the student's, in every case that could be compared, that is the diagnosis. Two mistakes at once are
recognised as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from dcnlab.exercises.report import Report
from dcnlab.exercises.student import Outcome, call, signature_problem

Arguments = Mapping[str, Any]

# Relative to the largest entry, or to 1. The cases sum at most a few hundred products of numbers of size 1: rounding
# stays below 1e-12, and every mistake is far above.
TOLERANCE = 1e-9
FLOAT32 = 1e-5


@dataclass(frozen=True)
class Case:
    """One call of the student's function: what is special about it, and the arguments in their order."""

    title: str
    arguments: Arguments


@dataclass(frozen=True)
class Mistake:
    """A typical mistake.

    Attributes
    ----------
    name : str
        What `FunctionCheck.simulate` calls it.
    text : str
        The diagnosis: what was done, and what should be.
    kink : bool
        The result is another one-sided slope than the promised one: a kink, not an error.
    """

    name: str
    text: str
    kink: bool = False


@dataclass(frozen=True)
class FunctionCheck:
    """A checker of functions, for `Exercise.checker`.

    Attributes
    ----------
    cases : callable
        Returns the cases, simple ones first: the first that fails is shown.
    reference : callable
        ``reference(**arguments)`` returns what is expected, by dcnlab's own functions.
    locate : callable
        ``locate(index, arguments)`` says what an entry of the result is: "output pixel (0, 2), channel 1".
    mistakes : tuple of Mistake
        The likelier one first, where two cannot be told apart.
    simulate : callable
        ``simulate(mistakes, **arguments)`` computes the result with some of the mistakes, a frozenset of names, made.
        Without any it agrees with `reference`; the tests see to that.
    advice : mapping
        What may be behind an exception, by its type's name.
    probe : callable, optional
        ``probe(function, arguments)`` tries the student's function, which returns None where it fails, on variations of
        the failing case; returns one more sentence, or nothing.
    judge : callable, optional
        ``judge(arguments, expected, got)`` returns a diagnosis that needs no simulation, or nothing.
    """

    cases: Callable[[], list[Case]]
    reference: Callable[..., np.ndarray]
    locate: Callable[[tuple[int, ...], Arguments], str]
    mistakes: tuple[Mistake, ...]
    simulate: Callable[..., np.ndarray]
    advice: Mapping[str, str] = field(default_factory=dict)
    probe: Callable[[Callable[[Arguments], np.ndarray | None], Arguments], str] | None = None
    judge: Callable[[Arguments, np.ndarray, np.ndarray], str] | None = None

    def __call__(self, answer: Any) -> Report:
        """Run all cases; report the first that fails."""
        cases = self.cases()
        problem = signature_problem(answer, cases[0].arguments)
        if problem:
            return Report(ok=False, kind="call", finding=problem)
        trials = [self._trial(answer, case) for case in cases]
        failed = [number for number, trial in enumerate(trials) if not trial.ok]
        if not failed:
            return Report(ok=True, kind="solved", finding=f"All {len(cases)} cases agree.")
        first = trials[failed[0]]
        if failed[0] == 0 and first.outcome.kind == "stub":
            return Report(ok=False, kind="stub", finding=first.outcome.problem)
        title = f"{failed[0] + 1} of {len(cases)}: {first.case.title}. Of all cases, {len(failed)} fail."
        if first.outcome.result is None:
            kind, finding = first.outcome.kind, first.outcome.problem
            diagnosis = self.advice.get(first.outcome.error, "")
        else:
            kind, diagnosis = self._diagnosis(trials, first)
            finding = " ".join(filter(None, [self._finding(first), self._probed(answer, first)]))
        return Report(ok=False, kind=kind, finding=finding, case=title, diagnosis=diagnosis)

    def _trial(self, answer: Callable[..., Any], case: Case) -> _Trial:
        expected = np.asarray(self.reference(**case.arguments))
        return _Trial(case, expected, call(answer, case.arguments, expected.shape))

    def _probed(self, answer: Callable[..., Any], trial: _Trial) -> str:
        if self.probe is None:
            return ""
        return self.probe(lambda changed: call(answer, changed, trial.expected.shape).result, trial.case.arguments)

    def _finding(self, trial: _Trial) -> str:
        """Return the first wrong entry, in words."""
        assert trial.outcome.result is not None
        wrong = np.argwhere(~close(trial.outcome.result, trial.expected))
        index = tuple(int(i) for i in wrong[0])
        got, expected = float(trial.outcome.result[index]), float(trial.expected[index])
        many = f" ({len(wrong)} of {trial.expected.size} entries differ)" if trial.expected.size > 1 else ""
        return f"{self.locate(index, trial.case.arguments)}: expected {expected:.6g}, got {got:.6g}{many}."

    def _diagnosis(self, trials: list[_Trial], first: _Trial) -> tuple[str, str]:
        """Return the kind of the report and the mistakes that explain every result, or at least the first wrong one."""
        comparable = [trial for trial in trials if trial.outcome.result is not None]
        for mistakes in self._combinations():
            if all(self._explains(mistakes, trial) for trial in comparable):
                kink = all(mistake.kink for mistake in mistakes)
                return "kink" if kink else "value", " Also: ".join(mistake.text for mistake in mistakes)
        return "value", self._guess(first)

    def _guess(self, first: _Trial) -> str:
        """Return what can be said when no mistake explains all results."""
        expected, got = first.expected, first.outcome.result
        assert got is not None
        judged = self.judge(first.case.arguments, expected, got) if self.judge is not None else ""
        if judged:
            return judged
        if not np.isfinite(got).all():
            return "There are NaN or infinite numbers: look for a division by 0, an overflow, or memory never written."
        if got.dtype.kind in "iu" and got.size > 1:
            return f"The result has type {got.dtype}: what stands behind the point is lost. np.zeros(shape) is float64."
        if close(got, expected, FLOAT32).all():
            return "Right to about 7 digits only: something is float32 on the way; keep to float64."
        for mistake in self.mistakes:
            if self._explains((mistake,), first):
                return f"In this case, though not in all: {mistake.text}"
        return ""

    def _combinations(self) -> Iterator[tuple[Mistake, ...]]:
        for count in (1, 2):
            yield from combinations(self.mistakes, count)

    def _explains(self, mistakes: tuple[Mistake, ...], trial: _Trial) -> bool:
        names = frozenset(mistake.name for mistake in mistakes)
        wrong = np.asarray(self.simulate(names, **trial.case.arguments))
        assert trial.outcome.result is not None
        return bool(close(trial.outcome.result, wrong).all())


@dataclass(frozen=True)
class _Trial:
    case: Case
    expected: np.ndarray
    outcome: Outcome

    @property
    def ok(self) -> bool:
        return self.outcome.result is not None and bool(close(self.outcome.result, self.expected).all())


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Return which entries agree, relative to the largest expected entry or to 1; NaN agrees with nothing."""
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    with np.errstate(invalid="ignore"):
        agree: np.ndarray = np.abs(got - expected) <= tolerance * scale
    return agree
