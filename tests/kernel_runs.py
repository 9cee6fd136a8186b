"""Running the kernels of DCNv3 and of sampling on NumPy arrays, as the tests need it."""

from __future__ import annotations

import functools

import numpy as np

from dcnlab.geometry import pair, sampling_grid
from dcnlab.launch import module

SHAPE = np.dtype(
    [(name, np.int32) for name in ("batch", "height", "width", "groups", "group_width")]
    + [(name, np.int32) for name in ("out_height", "out_width", "taps")]
    + [(name, np.int32) for name in ("stride_y", "stride_x", "padding_y", "padding_x")]
    + [("offset_scale", np.float64)],
    align=True,
)
C_NAMES = {"float16": "__half", "float32": "float", "float64": "double"}
THREADS = 128


def arithmetic(dtype):
    """The type that a kernel computes in."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def instance(kernel, dtype, width=None):
    """The name expression of a kernel for arrays of `dtype`."""
    types = [C_NAMES[np.dtype(dtype).name], C_NAMES[arithmetic(dtype).name]]
    return f"{kernel}<{', '.join([*types, *([str(width)] if width else [])])}>"


@functools.cache
def compiled(path, names, mode="fast", thread_order="forward"):
    return module(path, names, target="cpu", mode=mode, thread_order=thread_order)


# One module a rung, with all the instances that the tests use: each is compiled once a mode.
WIDTHS = {"float32": (16, 4), "float64": (8,), "float16": (8,)}


def kernel(path, name, dtype, width=None, mode="fast", thread_order="forward"):
    """One kernel of a rung; `width` None for those without."""
    names = tuple(
        instance(name, d, w) for d, widths in WIDTHS.items() for w in (widths if width is not None else (None,))
    )
    return compiled(path, names, mode, thread_order)[instance(name, dtype, width)]


class DCNv3Call:
    """The arguments that the DCNv3 kernels share, worked out from those of `dcnlab.reference.deformable.dcnv3`."""

    def __init__(self, input, offset, mask, kernel_size=3, stride=1, padding=1, dilation=1, groups=1,
                 offset_scale=1.0, remove_center=False):  # fmt: skip
        grid = sampling_grid(
            offset, kernel_size, stride, padding, dilation,
            layout="dcnv3", offset_scale=offset_scale, remove_center=remove_center,
        )  # fmt: skip
        a = arithmetic(input.dtype)
        n, height, width, channels = input.shape
        s, p = pair(stride, "stride", 1), pair(padding, "padding", 0)
        self.shape = np.array(
            (n, height, width, groups, channels // groups, *grid.output_size, len(grid.taps), *s, *p, offset_scale),
            SHAPE,
        )
        self.arrays = [np.ascontiguousarray(x) for x in (input, offset, mask)]
        self.grid_arrays = [np.ascontiguousarray(grid.taps), grid.residual.astype(a)]
        self.output_shape = (n, *grid.output_size, channels)
        self.rows = grid.output_size[0] * grid.output_size[1] * groups
        self.channels_each, self.batch = channels // groups, n

    def grid(self, per_row):
        return (-(-self.rows * per_row // THREADS), min(self.batch, 65535))

    def forward(self, kernel, per_row):
        output = np.full(self.output_shape, 7, self.arrays[0].dtype)
        kernel[self.grid(per_row), THREADS](*self.arrays, *self.grid_arrays, output, self.shape)
        return output

    def backward(self, kernel, per_row, grad_output, all_sums):
        a = arithmetic(grad_output.dtype)
        input, offset, mask = self.arrays
        sums = a if all_sums else grad_output.dtype
        grads = [np.zeros(input.shape, a), np.zeros(offset.shape, sums), np.zeros(mask.shape, sums)]
        kernel[self.grid(per_row), THREADS](
            np.ascontiguousarray(grad_output), *self.arrays, *self.grid_arrays, *grads, self.shape
        )
        return grads


def forward(rung, case, dtype, width=16, mode="fast", thread_order="forward"):
    """DCNv3's output by one rung of the ladder."""
    call = DCNv3Call(**case)
    if rung == "naive":
        k = kernel("dcnv3_forward/1_naive.cu", "dcnv3_forward_naive", dtype, None, mode, thread_order)
        return call.forward(k, call.channels_each)
    k = kernel("dcnv3_forward/2_point.cu", "dcnv3_forward_point", dtype, width, mode, thread_order)
    return call.forward(k, 1)


def backward(rung, case, grad_output, dtype, width=16, mode="fast", thread_order="forward"):
    """DCNv3's three gradients by one rung; grad_input in the type of the arithmetic."""
    call = DCNv3Call(**case)
    if rung == "atomic":
        k = kernel("dcnv3_backward/1_atomic.cu", "dcnv3_backward_atomic", dtype, None, mode, thread_order)
        return call.backward(k, call.channels_each, grad_output, all_sums=True)
    k = kernel("dcnv3_backward/2_point.cu", "dcnv3_backward_point", dtype, width, mode, thread_order)
    return call.backward(k, 1, grad_output, all_sums=False)
