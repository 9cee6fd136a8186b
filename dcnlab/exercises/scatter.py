"""Exercise 7: the gradient of the image, by scattering."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake, close
from dcnlab.reference.sampling import sampling_matrix

STATEMENT = r"""
The last gradient of DCNv3, that of the image. The forward pass gathers: sampling is a sparse matrix, $v = S x$, with
four entries a sample. The backward pass scatters, [eq:dcnv3.3]: $\partial L/\partial x = S^T g$. Each sample gives
to the four pixels that it read, with the weights that it read them with, times its modulation and what arrives at its
output. Write `scatter(grad_output, positions, modulation, height, width)`:

| array | shape | |
|---|---|---|
| `grad_output` | (Ho, Wo, C) | |
| `positions` | (Ho, Wo, G, K, 2) | (y, x), in pixels of the image |
| `modulation` | (Ho, Wo, G, K) | |
| result | (H, W, C) | `height`, `width` |

What falls outside the image is lost. Many samples meet at a pixel: on a GPU, where they come at the same time, this is
what makes atomics necessary.
"""

STUB = '''
import numpy as np


def scatter(grad_output, positions, modulation, height, width):
    """Return dL/dx, (height, width, C): every sample gives to the four pixels that it read."""
    channels = grad_output.shape[2]
    result = np.zeros((height, width, channels))
    raise NotImplementedError  # replace this line
    return result
'''

HINTS = (
    "Take your loop over the four corners from exercise 1. Where it read image[row, column] times a weight, now add to "
    "result[row, column] with the same weight.",
    "What is added is weight * modulation[oy, ox, g, k] * grad_output[oy, ox, c], for the channels c of group g only.",
    "Add, never assign. If you leave out the loops: result[rows, columns] += values adds only once where an index "
    "comes twice; np.add.at(result, (rows, columns), values) adds every time.",
)

MISTAKES = (
    Mistake("no_modulation", "The modulation is missing: what a sample gives carries its m, as what it read did."),
    Mistake("no_grad", "grad_output is not used: every sample gives what arrives at its output pixel, times weights."),
    faulty.ALL_CHANNELS,
    faulty.INTERLEAVED,
    faulty.SWAPPED,
    *faulty.BETWEEN_PIXELS,
    faulty.MIRRORED,
    faulty.NEAREST,
)


def cases() -> list[Case]:
    """Return a single sample, two that meet, then many, in groups, across the borders."""
    rng = np.random.default_rng(7)
    across = rng.uniform(-1.5, (4.5, 5.5), (2, 3, 2, 3, 2))
    across[0, 0, 0, 0] = 3, 4  # exactly on the last pixel
    one, two = np.array([[[[[1.25, 2.5]]]]]), np.array([[[[[1.25, 2.5], [1.5, 2.75]]]]])
    return [
        _case("one sample, one channel", rng, one, 1),
        _case("two samples in one cell", rng, two, 1),
        _case("many samples", rng, rng.uniform(0, (3, 4), (2, 3, 1, 3, 2)), 2),
        _case("two groups", rng, rng.uniform(0, (3, 4), (2, 3, 2, 3, 2)), 4),
        _case("samples across the borders", rng, across, 4),
    ]


def _case(title: str, rng: np.random.Generator, positions: np.ndarray, channels: int) -> Case:
    _, _, groups, taps, _ = positions.shape
    arguments = {
        "grad_output": rng.uniform(1, 9, (*positions.shape[:2], channels)).round(1),
        "positions": positions,
        "modulation": rng.uniform(0.1, 1, positions.shape[:-1]).round(2),
        "height": 4,
        "width": 5,
    }
    return Case(f"{title} (C = {channels}, G = {groups}, K = {taps})", arguments)


def reference(
    grad_output: np.ndarray, positions: np.ndarray, modulation: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return (H, W, C) by `dcnlab.sampling_matrix`, transposed."""
    channels, (*_, groups, taps) = grad_output.shape[2], modulation.shape
    result = np.empty((height, width, channels))
    for g in range(groups):
        own = faulty.channels_of_group(g, groups, channels)
        arriving = np.repeat(grad_output[:, :, own].reshape(-1, channels // groups), taps, axis=0)  # (Ho*Wo*K, C/G)
        matrix = sampling_matrix(positions[:, :, g], modulation[:, :, g], height, width)
        result[:, :, own] = (matrix.T @ arriving).reshape(height, width, -1)
    return result


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return pixel and channel, and how many samples meet there."""
    meeting = int(_landings(arguments)[index])
    give = "sample gives" if meeting == 1 else "samples give"
    return f"pixel {index[:2]}, channel {index[2]}, where {meeting} {give}"


def simulate(
    mistakes: frozenset[str],
    grad_output: np.ndarray,
    positions: np.ndarray,
    modulation: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    """Return the gradient with some mistakes made."""
    channels, groups = grad_output.shape[2], positions.shape[2]
    result = np.zeros((height, width, channels))
    for oy, ox, g, k in np.ndindex(modulation.shape):
        own = faulty.channels_of_group(g, groups, channels, mistakes)
        m = 1.0 if "no_modulation" in mistakes else modulation[oy, ox, g, k]
        arriving = 1.0 if "no_grad" in mistakes else grad_output[oy, ox, own]
        y, x = positions[oy, ox, g, k]
        for row, column, weight, _, _ in faulty.corners(y, x, (height, width), mistakes):
            result[row, column, own] += weight * m * arriving
    return result


def _landings(arguments: Arguments) -> np.ndarray:
    """Return how many samples give to every entry of the result, (H, W, C)."""
    height, width, channels = arguments["height"], arguments["width"], arguments["grad_output"].shape[2]
    count = np.zeros((height, width, channels), int)
    positions = arguments["positions"]
    for oy, ox, g, k in np.ndindex(positions.shape[:-1]):
        own = faulty.channels_of_group(g, positions.shape[2], channels)
        y, x = positions[oy, ox, g, k]
        for row, column, weight, _, _ in faulty.corners(y, x, (height, width)):
            count[row, column, own] += weight != 0
    return count


def judge(arguments: Arguments, expected: np.ndarray, got: np.ndarray) -> str:
    """Recognise lost contributions, in whatever order the samples came: only where several meet is it wrong."""
    alone = _landings(arguments) <= 1
    if not close(got[alone], expected[alone]).all():
        return ""
    return (
        "Where a single sample gives, the result is right; where several meet, some are lost. Write += instead of =. "
        "And result[rows, columns] += values, with arrays of indices, adds only once where an index comes twice: "
        "np.add.at(result, (rows, columns), values) adds every time."
    )


EXERCISE = Exercise(
    number=7,
    name="scatter",
    title="The gradient of the image: scatter",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=MISTAKES,
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image. What would be given there is lost: ask first."},
        judge=judge,
    ),
    go_on="[10 Backward kernels](../10_backward_kernels.ipynb) does the same with thousands of threads at once.",
)
