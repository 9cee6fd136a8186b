"""The kernels agree with the NumPy reference: every rung, dtype and geometry, and at every edge the design names."""

import numpy as np
import pytest
from helpers import GOLDEN, assert_close, expect, expected_gradient, golden_dcnv3, golden_deform_conv2d
from threadpoolctl import threadpool_limits

from dcnlab import catalogue
from dcnlab.compiled import deformable as compiled
from dcnlab.compiled.calls import Call, DCNv3Arguments
from dcnlab.compiled.rungs import RUNGS
from dcnlab.launch import module
from dcnlab.reference import deformable
from dcnlab.reference.sampling import sampling_matrix

pytestmark = pytest.mark.usefixtures("compiler")

DTYPES = ("float32", "float64", "float16")
# The rungs of an operator, forward and backward together: number n with number n.
LADDERS = {
    "dcnv3": [
        ("1_naive", "1_atomic"),
        ("2_point", "2_point"),
        *(("2_point", n) for n in ("3_shuffle", "4_vector_atomic", "5_tile", "6_deterministic")),
    ],
    "deform_conv2d": [("1_naive", "1_naive"), ("2_columns", "2_columns"), ("3_fused", "3_fused")],
}
# What a rung does not take; the dispatcher falls to a more general one there.
REFUSED = {
    "3_shuffle": ["wide group"],  # its vectors would have one channel each: more than a warp has lanes
    "5_tile": ["wide group"],
    "6_deterministic": ["wide group"],
    "4_vector_atomic": ["wide group", "odd group width", "one channel a group"],
}
STEPS = [(name, *ideas) for name, ladder in LADDERS.items() for ideas in ladder]
MAKERS = {"dcnv3": catalogue.dcnv3_arguments, "deform_conv2d": catalogue.deform_conv2d_arguments}
DCNV3_GEOMETRIES = {
    "3x3": {},
    "one channel a group": {"groups": 3, "channels": 3},
    "odd group width": {"groups": 2, "channels": 14},
    "wide group": {"groups": 1, "channels": 37},
    "12 channels a group: a lane of four has none": {"channels": 24},
    "stride and dilation": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "size": (9, 8)},
    "5x5, more taps than are worked out together": {"kernel_size": 5, "padding": 2},
    "3x5": {"kernel_size": (3, 5), "padding": (1, 2), "channels": 16},
    "1x1": {"kernel_size": 1, "padding": 0, "channels": 32},
    "even kernel": {"kernel_size": 2, "stride": 2, "padding": 0},
    "offset_scale": {"offset_scale": 1.1},
    "remove_center": {"remove_center": True, "dilation": 2, "padding": 2},
    "one pixel": {"size": (1, 1)},
    "one row, large offsets": {"size": (1, 9), "offsets": "large"},
    "lattice": {"offsets": "zero"},
    "several tiles, some offsets beyond the halo": {"size": (9, 18), "offsets": "large", "channels": 8},
}
DEFORM_CONV2D_GEOMETRIES = {
    "3x3": {},
    "no mask, no bias": {"mask": False, "bias": False},
    "offset groups of one channel": {"channels": 3, "offset_groups": 3},
    "odd group width": {"channels": 14, "offset_groups": 2, "groups": 2},
    "wide group": {"channels": 37},
    "stride and dilation": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "size": (9, 8)},
    "5x5, more taps than are worked out together": {"kernel_size": 5, "padding": 2},
    "even kernel": {"kernel_size": 2, "stride": 2, "padding": 0},
    "3x5": {"kernel_size": (3, 5), "padding": (1, 2)},
    "1x1": {"kernel_size": 1, "padding": 0},
    "groups of both kinds, none inside another": {"channels": 12, "groups": 2, "offset_groups": 3, "outputs": 6},
    "more than a tile of channels, outputs and pixels": {"channels": 70, "outputs": 67, "size": (5, 7)},
    "one pixel": {"size": (1, 1)},
    "one row, large offsets": {"size": (1, 9), "offsets": "large"},
    "lattice": {"offsets": "zero"},
}
GEOMETRIES = [
    *(("dcnv3", label) for label in DCNV3_GEOMETRIES),
    *(("deform_conv2d", label) for label in DEFORM_CONV2D_GEOMETRIES),
]


