"""The kernels of GELU, softmax, layer norm and depthwise convolution, each against two references."""

import importlib

import numpy as np
import pytest
from helpers import assert_close, each_gradient, expect
from scipy.special import erfc

import dcnlab
from dcnlab import catalogue, nn
from dcnlab.compiled import activation
from dcnlab.compiled.calls import Call

pytestmark = pytest.mark.usefixtures("compiler")

DTYPES = ("float32", "float64", "float16")
HOMES = {
    "gelu": "activation",
    "softmax": "activation",
    "layer_norm": "normalisation",
    "depthwise_conv2d": "depthwise",
}
# (operator, label): shapes of the arguments, settings. Runs, rows and lanes end everywhere.
CASES = {
    ("gelu", "less than a run"): ({"shape": (2, 3)}, {}),
    ("gelu", "two runs and a bit"): ({"shape": (37, 7)}, {}),
    ("softmax", "9 taps"): ({"shape": (5, 7, 9)}, {}),
    ("softmax", "4 taps, more rows than a thread takes"): ({"shape": (40, 4)}, {}),
    ("softmax", "one tap"): ({"shape": (3, 1)}, {}),
    ("softmax", "25 taps"): ({"shape": (3, 25)}, {}),
    ("softmax", "another axis"): ({"shape": (3, 5, 2)}, {"axis": 1}),
    ("layer_norm", "fewer channels than lanes"): ({"shape": (2, 5, 3)}, {}),
    ("layer_norm", "odd channels"): ({"shape": (10, 37)}, {"eps": 1e-5}),
    ("layer_norm", "whole lanes"): ({"shape": (2, 9, 32)}, {}),
    ("depthwise_conv2d", "3x3"): ({"channels": 16, "size": (5, 19)}, {"padding": 1}),
    ("depthwise_conv2d", "odd channels, no bias"): ({"channels": 21, "size": (4, 9), "bias": False}, {"padding": 1}),
    ("depthwise_conv2d", "one pixel"): ({"channels": 3, "size": (1, 1)}, {"padding": 1}),
    ("depthwise_conv2d", "5x5, all padding"): ({"channels": 2, "size": (2, 3), "kernel_size": 5}, {"padding": 4}),
    ("depthwise_conv2d", "stride and dilation"): (
        {"channels": 5, "size": (9, 20), "kernel_size": (3, 2)},
        {"stride": (2, 3), "padding": (0, 2), "dilation": (1, 4)},
    ),
    ("depthwise_conv2d", "stride beyond the kernel"): (
        {"channels": 4, "size": (7, 8), "kernel_size": 2},
        {"stride": 3},
    ),
}
# More threads than a block has, so that several workers have something to do.
LARGE = {
    "gelu": {"shape": (50_001,)},
    "softmax": {"shape": (10_001, 9)},
    "layer_norm": {"shape": (3001, 10)},
    "depthwise_conv2d": {"channels": 10, "size": (40, 41)},
}


def make_case(name, shapes, settings, dtype, seed=0):
    """Return (arrays, grad_output) of a geometry, the arrays of `dtype`."""
    if name == "depthwise_conv2d":
        shapes = {**shapes, "groups": shapes["channels"], "outputs": shapes["channels"]}
    rng = np.random.default_rng(seed)
    arrays = catalogue.Case(catalogue.OPERATORS[name], "", {}, shapes).arguments(rng)
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    shape = catalogue.OPERATORS[name].function(**exact(arrays), **settings).shape
    return arrays, rng.standard_normal(shape).astype(dtype)


def exact(arrays):
    return {key: value.astype(float) for key, value in arrays.items()}


def run(name, arrays, settings, grad, **how):
    """Return the output and the gradients of a kernel."""
    home, call = importlib.import_module(f"dcnlab.compiled.{HOMES[name]}"), Call(arrays["input"], **how)
    output = getattr(home, name)(**arrays, **settings, call=call)
    return [output, *each_gradient(getattr(home, f"{name}_backward")(grad, **arrays, **settings, call=call))]


