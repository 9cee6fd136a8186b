"""Which kernels there are, and which of them an operator uses on each target: the one table."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dcnlab.compiled.dcnv3_rungs import DCNV3_RUNGS
from dcnlab.compiled.fused_rungs import FUSED_RUNGS
from dcnlab.compiled.rung import TARGETS, Problem, Rung
from dcnlab.launch import Kernel, module

# What a thread takes at a time, where a kernel has the number compiled in: 1 on a GPU, which has enough threads. A CPU
# gets its vector instructions, and work to do while it waits for memory, from loops inside a thread.
ELEMENTS = {"cpu": 128, "cuda": 1}
SOFTMAX_ROWS = {"cpu": 32, "cuda": 1}
CHANNEL_ROWS = {"cpu": 8, "cuda": 8}  # whose sums are scattered together, on a GPU too
PIXELS = {"cpu": 8, "cuda": 1}  # of an image row


RUNGS = {
    (rung.operator, rung.idea): rung
    for rung in (
        Rung("sampling", "1_naive", "sample_bilinear"),
        *DCNV3_RUNGS,
        Rung("deform_conv2d_forward", "1_naive", "deform_conv2d_forward_naive"),
        Rung("deform_conv2d_forward", "2_columns", "deform_conv2d_columns", has_width=True),
        Rung("deform_conv2d_backward", "1_naive", "deform_conv2d_backward_naive"),
        Rung("deform_conv2d_backward", "2_columns", "deform_conv2d_columns_backward", has_width=True),
        *FUSED_RUNGS,
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


@lru_cache(maxsize=256)
def kernel(rung: Rung, name: str, target: str, mode: str = "fast", thread_order: Any = "forward") -> Kernel:
    """Return one kernel by its name expression, compiled; kept between calls."""
    return module(rung.path, [name], target=target, mode=mode, thread_order=thread_order)[name]
