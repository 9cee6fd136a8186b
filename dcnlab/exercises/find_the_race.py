"""Exercise 11: a kernel that two races are in."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from dcnlab.exercises import dcnv3_kernels as problem
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.kernel_case import Arguments, KernelCase
from dcnlab.exercises.kernel_check import Arrays, KernelCheck
from dcnlab.exercises.kernel_report import KernelReport, excerpt
from dcnlab.exercises.report import WIDTH

STATEMENT = r"""
This kernel works out two gradients of DCNv3 at once, [eq:dcnv3.3] and [eq:sample.3], for one group: that of the image,
by scattering, and that of the mask,

$$\frac{\partial L}{\partial m_k(o)} = \sum_c \frac{\partial L}{\partial \mathrm{out}_c(o)}\; v_c(p_k(o))$$

One block has a pixel, one thread a channel; the number of channels is a power of 2. The sum over the channels is a
tree in shared memory: in every step half of the threads add what the other half has.

**Two bugs are in it: a race between blocks, and a missing barrier.** On one thread of a CPU, where blocks and threads
take turns, the results are right all the same; on a GPU they may be right in one run and wrong in the next. So do not
test; read. For every line that touches memory which
other threads touch, ask: who else uses this element, and what makes sure that they are done?

Answer either way:

- with a line of each: `exercises.check("find_the_race", (12, 34))`. The check of the unchanged source, below, shows it
  with its line numbers.
