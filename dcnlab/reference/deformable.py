r"""DCNv1, DCNv2 and DCNv3, forward and backward: choose positions, sample, combine.

.. math::
    \text{DCNv2:}\quad y_o(p) = b_o + \sum_k \sum_c w_{o,c,k}\, m_k(p)\, x_c(p + p_k + \Delta p_k)
    \qquad
    \text{DCNv3:}\quad y_c(p) = \sum_k m_{g,k}(p)\, x_c(p + p_k + \Delta p_{g,k}),\; c \in g

([eq:deform.2], eq. 1 of arXiv 1811.11168; [eq:dcnv3.2], eq. 2 of arXiv 2211.05778.) Both loop over the images and over
blocks of output pixels, so the workspace stays small whatever the size of the image.
"""

from __future__ import annotations

from typing import NamedTuple

from dcnlab.arrays import Array, array_module, blocks
from dcnlab.geometry import IntOrPair, SamplingGrid, sampling_grid, sampling_modulation
from dcnlab.reference.combine import (
    column_gradient,
    combine,
    transposed_matrix,
    weight_from_matrix,
    weight_gradient,
    weight_matrix,
)
from dcnlab.reference.sampling import Cells, Frame, sample_gradients

# Output pixels of one matrix product: enough for BLAS to run at full speed, few enough for their columns to stay in the
# cache between the sampling and the product.
PART_PIXELS = 784

CELL_BYTES = 64  # workspace of one sample: its index, fractions, weights and entries of the matrix


class DeformConv2dGrads(NamedTuple):
    """Gradients of `deform_conv2d`, each in the shape of its argument; None for an absent bias or mask."""

    input: Array
    offset: Array
    weight: Array
    bias: Array | None
    mask: Array | None


class DCNv3Grads(NamedTuple):
    """Gradients of `dcnv3`, each in the shape of its argument."""

    input: Array
    offset: Array
    mask: Array