def references(name, arrays, settings, grad):
    """Yield output and gradients of the loops and of the vectorised code, in float64."""
    operator, grad = catalogue.OPERATORS[name], grad.astype(float)
    with np.errstate(all="ignore"):
        yield [
            operator.loops(**exact(arrays), **settings),
            *each_gradient(operator.loops_backward(grad, **exact(arrays), **settings)),
        ]
        yield [
            operator.function(**exact(arrays), **settings),
            *each_gradient(operator.backward(grad, **exact(arrays), **settings)),
        ]


def expect_all(found, wanted):
    for number, (actual, expected) in enumerate(zip(found, wanted, strict=True)):
        expect(actual, expected, f"gradient {number}" if number else "output")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_loops_vectorised_and_kernel_agree(case, dtype):
    shapes, settings = CASES[case]
    arrays, grad = make_case(case[0], shapes, settings, dtype)
    before = {key: value.copy() for key, value in arrays.items()}
    found = run(case[0], arrays, settings, grad)
    assert all(array is None or array.dtype == dtype for array in found)
    for wanted in references(case[0], arrays, settings, grad):
        expect_all(found, wanted)
    assert all(np.array_equal(arrays[key], value) for key, value in before.items()), "nothing is modified in place"


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_an_empty_batch(case):
    name, (shapes, settings) = case[0], CASES[case]
    empty = {"batch": 0} if name == "depthwise_conv2d" else {"shape": (0, *shapes["shape"][1:])}
    arrays, grad = make_case(name, {**shapes, **empty}, settings, "float32")
    output, *grads = run(name, arrays, settings, grad)
    assert output.shape == grad.shape
    assert grads[0].shape == arrays["input"].shape
    assert all(g is None or not g.any() for g in grads[1:]), "sums of nothing"


def broken(name):
    """A geometry with values that are not finite, each in a row or channel of its own."""
    shapes, settings = CASES[
        {
            "gelu": ("gelu", "two runs and a bit"),
            "softmax": ("softmax", "9 taps"),
            "layer_norm": ("layer_norm", "odd channels"),
            "depthwise_conv2d": ("depthwise_conv2d", "odd channels, no bias"),
        }[name]
    ]
    arrays, grad = make_case(name, shapes, settings, "float32")
    image = arrays["input"]
    rows = image.transpose(0, 2, 3, 1).reshape(-1, 21).T if image.ndim == 4 else image.reshape(-1, image.shape[-1])
    rows = rows if np.shares_memory(rows, image) else image[0].reshape(21, -1)
    for row, value in enumerate((np.nan, np.inf, -np.inf)):
        rows[row, 0 if row else 3] = value
    (grad[0] if image.ndim == 4 else grad.reshape(rows.shape))[3].flat[2] = np.nan
    if name == "depthwise_conv2d":
        arrays["weight"][4, 0, 0, 0], arrays["weight"][5, 0, 2, 1] = np.nan, np.inf
    if name == "gelu":
        rows[4, :4] = 0.0, -0.0, 1e30, -1e30
    return arrays, settings, grad


@pytest.mark.parametrize("name", HOMES)
def test_values_that_are_not_finite_stay_where_they_are(name):
    arrays, settings, grad = broken(name)
    found = run(name, arrays, settings, grad)
    for wanted in references(name, arrays, settings, grad):
        assert np.isnan(wanted[0]).any()
        assert np.isfinite(wanted[0]).any()
        for actual, expected in zip(found, wanted, strict=True):
            if expected is not None:
                assert np.array_equal(np.isposinf(actual), np.isposinf(expected))
                assert np.array_equal(np.isneginf(actual), np.isneginf(expected))
                expect(actual, expected, name)


def test_gelu_keeps_the_sign_of_zero():
    zeros = activation.gelu(np.array([0.0, -0.0], np.float32))
    assert np.signbit(zeros).tolist() == [False, True]


def every_so_many_floats():
    """Return a million numbers, from all binades down to the smallest, the infinities, and one NaN."""
    numbers = np.arange(0, 2**32, 4099, dtype=np.uint32).view(np.float32)
    return np.append(numbers[~np.isnan(numbers)], np.float32([np.inf, -np.inf, np.nan]))


