"""A run's state on disk, from which it goes on bit by bit, whenever it was stopped.

Three files: settings.json, written once; state.json; and the arrays, state-STEP.safetensors. The arrays are written
first, under a name of their own, then state.json, which names them, replaces the last one in one step: whoever reads
after a crash finds a state.json and the arrays that belong to it. Arrays that no state.json names are removed after.
Nothing random is saved: order, augmentation and drop path are functions of the seed, the epoch and the sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.checkpoints.load import load_checkpoint
from dcnlab.checkpoints.save import replacing, save_checkpoint

STATE, SETTINGS = "state.json", "settings.json"
ARRAYS, ARRAYS_PATTERN = "state-{step:08d}.safetensors", "state-*.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes
    ----------
    step : int
        Steps that are done, from the beginning.
    loss, correct, norm, seconds : float
        Sums over the steps of the epoch that is under way, for its row of the log.
    backend : str
        What computed: another one rounds otherwise.
    """

    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    norm: float = 0.0
    seconds: float = 0.0
    backend: str = ""


def save_state(folder: Path, progress: Progress, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the state; a crash at any moment leaves the last one or this one, whole."""
    name = ARRAYS.format(step=progress.step)
    save_checkpoint(folder / name, arrays)
    text = json.dumps({**asdict(progress), "arrays": name}, indent=1) + "\n"
    with replacing(folder / STATE) as file:
        file.write(text.encode("utf-8"))
    for old in folder.glob(ARRAYS_PATTERN):
        if old.name != name:
            old.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left: files that were being written, and arrays that state.json does not name."""
    saved = load_state(folder)
    named = ARRAYS.format(step=saved[0].step) if saved else None
    for left in [*folder.glob(f".*.{'[0-9a-f]' * 8}.tmp"), *folder.glob(ARRAYS_PATTERN)]:
        if left.name != named:
            left.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[Progress, dict[str, np.ndarray]] | None:
    """Return what was saved last, or None where nothing was.

    Raises
    ------
    ValueError
        One line, for files that are damaged or no state.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        name = found.pop("arrays")
        progress = Progress(**found)
        if Path(name).name != name:
            raise ValueError(f"the arrays lie beside it, got {name!r}")
        if not _sound(progress):
            raise ValueError("a count is no number of at least 0")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not the state of a run: {error}") from None
    return progress, dict(load_checkpoint(folder / name))


def _sound(progress: Progress) -> bool:
    numbers: list[Any] = [progress.step, progress.loss, progress.correct, progress.norm, progress.seconds]
    whole = isinstance(progress.step, int) and isinstance(progress.backend, str)
    return whole and all(isinstance(n, (int, float)) and n >= 0 for n in numbers)
