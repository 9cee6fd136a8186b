"""Exercise 8: the first kernel, DCNv3 with one thread an output channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.exercises import dcnv3_kernels as problem
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.kernel_case import KernelCase
from dcnlab.exercises.kernel_check import KernelCheck

STATEMENT = r"""
Write DCNv3's forward pass as a CUDA kernel. You need no GPU: the check compiles your source with this machine's C++
compiler and runs it in a mode that sees every access to memory. (No compiler? `pip install ziglang`.)

**One thread works out one output channel of one pixel.** There are $H W C$ of them, numbered as they lie in memory:
number $n$ is channel $n \bmod C$ of pixel $\lfloor n / C \rfloor$. A grid has whole blocks, so that the last block has
threads to spare.

| array | shape | |
|---|---|---|
| `input` | (H, W, C) | channel $c$ belongs to group $g = \lfloor c / (C/G) \rfloor$ |
| `offset` | (H, W, G, 9, 2) | pairs (x, y) |
| `mask` | (H, W, G, 9) | |
| `output` | (H, W, C) | NaN before the launch |

An array is a pointer to its first element, rows after rows: `input[(row * width + column) * channels + c]`. For 3x3
taps, stride 1 and padding 1, tap $k$ of pixel $(o_y, o_x)$ stands in column $i = \lfloor k/3 \rfloor$ and row
$j = k \bmod 3$ of the kernel (DCNv3 counts column by column), and samples at, [eq:dcnv3.1] and [eq:dcnv3.2],

$$y = o_y + s\,(j - 1 + \Delta y), \qquad x = o_x + s\,(i - 1 + \Delta x), \qquad
  \mathrm{out}_c(o) = \sum_k m_{gk}(o)\; v_c(y, x)$$

with $s$ the scale and $v_c$ the bilinear sample of exercise 1: a corner outside the image counts as 0.
"""

STUB = '''
SOURCE = r"""
extern "C" __global__ void first_kernel(const float* input, const float* offset, const float* mask, float* output,
                                        int height, int width, int channels, int groups, float scale) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    // your lines: output[n] = ...
}
"""
'''

HINTS = (
    "Begin with if (n >= height * width * channels) return; then pixel = n / channels, c = n % channels, "
    "group = c / (channels / groups). Write a constant to output[n] first, and run the check.",
    "tap = (pixel * groups + group) * 9 + k is where tap k lies in mask; its offsets are offset[2 * tap] (x) and "
    "offset[2 * tap + 1] (y). The pixel's own place is x = pixel % width, y = pixel / width.",
    "Put the sample into a function of its own: __device__ float sample(const float* input, ..., float y, float x). "
    "y0 = int(floorf(y)), ly = y - y0; loop over the four corners, skip those outside, add weight * input[...].",
)

BLOCK = 64


def cases() -> list[KernelCase]:
    """Return one channel without offsets, then offsets, scale and groups; one tap a pixel, then all nine."""
    rng = np.random.default_rng(8)
    return [
        _case("no offsets, one tap a pixel", problem.problem(rng, 1, 1, 0.0, 1.0, alone=True)),
        _case("offsets, one tap a pixel", problem.problem(rng, 1, 1, 1.5, 1.0, alone=True)),
        _case("offsets and a scale, one tap a pixel", problem.problem(rng, 4, 2, 1.0, 1.5, alone=True)),
        _case("everything at once", problem.problem(rng, 24, 2, 1.5, 0.75, alone=False)),
    ]


def _case(title: str, data: dict[str, Any]) -> KernelCase:
    output = np.full(data["input"].shape, np.nan, np.float32)
    arguments = problem.arguments_of(data, "input", "offset", "mask", output=output)
    return problem.one_thread_a_channel(title, arguments, BLOCK)


EXERCISE = Exercise(
    number=8,
    name="first_kernel",
    title="The first kernel",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=KernelCheck(
        kernel="first_kernel",
        stub=STUB,
        outputs=("output",),
        cases=cases,
        reference=problem.forward,
        locate=problem.locate_output,
        mistakes=problem.MISTAKES,
        simulate=problem.simulate_forward,
        remark="All channels of a group ask for the same offsets and masks: exercise 9 reads them once.",
    ),
    go_on="[09 Forward kernels](../09_forward_kernels.ipynb) climbs on from here; "
    "the repository's kernels/dcnv3_forward/1_naive.cu is this kernel for any type and shape.",
    answer="SOURCE",
)
