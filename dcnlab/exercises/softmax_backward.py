"""Exercise 6: back through the softmax."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake
from dcnlab.ops import layers

STATEMENT = r"""
DCNv3's layer does not predict the modulation itself but logits $z$; softmax over the K taps makes them into modulation
that is positive and adds up to 1, [eq:softmax.1]:

$$m_k = \frac{e^{z_k}}{\sum_j e^{z_j}}$$

Exercise 4 gave you $g_k = \partial L/\partial m_k$. Write `softmax_backward(grad_modulation, logits)`, which returns
$\partial L/\partial z$; both arrays have shape (..., K), and the softmax runs over the last axis. Every logit moves
every modulation of its row, so derive $\partial m_k / \partial z_j$ for $j = k$ and for $j \ne k$ first, and then sum
over $k$. [eq:softmax.2] has the answer.

Logits may be large: $e^{1000}$ is infinite in floating point, but no $m_k$ is. The stub does not take care of that yet.
"""

STUB = '''
import numpy as np


def softmax_backward(grad_modulation, logits):
    """Return dL/dz, (..., K), for the softmax over the last axis."""
    modulation = np.exp(logits)
    modulation /= modulation.sum(axis=-1, keepdims=True)
    raise NotImplementedError  # replace this line
'''

HINTS = (
    "dm_k/dz_j is m_k (1 - m_k) where j = k, and -m_k m_j elsewhere; together m_k (delta_kj - m_j). Multiply by g_k "
    "and sum over k.",
    "dL/dz_j = m_j * (g_j - sum over k of m_k g_k): one number a row is subtracted from g, and it is the mean of g "
    "under m.",
    "For m, subtract the largest logit of the row first, with keepdims=True: exp never overflows then, and the factor "
    "cancels. The sum over k needs axis=-1 and keepdims=True as well.",
)

MISTAKES = (
    Mistake(
        "no_sum",
        "This is m * g: the Jacobian of softmax without its sum. Moving one logit changes all modulation of its row; "
        "subtract the mean of g under m: m * (g - sum(m * g)).",
    ),
    Mistake(
        "diagonal",
        "This is m * (1 - m) * g: the diagonal of the Jacobian alone, which is the whole for a sigmoid. Here the "
        "others of the row move too: m * (g - sum(m * g)).",
    ),
    Mistake("unweighted", "The sum has to be weighted with m: the sum of m * g, not that of g."),
    Mistake("all_rows", "The sum of m * g runs over the whole array. Every row has its own: axis=-1, keepdims=True."),
    Mistake("negated", "The sign is wrong: m * (g - sum(m * g))."),
    Mistake(
        "forward",
        "This is the softmax itself: multiply by what arrives, and subtract the mean under m: m * (g - sum(m * g)).",
    ),
)


def cases() -> list[Case]:
    """Return one row, equal gradients, several rows, and large logits."""
    rng = np.random.default_rng(6)
    return [
        Case("one row of two taps", {"grad_modulation": np.array([1.0, 0.0]), "logits": np.array([0.0, 0.0])}),
        Case(
            "one row of three taps", {"grad_modulation": np.array([1.0, 2.0, 4.0]), "logits": np.log([1.0, 2.0, 5.0])}
        ),
        Case(
            "equal g: the sum of m is fixed, so nothing changes",
            {"grad_modulation": np.ones(9), "logits": rng.normal(size=9)},
        ),
        Case(
            "rows of their own", {"grad_modulation": rng.normal(size=(2, 3, 9)), "logits": rng.normal(size=(2, 3, 9))}
        ),
        Case(
            "logits of 1000", {"grad_modulation": np.array([1.0, 2.0, 4.0]), "logits": 1000 + np.log([1.0, 2.0, 5.0])}
        ),
    ]


def reference(grad_modulation: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return (..., K) by `dcnlab.softmax_backward`."""
    grad: np.ndarray = layers.softmax_backward(grad_modulation, logits, backend="numpy")
    return grad


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return row and tap."""
    row = f"row {index[:-1]}, " if len(index) > 1 else ""
    return f"{row}tap {index[-1]}"


def simulate(mistakes: frozenset[str], grad_modulation: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the gradient with some mistakes made."""
    m = np.exp(logits - logits.max(axis=-1, keepdims=True))
    m = m / m.sum(axis=-1, keepdims=True)
    if "forward" in mistakes:
        return m
    g = grad_modulation
    if "diagonal" in mistakes:
        result = m * (1 - m) * g
    elif "no_sum" in mistakes:
        result = m * g
    else:
        axis = None if "all_rows" in mistakes else -1
        result = m * (g - (g if "unweighted" in mistakes else m * g).sum(axis=axis, keepdims=True))
    return -result if "negated" in mistakes else result


def judge(arguments: Arguments, expected: np.ndarray, got: np.ndarray) -> str:
    """Return what NaN means here."""
    if np.isfinite(got).all():
        return ""
    return "exp overflows. Subtract the largest logit of the row before exp: the factor cancels in the quotient."


EXERCISE = Exercise(
    number=6,
    name="softmax_backward",
    title="Back through the softmax",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases, reference=reference, locate=locate, mistakes=MISTAKES, simulate=simulate, judge=judge
    ),
    go_on="[06 Modulation](../06_modulation.ipynb) compares softmax with sigmoid.",
)