def test_gelu_is_within_some_units_in_the_last_place():
    """As kernels/include/normal.cuh says: 7, and 10 where Phi(x) is no normal number of float32 any more."""
    x = every_so_many_floats()
    exactly = x.astype(float)
    with np.errstate(all="ignore"):
        expected = exactly * (0.5 * erfc(-exactly / np.sqrt(2)))
        actual = activation.gelu(x)
        assert np.array_equal(np.isnan(actual), np.isnan(expected))
        unit = np.spacing(abs(expected).astype(np.float32)).astype(float)
        errors = (abs(actual - expected) / unit)[np.isfinite(unit)]
    small = x[np.isfinite(unit)] < -12.9
    assert errors[~small].max() <= 7
    assert errors[small].max() <= 10


def test_the_slope_of_gelu_is_within_some_units_in_the_last_place_of_its_terms():
    """Phi(x) + x phi(x) passes through 0: the units are those of the two terms. They have the errors of Phi(x)."""
    x = every_so_many_floats()
    x = x[np.isfinite(x)]
    exactly = x.astype(float)
    with np.errstate(all="ignore"):
        below, density = 0.5 * erfc(-exactly / np.sqrt(2)), np.exp(-0.5 * exactly**2) / np.sqrt(2 * np.pi)
        actual = activation.gelu_backward(np.ones_like(x), x)
    unit = np.spacing((below + abs(exactly * density)).astype(np.float32)).astype(float)
    assert (abs(actual - (below + exactly * density)) <= np.where(x < -12.9, 14, 7) * unit).all()


def test_softmax_has_the_relative_accuracy_of_its_exponents(rng):
    """Rounding z - max changes exp() by half a unit of the exponent; exp(), sum and quotient add less than 8 units."""
    logits = (10 * rng.standard_normal((1000, 9))).astype(np.float32)
    away = logits.max(axis=1, keepdims=True) - logits.astype(float)
    expected = np.exp(-away) / np.exp(-away).sum(axis=1, keepdims=True)
    assert (abs(activation.softmax(logits) / expected - 1) <= (8 + away) * 2.0**-24).all()


def test_layer_norm_of_one_channel_is_the_bias(rng):
    """Its gradient is 0 but for one rounding of grad_output * weight, over sqrt(eps)."""
    x, weight, bias = rng.standard_normal((5, 1)), np.array([2.0]), np.array([3.0])
    assert (dcnlab.layer_norm(x, weight, bias, backend="cpu") == 3).all()
    grads = dcnlab.layer_norm_backward(np.ones((5, 1)), x, weight, bias, 1e-6, backend="cpu")
    assert abs(grads.input).max() <= 2 * np.finfo(float).eps / np.sqrt(1e-6)
    assert grads.weight.tolist() == [0]
    assert grads.bias.tolist() == [5]


def test_the_variance_of_a_row_far_from_0():
    """Sums of squares would leave nothing of it."""
    x = 1e4 + np.random.default_rng(0).standard_normal((4, 64))
    x = x.astype(np.float32)
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    expected = dcnlab.layer_norm(x.astype(float), ones.astype(float), zeros.astype(float))
    # The mean has a rounding error of 1e4 * 2^-24 = 6e-4 in units of the deviations, or a few of them.
    assert abs(dcnlab.layer_norm(x, ones, zeros, backend="cpu") - expected).max() < 5e-3


@pytest.mark.parametrize("name", HOMES)
def test_results_are_repeatable_for_any_number_of_threads(name, monkeypatch):
    arrays, grad = make_case(name, LARGE[name], {}, "float32")
    results = []
    for threads in (1, 2, 2, 5):
        monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
        results.append(run(name, arrays, {}, grad))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("order", ["backward", 1, 2])
