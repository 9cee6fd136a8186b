r"""The executable specification: the deformable operators as plain loops, to be read beside the papers.

Nothing here is fast; everything else in the library is tested against it. Shapes and conventions are those of the
public functions in `dcnlab`; the operators that do not deform are in `loops_regular`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dcnlab.arrays import Array
from dcnlab.geometry import IntOrPair, output_size, pair
from dcnlab.reference.deformable import DCNv3Grads, DeformConv2dGrads

# A corner of a bilinear cell: row, column, weight, and the slopes of the weight along y and x.
Corner = tuple[int, int, float, float, float]


# -- positions ---------------------------------------------------------------------------------------------------


def split(base: int, displacement: float) -> tuple[int, float]:
    """Return floor(base + displacement) and the fraction above it; the two are never added.

    A float32 sum would lose the fraction's last digits on large images, and 5 + (-1e-17) is 5 even in float64.
    A NaN or infinite displacement stays in the fraction.
    """
    if not math.isfinite(displacement):
        return base, displacement
    below = math.floor(displacement)
    return base + below, displacement - below


def deform_conv2d_taps(kernel: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield DCNv2's taps as (t, row j, column i): row by row."""
    kh, kw = kernel
    for j in range(kh):
        for i in range(kw):
            yield j * kw + i, j, i


