"""`dcnlab kernels compile`: registers, shared memory and spills of kernels on every architecture, without a GPU."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dcnlab.compiled.ladder import instances, rungs_of
from dcnlab.compiled.rung import Rung
from dcnlab.compiled.rungs import RUNGS
from dcnlab.launch import KernelCompileError
from dcnlab.launch import run_lines as lines
from dcnlab.launch.nvrtc import ARCHITECTURES, Usage, find_nvrtc
from dcnlab.launch.signature import find_kernels
from dcnlab.launch.sources import Source, read_source, without_comments
from dcnlab.records import write_part
from dcnlab.tables import format_table

FINE, WRONG = 0, 1
HEADINGS = ("registers", "shared", "stack", "spill stores", "spill loads")


def compile_kernels(
    what: str | None = None, architectures: Sequence[str] = ARCHITECTURES, out: str | os.PathLike[str] | None = None
) -> int:
    """Compile kernels by NVRTC and print what each instance needs.

    Parameters
    ----------
    what
        A .cu file, an operator, or None for all rungs. A rung is compiled in all instances that a GPU uses, another
        file in those that its ``// run:`` comments name.
    architectures
        Such as "sm_90".
    out
        A JSON file to record the numbers of all rungs in.

    Returns
    -------
    int
        0, or 1 when something does not compile or spills registers.

    Raises
    ------
    ValueError, OSError
        For a file that is not there, an architecture that NVRTC does not know, a partial record.
    BackendUnavailable
        Without NVRTC.
    """
    if out is not None and (what is not None or tuple(architectures) != ARCHITECTURES):
        raise ValueError("--out records all rungs on all architectures: leave out FILE, OPERATOR and --arch")
    nvrtc, status = find_nvrtc(), FINE
    record: dict[str, Any] = {}
    for source, names in _wanted(what):
        print(source.name)
        try:
            usage = {architecture: nvrtc.compile(source, names, architecture) for architecture in architectures}
        except KernelCompileError as error:
            print(f"    {error}")
            status = WRONG
            continue
        print(_table(usage), flush=True)
        spilling = [(n, a) for a, found in usage.items() for n, needs in found.items() if needs.spills]
        for name, architecture in spilling:
            print(f"    {name} spills registers on {architecture}")
        status = WRONG if spilling else status
        record[source.name] = as_record(usage)
    if out is not None and status == FINE:
        write_part(Path(out), "compiled", {"nvrtc": nvrtc.version, "rungs": record})
    elif out is not None:
        print(f"nothing was recorded in {out}")
    return status


def as_record(usage: dict[str, dict[str, Usage]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return usages by architecture and instance as numbers by instance and architecture, for JSON."""
    names = next(iter(usage.values()))
    return {name: {a: dataclasses.asdict(found[name]) for a, found in usage.items()} for name in names}


def source_of(rung: Rung) -> Source:
    """Return the source of a rung."""
    return read_source(rung.path)


def _wanted(what: str | None) -> Iterator[tuple[Source, list[str]]]:
    if what is None or not what.endswith(".cu"):
        yield from ((source_of(rung), instances(rung, "cuda")) for rung in rungs_of(what))
        return
    source = read_source(Path(what))
    rung = next((rung for rung in RUNGS.values() if rung.path == source.name), None)
    yield source, instances(rung, "cuda") if rung else _instances_of_file(source)


def _instances_of_file(source: Source) -> list[str]:
    kernels = find_kernels(without_comments(source.text))
    if not kernels:
        raise ValueError(f"{source.name} has no __global__ function")
    return lines.instances(kernels, lines.run_lines(source.text, source.name))


def _table(usage: dict[str, dict[str, Usage]]) -> str:
    """Return a line for every instance, and for every group of architectures on which it needs the same."""
    rows = []
    for name in next(iter(usage.values())):
        same: dict[Usage, list[str]] = {}
        for architecture, found in usage.items():
            same.setdefault(found[name], []).append(architecture)
        for needs, group in same.items():
            rows.append([name, *map(str, dataclasses.astuple(needs)), " ".join(group)])
            name = ""
    text = format_table(["instance", *HEADINGS, "on"], rows)
    return "\n".join(f"    {line}" for line in text.splitlines())