@pytest.mark.parametrize("name", HOMES)
def test_results_do_not_depend_on_the_order_of_threads(name, order):
    arrays, grad = make_case(name, LARGE[name], {}, "float32")
    found, other = run(name, arrays, {}, grad), run(name, arrays, {}, grad, thread_order=order)
    for actual, expected in zip(other[:2], found[:2], strict=True):
        assert np.array_equal(actual, expected)
    for actual, expected in zip(other[2:], found[2:], strict=True):  # sums over the threads: equal but for rounding
        assert_close(actual, expected)


@pytest.mark.check_kernels
@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize("name", HOMES)
def test_every_kernel_is_clean(name, mode):
    for case, (shapes, settings) in CASES.items():
        if case[0] == name:
            for dtype in DTYPES:
                arrays, grad = make_case(name, shapes, settings, dtype)
                *_, wanted = references(name, arrays, settings, grad)
                expect_all(run(name, arrays, settings, grad, mode=mode), wanted)
    arrays, settings, grad = broken(name)
    run(name, arrays, settings, grad, mode=mode)


# -- through the public functions and the layers -------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_depthwise_convolution_keeps_the_memory_layout(backend):
    arrays, grad = make_case("depthwise_conv2d", {"channels": 6, "size": (5, 7)}, {"padding": 1}, "float32")
    image = arrays.pop("input")
    view = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    expected = dcnlab.depthwise_conv2d(image, **arrays, padding=1, backend=backend)
    actual = dcnlab.depthwise_conv2d(view, **arrays, padding=1, backend=backend)
    assert_close(actual, expected)
    assert expected.flags.c_contiguous
    assert actual.transpose(0, 2, 3, 1).flags.c_contiguous
    expected = dcnlab.depthwise_conv2d_backward(grad, image, **arrays, padding=1, backend=backend)
    actual = dcnlab.depthwise_conv2d_backward(grad, view, **arrays, padding=1, backend=backend)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    assert expected.input.flags.c_contiguous
    assert actual.input.transpose(0, 2, 3, 1).flags.c_contiguous


def test_a_layer_runs_on_the_kernels_of_the_backend_in_force(rng, monkeypatch):
    launched, launch = [], Call.launch
    monkeypatch.setattr(
        Call, "launch", lambda self, *args, **kw: launched.append((args[0], args[1].dtype)) or launch(self, *args, **kw)
    )
    layer = nn.DCNv3(8, groups=2, rng=0)
    layer.mask.weight.value = rng.standard_normal(layer.mask.weight.value.shape).astype(np.float32)
    x, grad = rng.standard_normal((2, 1, 5, 6, 8)).astype(np.float32)
    results = {}
    for backend in ("numpy", "cpu"):
        with dcnlab.use_backend(backend):
            results[backend] = [layer(x), layer.backward(grad), *layer.grad_dict().values()]
    steps = ("depthwise_conv2d", "layer_norm", "gelu", "softmax", "dcnv3")
    assert sorted(launched) == sorted((f"{s}_{way}", "float32") for s in steps for way in ("forward", "backward"))
    for actual, expected in zip(results["cpu"], results["numpy"], strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, expected, 1e-4)  # float32 through five operators, both of them


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_softmax_needs_something_to_normalise(backend):
    for shape, axis in (((3, 0), -1), ((3, 4), 2), ((), -1)):
        with pytest.raises(ValueError, match=f"at least one entry along axis {axis}, got shape"):
            dcnlab.softmax(np.zeros(shape), axis, backend=backend)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "twice_sigmoid", "none"])
def test_modulation_follows_the_backend(rng, kind):
    logits, grad = rng.standard_normal((2, 3, 4, 18)).astype(np.float16)
    half = dcnlab.normalise_modulation(logits, kind, 2, backend="cpu")
    expect(half, dcnlab.normalise_modulation(logits.astype(float), kind, 2), kind)
    with dcnlab.use_backend("cpu"):
        grads = dcnlab.normalise_modulation_backward(grad, logits, kind, 2)
    expect(grads, dcnlab.normalise_modulation_backward(grad.astype(float), logits.astype(float), kind, 2), kind)
    with pytest.raises(TypeError, match="float16 is for the backends"):
        dcnlab.normalise_modulation(logits, kind, 2)