def dcnv3_taps(kernel: tuple[int, int], remove_center: bool) -> Iterator[tuple[int, int, int]]:
    """Yield DCNv3's taps as (t, row j, column i): column by column; without the centre, later taps move up."""
    kh, kw = kernel
    t = 0
    for i in range(kw):
        for j in range(kh):
            if remove_center and (j, i) == (kh // 2, kw // 2):
                continue
            yield t, j, i
            t += 1


def deform_conv2d_position(
    o: int, tap: int, shift: float, stride: int, padding: int, dilation: int
) -> tuple[int, float]:
    """Return cell and fraction along one axis: output coordinate o, tap row or column, offset `shift`."""
    return split(o * stride - padding + tap * dilation, shift)


def dcnv3_position(
    o: int, tap: int, shift: float, kernel: int, stride: int, padding: int, dilation: int, scale: float
) -> tuple[int, float]:
    """Return cell and fraction along one axis: the scale stretches the regular grid around its centre as well."""
    radius = dilation * (kernel - 1) // 2
    regular = radius + scale * (tap * dilation - radius)
    whole = round(regular)
    return split(o * stride - padding + whole, (regular - whole) + scale * shift)


# -- bilinear sampling -------------------------------------------------------------------------------------------


def corners(y: tuple[int, float], x: tuple[int, float], height: int, width: int) -> list[Corner]:
    """Return the corners of the cell that lie in the image, with their weights and the slopes of the weights.

    A sample outside (-1, H) x (-1, W) touches nothing: no corners. NaN positions are handled by the callers.
    """
    (y0, ly), (x0, lx) = y, x
    if not (_inside(y0, ly, height) and _inside(x0, lx, width)):
        return []
    result = []
    for dy, weight_y, slope_y in ((0, 1 - ly, -1.0), (1, ly, 1.0)):
        for dx, weight_x, slope_x in ((0, 1 - lx, -1.0), (1, lx, 1.0)):
            if 0 <= y0 + dy < height and 0 <= x0 + dx < width:
                result.append((y0 + dy, x0 + dx, weight_y * weight_x, slope_y * weight_x, weight_y * slope_x))
    return result


def _inside(cell: int, fraction: float, size: int) -> bool:
    """Return whether -1 < cell + fraction < size, the two not added."""
    if not math.isfinite(fraction):
        return False
    return -1 <= cell < size and not (cell == -1 and fraction == 0)


def is_nan(y: tuple[int, float], x: tuple[int, float], modulation: float) -> bool:
    """Return whether a sample has a NaN in its position or modulation: it gives NaN and has no address."""
    return math.isnan(y[1]) or math.isnan(x[1]) or math.isnan(modulation)


# -- deformable convolution, versions 1 and 2 --------------------------------------------------------------------


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
    """Eq. 1 of arXiv 1811.11168: output = bias + sum over taps and channels of weight * mask * sampled value."""
    n_images, channels, height, width = input.shape
    n_out, per_group, kh, kw = weight.shape
    sh, sw, ph, pw, dh, dw = integers(stride, padding, dilation)
    ho, wo = output_size((height, width), (kh, kw), stride, padding, dilation)
    taps = kh * kw
    per_offset_group = channels // (offset.shape[1] // (2 * taps))
    out_per_group = n_out // (channels // per_group)
    output = np.zeros((n_images, n_out, ho, wo), input.dtype)
    for n, o, oy, ox in np.ndindex(output.shape):
        total = 0.0 if bias is None else bias[o]
        for c_in_group in range(per_group):
            c = (o // out_per_group) * per_group + c_in_group
            g = c // per_offset_group
            for t, j, i in deform_conv2d_taps((kh, kw)):
                y = deform_conv2d_position(oy, j, float(offset[n, (g * taps + t) * 2, oy, ox]), sh, ph, dh)
                x = deform_conv2d_position(ox, i, float(offset[n, (g * taps + t) * 2 + 1, oy, ox]), sw, pw, dw)
                m = 1.0 if mask is None else float(mask[n, g * taps + t, oy, ox])
                value = math.nan if is_nan(y, x, m) else 0.0
                for row, column, w, _, _ in corners(y, x, height, width):
                    value += w * input[n, c, row, column]
                total += weight[o, c_in_group, j, i] * m * value
        output[n, o, oy, ox] = total
    return output


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
    """The chain rule, term by term: each of the factors weight, mask and value in turn, the others held fixed."""
    n_images, channels, height, width = input.shape
    n_out, per_group, kh, kw = weight.shape
    sh, sw, ph, pw, dh, dw = integers(stride, padding, dilation)
    taps = kh * kw
    per_offset_group = channels // (offset.shape[1] // (2 * taps))
    out_per_group = n_out // (channels // per_group)
    grad_input, grad_offset, grad_weight = np.zeros_like(input), np.zeros_like(offset), np.zeros_like(weight)
    grad_mask = None if mask is None else np.zeros_like(mask)
    for n, o, oy, ox in np.ndindex(grad_output.shape):
        g_out = grad_output[n, o, oy, ox]
        for c_in_group in range(per_group):
            c = (o // out_per_group) * per_group + c_in_group
            g = c // per_offset_group
            for t, j, i in deform_conv2d_taps((kh, kw)):
                at_y, at_x = (g * taps + t) * 2, (g * taps + t) * 2 + 1
                y = deform_conv2d_position(oy, j, float(offset[n, at_y, oy, ox]), sh, ph, dh)
                x = deform_conv2d_position(ox, i, float(offset[n, at_x, oy, ox]), sw, pw, dw)
                m = 1.0 if mask is None else float(mask[n, g * taps + t, oy, ox])
                w_out = weight[o, c_in_group, j, i]
                value = slope_y = slope_x = math.nan if is_nan(y, x, m) else 0.0
                if not math.isnan(value):
                    for row, column, w, w_y, w_x in corners(y, x, height, width):
                        pixel = input[n, c, row, column]
                        value += w * pixel
                        slope_y += w_y * pixel
                        slope_x += w_x * pixel
                        grad_input[n, c, row, column] += g_out * w_out * m * w
                grad_weight[o, c_in_group, j, i] += g_out * m * value
                grad_offset[n, at_y, oy, ox] += g_out * w_out * m * slope_y
                grad_offset[n, at_x, oy, ox] += g_out * w_out * m * slope_x
                if grad_mask is not None:
                    grad_mask[n, g * taps + t, oy, ox] += g_out * w_out * value
    grad_bias = None if bias is None else grad_output.sum(axis=(0, 2, 3))
    return DeformConv2dGrads(grad_input, grad_offset, grad_weight, grad_bias, grad_mask)


# -- DCNv3 -------------------------------------------------------------------------------------------------------


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
    """Eq. 2 of arXiv 2211.05778: output = sum over taps of mask * sampled value, channel by channel."""
    n_images, height, width, channels = input.shape
    kh, kw = pair(kernel_size, "kernel_size", 1)
    sh, sw, ph, pw, dh, dw = integers(stride, padding, dilation)
    ho, wo = output_size((height, width), (kh, kw), stride, padding, dilation)
    taps = kh * kw - int(remove_center)
    output = np.zeros((n_images, ho, wo, channels), input.dtype)
    for n, oy, ox, c in np.ndindex(output.shape):
        g = c // (channels // groups)
        total = 0.0
        for t, j, i in dcnv3_taps((kh, kw), remove_center):
            x_shift, y_shift = (float(offset[n, oy, ox, (g * taps + t) * 2 + axis]) for axis in (0, 1))
            y = dcnv3_position(oy, j, y_shift, kh, sh, ph, dh, offset_scale)
            x = dcnv3_position(ox, i, x_shift, kw, sw, pw, dw, offset_scale)
            m = float(mask[n, oy, ox, g * taps + t])
            value = math.nan if is_nan(y, x, m) else 0.0
            for row, column, w, _, _ in corners(y, x, height, width):
                value += w * input[n, row, column, c]
            total += m * value
        output[n, oy, ox, c] = total
    return output


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
    """The chain rule, term by term; an offset moves its sample by `offset_scale`, hence that factor."""
    n_images, height, width, channels = input.shape
    kh, kw = pair(kernel_size, "kernel_size", 1)
    sh, sw, ph, pw, dh, dw = integers(stride, padding, dilation)
    taps = kh * kw - int(remove_center)
    grad_input, grad_offset, grad_mask = np.zeros_like(input), np.zeros_like(offset), np.zeros_like(mask)
    for n, oy, ox, c in np.ndindex(grad_output.shape):
        g_out, g = grad_output[n, oy, ox, c], c // (channels // groups)
        for t, j, i in dcnv3_taps((kh, kw), remove_center):
            at_x, at_y = (g * taps + t) * 2, (g * taps + t) * 2 + 1
            y = dcnv3_position(oy, j, float(offset[n, oy, ox, at_y]), kh, sh, ph, dh, offset_scale)
            x = dcnv3_position(ox, i, float(offset[n, oy, ox, at_x]), kw, sw, pw, dw, offset_scale)
            m = float(mask[n, oy, ox, g * taps + t])
            value = slope_y = slope_x = math.nan if is_nan(y, x, m) else 0.0
            if not math.isnan(value):
                for row, column, w, w_y, w_x in corners(y, x, height, width):
                    pixel = input[n, row, column, c]
                    value += w * pixel
                    slope_y += w_y * pixel
                    slope_x += w_x * pixel
                    grad_input[n, row, column, c] += g_out * m * w
            grad_mask[n, oy, ox, g * taps + t] += g_out * value
            grad_offset[n, oy, ox, at_y] += offset_scale * g_out * m * slope_y
            grad_offset[n, oy, ox, at_x] += offset_scale * g_out * m * slope_x
    return DCNv3Grads(grad_input, grad_offset, grad_mask)


def integers(stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair) -> tuple[int, int, int, int, int, int]:
    """Return stride, padding and dilation as six integers, (vertical, horizontal) each."""
    return (*pair(stride, "stride", 1), *pair(padding, "padding", 0), *pair(dilation, "dilation", 1))
