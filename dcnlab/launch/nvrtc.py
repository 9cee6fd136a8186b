"""Compiling for any GPU without one: NVRTC by itself, and what its assembler says a kernel needs.

::

    compiled = find_nvrtc().compile(read_source("dcnv3_forward/2_point.cu"), [name], "sm_90")
    compiled[name].registers
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.errors import BackendUnavailable
from dcnlab.launch.faults import KernelCompileError
from dcnlab.launch.sources import Source, include_folders

# Turing, Ampere (data centre, desktop), Ada, Hopper, Blackwell (data centre, desktop).
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# As CuPy compiles kernels, and with the assembler's account of what they need.
OPTIONS = ("-std=c++17", "-ftz=true", "--ptxas-options=-v")
CURE = "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime"

_ENTRY = re.compile(r"Compiling entry function '(\S+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")
_ERROR = re.compile(r"(\S+?)\((\d+)\): (?:catastrophic )?error: (.*)")


@dataclass(frozen=True)
class Usage:
    """What one instance of a kernel needs on one architecture.

    Attributes
    ----------
    registers : int
        Of a thread.
    shared_bytes : int
        Static shared memory of a block; dynamic shared memory comes with the launch.
    stack_bytes : int
        Of a thread, in (cached) global memory: arrays that are indexed by variables, and spilled registers.
    spill_stores, spill_loads : int
        Bytes of instructions that put registers there and fetch them, for want of more registers.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> bool:
        """Whether registers were spilled."""
        return bool(self.spill_stores or self.spill_loads)


class Nvrtc:
    """The NVRTC library.

    Attributes
    ----------
    version : str
    architectures : tuple of str
        That it compiles for.
    """

    def __init__(self, library: Path, headers: Path) -> None:
        self._library, self._headers = ctypes.CDLL(str(library)), headers
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._ask("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self._ask("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._ask("nvrtcGetSupportedArchs", numbers)
        self.version = f"{major.value}.{minor.value}"
        self.architectures = tuple(f"sm_{number}" for number in numbers)

    def compile(self, source: Source, names: Sequence[str], architecture: str) -> dict[str, Usage]:
        """Return what the instances `names` of a source need on an architecture.

        Raises
        ------
        ValueError
            For an architecture that this NVRTC does not know.
        KernelCompileError
            With the compiler's first error.
        """
        with self._compiled(source, names, architecture) as program:
            found = usages(self._text(program, "ProgramLog"))
            return {name: found[self._lowered(program, name)] for name in names}

    def ptx(self, source: Source, names: Sequence[str], architecture: str) -> str:
        """Return the instances in PTX, the assembly language of no GPU in particular; errors as in `compile`."""
        with self._compiled(source, names, architecture) as program:
            return self._text(program, "PTX")

    @contextmanager
    def _compiled(self, source: Source, names: Sequence[str], architecture: str) -> Iterator[ctypes.c_void_p]:
        if architecture not in self.architectures:
            known = ", ".join(self.architectures)
            raise ValueError(
                f"architecture must be one that NVRTC {self.version} knows ({known}), got {architecture!r}"
            )
        folders = [*([source.path.parent] if source.path else []), *include_folders(), self._headers]
        options = [*OPTIONS, f"-arch={architecture}", *(f"-I{folder}" for folder in folders)]
        program = ctypes.c_void_p()
        text, title = source.text.encode(), source.name.encode()
        self._ask("nvrtcCreateProgram", ctypes.byref(program), text, title, 0, None, None)
        try:
            for name in names:
                self._ask("nvrtcAddNameExpression", program, name.encode())
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if self._library.nvrtcCompileProgram(program, len(options), encoded):
                log = self._text(program, "ProgramLog")
                raise KernelCompileError(f"{source.name} does not compile for {architecture}: {_first(log)}", log)
            yield program
        finally:
            self._ask("nvrtcDestroyProgram", ctypes.byref(program))

    def _ask(self, function: str, *arguments: Any) -> None:
        failed = getattr(self._library, function)(*arguments)
        if failed:
            raise RuntimeError(f"{function}: {self._library.nvrtcGetErrorString(failed).decode()}")

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._ask(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._ask(f"nvrtcGet{what}", program, text)
        return text.value.decode(errors="replace")

    def _lowered(self, program: ctypes.c_void_p, name: str) -> str:
        """Return the name that a name expression has in the machine code."""
        lowered = ctypes.c_char_p()
        self._ask("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(lowered))
        return (lowered.value or b"").decode()


def usages(log: str) -> dict[str, Usage]:
    """Return what the assembler's log (``--ptxas-options=-v``) says of each kernel, by its name in the machine code.

    Functions that a kernel calls without inlining are listed with it; what they spill is the kernel's.
    """
    found = {}
    parts = _ENTRY.split(log)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        registers, shared = _REGISTERS.search(text), _SHARED.search(text)
        if registers is None:
            raise RuntimeError(f"NVRTC's log does not say how many registers {name} needs: {text.strip()!r}")
        frames = [tuple(map(int, frame)) for frame in _FRAME.findall(text)]
        stack, stores, loads = (sum(column) for column in zip(*frames, strict=True)) if frames else (0, 0, 0)
        found[name] = Usage(int(registers[1]), int(shared[1]) if shared else 0, stack, stores, loads)
    return found


@functools.cache
def find_nvrtc() -> Nvrtc:
    """Return NVRTC: of the nvidia-cuda-nvrtc wheel, or of a CUDA toolkit in $CUDA_PATH or /usr/local/cuda.

    Raises
    ------
    BackendUnavailable
        With the line that installs it.
    """
    for folder in _folders():
        library, header = next(folder.rglob("libnvrtc.so.1*"), None), next(folder.rglob("cuda_fp16.h"), None)
        if library and header:
            return Nvrtc(library, header.parent)
    raise BackendUnavailable(f"NVRTC, which compiles kernels for a GPU, is not installed: {CURE}")


def _folders() -> Iterator[Path]:
    wheels = importlib.util.find_spec("nvidia")
    yield from map(Path, (wheels.submodule_search_locations or []) if wheels else [])
    yield from map(Path, filter(None, [os.environ.get("CUDA_PATH"), "/usr/local/cuda"]))


def _first(log: str) -> str:
    found = _ERROR.search(log)
    if found:
        return f"{Path(found[1]).name}:{found[2]}: {found[3]}"
    lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
    return lines[0].strip() if lines else "NVRTC said nothing"
