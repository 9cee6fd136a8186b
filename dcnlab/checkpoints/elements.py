"""The element types of checkpoints, under the names that the file formats give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Element:
    """One type: its storage class in torch, its name in safetensors, how it lies in a file, what is returned."""

    torch: str
    safetensors: str
    stored: np.dtype[Any]  # little-endian
    loaded: np.dtype[Any]


def _element(torch: str, safetensors: str, stored: str, loaded: str | None = None) -> Element:
    plain = np.dtype(stored)
    return Element(torch, safetensors, plain.newbyteorder("<"), np.dtype(loaded) if loaded else plain)


ELEMENTS = (
    _element("DoubleStorage", "F64", "f8"),
    _element("FloatStorage", "F32", "f4"),
    _element("HalfStorage", "F16", "f2"),
    _element("BFloat16Storage", "BF16", "u2", "f4"),  # NumPy has no bfloat16; float32 holds each exactly
    _element("LongStorage", "I64", "i8"),
    _element("IntStorage", "I32", "i4"),
    _element("ShortStorage", "I16", "i2"),
    _element("CharStorage", "I8", "i1"),
    _element("ByteStorage", "U8", "u1"),
    _element("BoolStorage", "BOOL", "u1", "?"),
)
BY_TORCH = {element.torch: element for element in ELEMENTS}
BY_SAFETENSORS = {element.safetensors: element for element in ELEMENTS}
# What can be written: bfloat16 is read only, since it comes back as float32.
BY_DTYPE = {element.loaded: element for element in ELEMENTS if element.safetensors != "BF16"}


def decoded(stored: np.ndarray, element: Element) -> np.ndarray:
    """A new contiguous array of the element's `loaded` type from a view, of any strides, of the stored numbers.

    bfloat16 is the upper half of a float32: its bits shifted by 16 are the same number, NaN payloads included. Booleans
    are bytes; any but 0 is True, and the array returned holds only 0 and 1.
    """
    if element.safetensors == "BF16":
        bits = stored.astype(np.uint32, order="C")
        np.left_shift(bits, 16, out=bits)
        return bits.view(np.float32)
    if element.safetensors == "BOOL":
        return np.asarray(stored != 0, order="C")
    return np.array(stored, dtype=element.loaded, order="C", copy=True)
