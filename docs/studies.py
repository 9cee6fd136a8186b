"""What the studies found, in Markdown, from their records alone (docs/results/NAME.json)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dcnlab.study.ablation import STUDIES, verdicts
from dcnlab.study.ablation.verdicts import CONFIDENCE, FAILED, accuracies, best_rate, by_rate, failed
from dcnlab.study.operator_text import findings as operator_findings
from dcnlab.study.receptive_text import findings as receptive_findings

__all__ = ["STUDIES", "ablations", "listed", "operator_findings", "receptive_findings"]

Records = dict[str, dict[str, Any]]


def ablations(records: Records) -> str:
    """Return the ablations of the paper's Table 6: accuracies, and what each says beside the paper."""
    head = ("study", "configuration", "accuracy, mean and range", "learning rate", f"runs {FAILED} at the highest rate")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, record in records.items():
        for configuration in STUDIES[name].configurations:
            points = accuracies(record, configuration)
            rates = by_rate(record, configuration)
            last = list(rates.values())[-1]
            lost = f"{sum(map(failed, last))} of {len(last)} at {list(rates)[-1]:g}" if len(rates) > 1 else ""
            lines.append(
                f"| {name} | {configuration} | {sum(points) / len(points):.1f} % ({min(points):.1f} to "
                f"{max(points):.1f}) | {best_rate(record, configuration):g} | {lost} |"
            )
    said = listed(verdict.text for record in records.values() for verdict in verdicts(record))
    return "\n".join([*lines, "", said, "", *(_made(name, record) for name, record in records.items())])


def listed(sentences: Iterable[str]) -> str:
    """Return sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _made(name: str, record: dict[str, Any]) -> str:
    m, size = record["machine"], record["size"]
    return (
        f"`dcnlab study {name}` on {m['date']}: {size['seeds']} seeds, {size['epochs']} epochs of {size['train']:,} "
        f"digits, tested on {size['test']:,}; {m['cpu']}, NumPy {m['numpy']}. Intervals: Student's, {CONFIDENCE:.0%}."
    )
