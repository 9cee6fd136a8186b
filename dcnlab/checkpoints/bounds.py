"""What a checkpoint file may ask for: how much memory, how many objects, which shapes; and how its text is shown.

A reader that meets a hostile file must stay within memory and time that its caller can predict. All limits are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dcnlab.errors import UnsafeCheckpoint

MIB = 2**20
MAX_PICKLE_BYTES = 64 * MIB  # InternImage-H with its optimizer needs about 1 MiB
MAX_OBJECTS = 2_000_000  # opcodes of a pickle or values in a JSON header; the same file needs about 200 000
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
MAX_MEMBERS = 100_000  # of a zip archive
MAX_DIMENSIONS = 32

_FREE = 64 * MIB
_GROWTH = 8
_UNITS = ((10**15, "PB"), (10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def memory_allowance(file_size: int) -> int:
    """Bytes that the contents of a file of `file_size` bytes may take in memory: 64 MiB, plus 8 times its size.

    Weights hardly compress, bfloat16 doubles, and a tied weight comes back once for each of its names; factors beyond
    that come from a zip bomb, or from a view that repeats one number billions of times.
    """
    return _FREE + _GROWTH * file_size


def check_allowance(wanted: int, file_size: int, what: str) -> None:
    """Raise `UnsafeCheckpoint` if `what` wants more bytes than `memory_allowance` gives a file of this size."""
    allowed = memory_allowance(file_size)
    if wanted > allowed:
        raise UnsafeCheckpoint(f"{what} would take {size_text(wanted)}, expected at most {size_text(allowed)}")


def is_natural(value: object) -> bool:
    """Whether `value` is a plain int (no bool) from 0 to 2^63 - 1, what sizes, offsets and strides must be."""
    return type(value) is int and 0 <= value < 2**63


def checked_shape(shape: object, itemsize: int = 8) -> tuple[int, ...]:
    """`shape` as a tuple of ints that NumPy can hold.

    Raises
    ------
    ValueError
        If it is not a list or tuple of natural numbers, has too many dimensions, or spans over 2^63 bytes (zeros left
        out: NumPy refuses an empty array too if its other dimensions are too large).
    """
    # The length first: a pickle may show one long tuple as the shape of a million tensors.
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"expected a shape of at most {MAX_DIMENSIONS} dimensions, got {shown(shape)}")
    if not all(is_natural(size) for size in shape):
        raise ValueError(f"expected a shape of whole numbers, got {shown(shape)}")
    if math.prod(size for size in shape if size) * itemsize >= 2**63:
        raise UnsafeCheckpoint(f"shape {shown(shape)} is larger than any memory")
    return tuple(shape)


def shown(value: object) -> str:
    """What a message may say of a value out of a file: short, one line, printable, whatever the value holds."""
    if isinstance(value, str):
        printed = ascii(value[:100])  # an escape takes up to ten letters
        return printed if len(value) <= 100 and len(printed) <= 100 else printed[:97] + "..."
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a huge number"
    if isinstance(value, list | tuple) and len(value) <= MAX_DIMENSIONS and all(type(entry) is int for entry in value):
        return "(" + ", ".join(shown(entry) for entry in value) + ")"
    return f"a value of type {type(value).__name__}"


def size_text(size: int) -> str:
    """Bytes for people: '1.3 MB'."""
    scale, unit = next((pair for pair in _UNITS if size >= pair[0]), (1, "B"))
    return f"{size / scale:.3g} {unit}"


def dtype_summary(names: Sequence[str]) -> str:
    """`float32 x 110, int64 x 2`: which types, most frequent first."""
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{name} x {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))
