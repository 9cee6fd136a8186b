"""The linear layer, y = x W^T + b, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

from dcnlab.arrays import Array


class LinearGrads(NamedTuple):
    """Gradients of `linear`, each in the shape of its argument; None for an absent bias."""

    input: Array
    weight: Array
    bias: Array | None


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``input @ weight.T + bias``; arguments as in `dcnlab.linear`, not checked here."""
    output = input @ weight.T
    if bias is not None:
        output += bias
    return output


def linear_backward(grad_output: Array, input: Array, weight: Array, bias: Array | None = None) -> LinearGrads:
    """Return the gradients of sum(output * grad_output)."""
    rows = grad_output.reshape(-1, len(weight))  # (batch, out)
    return LinearGrads(
        input=grad_output @ weight,
        weight=rows.T @ input.reshape(-1, weight.shape[1]),
        bias=None if bias is None else rows.sum(axis=0),
    )
