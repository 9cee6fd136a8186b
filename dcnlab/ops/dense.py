"""Public operators without kernels of their own: array-library code in every backend."""

from __future__ import annotations

import numpy as np

from dcnlab.arrays import FLOAT_TYPES, Array, require_arrays, require_shape
from dcnlab.geometry import IntOrPair, output_size
from dcnlab.ops.deformable import require_image, require_weight
from dcnlab.reference import convolution, dense
from dcnlab.reference.convolution import ConvGrads
from dcnlab.reference.dense import AttentionGrads, LinearGrads


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
    require_conv("conv2d", FLOAT_TYPES, input, weight, bias, stride, padding, dilation)
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
    shape = require_conv("conv2d_backward", FLOAT_TYPES, input, weight, bias, stride, padding, dilation)
    require_grad_output("conv2d_backward", grad_output, input, "(N, O, Ho, Wo)", shape)
    with np.errstate(all="ignore"):
        return convolution.conv2d_backward(grad_output, input, weight, bias, stride, padding, dilation)


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
    require_grad_output("linear_backward", grad_output, input, "(..., out)", shape)
    with np.errstate(all="ignore"):
        return dense.linear_backward(grad_output, input, weight, bias)


def attention(query: Array, key: Array, value: Array, scale: float | None = None) -> Array:
    r"""Scaled dot-product attention: :math:`\mathrm{softmax}(s\, Q K^T) V`. Eq. 1 of arXiv 1706.03762.

    Parameters
    ----------
    query : (..., Q, D)
        The leading axes (images, heads) are those of `key` and `value`.
    key : (..., K, D)
    value : (..., K, E)
    scale : float, optional
        s, by default ``D**-0.5``.

    Returns
    -------
    (..., Q, E)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_attention("attention", query, key, value)
    with np.errstate(all="ignore"):
        return dense.attention(query, key, value, scale)


def attention_backward(
    grad_output: Array, query: Array, key: Array, value: Array, scale: float | None = None
) -> AttentionGrads:
    """Gradients (query, key, value) of ``sum(attention(...) * grad_output)``."""
    shape = _check_attention("attention_backward", query, key, value)
    require_grad_output("attention_backward", grad_output, query, "(..., Q, E)", shape)
    with np.errstate(all="ignore"):
        return dense.attention_backward(grad_output, query, key, value, scale)


def require_conv(
    operator: str,
    dtypes: tuple[str, ...],
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
) -> tuple[int, ...]:
    """Refuse arguments of a convolution that do not fit together; return the shape of the output."""
    require_arrays(operator, dtypes, input=input, weight=weight, bias=bias)
    n, channels, size = require_image(operator, input, "(N, C, H, W)")
    out, kernel = require_weight(operator, weight, channels)
    if bias is not None:
        require_shape(operator, "bias", bias, "(O,)", (out,))
    return n, out, *output_size(size, kernel, stride, padding, dilation)


def _check_linear(operator: str, input: Array, weight: Array, bias: Array | None) -> tuple[int, ...]:
    require_arrays(operator, input=input, weight=weight, bias=bias)
    require_shape(operator, "weight", weight, "(out, in)", ("out", "in"))
    out, width = weight.shape
    if input.ndim < 1 or input.shape[-1] != width:
        raise ValueError(f"{operator}: input must have shape (..., in) = (..., {width}), got {tuple(input.shape)}")
    if bias is not None:
        require_shape(operator, "bias", bias, "(out,)", (out,))
    return (*input.shape[:-1], out)


def _check_attention(operator: str, query: Array, key: Array, value: Array) -> tuple[int, ...]:
    require_arrays(operator, query=query, key=key, value=value)
    if query.ndim < 2 or 0 in query.shape[-1:]:
        raise ValueError(f"{operator}: query must have shape (..., Q, D), got {tuple(query.shape)}")
    *leading, _, width = query.shape
    require_shape(operator, "key", key, "(..., K, D)", (*leading, "K", width))
    keys = key.shape[-2]
    if keys < 1:
        raise ValueError(f"{operator}: key must have at least one row to attend to, got {tuple(key.shape)}")
    require_shape(operator, "value", value, "(..., K, E)", (*leading, keys, "E"))
    return (*query.shape[:-1], value.shape[-1])


def require_grad_output(
    operator: str,
    grad_output: Array,
    input: Array,
    formula: str,
    shape: tuple[int, ...],
    dtypes: tuple[str, ...] = FLOAT_TYPES,
) -> None:
    """Refuse a grad_output that does not go with the output."""
    require_arrays(operator, dtypes, input=input, grad_output=grad_output)
    require_shape(operator, "grad_output", grad_output, formula, shape)
