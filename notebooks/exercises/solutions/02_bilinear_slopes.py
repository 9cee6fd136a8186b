"""A solution of exercise 2."""

import math


def bilinear_slopes(image, y, x):
    """Return (dv/dy, dv/dx), the slopes of an image (H, W) at the position (y, x)."""
    height, width = image.shape
    if not (-1 < y < height and -1 < x < width):
        return 0.0, 0.0
    y0, x0 = math.floor(y), math.floor(x)
    ly, lx = y - y0, x - x0

    def pixel(row, column):
        return image[row, column] if 0 <= row < height and 0 <= column < width else 0.0

    top_left, top_right = pixel(y0, x0), pixel(y0, x0 + 1)
    bottom_left, bottom_right = pixel(y0 + 1, x0), pixel(y0 + 1, x0 + 1)
    along_y = (1 - lx) * (bottom_left - top_left) + lx * (bottom_right - top_right)
    along_x = (1 - ly) * (top_right - top_left) + ly * (bottom_right - bottom_left)
    return along_y, along_x
