"""A solution of exercise 5."""

import math

import numpy as np


def bilinear_slopes(image, y, x):
    """Exercise 2, for all channels of an image (H, W, C) at once."""
    height, width, channels = image.shape
    if not (-1 < y < height and -1 < x < width):
        return np.zeros(channels), np.zeros(channels)
    y0, x0 = math.floor(y), math.floor(x)
    ly, lx = y - y0, x - x0

    def pixel(row, column):
        return image[row, column] if 0 <= row < height and 0 <= column < width else np.zeros(channels)

    top_left, top_right = pixel(y0, x0), pixel(y0, x0 + 1)
    bottom_left, bottom_right = pixel(y0 + 1, x0), pixel(y0 + 1, x0 + 1)
    along_y = (1 - lx) * (bottom_left - top_left) + lx * (bottom_right - top_right)
    along_x = (1 - ly) * (top_right - top_left) + ly * (bottom_right - bottom_left)
    return along_y, along_x


def grad_offset(grad_output, input, offset, mask, groups, offset_scale):
    """Return dL/d(offset), of the shape of the offset (H, W, 18*groups)."""
    height, width, channels = input.shape
    per_group = channels // groups
    result = np.zeros(offset.shape)
    for oy, ox, g, i, j in np.ndindex(height, width, groups, 3, 3):
        own = slice(g * per_group, (g + 1) * per_group)
        tap = 9 * g + 3 * i + j
        x = ox + offset_scale * (i - 1 + offset[oy, ox, 2 * tap])
        y = oy + offset_scale * (j - 1 + offset[oy, ox, 2 * tap + 1])
        along_y, along_x = bilinear_slopes(input[:, :, own], y, x)
        arriving = offset_scale * mask[oy, ox, tap] * grad_output[oy, ox, own]
        result[oy, ox, 2 * tap] = arriving @ along_x
        result[oy, ox, 2 * tap + 1] = arriving @ along_y
    return result
