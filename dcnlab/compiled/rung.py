"""What a rung is: one kernel of a ladder, the problems it takes, and how it is launched on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

THREADS = 128  # of a block, unless a rung plans otherwise
MOST_IMAGES = 65535  # of a launch, the limit of a grid's second dimension; the kernels go on from there

TARGETS = ("cpu", "cuda")
DTYPES = ("float32", "float64", "float16")
_C_TYPES = {"float16": "__half", "float32": "float", "float64": "double"}

# Channels that a thread works on at a time, where a kernel has the number compiled in; any group width works with any.
WIDTHS = (4, 8, 16)
# On a CPU they fill up to one vector register of 64 bytes, on a GPU one load of 16 bytes.
WIDTH_BYTES = {"cpu": 64, "cuda": 16}


@lru_cache(maxsize=64)
def arithmetic(dtype: Any) -> np.dtype:
    """Return the type that kernels compute in: float64 for float64, float32 for float32 and float16."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def width_for(channels: int, dtype: Any, target: str) -> int:
    """Return how many channels at a time suit a group of `channels`: the largest width that fits, else the smallest.

    >>> [width_for(n, "float32", "cpu") for n in (1, 12, 64)]
    [4, 8, 16]
    >>> width_for(64, "float64", "cpu"), width_for(64, "float32", "cuda")
    (8, 4)
    """
    most = min(channels, WIDTH_BYTES[target] // arithmetic(dtype).itemsize)
    return max((width for width in WIDTHS if width <= most), default=WIDTHS[0])


@dataclass(frozen=True)
class Problem:
    """What a rung is chosen for, and launched on.

    Attributes
    ----------
    target : {"cpu", "cuda"}
    dtype : str
        Of the arrays.
    channels : int
        How many lie next to each other: of a group, of a row.
    count : int
        Elements, pixels, or rows (pixel, group) of taps: of one image, and of each of `rows`.
    images, rows : int
    sizes : tuple of (name, number)
        The shape record that the kernel gets, where it gets one; read as ``problem["taps"]``.
    of_logits : bool
        The modulation is the softmax over the taps of what is in the mask's place.
    """

    target: str
    dtype: str
    channels: int
    count: int
    images: int = 1
    rows: int = 1
    sizes: tuple[tuple[str, int], ...] = ()
    of_logits: bool = False

    def __getitem__(self, name: str) -> int:
        return dict(self.sizes)[name]


class Launch(NamedTuple):
    """A grid (blocks of an image, images), threads of a block, bytes of dynamic shared memory."""

    grid: tuple[int, ...]
    block: int
    shared_bytes: int = 0


Choices = tuple[tuple[Any, ...], ...]


def anything(problem: Problem) -> bool:
    """Take any problem: what a general rung does."""
    return True


@dataclass(frozen=True, eq=False)  # a rung is itself: as a key, too
class Rung:
    """One kernel of a ladder.

    Attributes
    ----------
    operator : str
    idea : str
        The file is kernels/<operator>/<idea>.cu.
    kernel : str
        Its template ``<T, A>``, then WIDTH and EACH where it has them: type of the arrays, type of the arithmetic,
        channels at a time, and how many a thread takes. Or, with `choices`, what these say.
    has_width : bool
    each : dict, optional
        EACH on each target.
    dtypes : tuple of str
        Of the arrays it takes.
    fits : callable
        ``fits(problem)``: whether it takes a problem of these types. General rungs take all.
    takes_logits : bool
        Whether it can take the softmax itself, where the problem asks for it.
    choices : tuple of tuple, or dict of them by dtype, optional
        All template arguments after ``<T, A>`` that it is compiled with, in place of WIDTH and EACH.
    choose : callable, optional
        ``choose(problem)`` returns one of `choices`.
    plan : callable, optional
        ``plan(problem)`` returns the `Launch`; by default a thread for every EACH of the problem's count.
    parts : dict of Rung
        Further kernels of the same file, which the caller launches before this one.
    typed : bool
        Whether it is a template; a part may do without.
    """

    operator: str
    idea: str
    kernel: str
    has_width: bool = False
    each: Mapping[str, int] | None = None
    dtypes: tuple[str, ...] = DTYPES
    fits: Callable[[Problem], bool] = anything
    takes_logits: bool = False
    choices: Choices | Mapping[str, Choices] | None = None
    choose: Callable[[Problem], tuple[Any, ...]] | None = None
    plan: Callable[[Problem], Launch] | None = None
    parts: Mapping[str, Rung] = field(default_factory=dict)
    typed: bool = True

    @property
    def path(self) -> str:
        """The file, relative to the folder of the kernels."""
        return f"{self.operator}/{self.idea}.cu"

    def takes(self, problem: Problem) -> bool:
        """Return whether it can solve a problem."""
        if problem.of_logits and not self.takes_logits:
            return False
        return problem.dtype in self.dtypes and self.fits(problem)

    def instance(self, dtype: Any, width: int | None = None, target: str = "cpu") -> str:
        """Return the name expression of the kernel for arrays of `dtype`; of the first of its `choices`.

        >>> Rung("dcnv3_backward", "2_point", "dcnv3_backward_point", has_width=True).instance("float16", 8)
        'dcnv3_backward_point<__half, float, 8>'
        """
        if self.choices is not None:
            return self._named(dtype, self._choices(dtype)[0])
        return self._named(dtype, [width] * self.has_width + ([self.each[target]] if self.each else []))

    def instance_for(self, problem: Problem) -> str:
        """Return the name expression of the kernel for a problem."""
        if self.choices is not None:
            assert self.choose is not None
            return self._named(problem.dtype, self.choose(problem))
        return self.instance(problem.dtype, width_for(problem.channels, problem.dtype, problem.target), problem.target)

    def instances(self, target: str = "cpu") -> list[str]:
        """Return the name expressions of all dtypes and widths, or `choices`, and those of its parts."""
        if self.choices is not None:
            found = [self._named(dtype, choice) for dtype in self.dtypes for choice in self._choices(dtype)]
            parts = (
                name for part in self.parts.values() for name in replace(part, dtypes=self.dtypes).instances(target)
            )
            return list(dict.fromkeys([*found, *parts]))
        widths = WIDTHS if self.has_width else (None,)
        return [self.instance(dtype, width, target) for dtype in self.dtypes for width in widths]

    def launch(self, problem: Problem) -> Launch:
        """Return how the kernel is launched on a problem."""
        if self.plan is not None:
            return self.plan(problem)
        each = self.each[problem.target] if self.each else 1
        threads = problem.rows * -(-problem.count // each)
        return Launch((-(-threads // THREADS), min(problem.images, MOST_IMAGES)), THREADS)

    def _choices(self, dtype: Any) -> Choices:
        assert self.choices is not None
        return self.choices[np.dtype(dtype).name] if isinstance(self.choices, Mapping) else self.choices

    def _named(self, dtype: Any, numbers: Sequence[Any]) -> str:
        if not self.typed:
            return self.kernel
        types = [_C_TYPES[np.dtype(dtype).name], _C_TYPES[arithmetic(dtype).name]]
        return f"{self.kernel}<{', '.join(types + [str(n) for n in numbers])}>"


def thread_a_channel(problem: Problem) -> Launch:
    """Return a thread for every output channel."""
    threads = problem.count * problem.channels
    return Launch((-(-threads // THREADS), min(problem.images, MOST_IMAGES)), THREADS)
