"""Arrays of other libraries: taken without a copy through DLPack, and answered in kind."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from dcnlab.arrays import Array, is_cupy

F = TypeVar("F", bound=Callable[..., Any])

CPU, CUDA = 1, 2  # DLDeviceType of the DLPack standard


def speaks_dlpack(operator: F) -> F:
    """Let an operator take CPU or CUDA tensors of PyTorch, JAX and others, and return its results as such tensors.

    A call whose arguments are all NumPy or CuPy arrays passes through. The tensors' memory is used as it is; nothing
    is modified in place. The library of the first such tensor gets the results, by its own `from_dlpack`.

    Raises
    ------
    TypeError
        For tensors that cannot be exported: of a type that NumPy lacks (bfloat16), on another device, or part of an
        autograd graph (detach them first; these operators have backward passes of their own).
    """

    @functools.wraps(operator)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        first = next((value for value in (*args, *kwargs.values()) if is_foreign(value)), None)
        if first is None:
            return operator(*args, **kwargs)
        results = operator(*map(_adopt, args), **{name: _adopt(value) for name, value in kwargs.items()})
        give = _importer(first)
        if isinstance(results, tuple):  # the gradients
            answers: list[Any] = [None if result is None else give(result) for result in results]
            return type(results)(*answers)
        return give(results)

    return cast(F, wrapped)


def is_foreign(value: Any) -> bool:
    """Return whether a value is an array of another library that speaks DLPack."""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic) and not is_cupy(value)


def _adopt(value: Any) -> Array:
    """Return a foreign array as a NumPy or CuPy array on the same memory, anything else as it is."""
    if not is_foreign(value):
        return value
    name = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
    device = int(value.__dlpack_device__()[0])
    if device not in (CPU, CUDA):
        raise TypeError(f"a {name} must be on the CPU or a CUDA device, got DLPack device type {device}")
    try:
        if device == CUDA:
            import cupy

            return cupy.from_dlpack(value)
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError, ImportError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TypeError(f"a {name} was given that cannot be taken over through DLPack: {first_line}") from error


def _importer(like: Any) -> Callable[[Array], Any]:
    """Return the function that makes an array of the library of `like` from ours."""
    root = type(like).__module__.partition(".")[0]
    module = sys.modules["jax.dlpack"] if root in ("jax", "jaxlib") else sys.modules[root]
    return cast(Callable[[Array], Any], module.from_dlpack)
