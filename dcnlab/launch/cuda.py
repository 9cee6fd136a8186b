"""Kernels on an NVIDIA GPU: compiled by NVRTC and launched through CuPy, on CuPy's current stream."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcnlab.arrays import is_cupy
from dcnlab.errors import BackendUnavailable
from dcnlab.launch.signature import Parameter
from dcnlab.launch.sources import Source, include_folders

# Without asking for more, a kernel gets this much dynamic shared memory.
DEFAULT_SHARED_BYTES = 48 * 1024


class CudaBackend:
    """A CuPy RawModule. Nothing is compiled before the first kernel is asked for."""

    def __init__(self, source: Source, names: Sequence[str], mode: str, options: Sequence[str]) -> None:
        if mode != "fast":
            raise ValueError(f"mode={mode!r} is for target='cpu'; on a GPU use NVIDIA's compute-sanitizer")
        self._cupy = import_cupy()
        folders = [*([source.path.parent] if source.path else []), *include_folders()]
        self._module = self._cupy.RawModule(
            code=_with_key(source),
            options=("-std=c++17", *(f"-I{folder}" for folder in folders), *options),
            name_expressions=tuple(names),
        )

    def kernel(self, number: int, name: str, parameters: tuple[Parameter, ...]) -> CudaKernel:
        """Return the kernel that the name expression `name` names."""
        return CudaKernel(self._cupy, self._module.get_function(name), name)


class CudaKernel:
    """One kernel of a module."""

    def __init__(self, cupy: Any, function: Any, name: str) -> None:
        self._cupy, self._function, self._name = cupy, function, name

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        stream: Any,
        arguments: list[Any],
    ) -> None:
        """Enqueue the kernel and return at once. `arguments` have been checked."""
        here = self._cupy.cuda.Device().id
        for value in arguments:
            there = value.device.id if is_cupy(value) else here
            if there != here:
                raise ValueError(f"{self._name}: an array lies on device {there}, the current device is {here}")
        if shared > DEFAULT_SHARED_BYTES:
            self._function.max_dynamic_shared_size_bytes = shared
        with stream if stream is not None else contextlib.nullcontext():
            self._function(grid, block, tuple(map(_for_cupy, arguments)), shared_mem=shared)


def _with_key(source: Source) -> str:
    """Return the text with a key of what it includes: CuPy keeps what it compiled by the text that it is given alone.

    Without it, a change of an included file would be run only when the kernel itself is changed too.
    """
    if not source.included:
        return source.text
    included = "\0".join(text for _, text in sorted(source.included.items()))
    return f"{source.text}\n// includes {hashlib.sha256(included.encode()).hexdigest()}\n"


def _for_cupy(value: Any) -> Any:
    """CuPy takes null pointers as the integer 0, numbers as NumPy scalars and structs as arrays of one record."""
    if value is None:
        return np.uint64(0)
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf" else value


def import_cupy() -> Any:
    """Return CuPy, or raise BackendUnavailable with what is missing and the line that brings it."""
    try:
        import cupy
    except ImportError:
        raise BackendUnavailable(
            "target='cuda' needs CuPy, which is not installed; run: pip install 'dcnlab[cuda13]' (or dcnlab[cuda12])"
        ) from None
    if not cupy.cuda.is_available():
        raise BackendUnavailable("target='cuda' needs an NVIDIA GPU and its driver, CuPy finds none; use target='cpu'")
    return cupy
