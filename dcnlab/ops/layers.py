"""Public operators between the convolutions: normalisation, GELU and the loss, in array-library code."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, require_arrays, require_shape
from dcnlab.ops.deformable import require_image
from dcnlab.ops.dense import require_grad_output
from dcnlab.reference import activation, normalisation
from dcnlab.reference.normalisation import BatchNormGrads, LayerNormGrads


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
