"""`module(...)[name][grid, block](*args)`: the one call that both targets share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dcnlab.launch.arguments import (
    MOST_OF_GRID,
    block_dimensions,
    check_arguments,
    dimensions,
    shared_bytes,
)
from dcnlab.launch.cpu import CpuBackend, ThreadOrder
from dcnlab.launch.cuda import CudaBackend
from dcnlab.launch.faults import KernelFault
from dcnlab.launch.forced import force_in_effect
from dcnlab.launch.signature import Parameter, Signature, base_name, find_kernels
from dcnlab.launch.sources import read_source, without_comments
from dcnlab.launch.toolchain import MODES
from dcnlab.launch.traffic import Traffic

TARGETS = ("cuda", "cpu")


def module(
    path_or_source: str | os.PathLike[str],
    name_expressions: Sequence[str] = (),
    target: str = "cuda",
    mode: str = "fast",
    *,
    defines: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    thread_order: str | int = "forward",
) -> Module:
    """Compile a CUDA C++ source for a GPU or for this CPU.

    Parameters
    ----------
    path_or_source
        CUDA C++ as a str, or the path of a .cu file: one's own, or relative to dcnlab's kernels.
    name_expressions
        The instances of template kernels that are wanted, such as ``"scale<float, 4>"``. Kernels that are no templates
        may be named too; with no names at all, all of them are compiled.
    target : {"cuda", "cpu"}
    mode : {"fast", "check", "ubsan"}
        On the CPU, "check" looks at every access (out of bounds, data races, uninitialised shared memory) and "ubsan"
        at every operation (undefined behaviour); both raise `KernelFault`. Divergent barriers, deadlocks and bad
        shuffle masks are reported in every mode.
    defines
        Macros, as ``{"TILE": 16}``.
    options
        Further options of the compiler (NVRTC's, or the C++ compiler's).
    thread_order
        CPU only: "forward", "backward" or the seed of a shuffle: the order in which the threads of a block start. A
        right kernel gives the same result in every order.

    Raises
    ------
    BackendUnavailable
        When the target cannot run here, with the line that cures it.
    KernelCompileError
        With the first error, on the CPU at once, on a GPU (CuPy's own exception) when a kernel is first asked for.

    Notes
    -----
    A kernel that adds floating-point numbers atomically runs its blocks in order on one thread of the CPU, so that the
    sums are repeatable. Declare an array that is only ever added to as ``Scattered<float>`` (scattered.cuh): then many
    threads run it, and the sums still come out the same bit for bit, however many they are.

    Examples
    --------
    ::

        source = 'extern "C" __global__ void twice(float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= 2; }'
        x = np.arange(4, dtype=np.float32)
        module(source, target="cpu")["twice"][1, 32](x, 4)  # x is now [0, 2, 4, 6]
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if isinstance(name_expressions, str):
        raise TypeError(f"name_expressions must be a list of names, got the str {name_expressions!r}")
    order = ThreadOrder.of(thread_order)
    if force := force_in_effect():
        target, mode, options = force.applied_to(target, options)
    source = read_source(path_or_source)
    signatures = find_kernels(source.everything)
    names = list(dict.fromkeys(name_expressions)) or [
        name for name, found in find_kernels(without_comments(source.text)).items() if not found.template
    ]
    if not names:
        raise ValueError(f"{source.name} {_nothing_to_compile(signatures)}")
    parameters = {name: _parameters(source.name, signatures, name) for name in names}
    flags = [f"-D{name}={value}" for name, value in (defines or {}).items()] + list(options)
    backend: Any = (CpuBackend if target == "cpu" else CudaBackend)(source, names, mode, flags)
    if target == "cpu":
        backend.thread_order = order
    return Module(source.name, target, parameters, signatures, backend)


class Module:
    """Compiled kernels by name: `module[name][grid, block](*args)`."""

    def __init__(
        self,
        source_name: str,
        target: str,
        parameters: dict[str, tuple[Parameter, ...]],
        signatures: dict[str, Signature],
        backend: Any,
    ) -> None:
        self.source_name, self.target = source_name, target
        self._parameters, self._signatures, self._backend = parameters, signatures, backend
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        if name not in self._parameters:
            raise KeyError(self._unknown(name))
        if name not in self._kernels:
            number = list(self._parameters).index(name)
            raw = self._backend.kernel(number, name, self._parameters[name])
            self._kernels[name] = Kernel(name, self.target, self._parameters[name], raw)
        return self._kernels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def _unknown(self, name: str) -> str:
        found = self._signatures.get(base_name(name))
        if found is None:
            return f"{self.source_name} has no kernel {name!r}, it has: {', '.join(self._signatures) or 'none'}"
        if found.template:
            return f"{name!r} was not compiled: add the instance you want to name_expressions, e.g. '{name}<float>'"
        return f"{name!r} was not compiled: add it to name_expressions"


class Kernel:
    """A compiled kernel; `kernel[grid, block]` or `kernel[grid, block, shared_bytes, stream]` is ready to be called.

    Attributes
    ----------
    name : str
    parameters : tuple of Parameter
    last_traffic : dict of str to Traffic, or None
        Bytes that the last launch asked of each array argument, by name: counted by mode="check", None in others.
    """

    def __init__(self, name: str, target: str, parameters: tuple[Parameter, ...], raw: Any) -> None:
        self.name, self.target, self.parameters, self._raw = name, target, parameters, raw
        self.last_traffic: dict[str, Traffic] | None = None

    def __getitem__(self, configuration: Any) -> Launcher:
        if not isinstance(configuration, tuple) or not 2 <= len(configuration) <= 4:
            raise TypeError(f"{self.name}: launch as kernel[grid, block] or kernel[grid, block, shared_bytes, stream]")
        grid, block, *rest = configuration
        shared = rest[0] if rest else 0
        stream = rest[1] if len(rest) > 1 else None
        return Launcher(
            self,
            dimensions(grid, f"{self.name}: grid", MOST_OF_GRID),
            block_dimensions(block),
            shared_bytes(shared),
            stream,
        )


class Launcher:
    """A kernel with its grid and block: call it with the kernel's arguments."""

    def __init__(
        self, kernel: Kernel, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int, stream: Any
    ) -> None:
        self._kernel, self._grid, self._block, self._shared, self._stream = kernel, grid, block, shared, stream

    def __call__(self, *arguments: Any) -> None:
        """Check the arguments and run the kernel: on the CPU to its end, on a GPU on the current stream."""
        kernel = self._kernel
        checked = check_arguments(kernel.name, kernel.parameters, arguments, kernel.target)
        force = force_in_effect()
        if force:
            force.launched[kernel.name] = None
        kernel.last_traffic = None
        try:
            kernel.last_traffic = kernel._raw.launch(self._grid, self._block, self._shared, self._stream, checked)
        except KernelFault as fault:
            if force:
                force.faults.append(fault)
            raise


def _parameters(source_name: str, signatures: dict[str, Signature], name: str) -> tuple[Parameter, ...]:
    found = signatures.get(base_name(name))
    if found is None:
        known = ", ".join(signatures) or "none"
        raise ValueError(f"{source_name} has no __global__ void {base_name(name)}(...), it has: {known}")
    return found.instantiate(name)


def _nothing_to_compile(signatures: dict[str, Signature]) -> str:
    if not signatures:
        return "has no __global__ function"
    return f"has only templates ({', '.join(signatures)}): name the instances you want in name_expressions"
