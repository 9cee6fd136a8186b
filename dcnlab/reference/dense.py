"""The linear layer, y = x W^T + b, and attention: products of dense matrices, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

from dcnlab.arrays import Array, array_module


class LinearGrads(NamedTuple):
    """Gradients of `linear`, each in the shape of its argument; None for an absent bias."""

    input: Array
    weight: Array
    bias: Array | None


class AttentionGrads(NamedTuple):
    """Gradients of `attention`, each in the shape of its argument."""

    query: Array
    key: Array
    value: Array


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``input @ weight.T + bias``; arguments as in `dcnlab.linear`, not checked here."""
    out, width = weight.shape
    output = input.reshape(-1, width) @ weight.T  # one product of two matrices, not one for every image row
    if bias is not None:
        output += bias
    return output.reshape(*input.shape[:-1], out)


def linear_backward(grad_output: Array, input: Array, weight: Array, bias: Array | None = None) -> LinearGrads:
    """Return the gradients of sum(output * grad_output)."""
    out, width = weight.shape
    rows = grad_output.reshape(-1, out)  # (batch, out)
    return LinearGrads(
        input=(rows @ weight).reshape(input.shape),
        weight=rows.T @ input.reshape(-1, width),
        bias=None if bias is None else rows.sum(axis=0),
    )


def attention(query: Array, key: Array, value: Array, scale: float | None = None) -> Array:
    """Return softmax(scale * query key^T) value; arguments as in `dcnlab.attention`, not checked here."""
    output = _attention_weights(query, key, scale) @ value
    return array_module(output).ascontiguousarray(output)  # it is, unless the arguments were not


def attention_backward(
    grad_output: Array, query: Array, key: Array, value: Array, scale: float | None = None
) -> AttentionGrads:
    """Return the gradients of sum(output * grad_output): back through the sum, the softmax, and the scores."""
    xp = array_module(query)
    weights = _attention_weights(query, key, scale)  # (..., queries, keys)
    grad_value = weights.swapaxes(-1, -2) @ grad_output
    grad = grad_output @ value.swapaxes(-1, -2)  # of the weights
    grad -= xp.einsum("...k,...k->...", grad, weights)[..., None]
    grad *= weights  # of the scores
    grad *= _scale(query, scale)
    grads = (grad @ key, grad.swapaxes(-1, -2) @ query, grad_value)
    return AttentionGrads(*(xp.ascontiguousarray(g) for g in grads))


def _attention_weights(query: Array, key: Array, scale: float | None) -> Array:
    """Return softmax(scale * query key^T) over the keys, in one array."""
    xp = array_module(query)
    weights = query @ key.swapaxes(-1, -2)
    weights *= _scale(query, scale)
    weights -= weights.max(axis=-1, keepdims=True)
    xp.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _scale(query: Array, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale
