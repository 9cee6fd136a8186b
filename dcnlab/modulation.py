r"""How raw logits become modulation: what DCNv2 and DCNv3 multiply each sample by.

===============  ==========================================  =======================  ==========================
kind             modulation of K logits                      sum over the K taps      where
===============  ==========================================  =======================  ==========================
sigmoid          1 / (1 + exp(-z)), each on its own          anything from 0 to K     DCNv2 (arXiv 1811.11168)
twice_sigmoid    2 / (1 + exp(-z)): 1 at z = 0               anything from 0 to 2K    DCNv2 variants
softmax          exp(z_k) / sum_j exp(z_j)                   exactly 1                DCNv3 (arXiv 2211.05778)
none             z itself                                    anything                 experiments
===============  ==========================================  =======================  ==========================
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dcnlab.arrays import FLOAT_TYPES, Array, array_module, require_arrays, require_shape
from dcnlab.backends import choose
from dcnlab.ops.layers import softmax, softmax_backward


def sigmoid(input: Array) -> Array:
    """Return 1 / (1 + exp(-input)), without overflow for inputs of any size.

    >>> import numpy as np
    >>> sigmoid(np.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    require_arrays("sigmoid", input=input)
    xp = array_module(input)
    small = xp.exp(-abs(input))  # in (0, 1]: never overflows
    return xp.where(input >= 0, 1, small) / (1 + small)


def sigmoid_backward(grad_output: Array, input: Array) -> Array:
    """Return grad_output * s * (1 - s), s = sigmoid(input)."""
    _check_backward("sigmoid_backward", grad_output, input)
    s = sigmoid(input)
    return grad_output * s * (1 - s)


def twice_sigmoid(input: Array) -> Array:
    """Return 2 * sigmoid(input): 1 for a logit of 0, so that a fresh layer starts as a regular convolution."""
    return 2 * sigmoid(input)


def twice_sigmoid_backward(grad_output: Array, input: Array) -> Array:
    """Return 2 * grad_output * s * (1 - s), s = sigmoid(input)."""
    return 2 * sigmoid_backward(grad_output, input)


def _none(input: Array) -> Array:
    return input.copy()


def _none_backward(grad_output: Array, input: Array) -> Array:
    return grad_output.copy()


# Each kind's forward and backward, on (..., G, K) logits.
KINDS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "softmax": (softmax, softmax_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "twice_sigmoid": (twice_sigmoid, twice_sigmoid_backward),
    "none": (_none, _none_backward),
}


def normalise_modulation(logits: Array, kind: str, groups: int, *, backend: str | None = None) -> Array:
    """Return the modulation of (..., G*K) logits, in the same shape.

    Parameters
    ----------
    logits : (..., G*K)
    kind : {"softmax", "sigmoid", "twice_sigmoid", "none"}
    groups : int
        G; softmax runs over the K taps of each group.
    backend : {"numpy", "cpu", "cuda"}, optional
        For softmax, which has kernels; the other kinds are array-library code in every backend.

    Raises
    ------
    ValueError
        For an unknown kind, or when the last axis does not divide into `groups`.
    BackendUnavailable
        A backend that cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> normalise_modulation(np.zeros((1, 4, 4, 18)), "softmax", groups=2)[0, 0, 0, :3].round(4).tolist()
    [0.1111, 0.1111, 0.1111]
    """
    forward, _ = _kind(kind)
    rows = _by_tap("normalise_modulation", groups, backend, logits=logits)
    return _call(forward, kind, backend, rows).reshape(logits.shape)


def normalise_modulation_backward(
    grad_output: Array, logits: Array, kind: str, groups: int, *, backend: str | None = None
) -> Array:
    """Return the gradient of the logits of `normalise_modulation`."""
    _, backward = _kind(kind)
    rows = _by_tap("normalise_modulation_backward", groups, backend, logits=logits, grad_output=grad_output)
    return _call(backward, kind, backend, rows[::-1]).reshape(logits.shape)


def _kind(kind: str) -> tuple[Callable[..., Array], Callable[..., Array]]:
    if kind not in KINDS:
        raise ValueError(f"modulation must be one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind]


def _call(function: Callable[..., Array], kind: str, backend: str | None, arrays: list[Array]) -> Array:
    """Call one of `KINDS`, on the backend if it has kernels; float16 is a format of storage only."""
    if kind == "softmax":
        return function(*arrays, backend=backend)
    dtype = arrays[0].dtype
    if dtype.name in FLOAT_TYPES:
        return function(*arrays)
    return function(*(array.astype(np.float32) for array in arrays)).astype(dtype)


def _by_tap(operator: str, groups: int, backend: str | None, logits: Array, **others: Array) -> list[Array]:
    """Return (..., G*K) arrays as (..., G, K), once they have been checked."""
    require_arrays(operator, choose(backend, logits).dtypes, logits=logits, **others)
    channels = logits.shape[-1] if logits.ndim else 0
    if groups < 1 or channels == 0 or channels % groups:
        raise ValueError(
            f"{operator}: logits have G*K = {groups}*K channels on the last axis, got {tuple(logits.shape)}"
        )
    for name, array in others.items():
        require_shape(operator, name, array, "the logits'", tuple(logits.shape))
    shape = (*logits.shape[:-1], groups, channels // groups)
    return [array.reshape(shape) for array in (logits, *others.values())]


def _check_backward(operator: str, grad_output: Array, input: Array) -> None:
    require_arrays(operator, grad_output=grad_output, input=input)
    require_shape(operator, "grad_output", grad_output, "the input's", tuple(input.shape))
