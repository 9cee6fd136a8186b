"""A solution of exercise 4."""

import math

import numpy as np


def bilinear_sample(image, y, x):
    """Exercise 1, for all channels of an image (H, W, C) at once."""
    height, width, channels = image.shape
    y0, x0 = math.floor(y), math.floor(x)
    value = np.zeros(channels)
    for dy, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
        for dx, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
            row, column = y0 + dy, x0 + dx
            if 0 <= row < height and 0 <= column < width:
                value += weight_y * weight_x * image[row, column]
    return value


def grad_mask(grad_output, input, positions):
    """Return dL/dm, (Ho, Wo, G, K), of the modulated sum of the samples."""
    groups = positions.shape[2]
    per_group = input.shape[2] // groups
    result = np.zeros(positions.shape[:-1])
    for oy, ox, g, k in np.ndindex(result.shape):
        own = slice(g * per_group, (g + 1) * per_group)
        y, x = positions[oy, ox, g, k]
        result[oy, ox, g, k] = grad_output[oy, ox, own] @ bilinear_sample(input[:, :, own], y, x)
    return result
