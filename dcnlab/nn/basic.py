"""Layers on the last axis, and layers that do not care: linear, layer norm, GELU, MLP, layer scale, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.nn.initialise import by_fan_in, constant, ones, zeros
from dcnlab.nn.module import Module, Parameter, Rng, require_grad_output, require_input
from dcnlab.ops import dense, layers


class Linear(Module):
    """``input @ weight.T + bias`` on the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    weight : Parameter (out, in)
    bias : Parameter (out,), or None
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = np.float32, rng: Rng = None
    ) -> None:
        rng = np.random.default_rng(rng)
        start = by_fan_in(in_features)
        self.weight = Parameter((out_features, in_features), start, dtype, rng)
        self.bias = Parameter((out_features,), start, dtype, rng) if bias else None

    def forward(self, input: Array) -> Array:
        """Return (..., out) of (..., in)."""
        output = dense.linear(input, self.weight.value, value_of(self.bias))
        self.keep(input=input)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        grads = dense.linear_backward(grad_output, self.kept().input, self.weight.value, value_of(self.bias))
        self.weight.grad = grads.weight
        if self.bias is not None:
            self.bias.grad = grads.bias
        return grads.input


class LayerNorm(Module):
    """Normalisation of the last axis, with weight and bias: `dcnlab.layer_norm`.

    Attributes
    ----------
    weight, bias : Parameter (channels,)
    """

    def __init__(self, channels: int, eps: float = 1e-6, dtype: Any = np.float32, rng: Rng = None) -> None:
        self.weight = Parameter((channels,), ones, dtype, rng)
        self.bias = Parameter((channels,), zeros, dtype, rng)
        self.eps = eps

    def forward(self, input: Array) -> Array:
        """Return the normalised (..., C)."""
        output = layers.layer_norm(input, self.weight.value, self.bias.value, self.eps)
        self.keep(input=input)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        grads = layers.layer_norm_backward(grad_output, self.kept().input, self.weight.value, self.bias.value, self.eps)
        self.weight.grad, self.bias.grad = grads.weight, grads.bias
        return grads.input


class GELU(Module):
    """x Phi(x), with the exact error function: `dcnlab.gelu`."""

    def forward(self, input: Array) -> Array:
        """Return the activation of every entry."""
        self.keep(input=input)
        return layers.gelu(input)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        return layers.gelu_backward(grad_output, self.kept().input)


class LayerScale(Module):
    """Multiply each channel (the last axis) by a trained factor, which starts small (arXiv 2103.17239).

    Attributes
    ----------
    gamma : Parameter (channels,)
    """

    def __init__(self, channels: int, init: float = 1e-5, dtype: Any = np.float32, rng: Rng = None) -> None:
        self.gamma = Parameter((channels,), constant(init), dtype, rng)

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return gamma * input."""
        require_input(self, input, "...", self.gamma.size)
        self.keep(input=input)
        return input * self.gamma.value

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        input, rows = self.kept().input, (-1, self.gamma.size)
        require_grad_output(self, grad_output, input.shape)
        along = array_module(grad_output).einsum("rc,rc->c", grad_output.reshape(rows), input.reshape(rows))
        self.gamma.grad = along
        return grad_output * self.gamma.value


class _Dropped(Module):
    """Multiply by a random mask in training; do nothing in inference, or for p = 0.

    Parameters
    ----------
    p : float
        Probability that an entry is dropped, from 0 to less than 1.
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    uniform : callable or None
        ``uniform(shape)`` returns the float32 numbers from [0, 1) that decide; see `seed_samples`. None, as in a new
        layer: the layer's own generator, `rng`.
    """

    uniform: Callable[[tuple[int, ...]], np.ndarray] | None = None

    def __init__(self, p: float = 0.0, rng: Rng = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"{type(self).__name__}: p must lie from 0 to less than 1, got {p!r}")
        self.p = p
        self.rng = np.random.default_rng(rng)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def _uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.random(shape, np.float32) if self.uniform is None else self.uniform(shape)

    @property
    def _keep_share(self) -> float:
        """What the mask is divided by, so that the mean stays."""
        return 1 - self.p

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return input * mask in training; the input itself otherwise."""
        require_input(self, input, "...")
        if not self.training or self.p == 0:
            self.keep(mask=None, shape=input.shape)
            return input
        survives = self._uniform(self._mask_shape(input.shape)) >= self.p
        mask = array_module(input).asarray(survives.astype(input.dtype) / input.dtype.type(self._keep_share))
        self.keep(mask=mask, shape=input.shape)
        return input * mask

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: through the same mask."""
        mask = self.kept().mask
        require_grad_output(self, grad_output, self.kept().shape)
        return grad_output if mask is None else grad_output * mask


class Dropout(_Dropped):
    """Set entries to 0 with probability p in training, and divide the others by 1 - p."""


class DropPath(_Dropped):
    """Set whole samples of a batch to 0 with probability p in training: stochastic depth (arXiv 1603.09382).

    Parameters
    ----------
    p : float
    scale_by_keep : bool
        Divide the samples that stay by 1 - p, so that the mean stays.
    rng : numpy.random.Generator, int or None
    """

    def __init__(self, p: float = 0.0, scale_by_keep: bool = True, rng: Rng = None) -> None:
        super().__init__(p, rng)
        self.scale_by_keep = scale_by_keep

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:1], *(1,) * (len(shape) - 1))

    @property
    def _keep_share(self) -> float:
        return 1 - self.p if self.scale_by_keep else 1.0


class MLP(Module):
    """Two linear layers with GELU between them, on the last axis.

    Attributes
    ----------
    fc1, fc2 : Linear
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        drop: float = 0.0,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        rng = np.random.default_rng(rng)
        hidden, out = hidden_features or in_features, out_features or in_features
        self.fc1 = Linear(in_features, hidden, dtype=dtype, rng=rng)
        self.act = GELU()
        self.drop1 = Dropout(drop, rng.spawn(1)[0])
        self.fc2 = Linear(hidden, out, dtype=dtype, rng=rng)
        self.drop2 = Dropout(drop, rng.spawn(1)[0])

    def forward(self, input: Array) -> Array:
        """Return (..., out) of (..., in)."""
        hidden = self.drop1(self.act(self.fc1(input)))
        return self.drop2(self.fc2(hidden))

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        grad = self.fc2.backward(self.drop2.backward(grad_output))
        return self.fc1.backward(self.act.backward(self.drop1.backward(grad)))


def value_of(parameter: Parameter | None) -> Array | None:
    """Return the value of a parameter that a layer may do without."""
    return None if parameter is None else parameter.value
