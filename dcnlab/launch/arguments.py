"""Checking a launch: every refusal is one line that names the argument, what was expected and what came."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcnlab.arrays import is_cupy
from dcnlab.launch.signature import Parameter

# Limits of every GPU that CUDA 12 and 13 compile for.
MOST_THREADS = 1024
MOST_OF_BLOCK = (1024, 1024, 64)
MOST_OF_GRID = (2**31 - 1, 65535, 65535)
MOST_SHARED_BYTES = 227 * 1024


def dimensions(value: Any, what: str, most: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return `value`, an int or up to three of them, as (x, y, z).

    >>> dimensions((4, 2), "grid", MOST_OF_GRID)
    (4, 2, 1)
    """
    if type(value) is int and 1 <= value <= most[0]:
        return value, 1, 1
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) for s in sizes)
    if not whole or not 1 <= len(sizes) <= 3:
        raise TypeError(f"{what} must be an int or a tuple of up to three ints (x, y, z), got {value!r}")
    x, y, z = (*(int(s) for s in sizes), 1, 1)[:3]
    if any(not 1 <= size <= limit for size, limit in zip((x, y, z), most, strict=True)):
        raise ValueError(f"{what} must be between (1, 1, 1) and {most}, got {(x, y, z)}")
    return x, y, z


def block_dimensions(value: Any) -> tuple[int, int, int]:
    """Return the size of a block as (x, y, z), at most 1024 threads in all."""
    x, y, z = dimensions(value, "block", MOST_OF_BLOCK)
    if x * y * z > MOST_THREADS:
        raise ValueError(f"block must have at most {MOST_THREADS} threads, got {x}*{y}*{z} = {x * y * z}")
    return x, y, z


def shared_bytes(value: Any) -> int:
    """Return the bytes of dynamic shared memory."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"dynamic shared memory must be a number of bytes, got {value!r}")
    if not 0 <= value <= MOST_SHARED_BYTES:
        raise ValueError(f"dynamic shared memory must be between 0 and {MOST_SHARED_BYTES} bytes, got {value}")
    return int(value)


def check_arguments(kernel: str, parameters: Sequence[Parameter], arguments: Sequence[Any], target: str) -> list[Any]:
    """Return the arguments, scalars as 0-d arrays of exactly the parameter's type, arrays as they are.

    Raises
    ------
    TypeError, ValueError
        In one line that names the argument.
    """
    if len(arguments) != len(parameters):
        names = ", ".join(p.name for p in parameters)
        raise TypeError(f"{kernel} takes {len(parameters)} arguments ({names}), got {len(arguments)}")
    checked = []
    for parameter, value in zip(parameters, arguments, strict=True):
        where = f"{kernel}: {parameter.name} ({parameter.type})"
        if parameter.pointer:
            checked.append(None if value is None else _array(where, parameter, value, target))
        else:
            checked.append(_scalar(where, parameter, value))
    return checked


def _array(where: str, parameter: Parameter, value: Any, target: str) -> Any:
    wanted = "a CuPy array" if target == "cuda" else "a NumPy array"
    fits = is_cupy(value) if target == "cuda" else isinstance(value, np.ndarray)
    if not fits:
        kind = "a CuPy array" if is_cupy(value) else type(value).__name__
        raise TypeError(f"{where} must be {wanted} for target={target!r}, got {kind}")
    if parameter.dtype is not None and value.dtype != parameter.dtype:
        raise TypeError(f"{where} must be an array of {parameter.dtype}, got {value.dtype}")
    if not value.flags.c_contiguous:
        raise ValueError(f"{where} must be C-contiguous, got strides {value.strides} for shape {value.shape}")
    if value.size % parameter.lanes:
        raise ValueError(f"{where} must have a multiple of {parameter.lanes} elements, got {value.size}")
    if target == "cpu":
        if parameter.writable and not value.flags.writeable:
            raise ValueError(f"{where} must be writable, got a read-only array")
        aligned = value.flags.aligned and parameter.alignment <= value.dtype.alignment  # NumPy knows
        if not aligned and address_of(value) % parameter.alignment:
            raise ValueError(f"{where} must be aligned to {parameter.alignment} bytes, got an array that is not")
    return value


def address_of(array: Any) -> int:
    """Return where an array's data starts, the quick way: this is much of what a small launch costs."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # a read-only array, or an empty one
        return int(array.ctypes.data)


def _scalar(where: str, parameter: Parameter, value: Any) -> np.ndarray:
    dtype = parameter.dtype
    if dtype is None or parameter.lanes > 1:
        return _structure(where, value)
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if value.dtype != dtype:
            raise TypeError(f"{where} must be {dtype}, got {value.dtype} {value}")
        return np.array(value)
    if type(value) is bool and dtype.kind == "b":
        return np.array(value)
    if type(value) is int and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{where} must be between {limits.min} and {limits.max}, got {value}")
        return np.array(value, dtype)
    if type(value) is float and dtype.kind == "f" and dtype.itemsize >= 4:
        # A value that float32 cannot hold would silently become inf.
        if abs(value) != float("inf") and abs(value) > np.finfo(dtype).max:
            raise ValueError(f"{where} must fit into {dtype}, got {value}")
        return np.array(value, dtype)
    raise TypeError(f"{where} must be {dtype}, got {type(value).__name__} {value!r}")


def _structure(where: str, value: Any) -> np.ndarray:
    """Structs travel as NumPy records, ctypes structures, or for vector types as arrays of their lanes."""
    if isinstance(value, ctypes.Structure):
        return np.frombuffer(bytes(value), np.dtype(f"V{ctypes.sizeof(value)}"), 1)[0:1].copy().reshape(())
    if isinstance(value, np.void) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return np.array(value)
    raise TypeError(
        f"{where} is passed by value: give a 0-d NumPy array of a structured dtype (align=True) "
        f"or a ctypes.Structure, got {type(value).__name__}"
    )
