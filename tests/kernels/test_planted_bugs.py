"""Bugs planted in our own kernels, one at a time: check mode finds each, at the line where it was planted.

A mutation replaces text of a kernel or of the device code it includes.
"""

import re

import bugs_backward
import bugs_forward
import bugs_fused
import numpy as np
import pytest

from dcnlab import catalogue
from dcnlab.compiled import activation, calls, deformable, depthwise, normalisation
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rungs import RUNGS
from dcnlab.launch import KernelFault, kernels_folder, module

pytestmark = [pytest.mark.usefixtures("compiler"), pytest.mark.check_kernels]

SAMPLING = ("sampling", "1_naive")
FORWARD, FORWARD_POINT = ("dcnv3_forward", "1_naive"), ("dcnv3_forward", "2_point")
BACKWARD, BACKWARD_POINT = ("dcnv3_backward", "1_atomic"), ("dcnv3_backward", "2_point")
CONV, COLUMNS = ("deform_conv2d_forward", "1_naive"), ("deform_conv2d_forward", "2_columns")
CONV_BACK, COLUMNS_BACK = ("deform_conv2d_backward", "1_naive"), ("deform_conv2d_backward", "2_columns")
GELU, GELU_BACK = ("gelu_forward", "1_run"), ("gelu_backward", "1_run")
SOFTMAX, SOFTMAX_BACK = ("softmax_forward", "1_rows"), ("softmax_backward", "1_rows")
NORM, NORM_BACK = ("layer_norm_forward", "1_row"), ("layer_norm_backward", "1_rows")
DEPTHWISE, DEPTHWISE_BACK = ("depthwise_conv2d_forward", "1_run"), ("depthwise_conv2d_backward", "1_run")
BILINEAR, LANES, CHANNELS, TAPS = (f"include/{name}.cuh" for name in ("bilinear", "lanes", "channels", "taps"))
DCNV3, DEFORM_CONV2D = "include/dcnv3.cuh", "include/deform_conv2d.cuh"


def plain(name):
    """Replace a Scattered argument by a pointer, which a kernel may add to by hand."""
    return (f"Scattered<A> {name}", f"A* {name}")


STORE = "store(float* to, float value)"
READS = ("load<A>(mask[k])", "load<A>(offset[2 * k", "residual[2 * k")  # of a tap by DCNv3Row
PLANES = ("mask[mask_at(k)]", "offset[y_at(k)]", "offset[x_at(k)]")  # of a tap by DeformConv2dRow
TAP_COUNT = "shape.taps - k < TOGETHER ? shape.taps - k : TOGETHER"

