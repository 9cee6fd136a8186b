"""GELU and softmax by kernels; signatures and results as in `dcnlab.reference.activation`."""

from __future__ import annotations

from typing import Any

from dcnlab.arrays import Array, array_module
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rung import arithmetic


def gelu(input: Array, call: Call | None = None) -> Array:
    """Return x * Phi(x)."""
    return _elementwise("gelu_forward", call, input)


def gelu_backward(grad_output: Array, input: Array, call: Call | None = None) -> Array:
    """Return grad_output * (Phi(x) + x * phi(x))."""
    return _elementwise("gelu_backward", call, grad_output, input)


def softmax(input: Array, axis: int = -1, call: Call | None = None) -> Array:
    """Return exp(input) / sum(exp(input)) along `axis`."""
    return _along_rows("softmax_forward", call, axis, input)


def softmax_backward(grad_output: Array, input: Array, axis: int = -1, call: Call | None = None) -> Array:
    """Return m * (grad_output - sum(m * grad_output)), m = softmax(input)."""
    return _along_rows("softmax_backward", call, axis, grad_output, input)


def _elementwise(operator: str, call: Call | None, *arrays: Array) -> Array:
    xp, first = array_module(*arrays), arrays[-1]
    output = xp.empty(first.shape, first.dtype)
    if output.size:
        arguments: list[Any] = [*map(xp.ascontiguousarray, arrays), output, output.size]
        call = call or Call(first)
        call.launch(operator, call.problem(first.dtype, 1, output.size), *arguments)
    return output


def _along_rows(operator: str, call: Call | None, axis: int, *arrays: Array) -> Array:
    """Launch a kernel on contiguous rows along `axis`, which for modulation is the last: then nothing is copied."""
    xp, first = array_module(*arrays), arrays[-1]
    rows = [xp.ascontiguousarray(xp.moveaxis(array, axis, -1)) for array in arrays]
    output = xp.empty(rows[0].shape, arithmetic(first.dtype))
    if output.size:
        taps = output.shape[-1]
        count = output.size // taps
        call = call or Call(first)
        call.launch(operator, call.problem(first.dtype, 1, count), *rows, output, count, taps)
    return xp.ascontiguousarray(xp.moveaxis(output.astype(first.dtype, copy=False), -1, axis))
