"""The page of a study: one HTML file that needs nothing but itself, made from the record."""

from __future__ import annotations

import html
import os
from pathlib import Path
from string import Template
from typing import Any

from dcnlab.pages import figure_element, page_part, save_small, style, table_rows, writable_folder
from dcnlab.study.ablation.extra_figures import extra_figures
from dcnlab.study.ablation.figures import all_figures
from dcnlab.study.ablation.studies import SOURCE, require_study
from dcnlab.study.ablation.verdicts import FAILED, HEAD, RULE, best_rate, lines, verdicts

KEYS = ("machine", "size", "settings", "configurations", "runs", "seconds")  # that every record has


def write_pages(record: dict[str, Any], out: str | os.PathLike[str]) -> Path:
    """Write NAME.html and its figures, NAME_FIGURE.png, to a folder; return the page's path.

    Parameters
    ----------
    record : dict
        What `run` wrote, or the JSON file that holds it.
    out : path
        Folder, made if missing.

    Raises
    ------
    ValueError
        For something else than a record, or a folder that cannot be written.
    """
    if not isinstance(record, dict) or not all(key in record for key in ("study", *KEYS)):
        raise ValueError(f"expected the record of a study, with {', '.join(('study', *KEYS))}")
    name, study, folder = record["study"], require_study(record["study"]), writable_folder(out)
    elements = {}
    try:
        for key, (figure, caption) in {**all_figures(record), **extra_figures(record)}.items():
            path = folder / f"{name}_{key}.png"
            save_small(figure, path)
            elements[key] = figure_element(path, caption)
        page = Template(page_part("dcnlab.study.ablation", "page.html")).substitute(
            css=style(),
            title=html.escape(study.title),
            question=html.escape(study.question),
            source=html.escape(SOURCE),
            facts=_facts(record),
            verdicts="\n".join(f"<li>{html.escape(verdict.text)}</li>" for verdict in verdicts(record)),
            rule=html.escape(RULE),
            note=html.escape(study.note),
            table=_table(record),
            training="\n".join(elements[key] for key in ("accuracy", "rates", "curves") if key in elements),
            inside="\n".join(elements[key] for key in ("sums", "scales")),
            more=_more(record, elements),
            footer=html.escape(_footer(record)),
        )
        path = folder / f"{name}.html"
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
    return path


def _facts(record: dict[str, Any]) -> str:
    """Return the paper's row and ours as the cards of the page."""
    study = require_study(record["study"])
    cards = [(f"paper, {what}", f"{value:.1f} %", "top-1 on ImageNet") for what, value in study.paper.items()]
    for name, _, mean, *_ in _best_lines(record):
        cards.append((f"here, {name}", f"{float(mean):.1f} %", f"{record['size']['seeds']} seeds, digits"))
    return "\n".join(
        f"<div><dt>{html.escape(term)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for term, value, note in cards
    )


def _best_lines(record: dict[str, Any]) -> list[list[str]]:
    best = {name: f"{best_rate(record, name):g}" for name in record["configurations"]}
    return [line for line in lines(record) if best[line[0]] == line[1]]


def _table(record: dict[str, Any]) -> str:
    rows = lines(record)
    failed = HEAD.index(FAILED)
    return table_rows(HEAD, rows, bad=[not row[failed].startswith("0 ") for row in rows])


def _more(record: dict[str, Any], elements: dict[str, str]) -> str:
    parts = []
    if "depth" in elements:
        parts.append(f"<section>\n<h2>Through many layers, without training</h2>\n{elements['depth']}\n</section>")
    if "cost" in elements:
        said = "".join(f"<li>{html.escape(text)}</li>" for text in cost_sentences(record))
        text = f"<ul>\n{said}\n</ul>\n{elements['cost']}"
        parts.append(f"<section>\n<h2>Parameters and memory</h2>\n{text}\n</section>")
    return "\n".join(parts)


def cost_sentences(record: dict[str, Any]) -> list[str]:
    """Return what the counts of the published sizes say beside the paper's."""
    said = []
    for found in record["cost"]["published"]:
        shared, unshared = (found["parameters"][name] / 1e6 for name in ("shared", "unshared"))
        said.append(
            f"InternImage-{found['variant']}: {shared:,.1f} million parameters shared, {unshared:,.1f} million "
            f"unshared: {100 * found['more_parameters']:.1f} % more; sharing saves "
            f"{100 * found['saved_parameters']:.1f} % of them, and {100 * found['saved_memory']:.1f} % of the memory "
            f"of training on one image of {found['size']} pixels, counted with im2col. The paper: {found['paper']}; "
            "what its memory counts it does not say."
        )
    return said


def _footer(record: dict[str, Any]) -> str:
    made, size, settings = record["machine"], record["size"], record["settings"]
    return (
        f"Made by dcnlab study {record['study']} in {record['seconds']:.0f} s on {made['date']}: {made['cpu']}, "
        f"{made['system']}, Python {made['python']}, NumPy {made['numpy']}. {len(record['runs'])} runs: "
        f"{size['train']:,} digits of {settings['data']}, {size['epochs']} epochs, batches of {size['batch']}; tested "
        f"on {size['test']:,} others. Measured inside on {size['measured']} of these. All numbers are in "
        f"{record['study']}.json."
    )
