"""One launch that a student's kernel is tried with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class KernelCase:
    """One launch of the student's kernel.

    Attributes
    ----------
    title : str
    grid, block : int
    arguments : mapping
        In their order; the arrays that are written hold what they hold before the launch, NaN or 0.
    busy : int
        How many threads of the grid have an output to work out, or, with `every_block`, of each block.
    every_block : bool
    """

    title: str
    grid: int
    block: int
    arguments: Arguments
    busy: int
    every_block: bool = False

    def spare(self, block: int, thread: int) -> bool:
        """Return whether a thread has nothing to do."""
        return (thread if self.every_block else block * self.block + thread) >= self.busy
