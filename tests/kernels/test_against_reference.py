"""The kernels agree with the NumPy reference: every dtype, geometry and rung, and at every edge the design names."""

import kernel_runs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnlab.geometry import output_size
from dcnlab.launch import module
from dcnlab.reference import deformable
from dcnlab.reference.sampling import sampling_matrix

pytestmark = pytest.mark.usefixtures("compiler")

FORWARD = ("naive", "point")
BACKWARD = ("atomic", "point")
WIDTH = {"float32": 4, "float64": 8, "float16": 8}
GEOMETRIES = {
    "3x3": {},
    "one channel a group": {"groups": 3, "channels": 3},
    "odd group width": {"groups": 2, "channels": 14},
    "wide group": {"groups": 1, "channels": 37},
    "stride and dilation": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "size": (9, 8)},
    "3x5": {"kernel_size": (3, 5), "padding": (1, 2)},
    "even kernel": {"kernel_size": 2, "stride": 2, "padding": 0},
    "offset_scale": {"offset_scale": 1.1},
    "remove_center": {"remove_center": True, "dilation": 2, "padding": 2},
    "one pixel": {"size": (1, 1)},
    "one row, large offsets": {"size": (1, 9), "spread": 20.0},
    "lattice": {"spread": 0.0, "offset_scale": 0.5},
}


def make_case(dtype, seed=0, n=2, size=(5, 6), channels=8, groups=2, spread=1.5, **options):
    rng = np.random.default_rng(seed)
    geometry = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1} | {
        key: options[key] for key in ("kernel_size", "stride", "padding", "dilation") if key in options
    }
    ho, wo = output_size(size, **geometry)
    k = np.atleast_1d(geometry["kernel_size"])
    taps = int(k[0] * k[-1]) - bool(options.get("remove_center"))
    case = {
        "input": rng.standard_normal((n, *size, channels)).astype(dtype),
        "offset": (spread * rng.standard_normal((n, ho, wo, groups * taps * 2))).astype(dtype),
        "mask": rng.standard_normal((n, ho, wo, groups * taps)).astype(dtype),
        "groups": groups,
        **options,
    }
    return case, rng.standard_normal((n, ho, wo, channels)).astype(dtype)


def exact(case):
    """The same call in float64."""
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in case.items()}


def expect(actual, expected, dtype, name):
    """Within rounding of the float64 reference, relative to the largest entry; not finite in the same places."""
    assert actual.shape == expected.shape, name
    finite = np.isfinite(expected)
    assert np.array_equal(np.isnan(actual), np.isnan(expected)), name
    assert np.array_equal(np.isfinite(actual), finite), name
    if not finite.any():
        return
    a, e = actual[finite].astype(np.float64), expected[finite]
    if actual.dtype == np.float16:
        # Rounding the exact result costs half a unit in the last place; float accumulation adds far less.
        allowed = 2 * np.maximum(np.spacing(np.abs(e).astype(np.float16)).astype(float) / 2, 1e-7) + 1e-5 * abs(e).max()
        assert (abs(a - e) <= allowed).all(), f"{name}: {(abs(a - e) / allowed).max():.2f} x what is allowed"
    else:
        tolerance = 1e-12 if np.dtype(dtype) == np.float64 else 1e-5
        assert abs(a - e).max() <= tolerance * max(abs(e).max(), 1e-300), name


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_rung(dtype, geometry):
    case, grad = make_case(dtype, **GEOMETRIES[geometry])
    before = {k: v.copy() for k, v in case.items() if isinstance(v, np.ndarray)}
    expected = deformable.dcnv3(**exact(case))
    for rung in FORWARD:
        expect(kernel_runs.forward(rung, case, dtype, WIDTH[dtype]), expected, dtype, rung)
    expected = deformable.dcnv3_backward(grad.astype(np.float64), **exact(case))
    for rung in BACKWARD:
        found = kernel_runs.backward(rung, case, grad, dtype, WIDTH[dtype])
        for actual, wanted, name in zip(found, expected, expected._fields, strict=True):
            expect(actual, wanted, dtype, f"{rung} {name}")
    assert all(np.array_equal(case[k], v) for k, v in before.items())


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    width=st.integers(1, 19),
    groups=st.integers(1, 3),
    n=st.integers(1, 2),
    spread=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
    scale=st.sampled_from([0.5, 1.0, 1.7]),
    padding=st.integers(1, 2),
)
def test_any_geometry(seed, size, width, groups, n, spread, scale, padding):
    case, grad = make_case(
        "float64", seed, n, size, width * groups, groups, spread, offset_scale=scale, padding=padding
    )
    expect(kernel_runs.forward("point", case, "float64", 8), deformable.dcnv3(**case), "float64", "forward")
    found = kernel_runs.backward("point", case, grad, "float64", 8)
    for actual, wanted in zip(found, deformable.dcnv3_backward(grad, **case), strict=True):
        expect(actual, wanted, "float64", "backward")