def deform_conv2d(
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
) -> Array:
    """Return the deformable convolution of NCHW `input`; arguments as in `dcnlab.deform_conv2d`, not checked here."""
    xp = array_module(input)
    grid = sampling_grid(offset, weight.shape[2:], stride, padding, dilation, layout="deform_conv2d")
    modulation = _flat_modulation(mask, grid, "deform_conv2d")
    transposed = transposed_matrix(weight, input.shape[1] // weight.shape[1])
    n, channels_out = len(input), len(weight)
    pixels, taps = grid.pixel_count, grid.tap_count
    output = xp.empty((n, channels_out, pixels), input.dtype)
    for image in range(n):
        frame = Frame(input[image].transpose(1, 2, 0), grid.groups)
        for block in blocks(pixels, _column_bytes(input.shape[1], input, grid)):
            cells, m = _locate_columns(frame, grid, modulation, image, block)
            start = block.start
            for samples in frame.gather(frame.entries(cells, m, taps=1), PART_PIXELS * taps * grid.groups):
                combined = combine(samples.reshape(-1, taps, input.shape[1]), transposed)  # (pixels, O)
                if bias is not None:
                    combined += bias
                output[image, :, start : start + len(combined)] = combined.T
                start += len(combined)
    return output.reshape(n, channels_out, *grid.output_size)


def deform_conv2d_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
) -> DeformConv2dGrads:
    """Return the gradients of sum(output * grad_output): [eq:deform.3].

    With the columns :math:`u = S x` and the output :math:`W u`::

        grad_W = grad_output u^T      grad_u = W^T grad_output      grad_x = S^T grad_u

    and the gradients of offset and mask from the dot products of grad_u with the four corners of each sample.
    """
    xp = array_module(input)
    grid = sampling_grid(offset, weight.shape[2:], stride, padding, dilation, layout="deform_conv2d")
    modulation = _flat_modulation(mask, grid, "deform_conv2d")
    matrix = weight_matrix(weight, input.shape[1] // weight.shape[1])
    n, channels = input.shape[:2]
    pixels, taps = grid.pixel_count, grid.tap_count

    grad_input, grad_matrix = xp.empty(input.shape, input.dtype), xp.zeros_like(matrix)
    grad_offset = xp.empty((n, grid.groups, taps, 2, pixels), input.dtype)
    grad_mask = None if mask is None else xp.empty((n, grid.groups, taps, pixels), input.dtype)
    for image in range(n):
        frame = Frame(input[image].transpose(1, 2, 0), grid.groups)
        grad_rows = xp.zeros_like(frame.rows)
        arriving = grad_output[image].reshape(len(weight), pixels)
        for block in blocks(pixels, _column_bytes(channels, input, grid)):
            cells, m = _locate_columns(frame, grid, modulation, image, block)
            sampling = frame.matrix(frame.entries(cells, m, taps=1))
            columns = (sampling @ frame.rows).reshape(-1, taps, channels)
            grad_matrix += weight_gradient(arriving[:, block], columns, len(matrix))
            del columns  # as large as what comes next, which then takes its place in memory
            grad_columns = column_gradient(arriving[:, block], matrix, taps)
            grad_columns = grad_columns.reshape(-1, frame.rows.shape[1])  # one row a sample
            grad_rows += sampling.T @ grad_columns
            dots = frame.corner_dots(Cells(*(part.reshape(-1, 1) for part in cells)), grad_columns)
            dots = [dot.reshape(cells.ly.shape) for dot in dots]  # (pixels, K, G)
            grad_y, grad_x, grad_modulation = sample_gradients(cells, dots, m)
            grad_offset[image, :, :, 0, block] = grad_y.transpose(2, 1, 0)
            grad_offset[image, :, :, 1, block] = grad_x.transpose(2, 1, 0)
            if grad_mask is not None:
                grad_mask[image, :, :, block] = grad_modulation.transpose(2, 1, 0)
        grad_input[image] = frame.crop(grad_rows).transpose(2, 0, 1)
    return DeformConv2dGrads(
        input=grad_input,
        offset=grad_offset.reshape(offset.shape),
        weight=weight_from_matrix(grad_matrix, weight.shape),
        bias=None if bias is None else grad_output.sum(axis=(0, 2, 3)),
        mask=None if grad_mask is None or mask is None else grad_mask.reshape(mask.shape),
    )


def dcnv3(
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Array:
    """Return DCNv3 of NHWC `input`; arguments as in `dcnlab.dcnv3`, not checked here.

    The sum over the taps needs no weights, so it moves into the sampling matrix: one sparse product is the operator.
    """
    xp = array_module(input)
    grid = _dcnv3_grid(offset, kernel_size, stride, padding, dilation, offset_scale, remove_center)
    modulation = _flat_modulation(mask, grid, "dcnv3")
    n, _, _, channels = input.shape
    pixels, taps = grid.pixel_count, grid.tap_count
    output = xp.empty((n, pixels, channels), input.dtype)
    for image in range(n):
        frame = Frame(input[image], groups)
        for block in blocks(pixels, groups * taps * CELL_BYTES):
            cells, m = _locate(frame, grid, modulation, image, block)
            output[image, block] = (frame.matrix(frame.entries(cells, m, taps)) @ frame.rows).reshape(-1, channels)
    return output.reshape(n, *grid.output_size, channels)


def dcnv3_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> DCNv3Grads:
    """Return the gradients of sum(output * grad_output): S^T for the input, corner dots for the rest [eq:dcnv3.3]."""
    xp = array_module(input)
    grid = _dcnv3_grid(offset, kernel_size, stride, padding, dilation, offset_scale, remove_center)
    modulation = _flat_modulation(mask, grid, "dcnv3")
    n, _, _, channels = input.shape
    pixels, taps = grid.pixel_count, grid.tap_count

    grad_input = xp.empty(input.shape, input.dtype)
    grad_offset = xp.empty((n, pixels, groups, taps, 2), input.dtype)
    grad_mask = xp.empty((n, pixels, groups, taps), input.dtype)
    for image in range(n):
        frame = Frame(input[image], groups)
        grad_rows = xp.zeros_like(frame.rows)
        arriving = grad_output[image].reshape(pixels * groups, -1)
        for block in blocks(pixels, _column_bytes(channels, input, grid)):
            cells, m = _locate(frame, grid, modulation, image, block)
            grad = arriving[block.start * groups : block.stop * groups]
            grad_rows += frame.matrix(frame.entries(cells, m, taps)).T @ grad
            rows = Cells(*(part.reshape(-1, taps) for part in cells))
            dots = [dot.reshape(cells.ly.shape) for dot in frame.corner_dots(rows, grad)]  # (pixels, G, K)
            grad_y, grad_x, grad_mask[image, block] = sample_gradients(cells, dots, m)
            grad_offset[image, block, :, :, 0] = grid.offset_scale * grad_x  # the published pairs are (x, y)
            grad_offset[image, block, :, :, 1] = grid.offset_scale * grad_y
        grad_input[image] = frame.crop(grad_rows)
    return DCNv3Grads(grad_input, grad_offset.reshape(offset.shape), grad_mask.reshape(mask.shape))


def _dcnv3_grid(
    offset: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    offset_scale: float,
    remove_center: bool,
) -> SamplingGrid:
    return sampling_grid(
        offset,
        kernel_size,
        stride,
        padding,
        dilation,
        layout="dcnv3",
        offset_scale=offset_scale,
        remove_center=remove_center,
    )


def _flat_modulation(mask: Array | None, grid: SamplingGrid, layout: str) -> Array | None:
    """Return the mask as (N, Ho*Wo, G, K), or None."""
    if mask is None:
        return None
    modulation = sampling_modulation(mask, grid.tap_count, layout=layout)
    return modulation.reshape(len(mask), grid.pixel_count, *modulation.shape[3:])


def _locate(
    frame: Frame, grid: SamplingGrid, modulation: Array | None, image: int, block: slice
) -> tuple[Cells, Array | None]:
    """Return the cells and the modulation of a block of output pixels, each (pixels, G, K)."""
    xp = array_module(frame.rows)
    base, displacement = grid.block(image, block)
    m = None if modulation is None else modulation[image, block]
    group = xp.arange(grid.groups, dtype=frame.index_type)[:, None]
    return frame.locate(base, displacement, group, m), m


def _locate_columns(
    frame: Frame, grid: SamplingGrid, modulation: Array | None, image: int, block: slice
) -> tuple[Cells, Array | None]:
    """Return the same as (pixels, K, G): im2col order, all channels of a tap together."""
    xp = array_module(frame.rows)
    (y, x), (dy, dx) = grid.block(image, block)
    m = None if modulation is None else xp.ascontiguousarray(modulation[image, block].swapaxes(1, 2))
    group = xp.arange(grid.groups, dtype=frame.index_type)
    base = y.swapaxes(1, 2), x.swapaxes(1, 2)
    return frame.locate(base, (dy.swapaxes(1, 2), dx.swapaxes(1, 2)), group, m), m


def _column_bytes(channels: int, input: Array, grid: SamplingGrid) -> int:
    """Return the workspace of one output pixel that keeps a value per tap and channel."""
    return grid.tap_count * (channels * input.dtype.itemsize + grid.groups * CELL_BYTES)
