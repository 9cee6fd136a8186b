"""`dcnlab kernels check FILE`: a learner's own kernel under check mode and UBSan.

A .cu file is compiled for the CPU and launched as its ``// run:`` comments say (run_lines.py). A .py file runs as it
is, with every kernel that it compiles forced onto the CPU in the mode that checks (forced.py).
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from dcnlab.launch.faults import KernelCompileError, KernelFault
from dcnlab.launch.forced import Force, forced
from dcnlab.launch.interrupt import interruptible
from dcnlab.launch.modules import Module, module
from dcnlab.launch.run_lines import RunLine, example, instances, run_lines, without_run_lines
from dcnlab.launch.signature import Signature, base_name, find_kernels
from dcnlab.launch.sources import Source, read_source, without_comments
from dcnlab.launch.toolchain import find_compiler

MODES = ("check", "ubsan")
CLEAN, FAULT, NOTHING_RAN = 0, 1, 2
# After one of these in check mode the other mode, which does not look at addresses, would write where it must not.
_OF_MEMORY = ("out of bounds", "null pointer", "misaligned access", "memory fault")


def check_file(path: str | os.PathLike[str], mode: str = "both") -> int:
    """Check the kernels of a .cu file, or those that a .py file launches; print a line for each of them and mode.

    Parameters
    ----------
    path
        The file.
    mode : {"check", "ubsan", "both"}

    Returns
    -------
    int
        0: clean. 1: a fault, a kernel that does not compile, or an exception of the script. 2: nothing was launched.

    Raises
    ------
    ValueError, OSError
        For a file that is neither, is not there, or has a run line that cannot be read.
    BackendUnavailable
        Without a C++ compiler.
    """
    find_compiler()
    modes = MODES if mode == "both" else (mode,)
    suffix = Path(path).suffix
    if suffix not in (".cu", ".py"):
        raise ValueError(f"FILE must be a .cu or a .py file, got {os.fspath(path)!r}")
    if suffix == ".cu":
        with interruptible():
            return _check_source(read_source(Path(path)), modes)
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    return _check_script(os.fspath(path), mode) if len(modes) == 1 else _in_processes(os.fspath(path), modes)


# ---- .cu


def _check_source(source: Source, modes: Sequence[str]) -> int:
    kernels = find_kernels(without_comments(source.text))
    if not kernels:
        raise ValueError(f"{source.name} has no __global__ function")
    runs = run_lines(source.text, source.name)
    signatures = find_kernels(source.everything)
    for run in runs:
        if base_name(run.name) not in signatures:
            raise ValueError(f"{run.place}: there is no kernel {run.name!r}, only {', '.join(signatures)}")
        run.values(signatures[base_name(run.name)].instantiate(run.name))  # a mistake in any line comes out first
    rest = without_run_lines(kernels, runs)
    names = instances(kernels, runs)
    status, unsafe = CLEAN, set[str]()
    for mode in modes:
        try:
            compiled = module(source.path or source.text, names, target="cpu", mode=mode)
        except KernelCompileError as error:
            print(f"{mode:5}  {error}")
            status = FAULT
            continue
        for name in names:
            status = max(status, _check_kernel(compiled, mode, name, [r for r in runs if r.name == name], unsafe))
    for kernel in rest:
        print(f"{source.name}: {kernel.name} did not run; {_hint(kernel)}", file=sys.stderr)
    return status or (NOTHING_RAN if not runs else CLEAN)


def _check_kernel(compiled: Module, mode: str, name: str, runs: list[RunLine], unsafe: set[str]) -> int:
    """Launch one kernel as its run lines say and print the outcome; add it to `unsafe` if it left its memory."""
    if not runs:
        print(f"{mode:5}  {name}: compiles, did not run")
        return CLEAN
    if name in unsafe:
        print(f"{mode:5}  {name}: did not run, for it leaves its memory (--mode {mode} runs it all the same)")
        return FAULT
    kernel = compiled[name]
    for run in runs:
        try:
            kernel[run.grid, run.block, run.shared](*run.values(kernel.parameters))
        except KernelFault as fault:
            print(f"{mode:5}  {fault} (run line {run.place})")
            if fault.kind in _OF_MEMORY:
                unsafe.add(name)
            return FAULT
    print(f"{mode:5}  {name}: clean ({len(runs)} launch{'es' if len(runs) > 1 else ''})")
    return CLEAN


def _hint(kernel: Signature) -> str:
    line = example(kernel)
    if line is None:
        return "it takes a struct by value: launch it from a .py file and check that"
    return f"say how to launch it in a comment such as  {line}"


# ---- .py


def _check_script(path: str, mode: str) -> int:
    """Run a script as __main__; print its first fault, else its own exception, else the kernels that are clean."""
    with forced("cpu", mode) as force, interruptible(), _as_a_program(path):
        status = _run(path, mode, force)
    if force.faults:
        print(f"{mode:5}  {force.faults[0]}")
        return FAULT
    if status == CLEAN and not force.launched:
        print(f"{path}: no kernel was launched, nothing was checked", file=sys.stderr)
        return NOTHING_RAN
    if status == CLEAN:
        for name in force.launched:
            print(f"{mode:5}  {name}: clean")
    return status


def _run(path: str, mode: str, force: Force) -> int:
    try:
        runpy.run_path(path, run_name="__main__")
    except KernelCompileError as error:
        print(f"{mode:5}  {error}")
        return FAULT
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return FAULT if stop.code else CLEAN
    except Exception as error:
        if error not in force.faults:
            traceback.print_exception(type(error), error, _from_file(error.__traceback__, path))
        return FAULT
    return CLEAN


def _from_file(trace: TracebackType | None, path: str) -> TracebackType | None:
    """Return the part of a traceback that begins in the script; all of it where none does, as for a SyntaxError."""
    here = trace
    while here is not None and here.tb_frame.f_code.co_filename != path:
        here = here.tb_next
    return here


@contextlib.contextmanager
def _as_a_program(path: str) -> Iterator[None]:
    """Give a script what `python FILE` would: its arguments (none) and its folder; and leave no byte code behind."""
    before = sys.argv, sys.path[:], sys.dont_write_bytecode
    sys.argv, sys.dont_write_bytecode = [path], True
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.dont_write_bytecode = before


def _in_processes(path: str, modes: Sequence[str]) -> int:
    """Run a script once a mode, each time in a process of its own: modules that it imports start afresh."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for mode in modes:
        command = [sys.executable, "-P", "-m", "dcnlab", "kernels", "check", path, "--mode", mode]
        sys.stdout.flush()
        status = subprocess.run(command, env=environment, check=False).returncode
        if status < 0:
            print(f"{mode:5}  {path}: the process crashed ({signal.Signals(-status).name})")
            return FAULT
        if status:
            return status
    return CLEAN
