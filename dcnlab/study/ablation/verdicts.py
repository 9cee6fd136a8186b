"""From the numbers of a record to what they say, by a rule that is written here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dcnlab.study.ablation.studies import MARGIN, Claim, require_study

CHANCE = 0.1  # accuracy of guessing one of ten digits: what a diverged run counts with
STUCK = 2 * CHANCE  # a run that ends below has learned next to nothing
FAILED = f"below {STUCK:.0%}"
CONFIDENCE = 0.95

RULE = (
    "Each configuration is taken at the learning rate where its mean is best; a run that diverged counts as guessing, "
    f"{CHANCE:.0%}. The interval is Student's for two samples, {CONFIDENCE:.0%}: the difference of the means, plus or "
    "minus t times their pooled spread. The paper's effect shows if the interval lies on the paper's side of 0; two "
    f"are as good as each other if it lies within {MARGIN:g} point of 0."
)


class Comparison(NamedTuple):
    """The difference of two means in points, and half the width of its interval."""

    difference: float
    half_width: float


class Verdict(NamedTuple):
    """What the runs say about one claim of the paper."""

    claim: Claim
    shows: bool
    comparison: Comparison
    text: str


def counted_accuracy(run: dict[str, Any]) -> float:
    """Return the accuracy that a run counts with, a share."""
    return CHANCE if run["accuracy"] is None else float(run["accuracy"])


def failed(run: dict[str, Any]) -> bool:
    """Whether a run diverged, or has learned next to nothing."""
    return counted_accuracy(run) < STUCK


def by_rate(record: dict[str, Any], name: str) -> dict[float, list[dict[str, Any]]]:
    """Return the runs of a configuration by their learning rate, lowest first, in the order of their seeds."""
    found: dict[float, list[dict[str, Any]]] = {}
    for run in sorted(record["runs"], key=lambda run: (run["rate"], run["seed"])):
        if run["configuration"] == name:
            found.setdefault(run["rate"], []).append(run)
    return found


def best_rate(record: dict[str, Any], name: str) -> float:
    """Return the learning rate at which the mean accuracy of a configuration is highest; the lowest of several."""
    means = {rate: float(np.mean([counted_accuracy(r) for r in runs])) for rate, runs in by_rate(record, name).items()}
    return max(means, key=lambda rate: (means[rate], -rate))


def accuracies(record: dict[str, Any], name: str) -> list[float]:
    """Return the accuracies of a configuration at its best rate, in points."""
    return [100 * counted_accuracy(run) for run in by_rate(record, name)[best_rate(record, name)]]


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    r"""Compare the means of two samples of sizes n and m by Student's interval.

    .. math:: \bar a - \bar b \pm t_{n+m-2}\, s \sqrt{1/n + 1/m}, \quad
        s^2 = \frac{\sum (a - \bar a)^2 + \sum (b - \bar b)^2}{n + m - 2}

    With a sample of less than two there is no spread, and the interval is infinite.

    >>> difference, half = compare([91.0, 92.0, 93.0], [90.0, 91.0, 92.0])
    >>> round(difference, 2), round(half, 2)
    (1.0, 2.27)
    """
    from scipy.special import stdtrit

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference, freedom = float(a.mean() - b.mean()), len(a) + len(b) - 2
    if min(len(a), len(b)) < 2:
        return Comparison(difference, math.inf)
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    return Comparison(difference, float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error)


def judge(claim: Claim, comparison: Comparison) -> bool:
    """Whether a comparison shows what the paper found: the rule, in `RULE` in words."""
    difference, half = comparison
    if claim.equal:
        return abs(difference) + half <= MARGIN
    return math.copysign(1.0, claim.paper) * difference - half > 0


def verdicts(record: dict[str, Any]) -> list[Verdict]:
    """Return what a record says about each claim of the paper."""
    found = []
    for claim in require_study(record["study"]).claims:
        comparison = compare(accuracies(record, claim.first), accuracies(record, claim.second))
        shows = judge(claim, comparison)
        found.append(Verdict(claim, shows, comparison, _text(claim, comparison, shows)))
    return found


def _text(claim: Claim, comparison: Comparison, shows: bool) -> str:
    difference, half = comparison
    if math.isinf(half):
        return (
            f"{claim.first} against {claim.second}: {difference:+.1f} points, from too few runs to say anything; "
            f"paper {claim.paper:+.1f}."
        )
    numbers = f"{difference:+.1f} points (interval {difference - half:+.1f} to {difference + half:+.1f}; paper "
    numbers += f"{claim.paper:+.1f})"
    outcome = "Shows" if shows else "Does not show"
    effect = "that they are as good as each other" if claim.equal else "the paper's effect"
    contrary = ""
    if not claim.equal and math.copysign(1.0, claim.paper) * difference + half < 0:
        contrary = ": it shows the opposite"
    return f"{claim.first} against {claim.second}: {numbers}. {outcome} {effect} at this scale{contrary}."


def lines(record: dict[str, Any]) -> list[list[str]]:
    """Return the table of a record: a line for each configuration and learning rate, see `HEAD`."""
    table = []
    for name in require_study(record["study"]).configurations:
        for rate, runs in by_rate(record, name).items():
            points = [100 * counted_accuracy(run) for run in runs]
            spread = f"{np.std(points, ddof=1):.2f}" if len(points) > 1 else ""
            sums = [layer["sum_mean"] for run in runs if run["after"] for layer in run["after"]["layers"]]
            numbers = [value for value in sums if value is not None]
            table.append(
                [
                    name,
                    f"{rate:g}",
                    f"{np.mean(points):.2f}",
                    spread,
                    f"{min(points):.1f} to {max(points):.1f}",
                    f"{sum(run['diverged'] is not None for run in runs)} of {len(runs)}",
                    f"{sum(map(failed, runs))} of {len(runs)}",
                    f"{np.mean(numbers):.2f}" if numbers else "",
                    f"{runs[0]['parameters']:,}",
                ]
            )
    return table


HEAD = (
    "configuration",
    "learning rate",
    "accuracy %",
    "spread",
    "range",
    "diverged",
    FAILED,
    "mean sum over taps",
    "parameters",
)
