"""Kernels on the CPU: compiled with the machine's C++ compiler against kernels/cpu, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.launch import cache
from dcnlab.launch.arena import Arena
from dcnlab.launch.arguments import MOST_SHARED_BYTES, address_of
from dcnlab.launch.faults import Report, fault_from
from dcnlab.launch.signature import Parameter
from dcnlab.launch.sources import Source, include_folders, kernels_folder
from dcnlab.launch.threads import limit_blas, num_threads
from dcnlab.launch.toolchain import BASE, Compiler, find_compiler
from dcnlab.launch.traffic import Counters, Traffic, traffic_from

# Threads that wait for each other. A kernel whose source has none of these runs its threads as a plain loop.
_TOGETHER = re.compile(r"__\w*sync\w*|__activemask|__shfl|__ballot|__any|__all")
_DYNAMIC = re.compile(r"extern\s+__shared__\s+[^;\[]*?(\w+)\s*\[\s*\]\s*;")


class _Request(ctypes.Structure):
    """Mirror of Request in kernels/cpu/control.h."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("workers", ctypes.c_uint32),
        ("checked", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("arguments", ctypes.c_void_p),
        ("report", ctypes.c_void_p),
        ("traffic", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class ThreadOrder:
    """In which order the threads of a block start on the CPU: right kernels give the same result in every order."""

    order: int
    seed: int = 0

    @classmethod
    def of(cls, value: str | int) -> ThreadOrder:
        """Return "forward", "backward", or the shuffle that an int seeds."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32:
            return cls(2, value)
        if value in ("forward", "backward"):
            return cls(int(value == "backward"))
        raise ValueError(f'thread_order must be "forward", "backward" or the seed of a shuffle, got {value!r}')


class CpuBackend:
    """The compiled library of one source."""

    def __init__(self, source: Source, names: Sequence[str], mode: str, options: Sequence[str]) -> None:
        compiler = find_compiler()
        limit_blas()
        folder = cache.cache_folder()
        runtime = _build_runtime(compiler, folder)
        wrapper = _wrapper(source, names)
        flags = [*compiler.flags(mode), "-fvisibility=hidden", *options]
        if not _TOGETHER.search(source.everything):
            flags.append("-DDCNLAB_PLAIN")
        key = _key(compiler.identity, runtime.name, wrapper, source.text, *source.included.values(), *flags)

        def make(library: Path) -> None:
            code, compiled = library.with_name("kernel.cpp"), library.with_name("kernel.o")
            code.write_text(wrapper)
            folders = [kernels_folder() / "cpu", *([source.path.parent] if source.path else []), *include_folders()]
            includes = [f"-I{f}" for f in folders]
            header = ["-include", str(kernels_folder() / "cpu" / "cuda_cpu.h")]
            compile_ = [*flags, *includes, *header, "-c", str(code), "-o", str(compiled)]
            compiler.run(*compile_, source_name=source.name)
            link = [
                *compiler.flags("fast"),
                "-shared",
                str(compiled),
                str(runtime),
                "-Wl,-rpath,$ORIGIN",
                "-o",
                str(library),
            ]
            compiler.run(*link, source_name=source.name)

        stem = re.sub(r"\W+", "_", source.name.removesuffix(".cu"))
        _load(runtime)
        self.path = cache.build(folder, f"{stem}-{mode}", key, make)
        self._library = _load(self.path)
        self._mode = mode
        self.thread_order = ThreadOrder.of("forward")

    def kernel(self, number: int, name: str, parameters: tuple[Parameter, ...]) -> CpuKernel:
        """Return kernel `number` of the library."""
        return CpuKernel(self, self._library, number, name, parameters, mode=self._mode)


class CpuKernel:
    """One kernel of a library."""

    def __init__(
        self,
        backend: CpuBackend,
        library: ctypes.CDLL,
        number: int,
        name: str,
        parameters: tuple[Parameter, ...],
        mode: str,
    ) -> None:
        self._backend, self._name, self._parameters = backend, name, parameters
        self._checked, self._fenced = mode == "check", mode != "fast"
        self._call = getattr(library, f"dcnlab_launch_{number}")
        self._call.argtypes = [ctypes.POINTER(_Request)]
        sizes = getattr(library, f"dcnlab_sizes_{number}")
        sizes.restype = ctypes.POINTER(ctypes.c_uint64)
        found = sizes()[: len(parameters)]
        self._values = [(i, found[i]) for i, parameter in enumerate(parameters) if not parameter.pointer]

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        stream: Any,
        arguments: list[Any],
    ) -> dict[str, Traffic] | None:
        """Run the kernel to its end, return what it asked of memory (mode "check"). `arguments` have been checked."""
        if stream is not None:
            raise ValueError(
                f"{self._name}: a stream is for target='cuda'; on the CPU a launch returns when it is done"
            )
        self._check_sizes(arguments)
        arena = (
            Arena([a for p, a in zip(self._parameters, arguments, strict=True) if p.pointer]) if self._fenced else None
        )
        locate = arena.address if arena else address_of
        pointers = (ctypes.c_uint64 * max(1, len(arguments)))()
        first = ctypes.addressof(pointers)
        words: list[int] = []
        for i, (parameter, value) in enumerate(zip(self._parameters, arguments, strict=True)):
            place = first + i * ctypes.sizeof(ctypes.c_uint64)
            if not parameter.pointer:
                words += (address_of(value), 0, 0, 0)
            elif value is None:
                words += (place, 0, 0, 0)
            else:
                pointers[i] = locate(value)
                words += (place, pointers[i], value.nbytes, max(1, value.itemsize))
        packed = (ctypes.c_uint64 * max(1, len(words)))(*words)  # each four are an Argument of kernels/cpu/control.h
        report, order = Report(), self._backend.thread_order
        counters = (Counters * max(1, len(arguments)))() if self._checked else None
        request = _Request(
            grid,
            block,
            shared,
            num_threads(),
            int(self._checked),
            order.order,
            order.seed,
            ctypes.addressof(packed),
            ctypes.addressof(report),
            ctypes.addressof(counters) if counters else None,
        )
        failed = self._call(request)
        if arena:
            arena.copy_back()
        if failed:
            elements = [getattr(value, "size", 0) for value in arguments]
            raise fault_from(report, self._name, self._parameters, elements, self._backend.path)
        return traffic_from(counters, self._parameters) if counters else None

    def _check_sizes(self, arguments: list[Any]) -> None:
        """Refuse a struct whose size is not the one the compiler gave it."""
        for i, size in self._values:
            parameter, value = self._parameters[i], arguments[i]
            if value.nbytes != size:
                raise TypeError(
                    f"{self._name}: {parameter.name} ({parameter.type}) must have {size} bytes, "
                    f"got {value.dtype} of {value.nbytes}"
                )


def _build_runtime(compiler: Compiler, folder: Path) -> Path:
    """Return the runtime library: one for all modes, so that all kernels of a process share its worker threads."""
    headers = sorted((kernels_folder() / "cpu").rglob("*.*"))
    flags = [*BASE, "-O2", "-shared"]
    key = _key(compiler.identity, *(file.read_text() for file in headers), *flags)

    def make(library: Path) -> None:
        # In one piece: the standard library's headers take most of the time, this way once.
        code = library.with_name("runtime.cpp")
        code.write_text("".join(f'#include "{file}"\n' for file in headers if file.suffix == ".cpp"))
        soname = f"-Wl,-soname,runtime-{key}.so"
        compiler.run(*flags, soname, str(code), "-o", str(library), source_name="the CPU runtime")

    return cache.build(folder, "runtime", key, make)


def _wrapper(source: Source, names: Sequence[str]) -> str:
    """Return the C++ file around a source: the source itself, its dynamic shared memory, and the entries for Python."""
    if source.path is None:
        lines = ['#line 1 "kernel.cu"', source.text, '#line 1 "exports"']
    else:
        quoted = str(source.path).replace("\\", "\\\\").replace('"', '\\"')
        lines = [f'#include "{quoted}"']
    dynamic = list(dict.fromkeys(_DYNAMIC.findall(source.everything)))
    if dynamic:
        # All `extern __shared__` arrays of a CUDA source are the same memory, whatever their types: one place in the
        # thread-local section with several names, which C++ itself cannot express.
        labels = "".join(f".globl {n}\\n.hidden {n}\\n{n}:\\n" for n in [*dynamic, "dcnlab_dynamic"])
        section = '.section .tbss.dcnlab,\\"awT\\",%nobits\\n.balign 128\\n'
        lines += [
            f'asm("{section}{labels}.zero {MOST_SHARED_BYTES}\\n.text\\n");',
            "extern __thread unsigned char dcnlab_dynamic[];",
            "static void* dcnlab_dynamic_shared() { return dcnlab_dynamic; }",
        ]
    lines += [
        f"#define DCNLAB_DYNAMIC {'&dcnlab_dynamic_shared' if dynamic else 'nullptr'}",
        f"#define DCNLAB_DYNAMIC_LIMIT {MOST_SHARED_BYTES}",
    ]
    lines += [f"DCNLAB_EXPORT({number}, {name})" for number, name in enumerate(names)]
    return "\n".join(lines) + "\n"


def _key(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


_loading = threading.Lock()


@functools.cache
def _load_once(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    if hasattr(library, "dcnlab_report_bytes"):
        library.dcnlab_report_bytes.restype = ctypes.c_uint64
        assert library.dcnlab_report_bytes() == ctypes.sizeof(Report), "faults.py and control.h disagree"
    return library


def _load(path: Path) -> ctypes.CDLL:
    with _loading:
        return _load_once(str(path))
