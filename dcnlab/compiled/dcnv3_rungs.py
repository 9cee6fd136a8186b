"""The rungs of DCNv3: which problems they take, and their grids. `rungs` puts them into the one table."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from dcnlab.compiled.rung import MOST_IMAGES, THREADS, Launch, Problem, Rung, arithmetic, thread_a_channel

# Rows (pixel, group) of taps of a thread of rung 2: see rungs.py.
TAP_ROWS = {"cpu": 8, "cuda": 1}
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


DCNV3_RUNGS = (
    Rung("dcnv3_forward", "1_naive", "dcnv3_forward_naive", plan=thread_a_channel),
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
    Rung("dcnv3_backward", "1_atomic", "dcnv3_backward_atomic", plan=thread_a_channel),
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
)
