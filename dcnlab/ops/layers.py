"""Public operators between the convolutions: depthwise convolution, normalisation, activations and the loss.

Those without kernels (batch norm, cross entropy) are array-library code in every backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, require_arrays, require_shape
from dcnlab.backends import choose, implementation
from dcnlab.geometry import IntOrPair
from dcnlab.ops.deformable import require_image
from dcnlab.ops.dense import require_conv, require_grad_output
from dcnlab.reference import activation, normalisation
from dcnlab.reference.convolution import ConvGrads
from dcnlab.reference.normalisation import BatchNormGrads, LayerNormGrads


def depthwise_conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    backend: str | None = None,
) -> Array:
    """Depthwise convolution: every channel has its own kernel, `conv2d` with groups = C = O.

    Parameters
    ----------
    input : (N, C, H, W)
        A view of an (N, H, W, C) array is worked on as it lies in memory, and the output is such a view again.
    weight : (C, 1, kh, kw)
    bias : (C,), optional
    stride, padding, dilation : int or (vertical, horizontal)
    backend : {"numpy", "cpu", "cuda"}, optional

    Returns
    -------
    (N, C, Ho, Wo)

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As `deform_conv2d`.
    """
    chosen = choose(backend, input)
    arguments = (input, weight, bias, stride, padding, dilation)
    _check_depthwise("depthwise_conv2d", chosen.dtypes, *arguments)
    module = implementation(chosen, "depthwise", input)
    with np.errstate(all="ignore"):
        result: Array = module.depthwise_conv2d(*arguments)
    return result


def depthwise_conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    backend: str | None = None,
) -> ConvGrads:
    """Gradients (input, weight, bias) of ``sum(depthwise_conv2d(...) * grad_output)``."""
    operator, chosen = "depthwise_conv2d_backward", choose(backend, input)
    arguments = (input, weight, bias, stride, padding, dilation)
    shape = _check_depthwise(operator, chosen.dtypes, *arguments)
    require_grad_output(operator, grad_output, input, "(N, C, Ho, Wo)", shape, chosen.dtypes)
    module = implementation(chosen, "depthwise", input)
    with np.errstate(all="ignore"):
        grads: ConvGrads = module.depthwise_conv2d_backward(grad_output, *arguments)
    return grads


def layer_norm(input: Array, weight: Array, bias: Array, eps: float = 1e-6, *, backend: str | None = None) -> Array:
    r"""Normalise the last axis: :math:`w\,(x - \mu) / \sqrt{\sigma^2 + \epsilon} + b` (arXiv 1607.06450).

    Parameters
    ----------
    input : (..., C)
    weight, bias : (C,)
    eps : float
        1e-6 as in InternImage; PyTorch's default is 1e-5.
    backend : {"numpy", "cpu", "cuda"}, optional

    Returns
    -------
    (..., C)

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As `deform_conv2d`.
    """
    chosen = choose(backend, input)
    _check_layer_norm("layer_norm", chosen.dtypes, input, weight, bias)
    module = implementation(chosen, "normalisation", input)
    with np.errstate(all="ignore"):
        result: Array = module.layer_norm(input, weight, bias, eps)
    return result


def layer_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array,
    eps: float = 1e-6,
    *,
    backend: str | None = None,
) -> LayerNormGrads:
    """Gradients (input, weight, bias) of ``sum(layer_norm(...) * grad_output)``."""
    operator, chosen = "layer_norm_backward", choose(backend, input)
    _check_layer_norm(operator, chosen.dtypes, input, weight, bias)
    require_grad_output(operator, grad_output, input, "(..., C)", tuple(input.shape), chosen.dtypes)
    module = implementation(chosen, "normalisation", input)
    with np.errstate(all="ignore"):
        grads: LayerNormGrads = module.layer_norm_backward(grad_output, input, weight, bias, eps)
    return grads


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


def gelu(input: Array, *, backend: str | None = None) -> Array:
    r"""Return :math:`x\,\Phi(x)` with the exact :math:`\Phi(x) = (1 + \mathrm{erf}(x/\sqrt 2))/2` (arXiv 1606.08415).

    >>> import numpy as np
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1587, 0.0, 0.8413]
    """
    chosen = choose(backend, input)
    require_arrays("gelu", chosen.dtypes, input=input)
    module = implementation(chosen, "activation", input)
    with np.errstate(all="ignore"):
        result: Array = module.gelu(input)
    return result


def gelu_backward(grad_output: Array, input: Array, *, backend: str | None = None) -> Array:
    """Gradient of ``sum(gelu(input) * grad_output)``."""
    chosen = choose(backend, input)
    require_grad_output("gelu_backward", grad_output, input, "the input's", tuple(input.shape), chosen.dtypes)
    module = implementation(chosen, "activation", input)
    with np.errstate(all="ignore"):
        result: Array = module.gelu_backward(grad_output, input)
    return result


def softmax(input: Array, axis: int = -1, *, backend: str | None = None) -> Array:
    """Return exp(input) / sum(exp(input)) along `axis`; the largest entry is subtracted first, so nothing overflows.

    >>> import numpy as np
    >>> softmax(np.array([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """
    chosen = choose(backend, input)
    _check_softmax("softmax", chosen.dtypes, axis, input=input)
    module = implementation(chosen, "activation", input)
    with np.errstate(all="ignore"):
        result: Array = module.softmax(input, axis)
    return result


def softmax_backward(grad_output: Array, input: Array, axis: int = -1, *, backend: str | None = None) -> Array:
    r"""Return the gradient of the logits: :math:`m_k (g_k - \sum_j m_j g_j)`, m = softmax(input).

    A constant added to all logits changes nothing, and the gradients along `axis` sum to 0.
    """
    chosen = choose(backend, input)
    _check_softmax("softmax_backward", chosen.dtypes, axis, grad_output=grad_output, input=input)
    require_shape("softmax_backward", "grad_output", grad_output, "the input's", tuple(input.shape))
    module = implementation(chosen, "activation", input)
    with np.errstate(all="ignore"):
        result: Array = module.softmax_backward(grad_output, input, axis)
    return result


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


def _check_depthwise(
    operator: str, dtypes: tuple[str, ...], input: Array, weight: Array, *others: Any
) -> tuple[int, ...]:
    """Refuse arguments that do not fit together; return the shape of the output."""
    shape = require_conv(operator, dtypes, input, weight, *others)
    require_shape(operator, "weight", weight, "(C, 1, kh, kw)", (input.shape[1], 1, "kh", "kw"))
    return shape


def _check_layer_norm(operator: str, dtypes: tuple[str, ...], input: Array, weight: Array, bias: Array) -> None:
    require_arrays(operator, dtypes, input=input, weight=weight, bias=bias)
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


def _check_softmax(operator: str, dtypes: tuple[str, ...], axis: int, **arrays: Array) -> None:
    require_arrays(operator, dtypes, **arrays)
    shape = tuple(arrays["input"].shape)
    if not -len(shape) <= axis < len(shape) or shape[axis] < 1:
        raise ValueError(f"{operator}: input must have at least one entry along axis {axis}, got shape {shape}")


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
