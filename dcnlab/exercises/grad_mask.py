"""Exercise 4: the gradient of the modulation."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake
from dcnlab.reference.sampling import sampling_matrix

STATEMENT = r"""
Now the way back. In DCNv3 the output of channel $c$ at pixel $o$ is the modulated sum of the samples of its group $g$,
[eq:dcnv3.2],

$$\mathrm{out}_c(o) = \sum_k m_{g,k}(o)\; v_c(p_{g,k}(o))$$

A loss $L$ sends back $\partial L / \partial\, \mathrm{out}$, the array `grad_output`. Derive
$\partial L / \partial m_{g,k}(o)$, and write `grad_mask(grad_output, input, positions)`:

| array | shape | |
|---|---|---|
| `grad_output` | (Ho, Wo, C) | |
| `input` | (H, W, C) | channels last, as DCNv3 has them |
| `positions` | (Ho, Wo, G, K, 2) | where each tap samples, (y, x) in pixels of the input |
| result | (Ho, Wo, G, K) | |

The C channels are split into G groups of C/G neighbours; all channels of a group share the tap's position and its
modulation. [eq:sample.3] has the answer, if you want to compare.
"""

STUB = '''
import numpy as np


def grad_mask(grad_output, input, positions):
    """Return dL/dm, (Ho, Wo, G, K), of the modulated sum of the samples."""
    height, width, channels = input.shape
    _, _, groups, taps, _ = positions.shape
    result = np.zeros(positions.shape[:-1])
    raise NotImplementedError  # replace this line
    return result
'''

HINTS = (
    "The output is linear in m: the derivative of out_c with respect to m_k is the sample v_c(p_k) itself. Which "
    "outputs does one m appear in?",
    "One modulation is shared by the channels of its group: the chain rule sums over them, "
    "dL/dm = sum over c of grad_output[c] * v_c.",
    "per_group = channels // groups; group g has the channels g * per_group to (g + 1) * per_group. For each pixel, "
    "group and tap: sum(grad_output[oy, ox, c] * bilinear_sample(input[:, :, c], y, x) for c in those channels).",
)

MISTAKES = (
    faulty.ALL_CHANNELS,
    faulty.INTERLEAVED,
    Mistake("mean", "You take the mean over the channels of the group. The chain rule sums."),
    Mistake("no_grad", "grad_output is not used: every sample is multiplied by what arrives at its output channel."),
    faulty.SWAPPED,
    *faulty.BETWEEN_PIXELS,
    faulty.NEAREST,
)


def cases() -> list[Case]:
    """Return one channel on and between pixels, then several channels, groups, and the borders."""
    rng = np.random.default_rng(4)
    return [
        _case("one channel, samples on pixels", rng, 1, 1, inside=True, whole=True),
        _case("one channel, samples between pixels", rng, 1, 1, inside=True),
        _case("three channels that share the taps", rng, 3, 1, inside=True),
        _case("two groups of two channels", rng, 4, 2, inside=True),
        _case("samples across the borders", rng, 4, 2, inside=False),
    ]


def _case(title: str, rng: np.random.Generator, channels: int, groups: int, inside: bool, whole: bool = False) -> Case:
    size, output, taps = np.array([4, 5]), (2, 3), 3
    low, high = (np.zeros(2), size - 1.0) if inside else (np.full(2, -1.5), size + 0.5)
    positions = rng.uniform(low, high, (*output, groups, taps, 2))
    arguments = {
        "grad_output": rng.uniform(-1, 1, (*output, channels)).round(2),
        "input": rng.uniform(1, 9, (*size, channels)).round(1),
        "positions": positions.round() if whole else positions,
    }
    return Case(f"{title} (C = {channels}, G = {groups}, K = {taps})", arguments)


def reference(grad_output: np.ndarray, input: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return (Ho, Wo, G, K) by `dcnlab.sampling_matrix`."""
    height, width, channels = input.shape
    groups = positions.shape[2]
    result = np.empty(positions.shape[:-1])
    for g in range(groups):
        own = faulty.channels_of_group(g, groups, channels)
        matrix = sampling_matrix(positions[:, :, g], None, height, width)
        samples = matrix @ input[:, :, own].reshape(height * width, -1)  # (Ho*Wo*K, C/G)
        by_tap = samples.reshape(*positions.shape[:2], -1, channels // groups)
        result[:, :, g] = np.einsum("yxc,yxkc->yxk", grad_output[:, :, own], by_tap)
    return result


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return output pixel, group and tap."""
    y, x = arguments["positions"][index]
    return f"output pixel {index[:2]}, group {index[2]}, tap {index[3]}, which samples at ({y:.3g}, {x:.3g})"


def simulate(mistakes: frozenset[str], grad_output: np.ndarray, input: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the gradient with some mistakes made."""
    result = np.empty(positions.shape[:-1])
    for oy, ox, g, k in np.ndindex(result.shape):
        own = faulty.channels_of_group(g, positions.shape[2], input.shape[2], mistakes)
        y, x = positions[oy, ox, g, k]
        samples = faulty.value(input[:, :, own], y, x, mistakes)
        terms = samples if "no_grad" in mistakes else grad_output[oy, ox, own] * samples
        result[oy, ox, g, k] = terms.mean() if "mean" in mistakes else terms.sum()
    return result


EXERCISE = Exercise(
    number=4,
    name="grad_mask",
    title="The gradient of the modulation",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=MISTAKES,
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image. It counts as 0: ask before you read it."},
    ),
    go_on="[04 Backward by hand](../04_backward.ipynb) derives every gradient.",
)
