"""Public operators without kernels of their own: array-library code in every backend."""

from __future__ import annotations

import numpy as np

from dcnlab.arrays import Array, require_arrays, require_shape
from dcnlab.geometry import IntOrPair, output_size
from dcnlab.ops.deformable import require_image, require_weight
from dcnlab.reference import convolution, dense
from dcnlab.reference.convolution import ConvGrads
from dcnlab.reference.dense import LinearGrads


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Regular convolution (cross-correlation): what `deform_conv2d` is at offset 0 and modulation 1.

    Parameters
    ----------
    input : (N, C, H, W)
    weight : (O, C/groups, kh, kw)
        The number of groups follows from C.
    bias : (O,), optional
    stride, padding, dilation : int or (vertical, horizontal)

    Returns
    -------
    (N, O, Ho, Wo)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_conv("conv2d", input, weight, bias, stride, padding, dilation)
    with np.errstate(all="ignore"):
        return convolution.conv2d(input, weight, bias, stride, padding, dilation)


def conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Gradients (input, weight, bias) of ``sum(conv2d(...) * grad_output)``; arguments as in `conv2d`."""
    shape = _check_conv("conv2d_backward", input, weight, bias, stride, padding, dilation)
    _check_grad_output("conv2d_backward", grad_output, input, "(N, O, Ho, Wo)", shape)
    with np.errstate(all="ignore"):
        return convolution.conv2d_backward(grad_output, input, weight, bias, stride, padding, dilation)


def depthwise_conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Depthwise convolution: every channel has its own kernel, `conv2d` with groups = C = O.

    Parameters
    ----------
    input : (N, C, H, W)
    weight : (C, 1, kh, kw)
    bias : (C,), optional
    stride, padding, dilation : int or (vertical, horizontal)

    Returns
    -------
    (N, C, Ho, Wo)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_depthwise("depthwise_conv2d", input, weight, bias, stride, padding, dilation)
    with np.errstate(all="ignore"):
        return convolution.depthwise_conv2d(input, weight, bias, stride, padding, dilation)


def depthwise_conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Gradients (input, weight, bias) of ``sum(depthwise_conv2d(...) * grad_output)``."""
    shape = _check_depthwise("depthwise_conv2d_backward", input, weight, bias, stride, padding, dilation)
    _check_grad_output("depthwise_conv2d_backward", grad_output, input, "(N, C, Ho, Wo)", shape)
    with np.errstate(all="ignore"):
        return convolution.depthwise_conv2d_backward(grad_output, input, weight, bias, stride, padding, dilation)


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Linear layer on the last axis: ``input @ weight.T + bias``.

    Parameters
    ----------
    input : (..., in)
    weight : (out, in)
    bias : (out,), optional

    Returns
    -------
    (..., out)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_linear("linear", input, weight, bias)
    with np.errstate(all="ignore"):
        return dense.linear(input, weight, bias)


def linear_backward(grad_output: Array, input: Array, weight: Array, bias: Array | None = None) -> LinearGrads:
    """Gradients (input, weight, bias) of ``sum(linear(...) * grad_output)``."""
    shape = _check_linear("linear_backward", input, weight, bias)
    _check_grad_output("linear_backward", grad_output, input, "(..., out)", shape)
    with np.errstate(all="ignore"):
        return dense.linear_backward(grad_output, input, weight, bias)


def _check_conv(
    operator: str,
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
) -> tuple[int, ...]:
    require_arrays(operator, input=input, weight=weight, bias=bias)
    n, channels, size = require_image(operator, input, "(N, C, H, W)")
    out, kernel = require_weight(operator, weight, channels)
    if bias is not None:
        require_shape(operator, "bias", bias, "(O,)", (out,))
    return n, out, *output_size(size, kernel, stride, padding, dilation)


def _check_depthwise(operator: str, input: Array, weight: Array, *others: Array) -> tuple[int, ...]:
    shape = _check_conv(operator, input, weight, *others)
    require_shape(operator, "weight", weight, "(C, 1, kh, kw)", (input.shape[1], 1, "kh", "kw"))
    return shape


def _check_linear(operator: str, input: Array, weight: Array, bias: Array | None) -> tuple[int, ...]:
    require_arrays(operator, input=input, weight=weight, bias=bias)
    require_shape(operator, "weight", weight, "(out, in)", ("out", "in"))
    out, width = weight.shape
    if input.ndim < 1 or input.shape[-1] != width:
        raise ValueError(f"{operator}: input must have shape (..., in) = (..., {width}), got {tuple(input.shape)}")
    if bias is not None:
        require_shape(operator, "bias", bias, "(out,)", (out,))
    return (*input.shape[:-1], out)


def _check_grad_output(operator: str, grad_output: Array, input: Array, formula: str, shape: tuple[int, ...]) -> None:
    require_arrays(operator, input=input, grad_output=grad_output)
    require_shape(operator, "grad_output", grad_output, formula, shape)
