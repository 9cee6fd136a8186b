"""Public operators without kernels of their own: array-library code in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, require_arrays, require_shape
from dcnlab.geometry import IntOrPair, output_size
from dcnlab.ops.deformable import require_image, require_weight
from dcnlab.reference import activation, convolution, dense, normalisation
from dcnlab.reference.convolution import ConvGrads
from dcnlab.reference.dense import AttentionGrads, LinearGrads
from dcnlab.reference.normalisation import BatchNormGrads, LayerNormGrads


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
    require_grad_output("conv2d_backward", grad_output, input, "(N, O, Ho, Wo)", shape)
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
    require_depthwise("depthwise_conv2d", input, weight, bias, stride, padding, dilation)
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
    shape = require_depthwise("depthwise_conv2d_backward", input, weight, bias, stride, padding, dilation)
    require_grad_output("depthwise_conv2d_backward", grad_output, input, "(N, C, Ho, Wo)", shape)
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


def layer_norm(input: Array, weight: Array, bias: Array, eps: float = 1e-6) -> Array:
    r"""Normalise the last axis: :math:`w\,(x - \mu) / \sqrt{\sigma^2 + \epsilon} + b` (arXiv 1607.06450).

    Parameters
    ----------
    input : (..., C)
    weight, bias : (C,)
    eps : float
        1e-6 as in InternImage; PyTorch's default is 1e-5.

    Returns
    -------
    (..., C)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_layer_norm("layer_norm", input, weight, bias)
    with np.errstate(all="ignore"):
        return normalisation.layer_norm(input, weight, bias, eps)


def layer_norm_backward(
    grad_output: Array, input: Array, weight: Array, bias: Array, eps: float = 1e-6
) -> LayerNormGrads:
    """Gradients (input, weight, bias) of ``sum(layer_norm(...) * grad_output)``."""
    _check_layer_norm("layer_norm_backward", input, weight, bias)
    require_grad_output("layer_norm_backward", grad_output, input, "(..., C)", tuple(input.shape))
    with np.errstate(all="ignore"):
        return normalisation.layer_norm_backward(grad_output, input, weight, bias, eps)


def batch_norm(
    input: Array,
    weight: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    r"""Normalise each channel: :math:`w\,(x - \mu) / \sqrt{\sigma^2 + \epsilon} + b` (arXiv 1502.03167).

    Parameters
    ----------
    input : (N, C, H, W)
    weight, bias : (C,)
    mean, variance : (C,), optional
        Fixed statistics, as in inference. Without them: those of the batch, as in training; the variance divides by
        the number of pixels.
    eps : float

    Returns
    -------
    (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`.
    """
    _check_batch_norm("batch_norm", input, weight, bias, mean, variance)
    with np.errstate(all="ignore"):
        return normalisation.batch_norm(input, weight, bias, mean, variance, eps)


def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    eps: float = 1e-5,
) -> BatchNormGrads:
    """Gradients (input, weight, bias, mean, variance) of ``sum(batch_norm(...) * grad_output)``.

    Batch statistics are functions of the input, and its gradient goes through them too.
    """
    _check_batch_norm("batch_norm_backward", input, weight, bias, mean, variance)
    require_grad_output("batch_norm_backward", grad_output, input, "(N, C, H, W)", tuple(input.shape))
    with np.errstate(all="ignore"):
        return normalisation.batch_norm_backward(grad_output, input, weight, bias, mean, variance, eps)


def gelu(input: Array) -> Array:
    r"""Return :math:`x\,\Phi(x)` with the exact :math:`\Phi(x) = (1 + \mathrm{erf}(x/\sqrt 2))/2` (arXiv 1606.08415).

    >>> import numpy as np
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1587, 0.0, 0.8413]
    """
    require_arrays("gelu", input=input)
    with np.errstate(all="ignore"):
        return activation.gelu(input)


def gelu_backward(grad_output: Array, input: Array) -> Array:
    """Gradient of ``sum(gelu(input) * grad_output)``."""
    require_grad_output("gelu_backward", grad_output, input, "the input's", tuple(input.shape))
    with np.errstate(all="ignore"):
        return activation.gelu_backward(grad_output, input)


