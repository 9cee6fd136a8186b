"""What the study of receptive fields found, in words and tables, from its record."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dcnlab.tables import format_table

Record = dict[str, Any]

MARGIN = 0.1  # of a radius: what is closer counts as the same
REACH = 1  # place among the shares of the one that the verdict is about: 90 %
GLOBAL_STAGES = (2, 3)  # from 0: where the paper's figure 7 shows a trained InternImage-S see everything

RULE = (
    f"A field has grown, or is wider than another, if its 90 % radius is more than {MARGIN:.0%} larger in every run, "
    "seed by seed; it has shrunk, or is narrower, if it is so the other way round. The paper's effect shows if in "
    "stages 3 and 4 the field of DCNv3 has grown in training and is then wider than that of the convolution; it shows "
    "in part if only one of the two holds in both stages."
)
HEAD = ("net", "parameters", "accuracy", "stage", "50 %: before", "after", "90 %: before", "after", "90 % radius")


class Ratio(NamedTuple):
    """How many times as large radii are as others: the geometric mean over the seeds, and what the rule says."""

    mean: float
    word: str


def table(record: Record) -> str:
    """Return the table that `dcnlab study receptive` prints."""
    return format_table(list(HEAD), [list(row) for row in rows(record)])


def rows(record: Record) -> list[tuple[str, ...]]:
    """Return a row of cells for each net and stage, see `HEAD`: means over the seeds, radii in pixels."""
    found = []
    for net, facts in record["nets"].items():
        before, after = radii(record, net, "before"), radii(record, net, "after")  # each (seeds, stages, shares)
        for stage in range(before.shape[1]):
            cells = [spread(when[:, stage, share]) for share in (0, REACH) for when in (before, after)]
            first = (net, f"{facts['parameters']:,}", f"{accuracy(record, net):.1%}") if stage == 0 else ("", "", "")
            ratio = growth(record, net, stage)
            found.append((*first, str(stage + 1), *cells, f"x {ratio.mean:.2f}, {ratio.word}"))
    return found


def spread(values: np.ndarray) -> str:
    """Return a mean, and half of what lies between the least and the most.

    >>> spread(np.array([10.0, 12.0])), spread(np.array([3.0]))
    ('11.0 ± 1.0', '3.0')
    """
    half = (values.max() - values.min()) / 2
    return f"{values.mean():.1f} ± {half:.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def runs_of(record: Record, net: str) -> list[dict[str, Any]]:
    """Return the runs of a net in the order of their seeds."""
    return sorted((run for run in record["runs"] if run["net"] == net), key=lambda run: run["seed"])


def radii(record: Record, net: str, when: str) -> np.ndarray:
    """Return the radii of a net "before" or "after" training, (seeds, stages, shares)."""
    return np.array([run[when]["radii"] for run in runs_of(record, net)], np.float64)


# -- the verdict ---------------------------------------------------------------------------------------------------


def growth(record: Record, net: str, stage: int) -> Ratio:
    """Return how the 90 % radius of a stage has changed in training."""
    before, after = (radii(record, net, when)[:, stage, REACH] for when in ("before", "after"))
    return compared(after, before, ("grown", "shrunk", "no clear change"))


def beside(record: Record, net: str, other: str, stage: int) -> Ratio:
    """Return how the 90 % radius of a trained net compares with that of another."""
    own, others = (radii(record, each, "after")[:, stage, REACH] for each in (net, other))
    return compared(own, others, ("wider", "narrower", "alike"))


def compared(values: np.ndarray, others: np.ndarray, words: tuple[str, str, str]) -> Ratio:
    """Compare radii seed by seed: more than `MARGIN` larger in every one, smaller in every one, or neither.

    >>> compared(np.array([12.0, 18.0]), np.array([10.0, 15.0]), ("larger", "smaller", "alike"))
    Ratio(mean=1.2, word='larger')
    >>> compared(np.array([12.0, 16.0]), np.array([10.0, 15.0]), ("larger", "smaller", "alike")).word
    'alike'
    """
    ratios = values / others
    larger, smaller = np.all(ratios > 1 + MARGIN), np.all(ratios < 1 / (1 + MARGIN))
    word = words[0] if larger else words[1] if smaller else words[2]
    return Ratio(round(float(np.exp(np.log(ratios).mean())), 4), word)


def effect(record: Record, net: str) -> str:
    """Return whether a net of DCNv3 shows the paper's effect, by `RULE`: "shows", "in part" or "does not show"."""
    grown = all(growth(record, net, stage).word == "grown" for stage in GLOBAL_STAGES)
    wider = all(beside(record, net, plain(record), stage).word == "wider" for stage in GLOBAL_STAGES)
    return "shows" if grown and wider else "shows in part" if grown or wider else "does not show"


