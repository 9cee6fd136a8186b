"""`dcnlab bench train`: the time of a training step as more processes share its batch (strong scaling).

`python -m dcnlab.bench.train` is what mpiexec starts: it trains for a few steps and prints its times as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.backends import use_backend
from dcnlab.bench.timing import machine
from dcnlab.errors import BackendUnavailable
from dcnlab.records import as_json
from dcnlab.tables import format_table
from dcnlab.train.data import LabelledImages
from dcnlab.train.distributed import ALONE, INSTALL, World, current_world, ending_together
from dcnlab.train.loop import Trainer
from dcnlab.train.settings import Settings

BATCH, WARM_UP = 64, 3
ONE_THREAD = {"DCNLAB_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def run(processes: Sequence[int] = (1, 2), steps: int = 20, out: str | None = None) -> dict[str, Any]:
    """Measure each number of processes, print the table, record it as JSON where `out` is given; return the record.

    Parameters
    ----------
    processes : sequence of int
        Each computes with one thread and takes its share of every batch.
    steps : int
        Steps that are timed, after a few that are not.
    out : path, optional

    Raises
    ------
    BackendUnavailable
        Where there is no mpiexec.
    """
    found = [_measure(count, steps) for count in processes]
    record = {"machine": machine(), "batch": BATCH, "steps": steps, "processors": os.cpu_count(), "runs": found}
    print(report(record))
    if out is not None:
        Path(out).write_text(as_json(record) + "\n", encoding="utf-8")
    return record


def report(record: dict[str, Any]) -> str:
    """Return the table of a record, as text."""
    first = record["runs"][0]
    rows = []
    for one in record["runs"]:
        speed_up = first["step_ms"] / one["step_ms"]
        rows.append(
            [
                str(one["processes"]),
                f"{one['step_ms']:.1f}",
                f"{1e3 * record['batch'] / one['step_ms']:.0f}",
                f"{speed_up:.2f}",
                f"{100 * speed_up * first['processes'] / one['processes']:.0f} %",
                f"{100 * one['summing_ms'] / one['step_ms']:.0f} %",
            ]
        )
    header = ["processes", "step ms", "images/s", "speed-up", "efficiency", "summing and waiting"]
    title = f"the digits' net, batches of {record['batch']}, backend {first['backend']}, one thread a process"
    return f"{title}, {record['processors']} processors\n{format_table(header, rows)}"


def find_mpiexec() -> str:
    """Return the mpiexec beside this Python, or the one on the PATH; BackendUnavailable where there is none."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if found is None:
        raise BackendUnavailable(f"there is no mpiexec; run: {INSTALL}")
    return found


def _measure(processes: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "dcnlab.bench.train", str(steps)]
    if processes > 1:
        command = [find_mpiexec(), "-n", str(processes), *command]
    child = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{processes} processes ended with status {child.returncode}: {child.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(child.stdout)
    return found


class TimedWorld(World):
    """A world whose sums are timed: what it costs to add up, and to wait for the slowest."""

    def __init__(self, world: World) -> None:
        self.world, self.rank, self.size, self.seconds = world, world.rank, world.size, 0.0

    def total(self, array: Any) -> Any:
        """Return the sum over all ranks."""
        return self._timed(self.world.total, array)

    def total_all(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the sum of each array over all ranks."""
        result: list[Any] = self._timed(self.world.total_all, arrays)
        return result

    def _timed(self, call: Any, argument: Any) -> Any:
        started = time.perf_counter()
        result = call(argument)
        self.seconds += time.perf_counter() - started
        return result


def _images(count: int) -> LabelledImages:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    return LabelledImages(images, np.arange(count) % 10, tuple("0123456789"))


def _main(steps: int) -> None:
    world = current_world()
    with ending_together(world):
        timed = TimedWorld(world) if world.size > 1 else ALONE
        trainer = Trainer(Settings(batch=BATCH, epochs=1000), _images(4 * BATCH), _images(10), world=timed)
        seconds, sums = [], []
        with use_backend(trainer.backend):
            for _ in range(WARM_UP + steps):
                started, before = time.perf_counter(), getattr(timed, "seconds", 0.0)
                trainer.step()
                seconds.append(time.perf_counter() - started)
                sums.append(getattr(timed, "seconds", 0.0) - before)
        if world.rank == 0:
            found = {
                "processes": world.size,
                "backend": trainer.backend,
                "step_ms": round(1e3 * statistics.median(seconds[WARM_UP:]), 2),
                "summing_ms": round(1e3 * statistics.median(sums[WARM_UP:]), 2),
            }
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(int(sys.argv[1]))
