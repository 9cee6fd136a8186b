"""The process in which a student's kernels run: `python -m dcnlab.exercises.kernel_child FOLDER`.

Reads job.json and arrays.npz of the folder, writes problem.json if there is nothing to launch, and one N.json a launch,
with N.npz beside it if there was no fault. kernel_run.py starts it.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.launch import Access, Kernel, KernelCompileError, KernelFault, Module, module

SOURCE = "kernel.cu"  # what dcnlab.launch calls a source that is a text
MOST_BYTES = 2**24  # that may be written to a file once the kernels run: a printf in an endless loop stops there


def main(folder: Path) -> None:
    """Do the job of a folder."""
    job = json.loads((folder / "job.json").read_text())
    names = list(dict.fromkeys(launch[0] for launch in job["launches"]))
    try:
        kernels = module(job["source"], names, target="cpu", mode=job["mode"])
    except KernelCompileError as error:
        line, text = _complaint(error)
        _write(folder / "problem.json", {"kind": "compile", "problem": text, "line": line})
    except (TypeError, ValueError) as error:
        _write(folder / "problem.json", {"kind": "call", "problem": _one_line(error)})
    else:
        _launch_all(folder, job, kernels)


def _launch_all(folder: Path, job: dict[str, Any], kernels: Module) -> None:
    arrays = np.load(folder / "arrays.npz", allow_pickle=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
    # The default action of SIGALRM ends the process whatever it does, also in the middle of a kernel.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(job["seconds"])
    for number, (name, grid, block, order, scalars) in enumerate(job["launches"]):
        arguments = {key: scalars[key] if key in scalars else arrays[f"{number}.{key}"] for key in order}
        _launch(folder, number, kernels[name], (grid, block), arguments)
    signal.alarm(0)


def _launch(folder: Path, number: int, kernel: Kernel, shape: tuple[int, int], arguments: dict[str, Any]) -> None:
    described: dict[str, Any] = {"fault": None, "traffic": {}}
    ours = dict(zip((p.name for p in kernel.parameters), arguments, strict=True))  # the student's names may be others
    try:
        kernel[shape](*arguments.values())
    except KernelFault as fault:
        described["fault"] = _described(fault, ours)
    else:
        described["traffic"] = {ours[name]: counted for name, counted in (kernel.last_traffic or {}).items()}
        arrays: dict[str, Any] = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
        np.savez(folder / f"{number}.npz", **arrays)
    _write(folder / f"{number}.json", described)


def _described(fault: KernelFault, ours: dict[str, str]) -> dict[str, Any]:
    text = str(fault).split(f"{fault.at}: ", 1)[-1]
    does = ""
    if fault.other is not None:
        text, _, second = text.rpartition("; ")
        does = second.split(" ", 1)[0]
    return {
        "kind": fault.kind,
        "text": text,
        "at": _side(fault.at),
        "other": fault.other and _side(fault.other),
        "does": does,
        "argument": fault.argument and ours[fault.argument],
        "index": fault.index,
    }


def _side(access: Access) -> dict[str, int]:
    line = access.line if access.file == SOURCE else 0
    return {"line": line, "block": access.block[0], "thread": access.thread[0]}


def _complaint(error: KernelCompileError) -> tuple[int, str]:
    """Return the line of the student's that the compiler's first error is about, and what it says."""
    found = re.search(rf"{SOURCE}:(\d+):(?:\d+:)? (?:fatal )?error: (.*)", error.log)
    if found:
        return int(found[1]), found[2]
    place = re.search(rf"{SOURCE}:(\d+)", error.log)  # an error in a header: the line that led there
    return int(place[1]) if place else 0, _one_line(error)


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file as a whole or not at all: the process may be ended at any time."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