def make_case(name, label, dtype, seed=0):
    """Return (arrays, settings, grad_output) of a geometry, the arrays of `dtype`."""
    shapes = dict((DCNV3_GEOMETRIES if name == "dcnv3" else DEFORM_CONV2D_GEOMETRIES)[label])
    shapes.setdefault("batch", 2)
    shapes.setdefault("channels", 16 if name == "dcnv3" else 4)
    known = ("stride", "padding", "dilation", "offset_scale", "remove_center", "kernel_size", "groups")
    settings = {key: shapes[key] for key in known if key in shapes}
    if name == "deform_conv2d":
        settings = {key: settings[key] for key in ("stride", "padding", "dilation") if key in settings}
        settings.setdefault("padding", 1)
    else:
        settings.setdefault("groups", 2)
    rng = np.random.default_rng(seed)
    arrays = {key: value.astype(dtype) for key, value in MAKERS[name](rng, **{"padding": 1, **shapes}).items()}
    with np.errstate(all="ignore"):
        shape = getattr(deformable, name)(**exact(arrays), **settings).shape
    return arrays, settings, rng.standard_normal(shape).astype(dtype)


def refused(step, label, dtype):
    """Return whether a rung of this step does not take a geometry."""
    name, *ideas = step
    rungs = [RUNGS[f"{name}_{way}", idea] for way, idea in zip(("forward", "backward"), ideas, strict=True)]
    return any(dtype not in rung.dtypes or label in REFUSED.get(rung.idea, ()) for rung in rungs)


def takes(step, arrays, settings):
    """Return whether the rungs of this step take a case."""
    name, forward, backward = step
    if name != "dcnv3":
        return True
    problem = DCNv3Arguments(**arrays, **settings).problem(Call(arrays["input"]))
    return RUNGS["dcnv3_forward", forward].takes(problem) and RUNGS["dcnv3_backward", backward].takes(problem)


def exact(arrays):
    """Return the same arrays in float64."""
    return {key: value.astype(float) for key, value in arrays.items()}


def run(step, arrays, settings, grad, **how):
    """Return output and gradients by one step of a ladder."""
    name, forward, backward = step
    call = Call(arrays["input"], rungs={f"{name}_forward": forward, f"{name}_backward": backward}, **how)
    output = getattr(compiled, name)(**arrays, **settings, call=call)
    return output, getattr(compiled, f"{name}_backward")(grad, **arrays, **settings, call=call)


def reference(name, arrays, settings, grad):
    with np.errstate(all="ignore"):
        output = getattr(deformable, name)(**exact(arrays), **settings)
        return output, getattr(deformable, f"{name}_backward")(grad.astype(float), **exact(arrays), **settings)


def expect_all(found, wanted):
    expect(found[0], wanted[0], "output")
    for name in wanted[1]._fields:
        expect(getattr(found[1], name), getattr(wanted[1], name), f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "label"), GEOMETRIES)
def test_every_rung(name, label, dtype):
    arrays, settings, grad = make_case(name, label, dtype)
    before = {key: value.copy() for key, value in arrays.items()}
    wanted = reference(name, arrays, settings, grad)
    for step in STEPS:
        if step[0] != name:
            continue
        if refused(step, label, dtype):
            with pytest.raises(ValueError, match=f"{name}.* does not take"):
                run(step, arrays, settings, grad)
        else:
            expect_all(run(step, arrays, settings, grad), wanted)
    assert all(np.array_equal(arrays[key], value) for key, value in before.items()), "nothing is modified in place"


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_arrays_that_do_not_begin_where_vectors_do(step):
    arrays, settings, grad = make_case(step[0], "3x3", "float32")

    def shifted(array):
        room = np.empty(array.size + 8, array.dtype)
        start = next(i for i in range(8) if room[i:].ctypes.data % 16 == 4)
        view = room[start : start + array.size].reshape(array.shape)
        view[...] = array
        return view

    found = run(step, {key: shifted(value) for key, value in arrays.items()}, settings, shifted(grad))
    expect_all(found, reference(step[0], arrays, settings, grad))


