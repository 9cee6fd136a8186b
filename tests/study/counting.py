"""Numbers that count how often they are multiplied, and layers that are computed with them, by the plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.ops import deformable, dense, layers
from dcnlab.reference import loops, loops_layers, loops_regular


class Counted(float):
    """A float; products and sums of one are such floats again, and products are counted."""

    products = 0

    def __mul__(self, other: Any) -> Counted:
        Counted.products += 1
        return Counted(float(self) * float(other))

    def __add__(self, other: Any) -> Counted:
        return Counted(float(self) + float(other))

    __rmul__, __radd__ = __mul__, __add__


def counted(array: np.ndarray) -> np.ndarray:
    """Return the array with numbers that count."""
    return np.frompyfunc(Counted, 1, 1)(array)


def instrument(monkeypatch: Any) -> None:
    """Let the layers compute with loops over counted numbers. What lies around an image is there, as zeros."""

    def linear(input, weight, bias=None):
        return loops_regular.linear(counted(input), counted(weight), bias).astype(input.dtype)

    def attention(query, key, value, scale=None):
        # The loops scale each score; published counts leave that out, like softmax.
        Counted.products -= query[..., 0].size * key.shape[-2]
        return loops_layers.attention(counted(query), key, counted(value), scale).astype(query.dtype)

    def depthwise_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1):
        padded = np.pad(input, ((0, 0), (0, 0), *((p, p) for p in padding)))
        found = loops_regular.depthwise_conv2d(counted(padded), counted(weight), bias, stride, 0, dilation)
        return found.astype(input.dtype)

    def dcnv3(input, offset, mask, *geometry):
        return loops.dcnv3(counted(input), offset, mask, *geometry).astype(input.dtype)

    for module, function in (
        (dense, linear),
        (dense, attention),
        (layers, depthwise_conv2d),
        (deformable, dcnv3),
    ):
        monkeypatch.setattr(module, function.__name__, function)
