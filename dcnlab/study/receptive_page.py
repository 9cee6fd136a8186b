"""The page about receptive fields before and after training: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template
from typing import Any

import dcnlab
from dcnlab.pages import figure_element, page_part, style, table_rows
from dcnlab.study.receptive_text import HEAD, RULE, findings, rows


def write_page(folder: Path, record: dict[str, Any], captions: dict[str, str]) -> None:
    """Write receptive.html beside the figures, with style and figures inside.

    Parameters
    ----------
    folder : path
        Holds the figures already.
    record : dict
        What `dcnlab.study.receptive.run` returns.
    captions : file name of each figure -> its caption
    """
    figures = {name.removesuffix(".png"): figure_element(folder / name, text) for name, text in captions.items()}
    settings = record["settings"]
    page = Template(page_part("dcnlab.study", "receptive.html")).substitute(
        figures,
        css=style(),
        findings="\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in findings(record)),
        rule=html.escape(RULE),
        table=table_rows(HEAD, rows(record)),
        side=settings["size"],
        least=f"{28 * settings['smallest']:.0f}",
        most=f"{28 * settings['largest']:.0f}",
        footer=html.escape(_footer(record)),
    )
    (folder / "receptive.html").write_text(page, encoding="utf-8")


def _footer(record: dict[str, Any]) -> str:
    made, settings = record["machine"], record["settings"]
    return (
        f"Made by dcnlab study receptive, version {dcnlab.__version__}, in {record['seconds']:.0f} s on "
        f"{made['date']}: {made['cpu']}, {made['system']}, Python {made['python']}, NumPy {made['numpy']}. "
        f"{len(record['runs'])} runs: {record['train']:,} digits of {settings['data']}, {settings['epochs']} epochs, "
        f"batches of {settings['batch']}; accuracy on {record['test']:,} others. All numbers are in receptive.json."
    )
