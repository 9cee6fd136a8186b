"""NumPy's .npz: a zip archive of .npy files. Object arrays, which are pickles, are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from dcnlab.checkpoints.archive import Archive
from dcnlab.checkpoints.bounds import checked_shape, shown
from dcnlab.checkpoints.elements import BY_DTYPE
from dcnlab.errors import UnsafeCheckpoint

_SUFFIX = ".npy"
# What NumPy writes, to the letter. Its own reader evaluates the text as a Python literal, which costs more stack and
# memory than the text is long.
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[a-zA-Z?][0-9]{0,3})', 'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,19}, ?)*(?:[0-9]{1,19})?)\), ?\} *\n?"
)


def is_npz_archive(archive: Archive) -> bool:
    """Whether every member is an .npy file."""
    return all(name.endswith(_SUFFIX) for name in archive.entries)


def read_npz(archive: Archive) -> dict[str, np.ndarray]:
    """The arrays, each contiguous and its own."""
    return {name.removesuffix(_SUFFIX): _array(name, archive.read(name)) for name in archive.entries}


def _array(name: str, content: memoryview) -> np.ndarray:
    start, header = _header(name, content)
    found = _HEADER.fullmatch(header)
    if found is None:
        raise UnsafeCheckpoint(f"member {shown(name)}: expected a plain array, got the header {shown(header.strip())}")
    stored = _dtype(name, found[1])
    shape = checked_shape([int(size) for size in re.findall("[0-9]+", found[3])])
    expected = math.prod(shape) * stored.itemsize
    if len(content) - start != expected:
        raise ValueError(f"member {shown(name)}: {len(content) - start} bytes for {shown(shape)}, expected {expected}")
    flat = np.frombuffer(content, stored, math.prod(shape), start) if expected else np.zeros(0, stored)
    array = flat.reshape(shape[::-1]).T if found[2] == "True" else flat.reshape(shape)
    return np.array(array, dtype=stored.newbyteorder("="), order="C", copy=True)


def _header(name: str, content: memoryview) -> tuple[int, str]:
    """Where the numbers begin, and the text before them."""
    version = content[6] if len(content) > 12 and content[:6] == b"\x93NUMPY" else 0
    if version not in (1, 2, 3):
        raise ValueError(f"member {shown(name)}: expected an .npy file")
    begin = 10 if version == 1 else 12
    stop = begin + int.from_bytes(content[8:begin], "little")
    if stop > min(len(content), 10_000):
        raise UnsafeCheckpoint(f"member {shown(name)}: its header ends at byte {stop} of {len(content)}")
    return stop, bytes(content[begin:stop]).decode("latin-1")


def _dtype(name: str, text: str) -> np.dtype[Any]:
    known = {dtype.str.lstrip("<>|"): dtype for dtype in BY_DTYPE}
    bare = text.lstrip("<>|=")
    if bare not in known:
        raise UnsafeCheckpoint(f"member {shown(name)}: expected numbers of {', '.join(known)}, got {shown(text)}")
    return known[bare].newbyteorder(">" if text[0] == ">" else "<")
