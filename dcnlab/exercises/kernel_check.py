"""Checking a kernel: compiled, run in check mode, compared, and what it asked of memory counted.

As for functions (function_check.py), a diagnosis is never read off the student's code: faults are those that check mode
sees, and for every typical mistake there is a computation that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from dcnlab.exercises.function_check import Mistake, close
from dcnlab.exercises.kernel_case import Arguments, KernelCase
from dcnlab.exercises.kernel_faults import fault_report
from dcnlab.exercises.kernel_report import KernelReport, excerpt, traffic_table
from dcnlab.exercises.kernel_run import Launch, Result, Run, run
from dcnlab.launch.signature import Parameter, find_kernels
from dcnlab.launch.sources import without_comments

Arrays = Mapping[str, np.ndarray]

# Relative to the largest entry, or to 1. The results are sums of at most 1000 products of up to 5 factors in float32,
# all of them positive: rounding stays below 1005 * 2**-24 = 6e-5 of the sum.
TOLERANCE = 1e-4
MOST_LINES = 10  # of what a kernel prints


@dataclass(frozen=True)
class KernelCheck:
    """A checker of kernels, for `Exercise.checker`.

    Attributes
    ----------
    kernel : str
        Name of the kernel.
    stub : str
        A source that declares it: what the student's must look like to a caller.
    outputs : tuple of str
        The arguments that it writes.
    cases : callable
        Returns the cases, simple ones first.
    reference : callable
        ``reference(arguments)`` returns what is expected of every output, by dcnlab's own functions.
    locate : callable
        ``locate(output, index, arguments)`` says what an entry is.
    mistakes, simulate
        As in `FunctionCheck`; ``simulate(mistakes, arguments)`` returns every output.
    most_read : callable
        ``most_read(arguments)`` returns how many bytes may be read of some arguments.
    excess : str
        The diagnosis where more is read.
    remark : str
        What is to be said of the traffic when all is well.
    """

    kernel: str
    stub: str
    outputs: tuple[str, ...]
    cases: Callable[[], list[KernelCase]]
    reference: Callable[[Arguments], Arrays]
    locate: Callable[[str, tuple[int, ...], Arguments], str]
    mistakes: tuple[Mistake, ...] = ()
    simulate: Callable[[frozenset[str], Arguments], Arrays] | None = None
    most_read: Callable[[Arguments], Mapping[str, int]] = field(default=lambda arguments: {})
    excess: str = ""
    remark: str = ""

    def __call__(self, answer: Any) -> KernelReport:
        """Compile and run; report the first thing that is wrong."""
        problem = self.source_problem(answer)
        if problem:
            return KernelReport(ok=False, kind="call", finding=problem)
        return self.report(answer, run(answer, self.launches()))

    def launches(self, kernel: str = "") -> list[Launch]:
        """Return the launches of all cases, of a kernel of another name if one is given."""
        return [Launch(kernel or self.kernel, case.grid, case.block, case.arguments) for case in self.cases()]

    def source_problem(self, answer: Any) -> str:
        """Return why an answer cannot be a source of this kernel; empty if it can."""
        if not isinstance(answer, str):
            return f"expected the source of a kernel, a str, got an object of type {type(answer).__name__}"
        found = find_kernels(without_comments(answer)).get(self.kernel)
        if found is None or found.template:
            what = "it is a template" if found else "there is none of that name"
            return f"expected a kernel __global__ void {self.kernel}(...), no template; {what}"
        wanted, got = (_parameters(source, self.kernel) for source in (self.stub, answer))
        if [_kind(p) for p in wanted] != [_kind(p) for p in got]:
            return f"{self.kernel} must take ({_described(wanted)}), got ({_described(got)})"
        return ""

    def report(self, source: str, found: Run) -> KernelReport:
        """Return what is to be said of a run."""
        made = self._fault_of_run(source, found) if found.kind else self._report_on_results(source, found)
        if not found.printed.strip():
            return made
        lines = found.printed.splitlines()
        lines[MOST_LINES:] = ["..."] if len(lines) > MOST_LINES else []
        printed = "\n".join(["  printed by the kernel", *(f"    {line}" for line in lines)])
        return KernelReport(**{**vars(made), "picture": "\n\n".join(filter(None, [made.picture, printed]))})

    def _fault_of_run(self, source: str, found: Run) -> KernelReport:
        first = self._first_wrong(found)
        if first:  # a case before the one that did not end
            return self._report_on_case(source, found, *first)
        case, finding, diagnosis = "", found.problem, ""
        if found.kind in ("endless loop", "crash"):
            cases = self.cases()
            case = _title(len(found.results), cases)
        if found.kind == "endless loop":
            diagnosis = "A loop does not end. Look at its condition, and whether what it asks for changes in the loop."
        if found.kind == "compile" and found.line:
            finding = f"it does not compile; line {found.line}: {found.problem}"
        return KernelReport(
            False, found.kind, finding, case, diagnosis, line=found.line, picture=excerpt(source, [found.line])
        )

    def _report_on_results(self, source: str, found: Run) -> KernelReport:
        first = self._first_wrong(found)
        if first and not any(self._wrote(result) for result in found.results):
            return KernelReport(
                False, "stub", f"nothing is written yet: it compiles and runs, but leaves {self.outputs[0]} as it was"
            )
        if first:
            return self._report_on_case(source, found, *first)
        return self._report_on_traffic(found)

    def _wrote(self, result: Result) -> bool:
        if result.fault:
            return True
        return any(result.traffic[name].written or result.traffic[name].atomic for name in self.outputs)

    def _first_wrong(self, found: Run) -> tuple[int, str] | None:
        """Return the number of the first case that went wrong, and the output that is wrong, if one is."""
        for number, (case, result) in enumerate(zip(self.cases(), found.results, strict=False)):
            if result.fault:
                return number, ""
            expected = self.reference(case.arguments)
            for name in self.outputs:
                if not close(result.arrays[name], expected[name], TOLERANCE).all():
                    return number, name
        return None

    def _report_on_case(self, source: str, found: Run, number: int, output: str) -> KernelReport:
        cases = self.cases()
        title, case, result = _title(number, cases), cases[number], found.results[number]
        if result.fault:
            return fault_report(source, result.fault, title, case)
        finding = self._finding(case, result, output)
        return KernelReport(False, "value", finding, title, self._diagnosis(found, number))

    def _finding(self, case: KernelCase, result: Result, output: str) -> str:
        """Return the first wrong entry, in words."""
        got, expected = result.arrays[output], self.reference(case.arguments)[output]
        wrong = np.argwhere(~close(got, expected, TOLERANCE))
        index = tuple(int(i) for i in wrong[0])
        value = f"{got[index]:.6g}"
        if np.isnan(got[index]):
            value = "NaN, which also stands where nothing was written"
        where = self.locate(output, index, case.arguments)
        return f"{where}: expected {expected[index]:.6g}, got {value} ({len(wrong)} of {got.size} entries differ)."

    def _diagnosis(self, found: Run, first: int) -> str:
        """Return the mistakes that explain all results, or at least those of the first wrong case."""
        pairs = list(zip(self.cases(), found.results, strict=False))
        comparable = [(case, result) for case, result in pairs if not result.fault]
        for made in (*combinations(self.mistakes, 1), *combinations(self.mistakes, 2)):
            if all(self._explains(made, *pair) for pair in comparable):
                return " Also: ".join(mistake.text for mistake in made)
        for mistake in self.mistakes:
            if self._explains((mistake,), *pairs[first]):
                return f"In this case, though not in all: {mistake.text}"
        return ""

    def _explains(self, made: tuple[Mistake, ...], case: KernelCase, result: Result) -> bool:
        assert self.simulate is not None
        wrong = self.simulate(frozenset(mistake.name for mistake in made), case.arguments)
        return all(bool(close(result.arrays[name], wrong[name], TOLERANCE).all()) for name in self.outputs)

    def _report_on_traffic(self, found: Run) -> KernelReport:
        """Return that all is well, or that more is read than need be."""
        cases = self.cases()
        for number, (case, result) in enumerate(zip(cases, found.results, strict=True)):
            most = self.most_read(case.arguments)
            for name, target in most.items():
                read = result.traffic[name].read
                if read > target:
                    finding = f"the results are right, but {read:,} bytes of {name} are read; expected {target:,}."
                    picture = traffic_table(result.traffic, most)
                    return KernelReport(False, "traffic", finding, _title(number, cases), self.excess, picture=picture)
        picture = traffic_table(found.results[-1].traffic, self.most_read(cases[-1].arguments))
        finding = f"All {len(cases)} cases agree, and check mode finds nothing."
        picture += f"\n  {self.remark}" if self.remark else ""
        return KernelReport(True, "solved", finding, picture=picture)


def _title(number: int, cases: list[KernelCase]) -> str:
    return f"{number + 1} of {len(cases)}: {cases[number].title}."


def _parameters(source: str, kernel: str) -> tuple[Parameter, ...]:
    return find_kernels(without_comments(source))[kernel].instantiate(kernel)


def _kind(parameter: Parameter) -> tuple[bool, str]:
    return parameter.pointer, str(parameter.dtype)


def _described(parameters: tuple[Parameter, ...]) -> str:
    return ", ".join(f"{parameter.type} {parameter.name}" for parameter in parameters)
