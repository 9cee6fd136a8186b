"""The executable specification of what stands between the convolutions: normalisation, GELU, attention, the loss."""

from __future__ import annotations

import math

import numpy as np

from dcnlab.arrays import Array
from dcnlab.reference.dense import AttentionGrads
from dcnlab.reference.loops_regular import softmax
from dcnlab.reference.normalisation import BatchNormGrads, LayerNormGrads

# -- normalisation -------------------------------------------------------------------------------------------------


def layer_norm(input: Array, weight: Array, bias: Array, eps: float = 1e-6) -> Array:
    """Every row on its own: subtract its mean, divide by its standard deviation, scale and shift."""
    output = np.empty_like(input)
    for row in np.ndindex(input.shape[:-1]):
        standard, _ = _standardised(input[row], eps)
        for c in range(len(standard)):
            output[(*row, c)] = weight[c] * standard[c] + bias[c]
    return output


def layer_norm_backward(
    grad_output: Array, input: Array, weight: Array, bias: Array, eps: float = 1e-6
) -> LayerNormGrads:
    """Each row through the Jacobian of its standardisation."""
    grad_input, grad_weight, grad_bias = np.zeros_like(input), np.zeros_like(weight), np.zeros_like(bias)
    for row in np.ndindex(input.shape[:-1]):
        standard, jacobian = _standardised(input[row], eps)
        for c in range(len(standard)):
            g = grad_output[(*row, c)]
            grad_weight[c] += g * standard[c]
            grad_bias[c] += g
            for i in range(len(standard)):
                grad_input[(*row, i)] += g * weight[c] * jacobian[c][i]
    return LayerNormGrads(grad_input, grad_weight, grad_bias)


