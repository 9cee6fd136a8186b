"""What a launch asks of global memory, in bytes: counted by mode "check", which sees every access.

Bytes asked for, not bytes moved: what a cache answers is counted too, and what the compiler keeps in a register is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dcnlab.launch.signature import Parameter


class Traffic(NamedTuple):
    """Bytes read, written, and changed by atomic functions."""

    read: int
    written: int
    atomic: int

    @property
    def total(self) -> int:
        """All of them, each once."""
        return sum(self)


class Counters(ctypes.Structure):
    """Mirror of Traffic in kernels/cpu/control.h."""

    _fields_ = (("read", ctypes.c_uint64), ("written", ctypes.c_uint64), ("atomic", ctypes.c_uint64))


def traffic_from(counters: Iterable[Counters], parameters: Sequence[Parameter]) -> dict[str, Traffic]:
    """Return the counters of the array arguments, by name.

    An array that is given for two parameters is counted under the later one.
    """
    return {
        parameter.name: Traffic(counter.read, counter.written, counter.atomic)
        for parameter, counter in zip(parameters, counters, strict=False)
        if parameter.pointer
    }
