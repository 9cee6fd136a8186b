"""Regular convolution, NCHW, forward and backward: the operator that deformable ones grow from.

Their samples stand on pixels, so a tap's samples are a strided slice of the padded image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dcnlab.arrays import Array, array_module, blocks
from dcnlab.geometry import IntOrPair, Pair, output_size, pair, tap_positions
from dcnlab.reference.combine import (
    column_gradient,
    combine,
    transposed_matrix,
    weight_from_matrix,
    weight_gradient,
    weight_matrix,
)


class ConvGrads(NamedTuple):
    """Gradients of a convolution, each in the shape of its argument; None for an absent bias."""

    input: Array
    weight: Array
    bias: Array | None


class _Windows:
    """The strided slices of a padded image that the taps of a convolution read."""

    def __init__(
        self, input_size: Pair, kernel_size: Pair, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair
    ) -> None:
        self.size = output_size(input_size, kernel_size, stride, padding, dilation)
        self.stride, self.padding = pair(stride, "stride", 1), pair(padding, "padding", 0)
        self.starts = tap_positions(kernel_size, dilation).tolist()
        self.input_size = input_size

    def pad(self, image: Array) -> Array:
        """Return (..., H, W) images with zeros around them."""
        (ph, pw), xp = self.padding, array_module(image)
        return xp.pad(image, [(0, 0)] * (image.ndim - 2) + [(ph, ph), (pw, pw)])

    def crop(self, padded: Array) -> Array:
        """Undo `pad`."""
        (ph, pw), (height, width) = self.padding, self.input_size
        return padded[..., ph : ph + height, pw : pw + width]

    def taps(self, rows: slice | None = None) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Yield each tap's number and the slices of the padded image that it reads for some output rows."""
        (sy, sx), rows = self.stride, rows or slice(0, self.size[0])
        for tap, (y, x) in enumerate(self.starts):
            yield (
                tap,
                (
                    slice(y + sy * rows.start, y + sy * (rows.stop - 1) + 1, sy),
                    slice(x, x + sx * (self.size[1] - 1) + 1, sx),
                ),
            )

    def columns(self, padded: Array, rows: slice) -> Array:
        """Return the columns (pixels, K, C) of some output rows of padded images (M, C, Hp, Wp): im2col."""
        xp = array_module(padded)
        shape = (len(padded), rows.stop - rows.start, self.size[1], len(self.starts), padded.shape[1])
        columns = xp.empty(shape, padded.dtype)
        for tap, (ys, xs) in self.taps(rows):
            columns[:, :, :, tap] = padded[:, :, ys, xs].transpose(0, 2, 3, 1)
        return columns.reshape(-1, *shape[3:])

    def parts(self, input: Array) -> Iterator[tuple[slice, Iterator[slice]]]:
        """Cut a batch into parts whose columns have one block's size: images, and for each part its output rows.

        Small images go together, large ones row by row.
        """
        row_bytes = self.size[1] * len(self.starts) * input.shape[1] * input.dtype.itemsize
        for images in blocks(len(input), self.size[0] * row_bytes):
            yield images, blocks(self.size[0], (images.stop - images.start) * row_bytes)


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Return the convolution of NCHW `input`; arguments as in `dcnlab.conv2d`, not checked here."""
    xp = array_module(input)
    n, channels = input.shape[:2]
    windows = _Windows(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    transposed = transposed_matrix(weight, channels // weight.shape[1])
    height, width = windows.size
    output = xp.empty((n, len(weight), height, width), input.dtype)
    for images, parts in windows.parts(input):
        padded = windows.pad(input[images])
        for rows in parts:
            block = combine(windows.columns(padded, rows), transposed)  # (pixels, O)
            output[images, :, rows] = block.reshape(len(padded), -1, width, len(weight)).transpose(0, 3, 1, 2)
    if bias is not None:
        output += bias[:, None, None]
    return output


def conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Return the gradients of sum(output * grad_output): each tap's column gradient goes back to its slice."""
    xp = array_module(input)
    windows = _Windows(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    matrix = weight_matrix(weight, input.shape[1] // weight.shape[1])
    grad_input, grad_matrix = xp.empty(input.shape, input.dtype), xp.zeros_like(matrix)
    for images, parts in windows.parts(input):
        padded = windows.pad(input[images])
        grad_padded = xp.zeros_like(padded)
        for rows in parts:
            arriving = grad_output[images, :, rows].swapaxes(0, 1).reshape(len(weight), -1)  # (O, pixels)
            grad_matrix += weight_gradient(arriving, windows.columns(padded, rows), len(matrix))
            grad = column_gradient(arriving, matrix, len(windows.starts))
            grad = grad.reshape(len(padded), -1, windows.size[1], *grad.shape[1:])  # (M, rows, Wo, K, C)
            for tap, (ys, xs) in windows.taps(rows):
                grad_padded[:, :, ys, xs] += grad[:, :, :, tap].transpose(0, 3, 1, 2)
        grad_input[images] = windows.crop(grad_padded)
    return ConvGrads(
        input=grad_input,
        weight=weight_from_matrix(grad_matrix, weight.shape),
        bias=None if bias is None else grad_output.sum(axis=(0, 2, 3)),
    )
