"""A solution of exercise 3."""

import math

import numpy as np


def bilinear_sample(image, y, x):
    """Exercise 1."""
    height, width = image.shape
    y0, x0 = math.floor(y), math.floor(x)
    value = 0.0
    for dy, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
        for dx, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
            row, column = y0 + dy, x0 + dx
            if 0 <= row < height and 0 <= column < width:
                value += weight_y * weight_x * image[row, column]
    return value


def dcnv2_forward(input, offset, mask, weight, padding):
    """Return (O, Ho, Wo), the modulated deformable convolution of an image (C, H, W)."""
    outputs, channels, kernel_height, kernel_width = weight.shape
    output = np.zeros((outputs, *mask.shape[1:]))
    for oy, ox in np.ndindex(mask.shape[1:]):
        for j, i in np.ndindex(kernel_height, kernel_width):
            t = j * kernel_width + i
            y = oy - padding + j + offset[2 * t, oy, ox]
            x = ox - padding + i + offset[2 * t + 1, oy, ox]
            samples = np.array([bilinear_sample(input[c], y, x) for c in range(channels)])
            output[:, oy, ox] += mask[t, oy, ox] * (weight[:, :, j, i] @ samples)
    return output
