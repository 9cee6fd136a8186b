"""Attention: of every pixel to every other, inside windows, and the pooling head of InternImage-H and -G."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import IntOrPair, Pair, pair
from dcnlab.nn.basic import LayerNorm, Linear
from dcnlab.nn.initialise import zeros
from dcnlab.nn.module import Module, Parameter, Rng, Sequential, require_grad_output, require_input
from dcnlab.ops import dense
from dcnlab.reference.dense import AttentionGrads


class MultiHeadSelfAttention(Module):
    """Every token attends to all tokens of its image (arXiv 1706.03762, sec. 3.2), without position embedding.

    The operator that DCNv3 is compared with: it aggregates globally, and its cost grows with the square of the number
    of pixels.

    Parameters
    ----------
    dim : int
        Channels.
    heads : int
        Must divide `dim`.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    qkv : Linear
        dim -> 3 dim: queries, keys, values, each of all heads.
    proj : Linear
    """

    def __init__(self, dim: int, heads: int, dtype: Any = np.float32, rng: Rng = None) -> None:
        rng = np.random.default_rng(rng)
        self.dim, self.heads = dim, require_heads(type(self).__name__, dim, heads)
        self.qkv = Linear(dim, 3 * dim, dtype=dtype, rng=rng)
        self.proj = Linear(dim, dim, dtype=dtype, rng=rng)

    def forward(self, input: Array) -> Array:
        """Return (N, ..., dim) of (N, ..., dim): tokens (N, L, dim) or images (N, H, W, dim)."""
        image = self._image(input)
        qkv = self.qkv(image)  # (N, H, W, 3 dim)
        attended = array_module(input).empty(image.shape, image.dtype)
        for where, size in self._regions(image.shape):
            windows = (_windows(each[where], size, self.heads) for each in _thirds(qkv))
            attended[where] = _image_of(dense.attention(*windows), attended[where].shape, size)
        self.keep(qkv=qkv, shape=tuple(input.shape))
        return self.proj(attended).reshape(input.shape)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        qkv, shape = self.kept().qkv, self.kept().shape
        require_grad_output(self, grad_output, shape)
        grad = self.proj.backward(self._image(grad_output))
        grad_qkv = array_module(grad).empty(qkv.shape, qkv.dtype)
        for where, size in self._regions(grad.shape):
            windows = (_windows(each[where], size, self.heads) for each in (grad, *_thirds(qkv)))
            for target, found in zip(_thirds(grad_qkv), dense.attention_backward(*windows), strict=True):
                target[where] = _image_of(found, grad[where].shape, size)
        return self.qkv.backward(grad_qkv).reshape(shape)

    def _image(self, input: Array) -> Array:
        """Return the input as images (N, H, W, dim): here, with all tokens in one row."""
        require_input(self, input, "...", self.dim)
        if input.ndim < 3:
            raise ValueError(f"{type(self).__name__}: expected (N, ..., {self.dim}), got {tuple(input.shape)}")
        return input.reshape(len(input), 1, math.prod(input.shape[1:-1]), self.dim)

    def _regions(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], Pair]]:
        """Yield parts of the image, and the size of the windows that they are cut into: here, all is one window."""
        yield (slice(None), slice(None), slice(None)), (shape[1], shape[2])


class WindowAttention(MultiHeadSelfAttention):
    """Every pixel attends to the pixels of its window (arXiv 2103.14030, without shift and position bias).

    Where the image is not a multiple of the window, the windows at the bottom and at the right are smaller.

    Parameters
    ----------
    dim, heads : int
    window : int or (vertical, horizontal)
    dtype : dtype
    rng : numpy.random.Generator, int or None
    """

    def __init__(self, dim: int, heads: int, window: IntOrPair, dtype: Any = np.float32, rng: Rng = None) -> None:
        super().__init__(dim, heads, dtype, rng)
        self.window = pair(window, "window", 1)

    def _image(self, input: Array) -> Array:
        require_input(self, input, "N", "H", "W", self.dim, hint=": channels last")
        return input

    def _regions(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], Pair]]:
        for rows, height in _stretches(shape[1], self.window[0]):
            for columns, width in _stretches(shape[2], self.window[1]):
                yield (slice(None), rows, columns), (height, width)


class CrossAttention(Module):
    """Queries of one set of tokens attend to another set: of the published attention pooling head.

    Parameters
    ----------
    dim : int
        Channels of query, key and value.
    heads : int
        Must divide `dim`.
    out_dim : int, optional
        `dim` by default.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    q_bias, k_bias, v_bias : Parameter (dim,)
        Apart from the weights, as published. A bias of the keys adds the same to all scores of a query: its gradient
        is 0 up to rounding.
    q, k, v : Linear without bias
    proj : Linear
    """

    def __init__(
        self, dim: int, heads: int = 8, out_dim: int | None = None, dtype: Any = np.float32, rng: Rng = None
    ) -> None:
        rng = np.random.default_rng(rng)
        self.dim, self.heads = dim, require_heads("CrossAttention", dim, heads)
        self.q_bias = Parameter((dim,), zeros, dtype, rng)
        self.k_bias = Parameter((dim,), zeros, dtype, rng)
        self.v_bias = Parameter((dim,), zeros, dtype, rng)
        self.q = Linear(dim, dim, bias=False, dtype=dtype, rng=rng)
        self.k = Linear(dim, dim, bias=False, dtype=dtype, rng=rng)
        self.v = Linear(dim, dim, bias=False, dtype=dtype, rng=rng)
        self.proj = Linear(dim, out_dim or dim, dtype=dtype, rng=rng)

    @np.errstate(all="ignore")
    def forward(self, query: Array, key: Array, value: Array) -> Array:
        """Return (N, Q, out_dim) of query (N, Q, dim), key (N, K, dim) and value (N, K, dim)."""
        heads = []
        for linear, bias, tokens in zip(self._linears(), self._biases(), (query, key, value), strict=True):
            require_input(self, tokens, "N", "tokens", self.dim)
            projected = linear(tokens)
            projected += bias.value
            heads.append(_windows(projected[:, None], (1, tokens.shape[1]), self.heads))
        attended = dense.attention(*heads)
        self.keep(heads=heads)
        return self.proj(_image_of(attended, (len(query), 1, query.shape[1], self.dim), (1, query.shape[1]))[:, 0])

    def backward(self, grad_output: Array) -> AttentionGrads:
        """Return the gradients of query, key and value."""
        grad = self.proj.backward(grad_output)
        grad = _windows(grad[:, None], (1, grad.shape[1]), self.heads)
        found = []
        grads = dense.attention_backward(grad, *self.kept().heads)
        for linear, bias, each in zip(self._linears(), self._biases(), grads, strict=True):
            n, count = len(each), each.shape[-2]
            tokens = _image_of(each, (n, 1, count, self.dim), (1, count))[:, 0]
            bias.grad = tokens.sum(axis=(0, 1))
            found.append(linear.backward(tokens))
        return AttentionGrads(*found)

    def _linears(self) -> tuple[Linear, Linear, Linear]:
        return self.q, self.k, self.v

    def _biases(self) -> tuple[Parameter, Parameter, Parameter]:
        return self.q_bias, self.k_bias, self.v_bias


class AttentionPoolingBlock(Module):
    """Pool tokens into one vector: their mean, as the query, attends to all of them.

    Parameters
    ----------
    dim, heads : int
    out_dim : int, optional
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    norm1_q, norm1_k, norm1_v : Sequential(LayerNorm)
    cross_dcn : CrossAttention
        The published name, although nothing in it is deformable.
    """

    def __init__(
        self, dim: int, heads: int = 8, out_dim: int | None = None, dtype: Any = np.float32, rng: Rng = None
    ) -> None:
        rng = np.random.default_rng(rng)
        self.norm1_q = Sequential(LayerNorm(dim, dtype=dtype, rng=rng))
        self.norm1_k = Sequential(LayerNorm(dim, dtype=dtype, rng=rng))
        self.norm1_v = Sequential(LayerNorm(dim, dtype=dtype, rng=rng))
        self.cross_dcn = CrossAttention(dim, heads, out_dim, dtype, rng)

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return (N, out_dim) of (N, tokens, dim)."""
        require_input(self, input, "N", "tokens", "dim")
        if input.shape[1] < 1:
            raise ValueError(f"AttentionPoolingBlock: expected (N, tokens, dim), got {tuple(input.shape)}")
        self.keep(count=input.shape[1])
        query = self.norm1_q(input.mean(axis=1, keepdims=True))
        return self.cross_dcn(query, self.norm1_k(input), self.norm1_v(input))[:, 0]

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input, which is query, key and value."""
        grads = self.cross_dcn.backward(grad_output[:, None])
        grad_input = self.norm1_k.backward(grads.key)
        grad_input += self.norm1_v.backward(grads.value)
        grad_input += self.norm1_q.backward(grads.query) / self.kept().count
        return grad_input


def require_heads(layer: str, dim: int, heads: int) -> int:
    """Refuse a number of heads that does not divide the channels."""
    if heads < 1 or dim < 1 or dim % heads:
        raise ValueError(f"{layer}: heads must divide dim = {dim}, got {heads}")
    return heads


def _thirds(qkv: Array) -> tuple[Array, Array, Array]:
    """Return the views of queries, keys and values of (N, H, W, 3 dim)."""
    dim = qkv.shape[-1] // 3
    return qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :]


def _windows(image: Array, size: Pair, heads: int) -> Array:
    """Cut (N, H, W, dim) into windows and heads: (N, H/h, W/w, heads, h*w, dim/heads)."""
    (n, height, width, dim), (h, w) = image.shape, size
    cells = image.reshape(n, height // h, h, width // w, w, heads, dim // heads)
    windows = cells.transpose(0, 1, 3, 5, 2, 4, 6)
    return windows.reshape(n, height // h, width // w, heads, h * w, dim // heads)


def _image_of(windows: Array, shape: tuple[int, ...], size: Pair) -> Array:
    """Put windows and heads together again: the reverse of `_windows`."""
    n, down, across, heads, _, per_head = windows.shape
    cells = windows.reshape(n, down, across, heads, *size, per_head)
    return cells.transpose(0, 1, 4, 2, 5, 3, 6).reshape(shape)


def _stretches(length: int, window: int) -> Iterator[tuple[slice, int]]:
    """Yield the part of an axis that whole windows cover, and the rest as one smaller window."""
    whole = length // window * window
    if whole:
        yield slice(0, whole), window
    if whole < length:
        yield slice(whole, length), length - whole
