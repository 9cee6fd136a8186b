"""Copies of the arrays of a launch in mode "check" or "ubsan", each between fences of memory that belongs to nobody.

Arrays that NumPy laid next to each other would hide an access past the end of one in the other; and in mode "ubsan",
which does not look at addresses, a write a little past the end must not hit Python's own memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FENCE = 1 << 16
ALIGNMENT = 64


class Arena:
    """Room for the array arguments of one launch; the same array given twice has one copy.

    Arrays that overlap without being the same stay where they are.
    """

    def __init__(self, arrays: list[Any]) -> None:
        self._arrays = {self._key(array): array for array in arrays if array is not None and array.size}
        self._copies: dict[tuple[int, int], np.ndarray] = {}
        apart = [array for array in self._arrays.values() if not self._overlaps(array)]
        room = np.empty(sum(array.nbytes + 2 * FENCE for array in apart) + FENCE, np.uint8)
        start = FENCE - room.ctypes.data % ALIGNMENT
        for array in apart:
            copy = room[start : start + array.nbytes]
            copy[:] = array.reshape(-1).view(np.uint8)
            self._copies[self._key(array)] = copy
            start += -(-(array.nbytes + FENCE) // ALIGNMENT) * ALIGNMENT

    def address(self, array: np.ndarray) -> int:
        """Return where the kernel finds the array."""
        copy = self._copies.get(self._key(array))
        return int(array.ctypes.data if copy is None else copy.ctypes.data)

    def copy_back(self) -> None:
        """Bring what the kernel wrote into the arrays."""
        for key, copy in self._copies.items():
            array = self._arrays[key]
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = copy

    def _overlaps(self, array: np.ndarray) -> bool:
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        others = (o for key, o in self._arrays.items() if key != self._key(array))
        return any(start < o.ctypes.data + o.nbytes and o.ctypes.data < end for o in others)

    @staticmethod
    def _key(array: np.ndarray) -> tuple[int, int]:
        return array.ctypes.data, array.nbytes
