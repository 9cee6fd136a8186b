"""Bugs planted in our own kernels, one at a time: check mode finds each, at the line where it was planted.

A mutation replaces text of a kernel or of the device code it includes.
"""

from pathlib import Path

import kernel_runs
import numpy as np
import pytest

from dcnlab.launch import KernelFault, kernels_folder, module

pytestmark = [pytest.mark.usefixtures("compiler"), pytest.mark.check_kernels]

SAMPLING, FORWARD, FORWARD_POINT = "sampling/1_naive.cu", "dcnv3_forward/1_naive.cu", "dcnv3_forward/2_point.cu"
BACKWARD, BACKWARD_POINT = "dcnv3_backward/1_atomic.cu", "dcnv3_backward/2_point.cu"
CHANNELS = "include/channels.cuh"
HEADERS = (CHANNELS, "include/dcnv3.cuh", "include/bilinear.cuh", "include/scattered.cuh")
INSTANCES = {
    SAMPLING: "sample_bilinear<float, float>",
    FORWARD: "dcnv3_forward_naive<float, float>",
    FORWARD_POINT: "dcnv3_forward_point<float, float, 4>",
    BACKWARD: "dcnv3_backward_atomic<float, float>",
    BACKWARD_POINT: "dcnv3_backward_point<float, float, 4>",
}
GRAD_INPUT, GRAD_MASK = [
    (f"Scattered<A> {name}", f"A* {name}") for name in ("grad_input", "grad_mask")
]  # fmt: skip