GOLDEN_FILES = [*sorted((GOLDEN / "dcnv2").glob("*.npz")), *sorted((GOLDEN / "dcnv3").glob("op_*.npz"))]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda p: p.stem)
def test_golden_files_by_every_rung(path, dtype):
    name = "deform_conv2d" if path.parent.name == "dcnv2" else "dcnv3"
    arrays, settings, data = (golden_deform_conv2d if name == "deform_conv2d" else golden_dcnv3)(path)
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    grad = data.get("grad_output", np.ones(data["output"].shape)).astype(dtype)
    for step in STEPS:
        if step[0] != name or not takes(step, arrays, settings):
            continue
        output, grads = run(step, arrays, settings, grad)
        assert_close(output, data["output"], name="output")
        if "grad_output" in data:
            for key in arrays:
                assert_close(getattr(grads, key), expected_gradient(data, key), name=f"gradient of {key}")


def broken(name, dtype):
    """A case with every value that is not finite, each at a place of its own.

    Pixels are NaN, not infinite: inf - inf depends on which sum comes first, and the rungs add up differently.
    """
    arrays, settings, grad = make_case(name, "3x3", dtype)
    huge = 6e4 if dtype == "float16" else 1e30
    offset, mask, image = arrays["offset"], arrays["mask"], arrays["input"]
    for number, value in enumerate((np.nan, np.inf, -np.inf, huge)):
        offset[(0, number, 1, number) if name == "deform_conv2d" else (0, 1, number, number)] = value
    mask[(0, 7, 3, 5) if name == "deform_conv2d" else (0, 3, 5, 7)] = np.nan
    offset[(1, 4, 3, 3) if name == "deform_conv2d" else (1, 3, 3, 4)] = np.nan
    offset[(1, 5, 3, 3) if name == "deform_conv2d" else (1, 3, 3, 5)] = np.inf
    image[1, 0, 0, 0] = np.nan
    image[(1, 1, 4, 5) if name == "deform_conv2d" else (1, 4, 5, 1)] = np.nan
    return arrays, settings, grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_values_that_are_not_finite(step, dtype):
    if refused(step, "3x3", dtype):
        return  # test_every_rung sees that it says so
    arrays, settings, grad = broken(step[0], dtype)
    wanted = reference(step[0], arrays, settings, grad)
    assert np.isnan(wanted[0]).any()
    assert np.isfinite(wanted[0]).any()
    with np.errstate(all="ignore"):
        found = run(step, arrays, settings, grad)
    expect_all(found, wanted)
    assert np.isfinite(found[1].input).all(), "a broken tap has no address to send a gradient to"


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_results_are_repeatable_for_any_number_of_threads(step, monkeypatch):
    """Bit for bit. A BLAS may cut its products up by its number of threads, so it gets one here."""
    labels = ("odd group width", "12 channels a group: a lane of four has none")
    label = next(label for label in labels if not refused(step, label, "float32"))
    arrays, settings, grad = make_case(step[0], label, "float32")
    results = []
    with threadpool_limits(1, "blas"):
        for threads in (1, 2, 2, 5):
            monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
            monkeypatch.setattr(compiled, "limit_blas", lambda: None)
            output, grads = run(step, arrays, settings, grad)
            results.append([output, *(g for g in grads if g is not None)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("order", ["backward", 1, 2])
@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_results_do_not_depend_on_the_order_of_threads(step, order):
    arrays, settings, grad = make_case(step[0], "3x3", "float32")
    output, _ = run(step, arrays, settings, grad)
    other = run(step, arrays, settings, grad, thread_order=order)
    assert np.array_equal(output, other[0])
    expect_all(other, reference(step[0], arrays, settings, grad))  # sums in another order: equal but for rounding


def test_accuracy_does_not_fall_with_the_size_of_the_image():
    rng = np.random.default_rng(0)
    arrays = catalogue.dcnv3_arguments(rng, size=(2, 3000), channels=4, groups=1, offsets="small")
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    errors = abs(compiled.dcnv3(**arrays) - deformable.dcnv3(**exact(arrays)))
    assert errors[:, :, -100:].max() < 2 * errors[:, :, :100].max() < 1e-5


def test_a_large_batch_goes_round_in_the_grid():
    """The grid has at most 65535 images in its second dimension; the kernels go on from there."""
    rng = np.random.default_rng(0)
    x, offset, mask = (rng.standard_normal((65537, 1, 1, n)) for n in (1, 2, 1))
    tent = np.maximum(0, 1 - abs(offset)).prod(axis=-1, keepdims=True)  # one pixel, one tap
    output = compiled.dcnv3(x, offset, mask, kernel_size=1, padding=0)
    assert_close(output, mask * tent * x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sampling(dtype):
    rung = RUNGS["sampling", "1_naive"]
    kernel = module(rung.path, rung.instances(), target="cpu")[rung.instance(dtype)]
    rng = np.random.default_rng(4)
    image = rng.standard_normal((5, 7, 3)).astype(dtype)
    base = rng.integers(-2, 8, (200, 2)).astype(np.int32)
    displacement = rng.uniform(-1.5, 1.5, (200, 2)).astype(dtype)
    base[:4], displacement[:4] = [[-1, 2], [5, 2], [2, 7], [0, -1]], 0  # on the border of the open range
    displacement[4:8] = [[np.inf, 0], [0, -np.inf], [1e4, 0], [0.25, 6e4]]
    output = np.full((200, 3), 7, dtype)
    kernel[2, 128](image, base, displacement, output, 200, 5, 7, 3)
    finite = np.isfinite(displacement).all(axis=1)
    positions = np.where(finite[:, None], base + displacement.astype(np.float64), -9)
    expected = sampling_matrix(positions, None, 5, 7) @ image.reshape(35, 3).astype(np.float64)
    assert (expected[:8] == 0).all()
    expect(output, expected, "samples")
    displacement[9, 1] = np.nan
    kernel[2, 128](image, base, displacement, output, 200, 5, 7, 3)
    assert np.isnan(output[9]).all()
    assert np.isfinite(np.delete(output, 9, axis=0)).all()


@pytest.mark.check_kernels
@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_every_kernel_is_clean(step, mode):
    """Check mode and UBSan find nothing in our kernels, with all kinds of samples and in every dtype."""
    for dtype in DTYPES:
        if refused(step, "3x3", dtype):
            continue
        arrays, settings, grad = broken(step[0], dtype)
        wanted = reference(step[0], arrays, settings, grad)
        with np.errstate(all="ignore"):
            expect_all(run(step, arrays, settings, grad, mode=mode), wanted)


@pytest.mark.check_kernels
@pytest.mark.parametrize("mode", ["check", "ubsan"])
def test_sampling_is_clean(mode):
    kernel = module("sampling/1_naive.cu", ["sample_bilinear<float, float>"], target="cpu", mode=mode)
    base = np.array([[0, 0], [-1, -1], [3, 3], [2**30, -(2**30)]], np.int32)
    displacement = np.array([[0.5, 0.5], [0.1, 0.1], [-3e38, 0], [np.nan, np.inf]], np.float32)
    image, output = np.ones((4, 4, 2), np.float32), np.zeros((4, 2), np.float32)
    kernel["sample_bilinear<float, float>"][1, 32](image, base, displacement, output, 4, 4, 4, 2)
    assert output[:, 0].tolist()[:1] == [1.0]
    assert np.isnan(output[3]).all()
