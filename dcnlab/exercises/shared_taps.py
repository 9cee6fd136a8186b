"""Exercise 9: taps in shared memory, read once a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.exercises import dcnv3_kernels as problem
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.kernel_case import KernelCase
from dcnlab.exercises.kernel_check import KernelCheck

STATEMENT = r"""
In exercise 8 every thread reads the offsets and masks of all its taps, though all channels of a group have the same.
Shared memory is the place for what a block needs together: `__shared__ float x[36];` is one array for all threads of a
block, as fast as the first-level cache.

Write the same operator, [eq:dcnv3.1] and [eq:dcnv3.2], with **one block a pixel and one thread a channel**:
`blockIdx.x` is the pixel, `threadIdx.x` the channel; a block may have more threads than there are channels. Its
threads first fetch the $9G$ taps of the pixel (at most 36), **every offset and mask once**, into shared memory. Then
all wait at `__syncthreads()`, and every thread works out its channel from what lies there.

`__syncthreads()` is a barrier: no thread passes it before all threads *of the block* have come. A thread that returned
before never comes.

Arrays and numbers are those of exercise 8. The bilinear sample is given.
"""

SAMPLE = r"""
__device__ float sample(const float* input, int height, int width, int channels, int c, float y, float x) {
    int y0 = int(floorf(y)), x0 = int(floorf(x));
    float ly = y - y0, lx = x - x0, value = 0;
    for (int corner = 0; corner < 4; ++corner) {
        int row = y0 + corner / 2, column = x0 + corner % 2;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        float weight = (corner / 2 ? ly : 1 - ly) * (corner % 2 ? lx : 1 - lx);
        value += weight * input[(row * width + column) * channels + c];
    }
    return value;
}
"""

STUB = f'''
SOURCE = r"""{SAMPLE}
extern "C" __global__ void shared_taps(const float* input, const float* offset, const float* mask, float* output,
                                       int height, int width, int channels, int groups, float scale) {{
    __shared__ float y[36], x[36], m[36];  // of tap k of group g: number 9 * g + k
    int pixel = blockIdx.x, c = threadIdx.x;
    // your lines: fetch the taps, wait, then output[pixel * channels + c] = ...
}}
"""
'''

HINTS = (
    "Two loops, with a barrier between. The first goes over taps: thread t fetches tap t, and it needs no channel for "
    "that. The second goes over the 9 taps of the thread's own group.",
    "There may be more taps than threads: for (int t = threadIdx.x; t < 9 * groups; t += blockDim.x). Tap t of the "
    "pixel lies at pixel * 9 * groups + t in mask, and k = t % 9.",
    "After the barrier, and not before: if (c >= channels) return. The group of channel c begins at tap "
    "c / (channels / groups) * 9.",
)


def cases() -> list[KernelCase]:
    """Return as many taps as threads can fetch at once, then more; channels that fill a block, then fewer."""
    rng = np.random.default_rng(9)
    return [
        _case("one tap a pixel", problem.problem(rng, 32, 1, 1.5, 1.0, alone=True), 32),
        _case("more threads than channels", problem.problem(rng, 24, 2, 1.5, 0.75, alone=False), 32),
        _case("more taps than threads", problem.problem(rng, 24, 4, 1.5, 0.75, alone=False), 32),
    ]


def _case(title: str, data: dict[str, Any], block: int) -> KernelCase:
    output = np.full(data["input"].shape, np.nan, np.float32)
    arguments = problem.arguments_of(data, "input", "offset", "mask", output=output)
    return problem.one_block_a_pixel(title, data, arguments, block)


EXERCISE = Exercise(
    number=9,
    name="shared_taps",
    title="Taps in shared memory",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=KernelCheck(
        kernel="shared_taps",
        stub=STUB,
        outputs=("output",),
        cases=cases,
        reference=problem.forward,
        locate=problem.locate_output,
        mistakes=problem.MISTAKES,
        simulate=problem.simulate_forward,
        most_read=problem.bytes_of_taps,
        excess="Every offset and mask of the pixel should be read by one thread, once; the others find it in shared "
        "memory.",
    ),
    go_on="[09 Forward kernels](../09_forward_kernels.ipynb) measures what this brings; in the repository, "
    "kernels/dcnv3_forward/4_records.cu keeps cells and weights in shared memory instead of positions.",
    answer="SOURCE",
)
