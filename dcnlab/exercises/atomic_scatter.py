"""Exercise 10: the gradient of the image, with thousands of threads that meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.exercises import dcnv3_kernels as problem
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Mistake
from dcnlab.exercises.kernel_case import Arguments, KernelCase
from dcnlab.exercises.kernel_check import KernelCheck

STATEMENT = r"""
Backwards, samples do not gather but scatter, [eq:dcnv3.3]: each gives to the four pixels that it read, with the
weights that it read them with. In exercise 7 you did that with a loop. Now every pass of the loop is a thread, all of
them run at once, and many meet at the same pixel.

**One thread an output channel of a pixel**, as in exercise 8: thread $n$ takes `grad_output[n]`, and for each of its 9
taps and each corner that lies in the image it adds

$$\frac{\partial L}{\partial x_c}(\text{corner}) \mathrel{+}= \text{weight} \cdot m_{gk}(o) \cdot
  \frac{\partial L}{\partial \mathrm{out}_c}(o)$$

| array | shape | |
|---|---|---|
| `grad_output` | (H, W, C) | |
| `offset` | (H, W, G, 9, 2) | pairs (x, y), as in exercise 8 |
| `mask` | (H, W, G, 9) | |
| `grad_input` | (H, W, C) | 0 before the launch |

`x[i] += value` is three steps: read, add, write. If another thread does the same between the read and the write, one of
the two values is lost. `atomicAdd(&x[i], value)` does all three in one piece. The check finds the race even where
it happens to go well.
"""

STUB = '''
SOURCE = r"""
extern "C" __global__ void atomic_scatter(const float* grad_output, const float* offset, const float* mask,
                                          float* grad_input,
                                          int height, int width, int channels, int groups, float scale) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    // your lines: atomicAdd(&grad_input[...], ...)
}
"""
'''

HINTS = (
    "Start from your kernel of exercise 8: guard, pixel, c, group, the loop over taps and the position are the same. "
    "Only the innermost line changes.",
    "Where the sample read input[i] with a weight, write atomicAdd(&grad_input[i], weight * mask[tap] * "
    "grad_output[n]).",
)

MISTAKES = (
    Mistake("no_grad", "grad_output is not used: every sample gives what arrives at its output, times weights."),
    Mistake("no_weight", "All four corners get the same. Each gets its bilinear weight, as in the forward pass."),
    *problem.MISTAKES,
)

BLOCK = 64


def cases() -> list[KernelCase]:
    """Return samples that do not meet, samples that do, then groups and a scale."""
    rng = np.random.default_rng(10)
    return [
        _case("one tap a pixel", rng, problem.problem(rng, 1, 1, 1.5, 1.0, alone=True)),
        _case("one tap a pixel, groups, a scale", rng, problem.problem(rng, 4, 2, 1.0, 1.5, alone=True)),
        _case("everything at once", rng, problem.problem(rng, 24, 2, 1.5, 0.75, alone=False)),
    ]


def _case(title: str, rng: np.random.Generator, data: dict[str, Any]) -> KernelCase:
    shape = data["input"].shape
    data["grad_output"] = rng.uniform(1, 9, shape).round(1).astype(np.float32)
    zeros = np.zeros(shape, np.float32)
    arguments = problem.arguments_of(data, "grad_output", "offset", "mask", grad_input=zeros)
    return problem.one_thread_a_channel(title, arguments, BLOCK)


def locate(output: str, index: tuple[int, ...], arguments: Arguments) -> str:
    """Return pixel and channel of the gradient, and the samples that give to it."""
    group = index[2] // (arguments["channels"] // arguments["groups"])
    giving = []
    for sample in problem.samples(arguments):
        oy, ox, g, k, y, x = sample
        touched = any((row, column) == index[:2] and weight for row, column, weight in problem.corners(y, x))
        if g == group and touched and problem.modulation(arguments, sample):
            giving.append(f"tap {k} of output pixel ({oy}, {ox})")
    few = ", ".join(giving[:2]) + (f" and {len(giving) - 2} more" if len(giving) > 2 else "")
    return f"grad_input at pixel {index[:2]}, channel {index[2]}, the sum of {few or 'nothing'}"


EXERCISE = Exercise(
    number=10,
    name="atomic_scatter",
    title="Backward with atomics",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=KernelCheck(
        kernel="atomic_scatter",
        stub=STUB,
        outputs=("grad_input",),
        cases=cases,
        reference=problem.backward,
        locate=locate,
        mistakes=MISTAKES,
        simulate=problem.simulate_scatter,
        remark="Threads that meet at an element wait for each other: notebook 10 needs fewer atomics.",
    ),
    go_on="[10 Backward kernels](../10_backward_kernels.ipynb) needs fewer atomics, rung by rung, and in the end none.",
    answer="SOURCE",
)
