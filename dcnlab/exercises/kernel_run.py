"""Running a student's kernels in a process of their own: whatever they do, the notebook goes on.

`run` starts kernel_child.py, which compiles the source for this CPU, launches its kernels in check mode and writes down
what they did, one file a launch. A process that hangs or dies leaves behind the files of the launches before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.errors import BackendUnavailable
from dcnlab.launch import Traffic, find_compiler

COMPILE_SECONDS = 600  # ziglang builds its C++ library on first use, which takes minutes on a busy machine
LAUNCH_SECONDS = 10  # of all launches together: the child ends itself
MOST_PRINTED = 2000


@dataclass(frozen=True)
class Launch:
    """One launch: ``kernel<<<grid, block>>>(*arguments)``; arguments by name, in their order."""

    kernel: str
    grid: int
    block: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One side of a fault: where in the student's source (line 0 if not there), in which block and thread."""

    line: int
    block: int
    thread: int


@dataclass(frozen=True)
class Fault:
    """What `dcnlab.KernelFault` says of a launch.

    Attributes
    ----------
    kind : str
    text : str
        What was done: "read of 4 bytes of offset[720], which has 720 elements".
    at, other : Side
    does : str
        What the other side of a race did: "read" or "write".
    argument, index
        The array and its flat element, None for shared memory.
    """

    kind: str
    text: str
    at: Side
    other: Side | None = None
    does: str = ""
    argument: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class Result:
    """What one launch left: its arrays by name, what it asked of memory, or its fault."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    fault: Fault | None = None


@dataclass(frozen=True)
class Run:
    """What became of a source.

    Attributes
    ----------
    results : list of Result
        Of the launches that came to an end, in order.
    kind, problem : str
        Why others did not, empty if all did: "no compiler", "compile", "call", "endless loop" or "crash", and one line.
    line : int
        That the compiler complains about, 0 if none is known.
    printed : str
        What the kernels printed, cut off if it is long.
    """

    results: Sequence[Result] = ()
    kind: str = ""
    problem: str = ""
    line: int = 0
    printed: str = ""


def run(source: str, launches: Sequence[Launch], mode: str = "check") -> Run:
    """Compile a source and launch kernels of it, one after the other, in a new process.

    Parameters
    ----------
    source : str
        CUDA C++.
    launches : sequence of Launch
        All are made, whatever becomes of those before, unless the process dies.
    mode : {"check", "fast"}
        As in `dcnlab.launch.module`; "fast" leaves no record of the traffic.
    """
    try:
        find_compiler()
    except BackendUnavailable as error:
        return Run(kind="no compiler", problem=str(error))
    with tempfile.TemporaryDirectory(prefix="dcnlab-exercise-") as name:
        folder = Path(name)
        _write_job(folder, source, launches, mode)
        status = _in_child(folder)
        printed = (folder / "printed.txt").read_bytes()[:MOST_PRINTED].decode("utf-8", errors="replace")
        results = [_read_result(folder, number) for number in range(len(launches)) if _exists(folder, number)]
        if (folder / "problem.json").exists():
            return Run(**json.loads((folder / "problem.json").read_text()), printed=printed)
        kind, problem = _end_of(status, folder)
        return Run(results=results, kind=kind, problem=problem, printed=printed)


def _write_job(folder: Path, source: str, launches: Sequence[Launch], mode: str) -> None:
    arrays: dict[str, Any] = {}
    described = []
    for number, launch in enumerate(launches):
        scalars = {}
        for name, value in launch.arguments.items():
            if isinstance(value, np.ndarray):
                arrays[f"{number}.{name}"] = value
            else:
                scalars[name] = value
        order = list(launch.arguments)
        described.append([launch.kernel, launch.grid, launch.block, order, scalars])
    np.savez(folder / "arrays.npz", **arrays)
    job = {"source": source, "mode": mode, "seconds": LAUNCH_SECONDS, "launches": described}
    (folder / "job.json").write_text(json.dumps(job))


def _in_child(folder: Path) -> int | None:
    """Run kernel_child.py on a folder; return its exit status, None if it took too long."""
    path = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-P", "-m", "dcnlab.exercises.kernel_child", str(folder)]
    with (folder / "printed.txt").open("wb") as printed, (folder / "errors.txt").open("wb") as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=errors, env=environment, start_new_session=True
        )
        try:
            return child.wait(COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:  # too long, or the notebook was interrupted: the compiler goes with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _end_of(status: int | None, folder: Path) -> tuple[str, str]:
    """Return kind and description of how a child without a problem of its own ended; empty if well."""
    if status is None:
        return "compile", f"the compiler did not come to an end within {COMPILE_SECONDS} seconds"
    if status == 0:
        return "", ""
    if status == -signal.SIGALRM:
        return "endless loop", f"the kernel was still running after {LAUNCH_SECONDS} seconds"
    errors = (folder / "errors.txt").read_text(errors="replace").strip().splitlines()
    how = signal.Signals(-status).name if status < 0 else (errors or ["no reason given"])[-1]
    return "crash", f"the process that ran the kernel died ({how})"


def _exists(folder: Path, number: int) -> bool:
    return (folder / f"{number}.json").exists()


def _read_result(folder: Path, number: int) -> Result:
    described = json.loads((folder / f"{number}.json").read_text())
    if described["fault"]:
        fault = described["fault"]
        for side in ("at", "other"):
            fault[side] = fault[side] and Side(**fault[side])
        return Result(fault=Fault(**fault))
    with np.load(folder / f"{number}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    return Result(arrays, {name: Traffic(*counted) for name, counted in described["traffic"].items()})
