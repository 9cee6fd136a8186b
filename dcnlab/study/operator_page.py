"""The page about the comparison of operators: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template
from typing import Any

import dcnlab
from dcnlab.pages import figure_element, page_part, style, table_rows
from dcnlab.study.operator_text import CLAIM_HEAD, HEAD, claim_rows, explanation, findings, rows


def write_page(folder: Path, record: dict[str, Any], captions: dict[str, str]) -> None:
    """Write operators.html beside the figures, with style and figures inside.

    Parameters
    ----------
    folder : path
        Holds the figures already.
    record : dict
        What `dcnlab.study.operators.run` returns.
    captions : file name of each figure -> its caption
    """
    reach, adaptation, crossovers, cost = (html.escape(sentence) for sentence in findings(record))
    figures = {name.removesuffix(".png"): figure_element(folder / name, text) for name, text in captions.items()}
    page = Template(page_part("dcnlab.study", "operators.html")).substitute(
        {f"{name}_figure": figure for name, figure in figures.items()},
        css=style(),
        reach=reach,
        adaptation=adaptation,
        crossovers=crossovers,
        cost=cost,
        side=record["side"],
        channels=record["channels"],
        table=table_rows(HEAD, rows(record)),
        explanation=html.escape(explanation(record)),
        claims=table_rows(CLAIM_HEAD, claim_rows(record)),
        footer=html.escape(_footer(record)),
    )
    (folder / "operators.html").write_text(page, encoding="utf-8")


def _footer(record: dict[str, Any]) -> str:
    made = record["machine"]
    return (
        f"Made by dcnlab study operators, version {dcnlab.__version__}, in {record['seconds']:.0f} s on "
        f"{made['date']}: {made['cpu']}, {made['system']}, Python {made['python']}, NumPy {made['numpy']}, seed "
        f"{record['seed']}. All numbers are in operators.json beside this file."
    )
