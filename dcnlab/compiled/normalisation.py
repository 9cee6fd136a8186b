"""Layer normalisation by kernels; signatures and results as in `dcnlab.reference.normalisation`."""

from __future__ import annotations

from dcnlab.arrays import Array, array_module
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rung import arithmetic
from dcnlab.reference.normalisation import LayerNormGrads


def layer_norm(input: Array, weight: Array, bias: Array, eps: float = 1e-6, call: Call | None = None) -> Array:
    """Return the normalised last axis of `input`."""
    xp, (channels,) = array_module(input), weight.shape
    output = xp.empty(input.shape, input.dtype)
    if output.size:
        rows = output.size // channels
        arrays = map(xp.ascontiguousarray, (input, weight, bias))
        arguments = (*arrays, output, rows, channels, float(eps))
        call = call or Call(input)
        call.launch("layer_norm_forward", call.problem(input.dtype, channels, rows), *arguments)
    return output


def layer_norm_backward(
    grad_output: Array, input: Array, weight: Array, bias: Array, eps: float = 1e-6, call: Call | None = None
) -> LayerNormGrads:
    """Return the gradients of sum(output * grad_output)."""
    xp, (channels,) = array_module(input), weight.shape
    grad_input = xp.empty(input.shape, input.dtype)
    sums = xp.zeros((2, channels), arithmetic(input.dtype))  # of weight and bias
    if grad_input.size:
        rows = grad_input.size // channels
        arrays = map(xp.ascontiguousarray, (grad_output, input, weight))
        arguments = (*arrays, grad_input, *sums, rows, channels, float(eps))
        call = call or Call(input)
        call.launch("layer_norm_backward", call.problem(input.dtype, channels, rows), *arguments)
    return LayerNormGrads(grad_input, *(grad.astype(input.dtype, copy=False) for grad in sums))
