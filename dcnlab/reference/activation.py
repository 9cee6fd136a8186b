"""GELU, softmax and the cross entropy, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dcnlab.arrays import Array, array_module


def gelu(input: Array) -> Array:
    """Return x * Phi(x) [eq:gelu.1]; arguments as in `dcnlab.gelu`, not checked here."""
    output = _normal_distribution(input)
    output *= input
    return output


def gelu_backward(grad_output: Array, input: Array) -> Array:
    """Return grad_output * (Phi(x) + x * phi(x)) [eq:gelu.2]: the product rule, as Phi' is the normal density phi."""
    xp = array_module(input)
    density = xp.empty(input.shape, input.dtype)
    xp.multiply(input, input, out=density)
    density *= -0.5
    xp.exp(density, out=density)
    density *= 1 / math.sqrt(2 * math.pi)
    density *= input
    density += _normal_distribution(input)
    density *= grad_output
    return density


def _normal_distribution(input: Array) -> Array:
    """Return Phi(x) = (1 + erf(x / sqrt 2)) / 2, the distribution function of the standard normal, in a new array.

    Computed as `ndtr`, which is accurate where erf is near -1 and the sum would cancel.
    """
    xp = array_module(input)
    values = xp.empty(input.shape, input.dtype)
    return _ndtr(xp)(input, out=values)


def _ndtr(xp: Any) -> Callable[..., Array]:
    """Return `ndtr` of the array module `xp`; imported here, so that those who need no GELU do not pay."""
    if xp.__name__ == "cupy":
        from cupyx.scipy.special import ndtr
    else:
        from scipy.special import ndtr
    return ndtr


def softmax(input: Array, axis: int = -1) -> Array:
    """Return exp(input) / sum(exp(input)) along `axis` [eq:softmax.1]; arguments as in `dcnlab.softmax`."""
    xp = array_module(input)
    powers = xp.empty(input.shape, input.dtype)
    xp.subtract(input, input.max(axis=axis, keepdims=True), out=powers)  # at most 0: nothing overflows
    xp.exp(powers, out=powers)
    powers /= powers.sum(axis=axis, keepdims=True)
    return powers


def softmax_backward(grad_output: Array, input: Array, axis: int = -1) -> Array:
    """Return m * (grad_output - sum(m * grad_output)), m = softmax(input) [eq:softmax.2]."""
    m = softmax(input, axis)
    grad = m * grad_output
    m *= grad.sum(axis=axis, keepdims=True)
    grad -= m
    return grad


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Return the loss of every row of `logits`; arguments as in `dcnlab.cross_entropy`, not checked here."""
    xp = array_module(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)  # exp never overflows
    loss = xp.log(xp.exp(shifted).sum(axis=1))
    loss -= (1 - label_smoothing) * shifted[xp.arange(len(logits)), labels]
    if label_smoothing:
        loss -= label_smoothing * shifted.mean(axis=1)
    return loss


def cross_entropy_backward(grad_output: Array, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Return grad_output * (softmax(logits) - target)."""
    xp = array_module(logits)
    grad = xp.empty(logits.shape, logits.dtype)
    xp.subtract(logits, logits.max(axis=1, keepdims=True), out=grad)
    xp.exp(grad, out=grad)
    grad /= grad.sum(axis=1, keepdims=True)
    grad -= label_smoothing / logits.shape[1]
    grad[xp.arange(len(logits)), labels] -= 1 - label_smoothing
    grad *= grad_output[:, None]
    return grad
