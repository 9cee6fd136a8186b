"""Which kernels there are, and which of them an operator uses on each target: the one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dcnlab.launch import Kernel, module

THREADS = 128  # of a block, unless a rung plans otherwise
MOST_IMAGES = 65535  # of a launch, the limit of a grid's second dimension; the kernels go on from there

TARGETS = ("cpu", "cuda")
DTYPES = ("float32", "float64", "float16")
_C_TYPES = {"float16": "__half", "float32": "float", "float64": "double"}

# Channels that a thread works on at a time, where a kernel has the number compiled in; any group width works with any.
WIDTHS = (4, 8, 16)
# On a CPU they fill up to one vector register of 64 bytes, on a GPU one load of 16 bytes.
WIDTH_BYTES = {"cpu": 64, "cuda": 16}
# What a thread takes at a time, where a kernel has the number compiled in: 1 on a GPU, which has enough threads. A CPU
# gets its vector instructions, and work to do while it waits for memory, from loops inside a thread.
TAP_ROWS = {"cpu": 8, "cuda": 1}  # rows (pixel, group) of taps
ELEMENTS = {"cpu": 128, "cuda": 1}
SOFTMAX_ROWS = {"cpu": 32, "cuda": 1}
CHANNEL_ROWS = {"cpu": 8, "cuda": 8}  # whose sums are scattered together, on a GPU too
PIXELS = {"cpu": 8, "cuda": 1}  # of an image row


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


def _anything(problem: Problem) -> bool:
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
    fits: Callable[[Problem], bool] = _anything
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

        >>> RUNGS["dcnv3_backward", "2_point"].instance("float16", 8)
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


def _thread_a_channel(problem: Problem) -> Launch:
    threads = problem.count * problem.channels
    return Launch((-(-threads // THREADS), min(problem.images, MOST_IMAGES)), THREADS)


# Channels of one load of up to 16 bytes, the most first.
VECTORS = {"float32": (4, 2, 1), "float64": (2, 1), "float16": (8, 4, 2, 1)}


def vector_for(problem: Problem) -> int:
    """Return the WIDTH of kernels/include/group_lanes.cuh: it divides the group's width and fills up to 16 bytes.

    >>> vector_for(Problem("cuda", "float32", 16, 1)), vector_for(Problem("cuda", "float16", 14, 1))
    (4, 2)
    """
    return next(width for width in VECTORS[problem.dtype] if problem.channels % width == 0)


def lanes_for(problem: Problem) -> int:
    """Return how many lanes of a warp such vectors of a group take: a power of two.

    >>> lanes_for(Problem("cuda", "float32", 16, 1)), lanes_for(Problem("cuda", "float16", 14, 1))
    (4, 8)
    """
    return 1 << (problem.channels // vector_for(problem) - 1).bit_length()


def _fits_a_warp(problem: Problem) -> bool:
    return lanes_for(problem) <= 32


def _fits_a_warp_in_fours(problem: Problem) -> bool:
    return _fits_a_warp(problem) and problem.channels % 4 == 0


def _lanes_a_row(problem: Problem) -> Launch:
    threads = problem.count * lanes_for(problem)
    return Launch((-(-threads // THREADS), min(problem.images, MOST_IMAGES)), THREADS)


def vector_width(dtype: str) -> int:
    """Return how many channels a load of 16 bytes has on a GPU (kernels/include/vectors.cuh)."""
    return VECTORS[dtype][0]


def _packs_fit(problem: Problem, most: int = 2**29) -> bool:
    """Return whether groups are whole vectors, and an image has few enough for kernels that count them with 32 bits."""
    width = vector_width(problem.dtype)
    pixels = problem["height"] * problem["width"]
    return problem.channels % width == 0 and pixels * problem["groups"] * problem.channels // width < most


def _for_all_images(blocks: int, images: int) -> Launch:
    """Return a grid with a block for every image, in its third dimension where the second is full."""
    return Launch((blocks, min(images, MOST_IMAGES), -(-images // MOST_IMAGES)), THREADS)


def _vector_a_thread(problem: Problem) -> Launch:
    threads = problem.count * problem.channels // vector_width(problem.dtype)
    return _for_all_images(-(-threads // THREADS), problem.images)


RECORD_ROWS = 64  # rows (pixel, group) of taps whose records a block has in shared memory
RECORD_CHOICES = ((RECORD_ROWS, 0), (RECORD_ROWS, 1))  # the mask holds modulation, or logits


def _records_fit(problem: Problem) -> bool:
    return problem["taps"] == 9 and _packs_fit(problem)


def _half_records_fit(problem: Problem) -> bool:
    return problem["taps"] == 9 and _packs_fit(problem, 2**27)


def _records_for(problem: Problem) -> tuple[int, int]:
    return RECORD_CHOICES[problem.of_logits]


def _records_a_block(problem: Problem) -> Launch:
    return _for_all_images(-(-problem.count // RECORD_ROWS), problem.images)


_RECORDS: dict[str, Any] = {"choices": RECORD_CHOICES, "choose": _records_for, "plan": _records_a_block}


# 5_tile: outputs along a side of a block's tile, and pixels along a side of the area it adds up in shared memory.
TILE, AREA = 8, 16
TILE_THREADS = 256
MOST_SHARED_BYTES = 48 * 1024  # of a block, without asking for more


def _tile_bytes(problem: Problem) -> int:
    return AREA * AREA * problem.channels * arithmetic(problem.dtype).itemsize


def _tile_plan(problem: Problem) -> Launch:
    tiles = math.prod(-(-problem[name] // TILE) for name in ("out_height", "out_width"))
    grid = (tiles * problem["groups"], min(problem.images, MOST_IMAGES))
    return Launch(grid, TILE_THREADS, _tile_bytes(problem))


def _backward(idea: str, numbers: tuple[int, ...] = (), least: int = 1, **rest: Any) -> Rung:
    """Return a rung of DCNv3 backward with several lanes a group.

    `numbers` are its template arguments after WIDTH, `least` is its smallest WIDTH.
    """
    return Rung(
        "dcnv3_backward",
        idea,
        f"dcnv3_backward_{idea.partition('_')[2]}",
        choices={
            dtype: tuple((width, *numbers) for width in widths if width >= least) for dtype, widths in VECTORS.items()
        },
        choose=lambda problem: (vector_for(problem), *numbers),
        **{"fits": _fits_a_warp, "plan": _lanes_a_row, **rest},
    )


# 6_deterministic: cells begin from row and column -1 on.
def _cells(problem: Problem) -> int:
    return (problem["height"] + 1) * (problem["width"] + 1)


def _countable(problem: Problem) -> bool:
    taps = problem["out_height"] * problem["out_width"] * problem["taps"]
    return _fits_a_warp(problem) and max(_cells(problem) * problem["groups"], taps) < 2**31


def _block_a_group(problem: Problem) -> Launch:
    return Launch((problem["groups"], min(problem.images, MOST_IMAGES)), 256)


def _thread_a_cell(problem: Problem) -> Launch:
    cells = _cells(problem) * problem["groups"]
    return Launch((-(-cells // THREADS), min(problem.images, MOST_IMAGES)), THREADS)


def _lanes_an_input_row(problem: Problem) -> Launch:
    return _lanes_a_row(replace(problem, count=problem["height"] * problem["width"] * problem["groups"]))


def _part(name: str, **rest: Any) -> Rung:
    return Rung("dcnv3_backward", "6_deterministic", f"dcnv3_backward_{name}", **rest)


_PARTS = {
    "taps": replace(_backward("6_deterministic"), kernel="dcnv3_backward_taps"),
    "fill": _part("fill", choices=((),), choose=lambda problem: ()),
    "scan": _part("scan", choices=((),), choose=lambda problem: (), plan=_block_a_group, typed=False),
    "sort": _part("sort", choices=((),), choose=lambda problem: (), plan=_thread_a_cell, typed=False),
}


# What a block of the fused rungs of deformable convolution has (kernels/include/tiles.cuh), and how the gradient of the
# weights is cut into parts: enough blocks for a GPU, each with work for a while, and sums that keep their accuracy.
TILE_PIXELS, TILE_OUTPUTS, TILE_CHANNELS, TILE_DEPTH = 64, 64, 32, 16
ENOUGH_BLOCKS = 512
PART_PIXELS = (256, 2**14)  # of a part: at least, and about at most


def channel_slice(problem: Problem) -> int:
    """Return how many neighbouring channels always have one offset group and one conv group in common.

    >>> channel_slice(Problem("cpu", "float32", 4, 1, sizes=(("channels", 12), ("groups", 3), ("conv_groups", 2))))
    2
    """
    channels = problem["channels"]
    return math.gcd(channels // problem["groups"], channels // problem["conv_groups"])


def _packed(problem: Problem) -> tuple[str]:
    """Return whether 4 channels of a pixel are one load."""
    return ("true" if channel_slice(problem) % 4 == 0 else "false",)


PACKED = (("true",), ("false",))


def _batch_pixels(problem: Problem) -> int:
    return problem["batch"] * problem["out_height"] * problem["out_width"]


def _output_tiles(problem: Problem) -> int:
    """Return how many tiles the outputs of a conv group are."""
    return -(-problem["outputs"] // problem["conv_groups"] // TILE_OUTPUTS)


def _fused_forward(problem: Problem) -> Launch:
    pixels = -(-_batch_pixels(problem) // TILE_PIXELS)
    return Launch((pixels * problem["conv_groups"] * _output_tiles(problem),), THREADS)


def _fused_backward(problem: Problem) -> Launch:
    pixels = -(-_batch_pixels(problem) // (TILE_PIXELS // 2))
    return Launch((pixels * problem["groups"] * problem["taps"],), THREADS)


def _weight_tiles(problem: Problem) -> int:
    width = channel_slice(problem)
    tiles = problem["channels"] // width * -(-width // TILE_CHANNELS)
    return _output_tiles(problem) * problem["taps"] * tiles


def weight_parts(problem: Problem) -> tuple[int, int]:
    """Return in how many parts the gradient of the weights is summed up, and how many pixels a part has."""
    pixels, (least, most) = _batch_pixels(problem), PART_PIXELS
    parts = min(max(ENOUGH_BLOCKS // _weight_tiles(problem), pixels // most, 1), MOST_IMAGES)
    each = max(-(-pixels // parts // TILE_DEPTH) * TILE_DEPTH, least)
    return -(-pixels // each), each


def _weight_backward(problem: Problem) -> Launch:
    return Launch((_weight_tiles(problem), weight_parts(problem)[0]), THREADS)


def _fits_a_grid(plan: Callable[[Problem], Launch]) -> Callable[[Problem], bool]:
    """Return whether a problem's blocks can be numbered; a GPU's grid has up to 2^31 - 1 in its first dimension."""
    return lambda problem: plan(problem).grid[0] < 2**31


RUNGS = {
    (rung.operator, rung.idea): rung
    for rung in (
        Rung("sampling", "1_naive", "sample_bilinear"),
        Rung("dcnv3_forward", "1_naive", "dcnv3_forward_naive", plan=_thread_a_channel),
        Rung("dcnv3_forward", "2_point", "dcnv3_forward_point", has_width=True, each=TAP_ROWS),
        Rung(
            "dcnv3_forward",
            "3_vector",
            "dcnv3_forward_vector",
            fits=_packs_fit,
            choices=((9,), (0,)),  # taps; 0 takes any number
            choose=lambda problem: (9,) if problem["taps"] == 9 else (0,),
            plan=_vector_a_thread,
        ),
        Rung("dcnv3_forward", "4_records", "dcnv3_forward_records", fits=_records_fit, takes_logits=True, **_RECORDS),
        Rung(
            "dcnv3_forward",
            "5_half",
            "dcnv3_forward_half",
            dtypes=("float16",),
            fits=_half_records_fit,
            takes_logits=True,
            **_RECORDS,
        ),
        Rung("dcnv3_backward", "1_atomic", "dcnv3_backward_atomic", plan=_thread_a_channel),
        Rung("dcnv3_backward", "2_point", "dcnv3_backward_point", has_width=True),
        _backward("3_shuffle"),
        _backward("4_vector_atomic", dtypes=("float32", "float16"), fits=_fits_a_warp_in_fours, least=4),
        _backward(
            "5_tile",
            (TILE, AREA),
            fits=lambda problem: _fits_a_warp(problem) and _tile_bytes(problem) <= MOST_SHARED_BYTES,
            plan=_tile_plan,
        ),
        _backward("6_deterministic", fits=_countable, plan=_lanes_an_input_row, parts=_PARTS),
        Rung("deform_conv2d_forward", "1_naive", "deform_conv2d_forward_naive"),
        Rung("deform_conv2d_forward", "2_columns", "deform_conv2d_columns", has_width=True),
        Rung("deform_conv2d_backward", "1_naive", "deform_conv2d_backward_naive"),
        Rung("deform_conv2d_backward", "2_columns", "deform_conv2d_columns_backward", has_width=True),
        Rung(
            "deform_conv2d_forward",
            "3_fused",
            "deform_conv2d_fused",
            fits=_fits_a_grid(_fused_forward),
            plan=_fused_forward,
            choices=PACKED,
            choose=_packed,
        ),
        Rung(
            "deform_conv2d_backward",
            "3_fused",
            "deform_conv2d_fused_backward",
            fits=_fits_a_grid(_fused_backward),
            plan=_fused_backward,
        ),
        Rung(
            "deform_conv2d_weight_backward",
            "1_parts",
            "deform_conv2d_weight_parts",
            plan=_weight_backward,
            choices=PACKED,
            choose=_packed,
        ),
        Rung("depthwise_conv2d_forward", "1_run", "depthwise_conv2d_forward_run", has_width=True, each=PIXELS),
        Rung("depthwise_conv2d_backward", "1_run", "depthwise_conv2d_backward_run", has_width=True, each=PIXELS),
        Rung("layer_norm_forward", "1_row", "layer_norm_forward_row", has_width=True),
        Rung("layer_norm_backward", "1_rows", "layer_norm_backward_rows", has_width=True, each=CHANNEL_ROWS),
        Rung("gelu_forward", "1_run", "gelu_forward_run", each=ELEMENTS),
        Rung("gelu_backward", "1_run", "gelu_backward_run", each=ELEMENTS),
        Rung("softmax_forward", "1_rows", "softmax_forward_rows", each=SOFTMAX_ROWS),
        Rung("softmax_backward", "1_rows", "softmax_backward_rows", each=SOFTMAX_ROWS),
    )
}

# The rungs of an operator on a target, best first: the first that takes a problem solves it, and the last takes any.
# Rungs that are only there to be read or measured are in no list.
_GENERAL = {
    "dcnv3_forward": ("2_point",),
    "dcnv3_backward": ("2_point",),
    "deform_conv2d_forward": ("2_columns",),
    "deform_conv2d_backward": ("2_columns",),
    "deform_conv2d_weight_backward": ("1_parts",),
    "depthwise_conv2d_forward": ("1_run",),
    "depthwise_conv2d_backward": ("1_run",),
    "layer_norm_forward": ("1_row",),
    "layer_norm_backward": ("1_rows",),
    "gelu_forward": ("1_run",),
    "gelu_backward": ("1_run",),
    "softmax_forward": ("1_rows",),
    "softmax_backward": ("1_rows",),
}
_FASTER = {
    ("dcnv3_forward", "cuda"): ("5_half", "4_records", "3_vector"),
    ("dcnv3_backward", "cuda"): ("4_vector_atomic", "3_shuffle"),
    ("deform_conv2d_forward", "cuda"): ("3_fused",),
    ("deform_conv2d_backward", "cuda"): ("3_fused",),
}
PREFERRED = {
    (operator, target): (*_FASTER.get((operator, target), ()), *ideas)
    for operator, ideas in _GENERAL.items()
    for target in TARGETS
}


def candidates(operator: str, problem: Problem, idea: str | None = None) -> list[Rung]:
    """Return the rungs that take a problem, best first: of those preferred, or the one named."""
    ideas = PREFERRED[operator, problem.target] if idea is None else (idea,)
    return [RUNGS[operator, name] for name in ideas if RUNGS[operator, name].takes(problem)]


def pick(operator: str, problem: Problem, idea: str | None = None) -> Rung:
    """Return the rung that solves a problem: the one named, or the first preferred one that takes it.

    Raises
    ------
    ValueError
        When none takes it.
    """
    for rung in candidates(operator, problem, idea):
        return rung
    names = PREFERRED[operator, problem.target] if idea is None else (idea,)
    raise ValueError(f"{operator} {', '.join(names)} does not take {problem}")


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


@lru_cache(maxsize=256)
def kernel(rung: Rung, name: str, target: str, mode: str = "fast", thread_order: Any = "forward") -> Kernel:
    """Return one kernel by its name expression, compiled; kept between calls."""
    return module(rung.path, [name], target=target, mode=mode, thread_order=thread_order)[name]