def broken(dtype):
    """A case with every value that is not finite, each at a place of its own."""
    case, grad = make_case(dtype, size=(7, 7), channels=6, groups=2, spread=0.3)
    offset, mask = (case[k].reshape(2, 7, 7, 2, 9, -1) for k in ("offset", "mask"))
    offset[0, 1, 1, 0, 4, 0] = np.nan
    offset[0, 1, 4, 1, 3, 1] = np.nan
    offset[0, 3, 3, 0, 2, 0] = np.inf
    offset[0, 3, 5, 1, 8, 1] = -np.inf
    offset[0, 5, 1, 0, 0] = 6e4 if dtype == "float16" else 1e30
    mask[0, 5, 5, 1, 7] = np.nan
    offset[1, 3, 3, 0, 1] = np.inf, np.nan
    case["input"][1, 0, 0, 0] = np.nan
    case["input"][1, 6, 3, 4] = np.inf
    return case, grad


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_values_that_are_not_finite(dtype):
    case, grad = broken(dtype)
    with np.errstate(invalid="ignore"):
        output = deformable.dcnv3(**exact(case))
        grads = deformable.dcnv3_backward(grad.astype(np.float64), **exact(case))
    assert np.isnan(output[0]).sum() == 3 * 3  # the design's rules, by hand: three broken taps, three channels a group
    for rung in FORWARD:
        expect(kernel_runs.forward(rung, case, dtype, WIDTH[dtype]), output, dtype, rung)
    for rung in BACKWARD:
        found = kernel_runs.backward(rung, case, grad, dtype, WIDTH[dtype])
        assert np.isfinite(found[0]).all(), "a broken tap has no address to send a gradient to"
        for actual, wanted, name in zip(found, grads, grads._fields, strict=True):
            expect(actual, wanted, dtype, f"{rung} {name}")


def test_accuracy_does_not_fall_with_the_size_of_the_image():
    case, grad = make_case("float32", n=1, size=(2, 3000), channels=4, groups=1, spread=0.3)
    case["input"] = np.sin(np.arange(6000 * 4, dtype=np.float64)).reshape(1, 2, 3000, 4).astype(np.float32)
    expected = deformable.dcnv3(**exact(case))
    found = kernel_runs.forward("point", case, "float32", 4)
    ends = abs(found - expected)[:, :, -100:].max(), abs(found - expected)[:, :, :100].max()
    assert ends[0] < 2 * ends[1] < 1e-5


@pytest.mark.parametrize("rung", BACKWARD)
def test_gradients_are_repeatable_for_any_number_of_threads(rung, monkeypatch):
    case, grad = make_case("float32", size=(17, 13), channels=12, groups=3)
    results = []
    for threads in (1, 2, 2, 5):
        monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
        results.append(kernel_runs.backward(rung, case, grad, "float32", 4))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("order", ["backward", 1, 2])
def test_results_do_not_depend_on_the_order_of_threads(order):
    case, grad = make_case("float32", size=(9, 9))
    assert np.array_equal(
        kernel_runs.forward("point", case, "float32", 4),
        kernel_runs.forward("point", case, "float32", 4, thread_order=order),
    )
    usual = kernel_runs.backward("point", case, grad, "float32", 4)
    other = kernel_runs.backward("point", case, grad, "float32", 4, thread_order=order)
    expected = deformable.dcnv3_backward(grad.astype(float), **exact(case))
    expect(other[0], expected[0], "float32", "grad_input")  # sums in another order: equal but for rounding
    assert np.array_equal(usual[1], other[1])
    assert np.array_equal(usual[2], other[2])


def test_a_large_batch_goes_round_in_the_grid():
    """The grid has at most 65535 images in its second dimension; the kernels go on from there."""
    case, grad = make_case("float32", n=65537, size=(1, 1), channels=1, groups=1, kernel_size=1, padding=0)
    x, offset, mask = (case[name].astype(float).reshape(65537, -1) for name in ("input", "offset", "mask"))
    tent = np.maximum(0, 1 - abs(offset)).prod(axis=1, keepdims=True)  # one pixel, one tap
    output = kernel_runs.forward("point", case, "float32", 4)
    expect(output, (mask * tent * x).reshape(output.shape), "float32", "forward")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_sampling(dtype):
    name = kernel_runs.instance("sample_bilinear", dtype)
    kernel = kernel_runs.compiled(
        "sampling/1_naive.cu", tuple(kernel_runs.instance("sample_bilinear", d) for d in WIDTH)
    )[name]
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
    expect(output, expected, dtype, "samples")
    displacement[9, 1] = np.nan
    kernel[2, 128](image, base, displacement, output, 200, 5, 7, 3)
    assert np.isnan(output[9]).all()
    assert np.isfinite(np.delete(output, 9, axis=0)).all()


@pytest.mark.check_kernels
@pytest.mark.parametrize("mode", ["check", "ubsan"])
def test_every_kernel_is_clean(mode):
    """Check mode and UBSan find nothing in our kernels, with all kinds of samples and in every dtype that they have."""
    for dtype in ("float32", "float64", "float16"):
        case, grad = broken(dtype)
        for rung in FORWARD:
            kernel_runs.forward(rung, case, dtype, WIDTH[dtype], mode)
        for rung in BACKWARD:
            kernel_runs.backward(rung, case, grad, dtype, WIDTH[dtype], mode)
    kernel = module("sampling/1_naive.cu", ["sample_bilinear<float, float>"], target="cpu", mode=mode)
    base = np.array([[0, 0], [-1, -1], [3, 3], [2**30, -(2**30)]], np.int32)
    displacement = np.array([[0.5, 0.5], [0.1, 0.1], [-3e38, 0], [np.nan, np.inf]], np.float32)
    image, output = np.ones((4, 4, 2), np.float32), np.zeros((4, 2), np.float32)
    kernel["sample_bilinear<float, float>"][1, 32](image, base, displacement, output, 4, 4, 4, 2)
    assert output[:, 0].tolist()[:1] == [1.0]
    assert np.isnan(output[3]).all()