def cross_entropy(logits: Array, labels: Any, label_smoothing: float = 0.0) -> Array:
    r"""Cross entropy of every row: :math:`-\sum_k q_k \log \mathrm{softmax}(z)_k`.

    Parameters
    ----------
    logits : (N, K)
    labels : (N,) integers from 0 to K - 1
    label_smoothing : float
        :math:`\epsilon` in the target :math:`q_k = (1 - \epsilon)\,[k = \mathrm{label}] + \epsilon / K` (arXiv
        1512.00567).

    Returns
    -------
    (N,)
        The losses, not their mean.

    Raises
    ------
    TypeError, ValueError
        As `deform_conv2d`; for labels that are not such integers.

    Examples
    --------
    >>> import numpy as np
    >>> (cross_entropy(np.zeros((1, 4)), [2]) == np.log(4)).tolist()
    [True]
    """
    labels = _check_cross_entropy("cross_entropy", logits, labels, label_smoothing)
    with np.errstate(all="ignore"):
        return activation.cross_entropy(logits, labels, label_smoothing)


def cross_entropy_backward(grad_output: Array, logits: Array, labels: Any, label_smoothing: float = 0.0) -> Array:
    """Gradient of the logits of ``sum(cross_entropy(...) * grad_output)``."""
    labels = _check_cross_entropy("cross_entropy_backward", logits, labels, label_smoothing)
    require_grad_output("cross_entropy_backward", grad_output, logits, "(N,)", (len(logits),))
    with np.errstate(all="ignore"):
        return activation.cross_entropy_backward(grad_output, logits, labels, label_smoothing)


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


def require_depthwise(operator: str, input: Array, weight: Array, *others: Any) -> tuple[int, ...]:
    """Refuse arguments of `depthwise_conv2d` that do not fit together; return the shape of the output."""
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


def _check_layer_norm(operator: str, input: Array, weight: Array, bias: Array) -> None:
    require_arrays(operator, input=input, weight=weight, bias=bias)
    require_shape(operator, "weight", weight, "(C,)", ("C",))
    channels = len(weight)
    require_shape(operator, "bias", bias, "(C,)", (channels,))
    if input.ndim < 1 or input.shape[-1] != channels or channels < 1:
        raise ValueError(f"{operator}: input must have shape (..., C) = (..., {channels}), got {tuple(input.shape)}")


def _check_batch_norm(
    operator: str, input: Array, weight: Array, bias: Array, mean: Array | None, variance: Array | None
) -> None:
    require_arrays(operator, input=input, weight=weight, bias=bias, mean=mean, variance=variance)
    _, channels, _ = require_image(operator, input, "(N, C, H, W)")
    if (mean is None) != (variance is None):
        raise ValueError(f"{operator}: mean and variance come together, got only one of them")
    for name, array in (("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)):
        if array is not None:
            require_shape(operator, name, array, "(C,)", (channels,))


def _check_cross_entropy(operator: str, logits: Array, labels: Any, label_smoothing: float) -> Array:
    """Refuse arguments that do not fit together; return the labels as an array beside the logits."""
    require_arrays(operator, logits=logits)
    require_shape(operator, "logits", logits, "(N, K)", ("N", "K"))
    n, classes = logits.shape
    labels = array_module(logits).asarray(labels)
    if labels.dtype.kind not in "iu" and labels.size:
        raise TypeError(f"{operator}: labels must be integers, got {labels.dtype}")
    require_shape(operator, "labels", labels, "(N,)", (n,))
    if classes < 1 or (n and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        span = f"{int(labels.min())} to {int(labels.max())}" if n else "none"
        raise ValueError(f"{operator}: labels must lie from 0 to K - 1 = {classes - 1}, got {span}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{operator}: label_smoothing must lie from 0 to 1, got {label_smoothing!r}")
    return labels.astype(int)


def require_grad_output(operator: str, grad_output: Array, input: Array, formula: str, shape: tuple[int, ...]) -> None:
    """Refuse a grad_output that does not go with the output."""
    require_arrays(operator, input=input, grad_output=grad_output)
    require_shape(operator, "grad_output", grad_output, formula, shape)