# name: (kernel, file that is changed, [(old, new), ...], kind, argument, text of the line reported).
# Where a bug makes several accesses wrong, compilers differ in which comes first: then both are given.
BUGS = {
    "sampling without its tail guard": (
        SAMPLING, SAMPLING, [("    if (p >= positions) return;  // the last block has threads to spare\n", "\n")],
        "out of bounds", "displacement", "load<A>(displacement[2 * p])",
    ),
    "sampling writes one channel too many": (
        SAMPLING, SAMPLING, [("c < channels", "c <= channels")],
        "data race", "output", "store(float* to, float value)",
    ),
    "forward without its tail guard": (
        FORWARD, FORWARD, [("    if (item >= shape.rows() * unsigned(shape.group_width)) return;\n", "\n")],
        "out of bounds", "mask", "load<A>(mask[row * shape.taps + k])",
    ),
    "point without its tail guard": (
        FORWARD_POINT, FORWARD_POINT, [("    if (item >= shape.rows()) return;\n", "\n")],
        "out of bounds", "mask", "load<A>(mask[row * shape.taps + k])",
    ),
    "the right border is not looked at": (
        FORWARD, "include/bilinear.cuh", [("x >= 0 && x < width;", "x >= 0;")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "the lower border is not looked at": (
        FORWARD, "include/bilinear.cuh", [("y >= 0 && y < height &&", "y >= 0 &&")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "the upper border is not looked at": (
        FORWARD, "include/bilinear.cuh", [("y >= 0 && y < height &&", "y < height &&")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "a cell at the border counts as inside": (
        FORWARD_POINT, "include/bilinear.cuh", [("cell.row + 1 < height &&", "cell.row < height &&")],
        "out of bounds", "input", "weight[2] * load<A>(v10[c])",
    ),
    "samples outside are not sent nowhere": (
        FORWARD_POINT, "include/bilinear.cuh",
        [("if (!in_y || !in_x) return cell;", ""), ("whole ? INSIDE : BORDER", "INSIDE")],
        "out of bounds", "input", "weight[0] * load<A>(v00[c])",
    ),
    "taps of the next row": (
        FORWARD_POINT, FORWARD_POINT, [("k < shape.taps; ++k", "k <= shape.taps; ++k")],
        "out of bounds", "residual", "residual[2 * k",
    ),
    "all channels of the last slice": (
        FORWARD_POINT, FORWARD_POINT, [("if (left >= WIDTH)", "if (left >= 0)")],
        "data race", "output", "store(float* to, float value)",
    ),
    "groups and pixels mixed up": (
        FORWARD_POINT, FORWARD_POINT, [("item / unsigned(shape.groups), group", "item / unsigned(shape.taps), group")],
        "data race", "output", "store(float* to, float value)",
    ),
    "a plain add to grad_input": (
        BACKWARD, BACKWARD,
        [GRAD_INPUT, ("atomicAdd(grad_input + at, weight[corner] * g);", "grad_input[at] += weight[corner] * g;")],
        "data race", "grad_input", "grad_input[at] += weight[corner] * g;",
    ),
    "a plain add to grad_mask": (
        BACKWARD, BACKWARD,
        [GRAD_MASK, ("atomicAdd(grad_mask + tap, gradient.modulation);", "grad_mask[tap] += gradient.modulation;")],
        "data race", "grad_mask", "grad_mask[tap] += gradient.modulation;",
    ),
    "the gradient of the next tap": (
        BACKWARD, BACKWARD, [("atomicAdd(grad_mask + tap, gradient", "atomicAdd(grad_mask + tap + 1, gradient")],
        "out of bounds", "grad_mask", "atomicAdd(grad_mask + tap + 1",
    ),
    "corners outside the image receive a gradient": (
        BACKWARD_POINT, CHANNELS,
        [("if (cell.sample == BORDER && !cell.has(corner, image_height, image_width)) continue;", "")],
        "out of bounds", ("input", "grad_input"), ("load<A>(corner[c])", "atomicAdd(grad + c, weight * g[c])"),
    ),
    "the backward of the tail overruns its registers": (
        BACKWARD_POINT, CHANNELS,
        [("run_backward<T, A, WIDTH>(channels - c,", "run_backward<T, A, WIDTH>(WIDTH + channels - c,")],
        "out of bounds", (None, "input"), ("g[c] = load<A>(arriving[c])", "load<A>(corner[c])"),
    ),
}  # fmt: skip


def flattened(path, texts):
    """The kernel with the text of our headers in the place of their includes."""
    text = texts[path]
    for header in HEADERS:  # those that include others come first
        include, body = f'#include "{Path(header).name}"\n', texts[header].replace("#pragma once\n", "\n")
        text = text.replace(include, body, 1).replace(include, "\n")
    return text


def run(kernel, path):
    """Small shapes that every guard matters for: a tail, borders on all sides, an odd group width."""
    rng = np.random.default_rng(1)
    if path == SAMPLING:
        image = rng.standard_normal((4, 5, 3)).astype(np.float32)
        base = rng.integers(-1, 5, (150, 2)).astype(np.int32)
        displacement = rng.uniform(-1, 1, (150, 2)).astype(np.float32)
        kernel[2, 128](image, base, displacement, np.zeros((150, 3), np.float32), 150, 4, 5, 3)
        return
    shape = (1, 3, 4)
    case = {
        "input": rng.standard_normal((*shape, 10)).astype(np.float32),
        "offset": (1.5 * rng.standard_normal((*shape, 36))).astype(np.float32),
        "mask": rng.random((*shape, 18)).astype(np.float32),
        "groups": 2,
    }
    call = kernel_runs.DCNv3Call(**case)
    per_row = 1 if "point" in path else call.channels_each
    if "backward" in path:
        call.backward(kernel, per_row, -case["input"], all_sums=path == BACKWARD)
    else:
        call.forward(kernel, per_row)


def test_no_kernel_is_left_out():
    assert {str(p.relative_to(kernels_folder())) for p in kernels_folder().glob("*/*.cu")} == set(INSTANCES)


@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize("path", INSTANCES)
def test_without_a_bug(path, mode):
    name = INSTANCES[path]
    run(module(path, [name], target="cpu", mode=mode)[name], path)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_where_it_is(bug):
    path, changed, replacements, kind, argument, line = BUGS[bug]
    texts = {file: (kernels_folder() / file).read_text() for file in (path, *HEADERS)}
    for old, new in replacements:
        assert texts[changed].count(old) == 1, f"{bug}: {old!r} occurs {texts[changed].count(old)} times"
        texts[changed] = texts[changed].replace(old, new)
    source = flattened(path, texts)
    name = INSTANCES[path]
    kernel = module(source, [name], target="cpu", mode="check")[name]
    with pytest.raises(KernelFault) as caught:
        run(kernel, path)
    fault = caught.value
    assert (fault.kind, fault.file) == (kind, "kernel.cu"), str(fault)
    assert fault.argument in (argument if isinstance(argument, tuple) else (argument,)), str(fault)
    reported = source.splitlines()[fault.line - 1]
    assert any(text in reported for text in (line if isinstance(line, tuple) else (line,))), f"{fault}\n{reported}"
