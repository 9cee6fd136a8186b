"""What is known about arrays: which library they come from, which types are allowed, how work is cut up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the reference runs on both

FLOAT_TYPES = ("float32", "float64")

# Columns of one block: large enough that BLAS and the sparse product run at full speed, small enough to stay
# in the cache between them and to bound the workspace whatever the size of the image.
BLOCK_BYTES = 16 * 2**20

# glibc hands a freed block back to the system unless it is smaller than the largest one freed so far (up to 32 MiB),
# and getting it again costs a page fault every 4 KiB: a third of the time of a small operator. Freeing one large
# block, which is never touched and so costs nothing, makes it keep ours.
np.empty(2**25 - 2**16, np.uint8)


def is_cupy(array: Array) -> bool:
    """Whether `array` is a CuPy array. Never imports CuPy."""
    return type(array).__module__.partition(".")[0] == "cupy"


def as_numpy(array: Array) -> np.ndarray:
    """Return `array` on the host, as a NumPy array."""
    return array.get() if is_cupy(array) else np.asarray(array)


def lies_channels_last(images: Array) -> bool:
    """Whether an NCHW array is a view of a contiguous NHWC one, and not contiguous itself."""
    return bool(images.transpose(0, 2, 3, 1).flags.c_contiguous and not images.flags.c_contiguous)


def array_module(*arrays: Array) -> Any:
    """Return the module (numpy or cupy) that the arrays belong to.

    CuPy is taken from `sys.modules`: whoever passes a CuPy array has imported it; nobody else pays for it.
    """
    return sys.modules["cupy"] if any(is_cupy(array) for array in arrays) else np


def sparse_module(xp: Any) -> Any:
    """Return the sparse matrices that go with the array module `xp`: scipy.sparse or cupyx.scipy.sparse."""
    if xp is np:
        import scipy.sparse as sparse
    else:
        import cupyx.scipy.sparse as sparse
    return sparse


@lru_cache(maxsize=64)
def type_name(dtype: np.dtype) -> str:
    """Return the name of a dtype, such as "float32"; NumPy puts it together anew each time."""
    return dtype.name


def require_arrays(operator: str, dtypes: tuple[str, ...] = FLOAT_TYPES, /, **arrays: Array) -> None:
    """Refuse anything but arrays of one library and one of `dtypes`; None stands for 'absent'.

    Raises
    ------
    TypeError
        Naming the argument, with what was expected and what came.
    """
    present = {name: array for name, array in arrays.items() if array is not None}
    for name, array in present.items():
        if not (isinstance(array, np.ndarray) or is_cupy(array)):
            raise TypeError(f"{operator}: {name} must be a NumPy or CuPy array, got {type(array).__name__}")
        if type_name(array.dtype) not in dtypes:
            half = " (float16 is for the backends 'cpu' and 'cuda')" if array.dtype.name == "float16" else ""
            raise TypeError(f"{operator}: {name} must be {' or '.join(dtypes)}, got {array.dtype}{half}")
    first, *others = present.items()
    for name, array in others:
        if array.dtype != first[1].dtype:
            raise TypeError(
                f"{operator}: all arrays must have one dtype, got {first[0]} {first[1].dtype} and {name} {array.dtype}"
            )
        if is_cupy(array) != is_cupy(first[1]):
            raise TypeError(
                f"{operator}: {first[0]} is a {'CuPy' if is_cupy(first[1]) else 'NumPy'} array, {name} is not"
            )


def require_shape(operator: str, name: str, array: Array, formula: str, expected: tuple[Any, ...]) -> None:
    """Refuse an array whose shape is not `expected`; a str in `expected` stands for any size.

    Raises
    ------
    ValueError
        Showing the shape formula, the numbers of this call, and what came.
    """
    fits = len(array.shape) == len(expected) and all(
        isinstance(want, str) or want == got for want, got in zip(expected, array.shape, strict=True)
    )
    if not fits:
        numbers = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        shown = formula if formula == f"({numbers})" else f"{formula} = ({numbers})"
        raise ValueError(f"{operator}: {name} must have shape {shown}, got {tuple(array.shape)}")


def blocks(length: int, bytes_each: int, bytes_block: int | None = None) -> Iterator[slice]:
    """Cut `range(length)` into slices whose workspace stays near `bytes_block`, given the bytes of one item.

    `bytes_block` is `BLOCK_BYTES` unless given.

    >>> [(b.start, b.stop) for b in blocks(5, BLOCK_BYTES // 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    # Equal parts: a short last block would cost almost as much as a full one.
    count = max(1, -(-length * bytes_each // (bytes_block or BLOCK_BYTES)))
    step = max(1, -(-length // count))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