- with the repaired source. Then the check runs it, and says where the next fault is.
"""

KERNEL = r"""
extern "C" __global__ void two_gradients(const float* grad_output, const float* input, const float* offset,
                                         const float* mask, float* grad_input, float* grad_mask,
                                         int height, int width, int channels, float scale) {
    __shared__ float part[64];
    int pixel = blockIdx.x, c = threadIdx.x;
    float g = grad_output[pixel * channels + c];
    for (int k = 0; k < 9; ++k) {
        int tap = pixel * 9 + k;
        float x = pixel % width + scale * (k / 3 - 1 + offset[2 * tap]);
        float y = pixel / width + scale * (k % 3 - 1 + offset[2 * tap + 1]);
        int y0 = int(floorf(y)), x0 = int(floorf(x));
        float ly = y - y0, lx = x - x0, value = 0;
        for (int corner = 0; corner < 4; ++corner) {
            int row = y0 + corner / 2, column = x0 + corner % 2;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            float weight = (corner / 2 ? ly : 1 - ly) * (corner % 2 ? lx : 1 - lx);
            int i = (row * width + column) * channels + c;
            value += weight * input[i];
            grad_input[i] += weight * mask[tap] * g;
        }
        part[c] = value * g;
        for (int step = channels / 2; step > 0; step /= 2) {
            __syncthreads();
            if (c < step) part[c] += part[c + step];
        }
        if (c == 0) grad_mask[tap] = part[0];
    }
}
"""

STUB = f'\nSOURCE = r"""{KERNEL}"""\n'

HINTS = (
    "The blocks run in any order and at the same time. Which arrays do several blocks write to? Of those, which "
    "elements?",
    "The other bug needs two passes of the loop over k. In the last step of the tree, thread 0 reads part[1]. What may "
    "thread 1 be doing by then?",
    "A barrier keeps threads of one block apart, never blocks. Blocks that add to one element need atomicAdd. And all "
    "threads must reach a barrier: not within if (c == 0).",
)

BLOCKS_RACE = "grad_input[i] +="
NO_BARRIER = ("part[c] = ", "part[c] += ", "if (c == 0)")  # the write, the read, and what the barrier must come after
TOLD = {
    "race": "blocks of neighbouring pixels add to the same element of grad_input, and += is a read and a write. "
    "atomicAdd(&grad_input[i], ...) does both in one piece.",
    "barrier": "thread 1 goes on to the next tap and writes part[1] while thread 0 may still have to read it, in the "
    "last step of the tree. A __syncthreads() belongs between: at the end of the loop over k.",
}
SOUND = "no other thread writes what this line reads, or uses what it writes, with no barrier between."


def lines_of(*texts: str) -> set[int]:
    """Return the lines of the kernel that contain one of the texts, counted from 1."""
    return {number for number, line in enumerate(KERNEL.split("\n"), 1) if any(text in line for text in texts)}


def cases() -> list[KernelCase]:
    """Return one tap a pixel, then all nine."""
    rng = np.random.default_rng(11)
    return [
        _case("one tap a pixel", rng, problem.problem(rng, 8, 1, 1.5, 1.0, alone=True)),
        _case("everything at once", rng, problem.problem(rng, 32, 1, 1.5, 0.75, alone=False)),
    ]


def _case(title: str, rng: np.random.Generator, data: dict[str, Any]) -> KernelCase:
    data["grad_output"] = rng.uniform(1, 9, data["input"].shape).round(1).astype(np.float32)
    written = {
        "grad_input": np.zeros(data["input"].shape, np.float32),
        "grad_mask": np.full(data["mask"].shape, np.nan, np.float32),
    }
    arguments = problem.arguments_of(data, "grad_output", "input", "offset", "mask", **written)
    del arguments["groups"]
    return problem.one_block_a_pixel(title, data, arguments, data["channels"])


def reference(arguments: Arguments) -> Arrays:
    """Return both gradients by `dcnlab.dcnv3_backward`."""
    return problem.backward({**arguments, "groups": 1})


def locate(output: str, index: tuple[int, ...], arguments: Arguments) -> str:
    """Return which entry of which gradient it is."""
    if output == "grad_mask":
        return f"grad_mask of tap {index[3]} at output pixel {index[:2]}"
    return f"grad_input at pixel {index[:2]}, channel {index[2]}"


REPAIRED = KernelCheck(
    kernel="two_gradients",
    stub=KERNEL,
    outputs=("grad_input", "grad_mask"),
    cases=cases,
    reference=reference,
    locate=locate,
)


def check(answer: Any) -> KernelReport:
    """Check lines that are named, or a source that is to be free of races."""
    if _is_line(answer):
        return named([answer])
    if isinstance(answer, (tuple, list)) and answer and all(_is_line(line) for line in answer):
        return named(list(answer))
    if not isinstance(answer, str):
        what = f"got an object of type {type(answer).__name__}"
        return KernelReport(False, "call", f"expected two line numbers, or the repaired source, a str; {what}")
    if answer.strip() == KERNEL.strip():
        finding = "nothing is changed yet, and two bugs are in these lines"
        lines = KERNEL.split("\n")
        picture = "\n".join(f"  {number:3} | {line}".rstrip() for number, line in enumerate(lines[:-1], 1))
        return KernelReport(False, "stub", finding, picture=picture)
    return REPAIRED(answer)


def named(lines: list[int]) -> KernelReport:
    """Return what is to be said of lines that are named as the bugs'."""
    last = KERNEL.count("\n")
    if not all(1 <= line <= last for line in lines):
        return KernelReport(False, "line", f"the kernel has lines 1 to {last}; another one is named")
    places = {"race": lines_of(BLOCKS_RACE), "barrier": lines_of(*NO_BARRIER)}
    wrong = [line for line in lines if line not in places["race"] | places["barrier"]]
    if wrong:
        return KernelReport(
            False, "line", f"line {wrong[0]}: {SOUND}", line=wrong[0], picture=excerpt(KERNEL, wrong[:1])
        )
    found = {bug: [line for line in lines if line in place] for bug, place in places.items()}
    told = [f"Line {named[0]}: {TOLD[bug]}" for bug, named in found.items() if named]
    if all(found.values()):
        wrapped = "\n".join(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ") for text in told)
        return KernelReport(True, "solved", "Both are found.", picture=f"{excerpt(KERNEL, lines)}\n\n{wrapped}")
    missing = "a race between blocks" if found["barrier"] else "a missing barrier"
    return KernelReport(False, "half", f"one is found; {missing} is still in it.", diagnosis=told[0], line=lines[0])


def _is_line(answer: Any) -> bool:
    return isinstance(answer, int) and not isinstance(answer, bool)


EXERCISE = Exercise(
    number=11,
    name="find_the_race",
    title="Find the race",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=check,
    go_on="[10 Backward kernels](../10_backward_kernels.ipynb) catches races live, and ends with a kernel that needs "
    "no atomics; `dcnlab kernels check FILE` does for any file of yours what the checks did here.",
    answer="SOURCE",
)