def batch_norm(
    input: Array,
    weight: Array,
    bias: Array,
    mean: Array | None = None,
    variance: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Every channel on its own, with the statistics of its pixels or with given ones."""
    output = np.empty_like(input)
    for c in range(input.shape[1]):
        pixels = input[:, c].reshape(-1)
        if mean is None or variance is None:
            standard, _ = _standardised(pixels, eps)
        else:
            standard = [(x - mean[c]) / math.sqrt(variance[c] + eps) for x in pixels]
        channel = [weight[c] * x + bias[c] for x in standard]
        output[:, c] = np.array(channel).reshape(input[:, c].shape)
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
    """Each channel through the Jacobian of its standardisation; given statistics have gradients of their own."""
    grad_input, grad_weight, grad_bias = np.zeros_like(input), np.zeros_like(weight), np.zeros_like(bias)
    if mean is not None and variance is not None:
        grad_mean, grad_variance = np.zeros_like(mean), np.zeros_like(variance)
        for n, c, y, x in np.ndindex(input.shape):
            g, away, scale = grad_output[n, c, y, x], input[n, c, y, x] - mean[c], math.sqrt(variance[c] + eps)
            grad_input[n, c, y, x] = g * weight[c] / scale
            grad_weight[c] += g * away / scale
            grad_bias[c] += g
            grad_mean[c] -= g * weight[c] / scale
            grad_variance[c] -= g * weight[c] * away / (2 * scale**3)
        return BatchNormGrads(grad_input, grad_weight, grad_bias, grad_mean, grad_variance)
    for c in range(input.shape[1]):
        standard, jacobian = _standardised(input[:, c].reshape(-1), eps)
        grad_channel = np.zeros(len(standard), input.dtype)
        for p, g in enumerate(grad_output[:, c].reshape(-1)):
            grad_weight[c] += g * standard[p]
            grad_bias[c] += g
            for i in range(len(standard)):
                grad_channel[i] += g * weight[c] * jacobian[p][i]
        grad_input[:, c] = grad_channel.reshape(input[:, c].shape)
    return BatchNormGrads(grad_input, grad_weight, grad_bias, None, None)


def _standardised(values: Array, eps: float) -> tuple[list[float], list[list[float]]]:
    """Return z = (x - mean) / scale, scale = sqrt(variance + eps), of n numbers, and the Jacobian d z_j / d x_i.

    Mean and variance depend on every x_i: d mean / d x_i = 1/n and d scale / d x_i = z_i / n, so that
    d z_j / d x_i = ((i == j) - 1/n - z_i z_j / n) / scale.
    """
    n = len(values)
    if n == 0:
        return [], []
    mean = sum(values) / n
    scale = math.sqrt(sum((x - mean) ** 2 for x in values) / n + eps)
    z = [(x - mean) / scale for x in values]
    return z, [[(float(i == j) - 1 / n - z[i] * z[j] / n) / scale for i in range(n)] for j in range(n)]


# -- activation, attention, loss -----------------------------------------------------------------------------------


def gelu(input: Array) -> Array:
    """Return x times the probability that a standard normal number is less than x: (1 + erf(x / sqrt 2)) / 2.

    1 + erf(z) is written erfc(-z): near z = -4 nothing would be left of the sum.
    """
    output = np.empty_like(input)
    for at in np.ndindex(input.shape):
        output[at] = input[at] * math.erfc(-input[at] / math.sqrt(2)) / 2
    return output


def gelu_backward(grad_output: Array, input: Array) -> Array:
    """The product rule: the probability, plus x times the normal density."""
    grad = np.empty_like(input)
    for at in np.ndindex(input.shape):
        x = input[at]
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        grad[at] = grad_output[at] * (math.erfc(-x / math.sqrt(2)) / 2 + x * density)
    return grad


def attention(query: Array, key: Array, value: Array, scale: float | None = None) -> Array:
    """Every query averages the values, weighted by the softmax of its products with the keys."""
    output = np.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)
    weights = softmax(_scores(query, key, scale))
    for at in np.ndindex(weights.shape):
        *image, q, k = at
        for e in range(value.shape[-1]):
            output[(*image, q, e)] += weights[at] * value[(*image, k, e)]
    return output


def attention_backward(
    grad_output: Array, query: Array, key: Array, value: Array, scale: float | None = None
) -> AttentionGrads:
    """Each product weight * value, then each score through the softmax, then each product query * key."""
    grads = AttentionGrads(np.zeros_like(query), np.zeros_like(key), np.zeros_like(value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = softmax(_scores(query, key, scale))
    grad_weights = np.zeros_like(weights)
    for at in np.ndindex(weights.shape):
        *image, q, k = at
        for e in range(value.shape[-1]):
            grads.value[(*image, k, e)] += weights[at] * grad_output[(*image, q, e)]
            grad_weights[at] += grad_output[(*image, q, e)] * value[(*image, k, e)]
    for at in np.ndindex(weights.shape):
        *image, q, k = at
        grad_score = 0.0
        for j in range(weights.shape[-1]):
            grad_score += grad_weights[(*image, q, j)] * weights[(*image, q, j)] * (float(j == k) - weights[at])
        for d in range(query.shape[-1]):
            grads.query[(*image, q, d)] += grad_score * scale * key[(*image, k, d)]
            grads.key[(*image, k, d)] += grad_score * scale * query[(*image, q, d)]
    return grads


def _scores(query: Array, key: Array, scale: float | None) -> Array:
    """Return scale * (query . key) for every pair, (..., Q, K)."""
    scores = np.zeros((*query.shape[:-1], key.shape[-2]), query.dtype)
    for at in np.ndindex(scores.shape):
        *image, q, k = at
        for d in range(query.shape[-1]):
            scores[at] += query[(*image, q, d)] * key[(*image, k, d)]
    return scores * (query.shape[-1] ** -0.5 if scale is None else scale)


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Minus the mean, under the smoothed target, of the log-probabilities."""
    loss, target = np.zeros(len(logits), logits.dtype), _target(logits, labels, label_smoothing)
    for n, k in np.ndindex(logits.shape):
        largest = max(logits[n])
        log_sum = largest + math.log(sum(math.exp(z - largest) for z in logits[n]))
        loss[n] -= target[n, k] * (logits[n, k] - log_sum)
    return loss


def cross_entropy_backward(grad_output: Array, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Probability minus target: the target's entries add up to 1."""
    probability, target = softmax(logits), _target(logits, labels, label_smoothing)
    grad = np.zeros_like(logits)
    for n, k in np.ndindex(logits.shape):
        grad[n, k] = grad_output[n] * (probability[n, k] - target[n, k])
    return grad


def _target(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """Return (1 - eps) for the label's entry, and eps / K more for each of the K entries."""
    target = np.zeros_like(logits)
    for n, k in np.ndindex(logits.shape):
        target[n, k] = (1 - label_smoothing) * float(k == labels[n]) + label_smoothing / logits.shape[1]
    return target
