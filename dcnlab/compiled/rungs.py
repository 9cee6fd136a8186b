"""Which kernels there are, and which of them an operator uses on each target: the one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dcnlab.launch import Kernel, module

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
class Rung:
    """One kernel of a ladder.

    Attributes
    ----------
    operator : str
    idea : str
        The file is kernels/<operator>/<idea>.cu.
    kernel : str
        Its template ``<T, A>``, then WIDTH and EACH where it has them: type of the arrays, type of the arithmetic,
        channels at a time, and how many a thread takes.
    has_width : bool
    each : dict, optional
        EACH on each target.
    """

    operator: str
    idea: str
    kernel: str
    has_width: bool = False
    each: Mapping[str, int] | None = None

    @property
    def path(self) -> str:
        """The file, relative to the folder of the kernels."""
        return f"{self.operator}/{self.idea}.cu"

    def instance(self, dtype: Any, width: int | None = None, target: str = "cpu") -> str:
        """Return the name expression of the kernel for arrays of `dtype`.

        >>> RUNGS["dcnv3_backward", "2_point"].instance("float16", 8)
        'dcnv3_backward_point<__half, float, 8>'
        """
        types = [_C_TYPES[np.dtype(dtype).name], _C_TYPES[arithmetic(dtype).name]]
        numbers = [str(width)] * self.has_width + ([str(self.each[target])] if self.each else [])
        return f"{self.kernel}<{', '.join(types + numbers)}>"

    def instances(self, target: str = "cpu") -> list[str]:
        """Return the name expressions of all dtypes and widths."""
        widths = WIDTHS if self.has_width else (None,)
        return [self.instance(dtype, width, target) for dtype in DTYPES for width in widths]

    def threads(self, count: int, target: str, rows: int = 1) -> int:
        """Return how many threads take `count` elements, or `count` in each of `rows` that no thread goes beyond."""
        return rows * (-(-count // self.each[target]) if self.each else count)


RUNGS = {
    (rung.operator, rung.idea): rung
    for rung in (
        Rung("sampling", "1_naive", "sample_bilinear"),
        Rung("dcnv3_forward", "1_naive", "dcnv3_forward_naive"),
        Rung("dcnv3_forward", "2_point", "dcnv3_forward_point", has_width=True, each=TAP_ROWS),
        Rung("dcnv3_backward", "1_atomic", "dcnv3_backward_atomic"),
        Rung("dcnv3_backward", "2_point", "dcnv3_backward_point", has_width=True),
        Rung("deform_conv2d_forward", "1_naive", "deform_conv2d_forward_naive"),
        Rung("deform_conv2d_forward", "2_columns", "deform_conv2d_columns", has_width=True),
        Rung("deform_conv2d_backward", "1_naive", "deform_conv2d_backward_naive"),
        Rung("deform_conv2d_backward", "2_columns", "deform_conv2d_columns_backward", has_width=True),
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

# The rung in use. The callers know how to call these; a new rung with the same arguments slots in here.
_BEST = {
    "dcnv3_forward": "2_point",
    "dcnv3_backward": "2_point",
    "deform_conv2d_forward": "2_columns",
    "deform_conv2d_backward": "2_columns",
    "depthwise_conv2d_forward": "1_run",
    "depthwise_conv2d_backward": "1_run",
    "layer_norm_forward": "1_row",
    "layer_norm_backward": "1_rows",
    "gelu_forward": "1_run",
    "gelu_backward": "1_run",
    "softmax_forward": "1_rows",
    "softmax_backward": "1_rows",
}
IN_USE = {(operator, target): idea for operator, idea in _BEST.items() for target in TARGETS}


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
def kernel(
    operator: str,
    idea: str,
    dtype: str,
    width: int | None,
    target: str,
    mode: str = "fast",
    thread_order: Any = "forward",
) -> Kernel:
    """Return one kernel, compiled; kept between calls."""
    rung = RUNGS[operator, idea]
    name = rung.instance(dtype, width, target)
    return module(rung.path, [name], target=target, mode=mode, thread_order=thread_order)[name]