# name: (kernel, file changed (None: the kernel's), [(old, new), ...], kind, argument, text of the line reported).
# Where a bug makes several accesses wrong, compilers differ in which comes first: then all are given.
BUGS = {
    "sampling without its tail guard": (
        SAMPLING, None, [("    if (p >= positions) return;  // the last block has threads to spare\n", "\n")],
        "out of bounds", "displacement", "load<A>(displacement[2 * p])",
    ),
    "sampling writes one channel too many": (
        SAMPLING, None, [("c < channels", "c <= channels")],
        "data race", "output", STORE,
    ),
    "forward without its tail guard": (
        FORWARD, None, [("    if (item >= shape.rows() * unsigned(shape.group_width)) return;\n", "\n")],
        "out of bounds", ("mask", "offset"), ("load<A>(mask[k])", "load<A>(offset[2 * k"),
    ),
    "the right border is not looked at": (
        FORWARD, BILINEAR, [("x >= 0 && x < width;", "x >= 0;")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "the lower border is not looked at": (
        FORWARD, BILINEAR, [("y >= 0 && y < height &&", "y >= 0 &&")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "the upper border is not looked at": (
        FORWARD, BILINEAR, [("y >= 0 && y < height &&", "y < height &&")],
        "out of bounds", "input", "load<A>(image[cell.pixel(corner, width) * step])",
    ),
    "point without its tail guard": (
        FORWARD_POINT, None, [("    if (first >= shape.rows()) return;\n", "\n")],
        "out of bounds", ("mask", "offset"), ("load<A>(mask[k])", "load<A>(offset[2 * k"),
    ),
    "a cell at the lower border counts as whole": (
        FORWARD_POINT, TAPS,
        [("rows = unsigned(at.height - 1)", "rows = unsigned(at.height)")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "every cell counts as whole": (
        FORWARD_POINT, TAPS, [("all &= (unsigned(row[i]) < rows) & (unsigned(column[i]) < columns);", "")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "taps of the next row": (
        FORWARD_POINT, None,
        [("k < shape.taps; k +=", "k <= shape.taps; k +="), (TAP_COUNT, "TOGETHER")],
        "out of bounds", ("mask", "offset", "residual", "taps"), (*READS, "taps[2 * k"),
    ),
    "more taps than there is room for": (
        FORWARD_POINT, None, [(TAP_COUNT, "TOGETHER + 1")],
        "out of bounds", (None, "mask", "offset", "residual", "taps"), ("[i] = ", *READS, "taps[2 * k"),
    ),
    "lanes beyond the last channel are loaded": (
        FORWARD_POINT, LANES, [("if (c < count) lanes.v[c] = load<A>(from[c]);", "lanes.v[c] = load<A>(from[c]);")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "lanes beyond the last channel are stored": (
        FORWARD_POINT, LANES, [("if (c < count) store(to + c, v[c]);", "store(to + c, v[c]);")],
        ("data race", "out of bounds"), "output", STORE,
    ),
    "rows of the thread before": (
        FORWARD_POINT, None, [("output + (long long)(first + r)", "output + (long long)(first / 2 + r)")],
        "data race", "output", STORE,
    ),
    "a plain add to grad_input": (
        BACKWARD, None,
        [plain("grad_input"),
         ("atomicAdd(grad_input + at, weight[corner] * g);", "grad_input[at] += weight[corner] * g;")],
        "data race", "grad_input", "grad_input[at] += weight[corner] * g;",
    ),
    "a plain add to grad_mask": (
        BACKWARD, None,
        [plain("grad_mask"),
         ("atomicAdd(grad_mask + tap, gradient.modulation);", "grad_mask[tap] += gradient.modulation;")],
        "data race", "grad_mask", "grad_mask[tap] += gradient.modulation;",
    ),
    "the gradient of the next row's tap": (
        BACKWARD, None, [("atomicAdd(grad_mask + tap, gradient", "atomicAdd(grad_mask + tap + shape.taps, gradient")],
        "out of bounds", "grad_mask", "atomicAdd(grad_mask + tap + shape.taps",
    ),
    "corners outside the image receive a gradient": (
        BACKWARD_POINT, CHANNELS, [("if (corners.has(3)) (g * weight[3])", "(g * weight[3])")],
        "out of bounds", "grad_input", "atomicAdd(to + c, v[c])",
    ),
    "the backward of the tail adds to the next group": (
        BACKWARD_POINT, LANES, [("if (c < count) atomicAdd(to + c, v[c]);", "atomicAdd(to + c, v[c]);")],
        "out of bounds", "grad_input", "atomicAdd(to + c, v[c])",
    ),
    "convolution without its tail guard": (
        CONV, None, [("    if (item >= unsigned(shape.outputs) * shape.pixels()) return;\n", "\n")],
        "out of bounds", ("bias", "input", "offset", "mask", "weight"), ("bias[o]", "weight[", "image[", *PLANES),
    ),
    "the weights of the next output": (
        CONV, None, [("(long long)o * per_group + c - first)", "(long long)(o + 1) * per_group + c - first)")],
        "out of bounds", "weight", "load<A>(weight[",
    ),
    "x where y should be, planes from the end": (
        CONV, DEFORM_CONV2D, [("return y_at(k) + pixels;", "return y_at(k) + 2 * pixels;")],
        "out of bounds", "offset", "load<A>(offset[x_at(k)])",
    ),
    "columns without the tail guard": (
        COLUMNS, None, [("    if (item >= (long long)count * shape.groups) return;\n", "\n")],
        "out of bounds", ("columns", "mask", "offset"), (STORE, *PLANES),
    ),
    "columns of the next pixel": (
        COLUMNS, None,
        [("columns + (pixel * shape.taps + start + i)", "columns + ((pixel + 1) * shape.taps + start + i)")],
        "out of bounds", "columns", STORE,
    ),
    "a plain add to the image's gradient": (
        COLUMNS_BACK, LANES,
        [("if (c < count) atomicAdd(to + c, v[c]);", "if (c < count) to.sums()[c] = to.sums()[c] + v[c];")],
        "data race", "grad_image", "to.sums()[c] = to.sums()[c] + v[c];",
    ),
    "the gradient of the mask in the offset's planes": (
        COLUMNS_BACK, None, [("store(grad_mask + row.mask_at(k)", "store(grad_mask + row.y_at(k)")],
        ("out of bounds", "data race"), "grad_mask", STORE,
    ),
    "a plain add to grad_weight": (
        CONV_BACK, None,
        [plain("grad_weight"),
         ("atomicAdd(grad_weight + w, arriving * value);", "grad_weight[w] += arriving * value;")],
        "data race", "grad_weight", "grad_weight[w] += arriving * value;",
    ),
    "a run goes on behind the last element": (
        GELU, None, [("size - first < EACH ? int(size - first) : EACH", "EACH")],
        "out of bounds", "input", "load<A>(input[first + i])",
    ),
    "GELU without its tail guard": (
        GELU, None, [("    if (first >= size) return;\n", "\n"), (
            "size - first < EACH ? int(size - first) : EACH", "EACH")],
        "out of bounds", "input", "load<A>(input[first + i])",
    ),
    "the gradients of the next elements": (
        GELU_BACK, None, [("store(grad_input + first + i,", "store(grad_input + first + i + 1,")],
        ("data race", "out of bounds"), "grad_input", STORE,
    ),
    "softmax of rows that are not there": (
        SOFTMAX, None, [("rows - first < EACH ? int(rows - first) : EACH", "EACH")],
        "out of bounds", "input", ("load<A>(row[0])", "load<A>(row[k])"),
    ),
    "softmax of one tap more": (
        SOFTMAX_BACK, None, [("k < taps; ++k) grad_input[k] *=", "k <= taps; ++k) grad_input[k] *=")],
        ("data race", "out of bounds"), ("grad_input", "grad_output"),
        ("grad_input[k] *= share", "powers[k] = load<A>(row[k])"),
    ),
    "layer norm without its tail guard": (
        NORM, None, [("    if (number >= rows) return;\n", "\n")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "the whole of the last lanes is normalised": (
        NORM, LANES, [("if (c < channels) work(c, channels - c);", "if (c < channels) work(c, WIDTH);")],
        "out of bounds", ("bias", "input", "output", "weight"), ("lanes.v[c] = load<A>(from[c])", STORE),
    ),
    "a plain add to the gradient of the scale": (
        NORM_BACK, None,
        [plain("grad_weight"), ("product.add_to(grad_weight + c, lanes);", "grad_weight[c] += product.v[0];")],
        "data race", "grad_weight", "grad_weight[c] += product.v[0];",
    ),
    "the left border is not looked at": (
        DEPTHWISE, None, [("if (i < run.count && x + i * shape.stride_x >= 0 &&", "if (i < run.count &&")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "the last image row is followed by another": (
        DEPTHWISE, None, [("if (y < 0 || y >= shape.height) continue;", "if (y < 0) continue;")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "a run of pixels goes on behind the row": (
        DEPTHWISE_BACK, None, [("if (i < run.count) pixel[i]", "pixel[i]")],
        "out of bounds", "input", "lanes.v[c] = load<A>(from[c])",
    ),
    "a plain add to a tap's gradient": (
        DEPTHWISE_BACK, None,
        [plain("grad_weight"), ("along.add_to(grad_weight + tap, run.channels);", "grad_weight[tap] += along.v[0];")],
        "data race", "grad_weight", "grad_weight[tap] += along.v[0];",
    ),
} | bugs_backward.BUGS | bugs_forward.BUGS | bugs_fused.BUGS  # fmt: skip
# The operators that are not deformable: their modules, and arguments of shapes that every guard matters for.
CONV_SHAPES = {"channels": 10, "outputs": 10, "groups": 10, "size": (3, 11)}
OTHERS = {
    "gelu": (activation, [({"shape": (3, 150)}, {})]),
    "softmax": (activation, [({"shape": (45, 9)}, {}), ({"shape": (45, 4)}, {})]),
    "layer_norm": (normalisation, [({"shape": (45, 10)}, {})]),
    "depthwise_conv2d": (depthwise, [(CONV_SHAPES, {"padding": 1}), (CONV_SHAPES, {"padding": 1, "stride": 2})]),
}


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def flattened(path, texts):
    """The kernel with the text of our headers in the place of their first includes."""
    seen = set()

    def insert(match):
        file = f"include/{match[1]}"
        if file in seen or file not in texts:
            return match[0] if file not in texts else ""
        seen.add(file)
        return re.sub(r'#include "(\w+\.cuh)"', insert, texts[file].replace("#pragma once", ""))

    return re.sub(r'#include "(\w+\.cuh)"', insert, texts[path])


def run(key, kernel=None, mode="check", monkeypatch=None):
    """Run a rung, or a changed kernel in its place, on small shapes that every guard matters for."""
    rng = np.random.default_rng(1)
    operator, idea = key
    if key == SAMPLING:
        rung = RUNGS[key]
        name = rung.instance("float32")
        kernel = kernel(name) if kernel else module(rung.path, [name], target="cpu", mode=mode)[name]
        image = rng.standard_normal((4, 5, 3)).astype(np.float32)
        base = rng.integers(-1, 5, (150, 2)).astype(np.int32)
        displacement = rng.uniform(-1, 1, (150, 2)).astype(np.float32)
        kernel[2, 128](image, base, displacement, np.zeros((150, 3), np.float32), 150, 4, 5, 3)
        return
    if kernel is not None:
        real = calls.kernel

        def replaced(rung, name, *rest):
            return kernel(name) if (rung.operator, rung.idea) == key else real(rung, name, *rest)

        monkeypatch.setattr(calls, "kernel", replaced)
    name = operator.rpartition("_")[0].removesuffix("_weight")
    module_, cases = OTHERS[name] if name in OTHERS else (deformable, deformable_cases(*key))
    for shapes, settings in cases:
        arrays = arguments(name, rng, shapes, "float32" if "float32" in RUNGS[key].dtypes else "float16")
        call = Call(arrays["input"], mode=mode, rungs={operator: idea, **bugs_fused.BESIDE.get(key, {})})
        function = getattr(module_, name)
        if operator.endswith("forward"):
            function(**arrays, **settings, call=call)
        else:
            grad = function(**arrays, **settings)
            getattr(module_, f"{name}_backward")(grad, **arrays, **settings, call=call)


def deformable_cases(operator, idea):
    """With one tap, the cells of many rows lie in the image as a whole."""
    if any(key == (operator, idea) for key, *_ in bugs_forward.BUGS.values()):
        yield bugs_forward.SHAPES, {"groups": bugs_forward.SHAPES["groups"]}
        return
    if any(key == (operator, idea) for key, *_ in bugs_fused.BUGS.values()):
        yield bugs_fused.SHAPES, {}
        return
    for kernel_size in (3, 1):
        shapes = {"channels": 10, "size": (3, 4), "kernel_size": kernel_size, "padding": kernel_size // 2}
        settings = {"padding": kernel_size // 2}
        if operator.startswith("dcnv3"):
            shapes |= bugs_backward.SHAPES.get((operator, idea), {"groups": 2})
            yield shapes, {**settings, "groups": 2, "kernel_size": kernel_size}
        else:
            yield {**shapes, "outputs": 2, "offset_groups": 2}, settings


def arguments(name, rng, shapes, dtype):
    case = catalogue.Case(catalogue.OPERATORS[name], "", {}, shapes)
    return {key: value.astype(dtype) for key, value in case.arguments(rng).items()}


@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize("key", RUNGS, ids="-".join)
def test_without_a_bug(key, mode):
    run(key, mode=mode)


def test_no_kernel_is_left_out():
    found = {str(p.relative_to(kernels_folder())) for p in kernels_folder().glob("*/*.cu")}
    assert {path for path in found if not path.startswith("probes/")} == {rung.path for rung in RUNGS.values()}
    assert {bug[0] for bug in BUGS.values()} == set(RUNGS), "every kernel has a bug planted in it"


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_where_it_is(bug, monkeypatch):
    key, changed, replacements, kind, argument, line = BUGS[bug]
    rung = RUNGS[key]
    headers = [str(p.relative_to(kernels_folder())) for p in (kernels_folder() / "include").glob("*.cuh")]
    texts = {file: (kernels_folder() / file).read_text() for file in (rung.path, *headers)}
    for old, new in replacements:
        file = changed or rung.path
        assert texts[file].count(old) == 1, f"{bug}: {old!r} occurs {texts[file].count(old)} times"
        texts[file] = texts[file].replace(old, new)
    source = flattened(rung.path, texts)

    def kernel(name):
        return module(source, [name], target="cpu", mode="check")[name]

    with pytest.raises(KernelFault) as caught:
        run(key, kernel, monkeypatch=monkeypatch)
    fault = caught.value
    assert fault.kind in as_tuple(kind), str(fault)
    assert fault.file == "kernel.cu", str(fault)
    assert fault.argument in as_tuple(argument), str(fault)
    reported = source.splitlines()[fault.line - 1]
    assert any(text in reported for text in as_tuple(line)), f"{fault}\n{reported}"
