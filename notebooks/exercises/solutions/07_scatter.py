"""A solution of exercise 7."""

import math

import numpy as np


def scatter(grad_output, positions, modulation, height, width):
    """Return dL/dx, (height, width, C): every sample gives to the four pixels that it read."""
    channels, groups = grad_output.shape[2], positions.shape[2]
    per_group = channels // groups
    result = np.zeros((height, width, channels))
    for oy, ox, g, k in np.ndindex(modulation.shape):
        own = slice(g * per_group, (g + 1) * per_group)
        given = modulation[oy, ox, g, k] * grad_output[oy, ox, own]
        y, x = positions[oy, ox, g, k]
        y0, x0 = math.floor(y), math.floor(x)
        for dy, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
            for dx, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
                row, column = y0 + dy, x0 + dx
                if 0 <= row < height and 0 <= column < width:
                    result[row, column, own] += weight_y * weight_x * given
    return result
