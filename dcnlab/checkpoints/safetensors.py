"""The safetensors format: the length of a JSON header (uint64), the header, and the tensors end to end, little-endian.

{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"text": "text"}}
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from dcnlab.checkpoints.bounds import MAX_HEADER_BYTES, MAX_OBJECTS, checked_shape, is_natural, shown, size_text
from dcnlab.checkpoints.elements import BY_SAFETENSORS, Element, decoded
from dcnlab.errors import UnsafeCheckpoint

METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    element: Element
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like_safetensors(data: memoryview) -> bool:
    """Whether a JSON object follows the first eight bytes."""
    return len(data) > 8 and data[8] == ord("{")


def read_safetensors(mapped: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays that are views, read-only, of the mapped file; copied are bfloat16, which
    NumPy lacks, booleans, and tensors that a writer placed across word boundaries.

    The tensors must fill the file without holes or overlaps, so what is returned is bounded by the file's size.
    """
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    if len(mapped) < 8 or length > len(mapped) - 8 or length > MAX_HEADER_BYTES:
        limit = size_text(min(MAX_HEADER_BYTES, max(0, len(mapped) - 8)))
        raise UnsafeCheckpoint(f"expected a safetensors header of at most {limit}, got {size_text(length)}")
    header = _parsed(mapped[8 : 8 + length].tobytes())
    entries = [_entry(name, fields) for name, fields in header.items() if name != METADATA]
    content = mapped[8 + length :]
    _check_layout(entries, len(content))
    return {entry.name: _array(entry, content) for entry in entries}


def _parsed(header: bytes) -> dict[str, object]:
    if sum(header.count(sign) for sign in (b",", b"[", b"{")) > MAX_OBJECTS:
        raise UnsafeCheckpoint(f"the header describes over {MAX_OBJECTS} objects")
    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise UnsafeCheckpoint("the header is nested too deeply") from None
    except UnsafeCheckpoint:
        raise
    except ValueError as error:
        raise ValueError(f"the header is no JSON: {shown(str(error))}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"expected a JSON object as header, got {shown(parsed)}")
    return parsed


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UnsafeCheckpoint("the header names something twice")
    return fields


def _entry(name: str, fields: object) -> _Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {shown(name)}: expected dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS:
        raise ValueError(f"tensor {shown(name)}: expected a dtype of {', '.join(BY_SAFETENSORS)}, got {shown(dtype)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_natural(offset) for offset in offsets):
        raise ValueError(f"tensor {shown(name)}: expected two data_offsets, got {shown(offsets)}")
    element = BY_SAFETENSORS[dtype]
    sizes = checked_shape(shape)
    expected = math.prod(sizes) * element.stored.itemsize
    if offsets[1] - offsets[0] != expected:
        raise UnsafeCheckpoint(
            f"tensor {shown(name)}: {dtype} of {shown(sizes)} takes {expected} bytes, got data_offsets {shown(offsets)}"
        )
    return _Entry(name, element, sizes, offsets[0], offsets[1])


def _check_layout(entries: list[_Entry], size: int) -> None:
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            kind = "a hole" if entry.begin > position else "an overlap"
            raise UnsafeCheckpoint(f"{kind} before tensor {shown(entry.name)}: begins at {entry.begin}, not {position}")
        position = entry.end
    if position != size:
        raise ValueError(f"the tensors take {position} bytes, but {size} follow the header")


def _array(entry: _Entry, content: np.ndarray) -> np.ndarray:
    stored = content[entry.begin : entry.end].view(entry.element.stored).reshape(entry.shape)
    if entry.element.loaded == stored.dtype and stored.flags.aligned:
        return stored
    return decoded(stored, entry.element)