def plain(record: Record) -> str:
    """Return the name of the net without DCNv3."""
    return next(net for net, facts in record["nets"].items() if not facts["deformable"])


def findings(record: Record) -> list[str]:
    """Return sentences, each made of the numbers in the record."""
    deformable = [net for net, facts in record["nets"].items() if facts["deformable"]]
    return [
        *(_effect(record, net) for net in deformable),
        *(_moves(record, net) for net in deformable),
        *(_rates(record, slow, fast) for slow, fast in pairwise(deformable)),
        _even(record),
    ]


def _effect(record: Record, net: str) -> str:
    other = plain(record)
    parts = [
        f"in stage {stage + 1} its field has {_changed(growth(record, net, stage))}, that of the {other} has "
        f"{_changed(growth(record, other, stage))}, and trained it is {_beside(beside(record, net, other, stage))}"
        for stage in GLOBAL_STAGES
    ]
    return f"{net}: the paper's effect {effect(record, net)} at this size: {'; '.join(parts)}."


def _changed(ratio: Ratio) -> str:
    return f"{'not clearly changed' if ratio.word == 'no clear change' else ratio.word} (x {ratio.mean:.2f})"


def _beside(ratio: Ratio) -> str:
    return f"{'neither clearly wider nor narrower' if ratio.word == 'alike' else ratio.word} (x {ratio.mean:.2f})"


def _moves(record: Record, net: str) -> str:
    rms = moves(record, net).mean(axis=0)
    spacing = [layer["spacing"] for layer in runs_of(record, net)[0]["after"]["moves"]]
    pixels = ", ".join(f"{r:.1f}" for r in rms)
    shares = ", ".join(f"{r / s:.2f}" for r, s in zip(rms, spacing, strict=True))
    return (
        f"{net}, whose offsets learn at {record['nets'][net]['offset_lr']:g} times the learning rate of the rest: "
        f"training moved the taps of its layers, first to last, by {pixels} px, root mean square; in units of the "
        f"distance between regular taps, {shares}."
    )


def _rates(record: Record, slow: str, fast: str) -> str:
    factor = record["nets"][fast]["offset_lr"] / record["nets"][slow]["offset_lr"]
    further = float(np.exp(np.log(moves(record, fast).mean(axis=0) / moves(record, slow).mean(axis=0)).mean()))
    stages = range(len(record["centres"]))
    wider = ", ".join(f"x {beside(record, fast, slow, stage).mean:.2f}" for stage in stages)
    return (
        f"With {factor:g} times the learning rate, offsets go {further:.1f} times as far (geometric mean over the "
        f"layers); the trained fields of stages 1 to {len(stages)} are {wider} as wide, and the accuracy is "
        f"{accuracy(record, fast):.1%} instead of {accuracy(record, slow):.1%}. The {plain(record)} reaches "
        f"{accuracy(record, plain(record)):.1%}."
    )


def accuracy(record: Record, net: str) -> float:
    """Return the mean accuracy of a net on the held-out digits, a share."""
    return float(np.mean([run["accuracy"] for run in runs_of(record, net)]))


def moves(record: Record, net: str) -> np.ndarray:
    """Return how far training moved the taps of a net, root mean square, in pixels of the image, (seeds, layers)."""
    return np.array([[layer["rms"] for layer in run["after"]["moves"]] for run in runs_of(record, net)], np.float64)


def _even(record: Record) -> str:
    side, (half, most) = record["settings"]["size"], record["even"]
    return (
        f"The image ends what can be seen: a field that is the same everywhere on its {side}x{side} pixels has radii "
        f"of {half:.1f} and {most:.1f} px."
    )
