"""`dcnlab study receptive`: effective receptive fields before and after training, of DCNv3 and of a convolution."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.bench.timing import machine
from dcnlab.pages import save_small, writable_folder
from dcnlab.records import as_json
from dcnlab.study.operator_fields import packed
from dcnlab.study.parallel import in_parallel
from dcnlab.study.receptive_charts import all_figures
from dcnlab.study.receptive_figures import SHARES
from dcnlab.study.receptive_page import write_page
from dcnlab.study.receptive_runs import DIRECTIONS, NETS, PLAIN, Job, Size, centres, radii, train_one
from dcnlab.study.receptive_text import RULE, findings, table

PIXEL_SIZE = 2  # pixels of the image, each way, that a stored field has one value for
OWN = ("model", "seed", "offset_lr", "test", "save_every")  # settings of `dcnlab train` that the study decides itself


def run(
    out: str | os.PathLike[str], seeds: int = 2, jobs: int | None = None, size: Size | None = None
) -> dict[str, Any]:
    """Train the nets, compare their fields before and after, print the table, and write record, figures and a page.

    Parameters
    ----------
    out : path
        Folder of receptive.html, receptive.json and the figures, made if missing. Nothing is written anywhere else.
    seeds : int
        Runs of each net: seeds 0, 1, ...
    jobs : int, optional
        Runs at a time, a process and a core each; by default one a processor.
    size : Size, optional
        How much is computed.

    Returns
    -------
    dict
        What receptive.json holds.

    Raises
    ------
    ValueError
        One line, for numbers below 1, a folder that cannot be written, or digits that are not there.
    Diverged
        When a training does.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    folder, size, started = writable_folder(out), size or Size(), time.perf_counter()
    todo = [Job(net, seed, size) for seed in range(seeds) for net in NETS]
    print(f"receptive: {len(todo)} runs of {size.settings.epochs} epochs, {size.train:,} digits", flush=True)
    record = made_record(in_parallel(train_one, todo, jobs, "receptive"), size)
    record["seconds"] = round(time.perf_counter() - started, 1)
    text = as_json(record) + "\n"
    print(table(record))
    for sentence in findings(record):
        print(f"- {sentence}")
    print(RULE)
    _write(folder / "receptive.json", text)
    write_pages(json.loads(text), folder)  # what others will read
    print(
        f"Wrote {folder / 'receptive.html'}, receptive.json and the figures in {record['seconds']:.0f} s.", flush=True
    )
    return record


def write_pages(record: dict[str, Any], out: str | os.PathLike[str]) -> None:
    """Write the figures and the page of a record, as `run` returned it or receptive.json holds it, to a folder."""
    folder = writable_folder(out)
    figures = all_figures(record)
    try:
        for name, (figure, _) in figures.items():
            save_small(figure, folder / name)
        write_page(folder, record, {name: caption for name, (_, caption) in figures.items()})
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None


def made_record(runs: list[dict[str, Any]], size: Size) -> dict[str, Any]:
    """Return the record of runs: their numbers, and for each net its fields, the mean over its seeds."""
    side = size.settings.size
    places = centres((side, side))
    return {
        "machine": machine(),
        "settings": {key: v for key, v in dataclasses.asdict(size.settings).items() if key not in OWN},
        "train": size.train,
        "test": size.test,
        "measured": size.measured,
        "directions": DIRECTIONS,
        "seeds": len({run["seed"] for run in runs}),
        "shares": list(SHARES),
        "pixel_size": PIXEL_SIZE,
        "centres": [list(place) for place in places],
        "even": radii(np.ones((side, side)), places[-1]),
        "nets": {
            net: {
                "deformable": net != PLAIN,
                "offset_lr": rate,
                "parameters": next(run["parameters"] for run in runs if run["net"] == net),
            }
            for net, rate in NETS.items()
        },
        "runs": [{key: _numbers(value) for key, value in run.items()} for run in runs],
        "fields": {
            net: {when: _fields([run for run in runs if run["net"] == net], when) for when in ("before", "after")}
            for net in NETS
        },
    }


def _numbers(value: Any) -> Any:
    """Return what was measured without the fields, which the record has once for all seeds."""
    return {key: v for key, v in value.items() if key != "fields"} if isinstance(value, dict) else value


def _fields(runs: list[dict[str, Any]], when: str) -> list[str]:
    """Return the mean field of each stage over the seeds, as text."""
    stages = np.mean([run[when]["fields"] for run in runs], axis=0)  # (stages, H, W)
    return [packed(pooled(field, PIXEL_SIZE)) for field in stages]


def pooled(field: np.ndarray, pixel_size: int) -> np.ndarray:
    """Return the means of a field (H, W) over squares, (H/pixel_size, W/pixel_size); both sides must divide.

    >>> pooled(np.arange(8.0).reshape(2, 4), 2).tolist()
    [[2.5, 4.5]]
    """
    height, width = field.shape
    squares = field.reshape(height // pixel_size, pixel_size, width // pixel_size, pixel_size)
    means: np.ndarray = squares.mean(axis=(1, 3))
    return means


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
