"""A solution of exercise 1."""

import math


def bilinear_sample(image, y, x):
    """Return the value of an image (H, W) at the position (y, x), in pixels; 0 outside."""
    height, width = image.shape
    y0, x0 = math.floor(y), math.floor(x)
    value = 0.0
    for dy, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
        for dx, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
            row, column = y0 + dy, x0 + dx
            if 0 <= row < height and 0 <= column < width:
                value += weight_y * weight_x * image[row, column]
    return value
