"""A study from its name to its record, its figures and its page."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

from dcnlab.bench.timing import machine
from dcnlab.pages import writable_folder
from dcnlab.records import as_json
from dcnlab.study.ablation import cost, depth
from dcnlab.study.ablation.page import write_pages
from dcnlab.study.ablation.runs import Job, settings_of, train_one
from dcnlab.study.ablation.studies import FULL, NET, Size, Study, require_study
from dcnlab.study.ablation.verdicts import HEAD, RULE, lines, verdicts
from dcnlab.study.parallel import in_parallel
from dcnlab.tables import format_table

OWN = ("model", "modulation", "lr", "seed", "save_every")  # settings of `dcnlab train` that a study decides itself


def run(
    name: str, out: str | os.PathLike[str], seeds: int = 5, jobs: int | None = None, size: Size = FULL
) -> dict[str, Any]:
    """Train every configuration of a study with every seed, print what comes out, and write it to a folder.

    Parameters
    ----------
    name : str
        One of `STUDIES`.
    out : path
        Folder of NAME.json, NAME.html and the figures, made if missing. Nothing is written anywhere else.
    seeds : int
        Runs of each configuration and learning rate: seeds 0, 1, ...
    jobs : int, optional
        Runs at a time, a process and a core each; by default the cores there are.
    size : Size
        How much is computed: `FULL`, or `QUICK` to see whether it works.

    Returns
    -------
    dict
        The record, as in the file.

    Raises
    ------
    ValueError
        One line, for an unknown study, numbers below 1, a folder that cannot be written, or digits that are not there.
    """
    study = require_study(name)
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    folder, started = writable_folder(out), time.perf_counter()
    todo = all_jobs(study, seeds, size)
    print(f"{study.title}: {len(todo)} runs of {todo[0].epochs} epochs, {size.train:,} digits", flush=True)
    record: dict[str, Any] = {
        "study": name,
        "machine": machine(),
        "size": dataclasses.asdict(size) | {"epochs": todo[0].epochs, "seeds": seeds},
        "settings": {k: v for k, v in dataclasses.asdict(settings_of(todo[0])).items() if k not in OWN},
        "model": NET,
        "configurations": {key: {"model": c.model, "rates": c.rates} for key, c in study.configurations.items()},
        "runs": in_parallel(train_one, todo, jobs, name),
    }
    if "depth" in study.measures:
        record["depth"] = depth.all_depths(size.blocks)
    if "cost" in study.measures:
        record["cost"] = _costs(study, size, record["settings"]["size"])
    record["seconds"] = round(time.perf_counter() - started, 1)
    text = as_json(record) + "\n"
    _write(folder / f"{name}.json", text)
    record = json.loads(text)  # what others will read
    print(report(record), flush=True)
    written = write_pages(record, folder)
    print(f"Wrote {written} and {folder / f'{name}.json'} after {record['seconds']:.0f} s.", flush=True)
    return record


def all_jobs(study: Study, seeds: int, size: Size) -> list[Job]:
    """Return the runs of a study; one seed of everything before the next, so that a slow spell hits all alike."""
    return [
        Job(name, configuration, rate, seed, size.epochs or study.epochs, size)
        for seed in range(seeds)
        for name, configuration in study.configurations.items()
        for rate in configuration.rates
    ]


def report(record: dict[str, Any]) -> str:
    """Return the table and the verdicts of a record in plain text."""
    said = "\n".join(f"- {verdict.text}" for verdict in verdicts(record))
    return f"{format_table(list(HEAD), lines(record))}\n\n{said}\n\n{RULE}"


def _costs(study: Study, size: Size, side: int) -> dict[str, Any]:
    own = {name: cost.measured(c.core_op, c.keywords, size.batch, side) for name, c in study.configurations.items()}
    return {"digits": own, "published": [cost.counted(variant) for variant in cost.COUNTED]}


def _write(path: Any, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
