"""Layer and batch normalisation, forward and backward.

Both are the same three steps, x -> x - mean -> / sqrt(variance + eps) -> * weight + bias; they differ in the entries
that a mean runs over: the channels of one pixel (layer), or all pixels of one channel (batch).
"""

from __future__ import annotations

from typing import NamedTuple

from dcnlab.arrays import Array, array_module


class LayerNormGrads(NamedTuple):
    """Gradients of `layer_norm`, each in the shape of its argument."""

    input: Array
    weight: Array
    bias: Array


class BatchNormGrads(NamedTuple):
    """Gradients of `batch_norm`, each in the shape of its argument; None for absent statistics."""

    input: Array
    weight: Array
    bias: Array
    mean: Array | None
    variance: Array | None


# -- layer normalisation -------------------------------------------------------------------------------------------


def layer_norm(input: Array, weight: Array, bias: Array, eps: float = 1e-6) -> Array:
    """Return the normalised last axis of `input` [eq:norm.1]; arguments as in `dcnlab.layer_norm`, not checked here."""
    output, _ = _standardised_rows(input, eps)
    output *= weight
    output += bias
    return output


def layer_norm_backward(
    grad_output: Array, input: Array, weight: Array, bias: Array, eps: float = 1e-6
) -> LayerNormGrads:
    r"""Return the gradients of sum(output * grad_output): [eq:norm.2].

    With :math:`\hat x` the standardised row, :math:`\sigma` its scale and :math:`h = g\,w`, the input's gradient is
    :math:`(h - \langle h \rangle - \hat x \langle h \hat x \rangle) / \sigma`: what is left of h after its mean and its
    part along :math:`\hat x` are taken out, because moving a row along either of them changes no output.
    """
    xp = array_module(input)
    standard, per_scale = _standardised_rows(input, eps)
    grad_weight = xp.einsum("rc,rc->c", _rows(grad_output), _rows(standard))
    grad = xp.empty(input.shape, input.dtype)
    xp.multiply(grad_output, weight, out=grad)
    along = xp.einsum("...c,...c->...", grad, standard)[..., None] / input.shape[-1]
    grad -= grad.mean(axis=-1, keepdims=True)
    standard *= along
    grad -= standard
    grad *= per_scale
    return LayerNormGrads(grad, grad_weight, _rows(grad_output).sum(axis=0))


def _standardised_rows(input: Array, eps: float) -> tuple[Array, Array]:
    """Return (x - mean) / sqrt(variance + eps) of every row, an array of our own, and 1 / sqrt(variance + eps)."""
    xp = array_module(input)
    standard = xp.empty(input.shape, input.dtype)
    xp.subtract(input, input.mean(axis=-1, keepdims=True), out=standard)
    variance = xp.einsum("...c,...c->...", standard, standard)[..., None] / input.shape[-1]
    per_scale = 1 / xp.sqrt(variance + eps)
    standard *= per_scale
    return standard, per_scale


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


# -- batch normalisation -------------------------------------------------------------------------------------------


def batch_norm(
    input: Array,
    weight: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Return the normalised channels of NCHW `input`; arguments as in `dcnlab.batch_norm`, not checked here."""
    xp = array_module(input)
    if mean is None or variance is None:
        mean, variance = batch_statistics(input)
    scale = weight / xp.sqrt(variance + eps)
    output = _centred(input, mean)
    output *= _per_channel(scale)
    output += _per_channel(bias)
    return output


def batch_norm_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    eps: float = 1e-5,
) -> BatchNormGrads:
    """Return the gradients of sum(output * grad_output).

    As in `layer_norm_backward` where the statistics are those of the batch; fixed statistics take nothing out.
    """
    xp = array_module(input)
    fixed = mean is not None
    if mean is None or variance is None:
        mean, variance = batch_statistics(input)
    per_scale = 1 / xp.sqrt(variance + eps)
    centred = _centred(input, mean)
    grad_bias = grad_output.sum(axis=(0, 2, 3))
    grad_scale = xp.einsum("nchw,nchw->c", grad_output, centred)  # of weight / sqrt(variance + eps)
    grad = xp.empty(input.shape, input.dtype)
    if fixed:
        xp.multiply(grad_output, _per_channel(weight * per_scale), out=grad)
        grad_variance = -0.5 * grad_scale * weight * per_scale**3
        return BatchNormGrads(grad, grad_scale * per_scale, grad_bias, -grad_bias * weight * per_scale, grad_variance)
    count = max(input.size // input.shape[1], 1)
    centred *= _per_channel(grad_scale * per_scale**2 / count)
    xp.subtract(grad_output, _per_channel(grad_bias / count), out=grad)
    grad -= centred
    grad *= _per_channel(weight * per_scale)
    return BatchNormGrads(grad, grad_scale * per_scale, grad_bias, None, None)


def batch_statistics(input: Array) -> tuple[Array, Array]:
    """Return mean and variance (divided by the count, not by one less) of each channel of NCHW `input`, (C,) each.

    Of no pixels, both are 0.
    """
    xp = array_module(input)
    count = max(input.size // input.shape[1], 1)
    mean = input.sum(axis=(0, 2, 3)) / count
    centred = _centred(input, mean)
    return mean, xp.einsum("nchw,nchw->c", centred, centred) / count


def _centred(input: Array, mean: Array) -> Array:
    """Return input - mean, an array of our own."""
    xp = array_module(input)
    centred = xp.empty(input.shape, input.dtype)
    return xp.subtract(input, _per_channel(mean), out=centred)


def _per_channel(values: Array) -> Array:
    return values[:, None, None]
