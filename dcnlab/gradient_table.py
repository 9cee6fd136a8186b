"""Every operator x every input x several geometries, checked at once: the table of `dcnlab gradcheck`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.catalogue import CASES
from dcnlab.gradients import TOLERANCE, gradcheck, kink_text, verdict
from dcnlab.tables import format_table


@dataclass(frozen=True)
class Row:
    """One line of the table of `check_operators`: an input of an operator in one geometry."""

    operator: str
    geometry: str
    input: str
    form: str
    error: float
    kink_distance: float
    kinks: int
    ok: bool


@dataclass(frozen=True)
class GradTable:
    """The table of `check_operators`; prints as such."""

    rows: list[Row]

    @property
    def ok(self) -> bool:
        """Whether every row passed."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines = [
            [
                r.operator,
                r.geometry,
                r.input,
                r.form,
                f"{r.error:.1e}",
                kink_text(r.kink_distance, r.kinks),
                verdict(r.ok, r.kinks),
            ]
            for r in self.rows
        ]
        table = format_table(["operator", "geometry", "input", "form", "error", "nearest kink", "verdict"], lines)
        worst = max((r.error for r in self.rows), default=0.0)
        passed = sum(r.ok for r in self.rows)
        summary = f"{passed} of {len(self.rows)} checks passed, worst relative error {worst:.1e}"
        return f"{table}\n{summary} (allowed {TOLERANCE:.0e})"


def check_operators(
    backend: str | None = None, seed: int = 0, progress: Callable[[Sequence[Any]], Any] | None = None
) -> GradTable:
    """Check every operator x every input x several geometries; return one table.

    Parameters
    ----------
    backend : str, optional
        For the operators that have kernels; the others are array-library code in every backend.
    seed : int
    progress : callable, optional
        Wraps the sequence of cases, as `tqdm.tqdm` does.
    """
    rows = []
    for case in (progress or iter)(CASES):
        arguments = case.arguments(np.random.default_rng(seed))
        fixed = case.fixed(backend)
        report = gradcheck(
            lambda _case=case, _fixed=fixed, **kw: _case.operator.function(**kw, **_fixed),
            lambda grad, _case=case, _fixed=fixed, **kw: _case.operator.backward(grad, **kw, **_fixed),
            arguments,
            positions=case.positions,
            form=case.form,
            seed=seed,
        )
        for c in report.checks:
            rows.append(Row(case.operator.name, case.label, c.input, c.form, c.error, c.kink_distance, c.kinks, c.ok))
    return GradTable(rows)
