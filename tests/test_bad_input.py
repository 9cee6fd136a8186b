"""Bad input: each kind with its promised result or message."""

import re

import numpy as np
import pytest
from helpers import assert_close

import dcnlab
from dcnlab import catalogue
from dcnlab.catalogue import OPERATORS
from dcnlab.reference import loops

pytestmark = pytest.mark.usefixtures("each_backend")

DEFORMABLE = ["deform_conv2d", "dcnv3"]


def example(name, rng, **shapes):
    """Return (arrays, settings): a 5x6 image, 3x3, stride 1, padding 1."""
    if name == "deform_conv2d":
        return catalogue.deform_conv2d_arguments(rng, offsets="small", **shapes), {"padding": 1}
    return catalogue.dcnv3_arguments(rng, offsets="small", groups=1, **shapes), {}


def channels_first(name, array):
    """Return an output or an input with the channels on axis 1."""
    return array if name == "deform_conv2d" else array.transpose(0, 3, 1, 2)


def entry(name, kind, tap, y, x):
    """Return the index of one tap's entry of offset or mask at one output pixel (channel: the vertical shift)."""
    vertical = 0 if name == "deform_conv2d" else 1
    channel = tap if kind == "mask" else 2 * tap + vertical
    return (0, channel, y, x) if name == "deform_conv2d" else (0, y, x, channel)


# -- numbers that are not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["offset", "mask"])
@pytest.mark.parametrize("name", DEFORMABLE)
def test_nan_stays_at_its_own_output_pixel_and_its_own_tap(rng, name, kind):
    arrays, fixed = example(name, rng)
    operator = OPERATORS[name]
    clean = operator.function(**arrays, **fixed)
    grad = rng.standard_normal(clean.shape)
    clean_grads = operator.backward(grad, **arrays, **fixed)
    arrays[kind][entry(name, kind, 4, 2, 3)] = np.nan

    output = operator.function(**arrays, **fixed)
    nan = np.isnan(channels_first(name, output))
    assert nan[0, :, 2, 3].all()
    assert nan.sum() == nan.shape[1], "NaN at one pixel, in all its channels, and nowhere else"

    grads = operator.backward(grad, **arrays, **fixed)
    assert np.isfinite(grads.input).all(), "a NaN sample has no address: grad_input gets nothing from it"
    bad_offset, bad_mask = np.isnan(grads.offset), np.isnan(grads.mask)
    assert bad_offset[entry(name, "offset", 4, 2, 3)]
    assert bad_mask[entry(name, "mask", 4, 2, 3)]
    assert (bad_offset.sum(), bad_mask.sum()) == (2, 1), "y and x of that tap, and its mask"
    assert_close(np.where(bad_mask, 0, grads.mask), np.where(bad_mask, 0, clean_grads.mask))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30, 2.0**31, 1e9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DEFORMABLE)
def test_infinite_and_huge_offsets_sample_nothing(rng, name, dtype, value):
    arrays, fixed = example(name, rng)
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    operator = OPERATORS[name]
    at, its_mask = entry(name, "offset", 4, 2, 3), entry(name, "mask", 4, 2, 3)
    arrays["offset"][at] = value
    without = {**arrays, "mask": arrays["mask"].copy()}
    without["mask"][its_mask] = 0
    output = operator.function(**arrays, **fixed)
    np.testing.assert_array_equal(output, operator.function(**without, **fixed))
    grads = operator.backward(np.ones_like(output), **arrays, **fixed)
    assert grads.offset[at] == 0
    assert grads.mask[its_mask] == 0
    assert all(np.isfinite(g).all() for g in grads if g is not None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", DEFORMABLE)
def test_a_bad_pixel_reaches_the_outputs_whose_cells_contain_it_and_no_other(rng, name, value):
    arrays, fixed = example(name, rng, channels=1, **({"outputs": 1} if name == "deform_conv2d" else {}))
    at = (0, 0, 2, 3) if name == "deform_conv2d" else (0, 2, 3, 0)
    arrays["input"][at] = value
    layout = {"layout": name, "kernel_size": 3, "padding": 1}
    cell = np.floor(dcnlab.sampling_positions(arrays["offset"], **layout))  # (1, 5, 6, 1, 9, 2)
    row, column = cell[..., 0], cell[..., 1]
    touches = ((row == 2) | (row == 1)) & ((column == 3) | (column == 2))
    expected = touches.any(axis=(3, 4))
    assert 0 < expected.sum() < expected.size
    output = channels_first(name, OPERATORS[name].function(**arrays, **fixed))
    np.testing.assert_array_equal(~np.isfinite(output[:, 0]), expected)


@pytest.mark.parametrize("edge", ["y = -1", "y = H", "x = -1", "x = W"])
@pytest.mark.parametrize("name", DEFORMABLE)
def test_a_sample_on_the_border_of_the_open_range_never_touches_a_bad_pixel(name, edge):
    """At exactly -1 the pixel beside it has weight 0; 0 * NaN must not get in."""
    image = np.full((1, 1, 1, 1), np.nan)
    shift = {"y = -1": (-1.0, 0.0), "y = H": (1.0, 0.0), "x = -1": (0.0, -1.0), "x = W": (0.0, 1.0)}[edge]
    if name == "deform_conv2d":
        arrays = {"input": image, "offset": np.array(shift).reshape(1, 2, 1, 1), "weight": np.ones((1, 1, 1, 1))}
        fixed = {}
    else:
        arrays = {"input": image, "offset": np.array(shift[::-1]).reshape(1, 1, 1, 2), "mask": np.ones((1, 1, 1, 1))}
        fixed = {"kernel_size": 1, "padding": 0}
    assert OPERATORS[name].function(**arrays, **fixed).item() == 0
    grads = OPERATORS[name].backward(np.ones((1, 1, 1, 1)), **arrays, **fixed)
    assert grads.input.item() == 0
    np.testing.assert_array_equal(grads.offset.ravel(), [0, 0])


def test_the_loops_keep_the_same_promises(rng):
    for value in (np.nan, np.inf, 1e30):
        arrays, fixed = example("dcnv3", rng)
        arrays["offset"][entry("dcnv3", "offset", 4, 2, 3)] = value
        arrays["mask"][entry("dcnv3", "mask", 2, 1, 1)] = np.nan
        assert_close(loops.dcnv3(**arrays, **fixed), dcnlab.dcnv3(**arrays, **fixed))
        grad = np.ones_like(arrays["input"])
        expected, actual = loops.dcnv3_backward(grad, **arrays), dcnlab.dcnv3_backward(grad, **arrays)
        for key in ("input", "offset", "mask"):
            assert_close(getattr(actual, key), getattr(expected, key), name=key)


def test_float32_positions_do_not_lose_accuracy_on_large_images(rng):
    """At x = 200,000 a float32 resolves 1/64 of a pixel; the offsets are added to nothing that large."""
    width = 200_000
    image = np.tile(np.array([0.0, 1.0], np.float32), width // 2).reshape(1, 1, 1, width)
    offset = np.zeros((1, 2, 1, width), np.float32)
    offset[0, 1] = 0.3
    output = dcnlab.deform_conv2d(image, offset, np.ones((1, 1, 1, 1), np.float32))
    expected = np.tile(np.array([0.3, 0.7], np.float32), width // 2)[:-1]
    np.testing.assert_allclose(output[0, 0, 0, :-1], expected, atol=1e-6)


# -- shapes, types, numbers ----------------------------------------------------------------------------------------

MESSAGES = [
    ("deform_conv2d", {"input": (4, 5, 6)}, {}, ValueError, "input must have shape (N, C, H, W), got (4, 5, 6)"),
    ("deform_conv2d", {"input": (1, 4, 0, 6)}, {}, ValueError, "at least one channel and one pixel, got (1, 4, 0, 6)"),
    (
        "deform_conv2d",
        {"weight": (4, 4, 3)},
        {},
        ValueError,
        "weight must have shape (O, C/groups, kh, kw), got (4, 4, 3)",
    ),
    ("deform_conv2d", {"weight": (4, 4, 0, 3)}, {}, ValueError, "weight must not be empty, got (4, 4, 0, 3)"),
    ("deform_conv2d", {"weight": (4, 3, 3, 3)}, {}, ValueError, "groups = 4/3, which must be an integer"),
    ("deform_conv2d", {"weight": (3, 2, 3, 3)}, {}, ValueError, "must be an integer that divides O = 3"),
    (
        "deform_conv2d",
        {"offset": (1, 18, 5, 5)},
        {},
        ValueError,
        "(N, G*K*2, Ho, Wo) = (1, G*9*2, 5, 6), got (1, 18, 5, 5)",
    ),
    (
        "deform_conv2d",
        {"offset": (2, 18, 5, 6)},
        {},
        ValueError,
        "(N, G*K*2, Ho, Wo) = (1, G*9*2, 5, 6), got (2, 18, 5, 6)",
    ),
    ("deform_conv2d", {"offset": (1, 17, 5, 6)}, {}, ValueError, "offset must have G*K*2 = G*9*2 channels, got 17"),
    ("deform_conv2d", {"offset": (18, 5, 6)}, {}, ValueError, "offset must have shape"),
    ("deform_conv2d", {"offset": (1, 54, 5, 6)}, {}, ValueError, "G = 3 groups, which must divide the 4 channels"),
    ("deform_conv2d", {"mask": (1, 18, 5, 6)}, {}, ValueError, "mask must have shape (N, G*K, Ho, Wo) = (1, 9, 5, 6)"),
    ("deform_conv2d", {"bias": (5,)}, {}, ValueError, "bias must have shape (O,) = (4,), got (5,)"),
    ("deform_conv2d", {}, {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ("deform_conv2d", {}, {"stride": (1, 0)}, ValueError, "stride must be at least 1, got (1, 0)"),
    ("deform_conv2d", {}, {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ("deform_conv2d", {}, {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    ("deform_conv2d", {}, {"dilation": 1.5}, TypeError, "dilation must be an int or a pair of ints"),
    ("deform_conv2d", {}, {"stride": True}, TypeError, "stride must be an int or a pair of ints"),
    ("deform_conv2d", {}, {"padding": (1, 1, 1)}, TypeError, "padding must be an int or a pair of ints"),
    (
        "deform_conv2d",
        {},
        {"dilation": 4},
        ValueError,
        "output height = (5 + 2*1 - 4*(3 - 1) - 1) // 1 + 1 = -1 must be",
    ),
    ("dcnv3", {"input": (5, 6, 4)}, {}, ValueError, "input must have shape (N, H, W, C), got (5, 6, 4)"),
    ("dcnv3", {"offset": (1, 5, 6, 9)}, {}, ValueError, "(N, Ho, Wo, G*K*2) = (1, 5, 6, 18), got (1, 5, 6, 9)"),
    ("dcnv3", {"mask": (1, 5, 5, 9)}, {}, ValueError, "(N, Ho, Wo, G*K) = (1, 5, 6, 9), got (1, 5, 5, 9)"),
    ("dcnv3", {}, {"groups": 3}, ValueError, "groups must be a positive integer that divides C = 4, got 3"),
    ("dcnv3", {}, {"groups": 0}, ValueError, "groups must be a positive integer that divides C = 4, got 0"),
    ("dcnv3", {}, {"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
    ("dcnv3", {}, {"kernel_size": (3, 5), "remove_center": True}, ValueError, "needs a square odd kernel"),
    ("dcnv3", {}, {"kernel_size": 2, "remove_center": True}, ValueError, "needs a square odd kernel"),
    ("dcnv3", {}, {"kernel_size": 1, "remove_center": True}, ValueError, "needs a square odd kernel"),
    ("dcnv3", {}, {"offset_scale": float("nan")}, ValueError, "offset_scale must be finite, got nan"),
]


@pytest.mark.parametrize(
    ("name", "shapes", "changed", "error", "message"), MESSAGES, ids=[f"{m[0]}-{m[-1][:40]}" for m in MESSAGES]
)
def test_messages_show_what_was_expected_and_what_came(rng, name, shapes, changed, error, message):
    arrays, fixed = example(name, rng)
    output = OPERATORS[name].function(**arrays, **fixed)
    arrays.update({key: np.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(error, match=re.escape(message)):
        OPERATORS[name].function(**arrays, **{**fixed, **changed})
    with pytest.raises(error, match=re.escape(message)):
        OPERATORS[name].backward(output, **arrays, **{**fixed, **changed})


@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda c: f"{c.operator.name}-{c.label}")
def test_every_backward_refuses_a_grad_output_of_another_shape_or_type(rng, case):
    arrays, fixed = case.arguments(rng), case.fixed()
    output = case.operator.function(**arrays, **fixed)
    with pytest.raises(ValueError, match="grad_output must have shape"):
        case.operator.backward(output[..., :-1], **arrays, **fixed)
    with pytest.raises(TypeError, match="one dtype"):
        case.operator.backward(output.astype(np.float32), **arrays, **fixed)


@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda c: f"{c.operator.name}-{c.label}")
def test_every_operator_refuses_other_types(rng, case, each_backend):
    arrays, fixed = case.arguments(rng), case.fixed()
    first = next(iter(arrays))
    halves = case.operator.has_kernel and each_backend == "cpu"  # which it takes, but not beside others
    for bad in (np.float16, int, complex):
        if bad is np.float16 and halves and len(arrays) == 1:
            continue
        message = "one dtype" if bad is np.float16 and halves else "float32 or float64"
        if bad is np.float16 and len(arrays) == 1:
            message = "float16 is for the backends"
        with pytest.raises(TypeError, match=message):
            case.operator.function(**{**arrays, first: arrays[first].astype(bad)}, **fixed)
    with pytest.raises(TypeError, match=rf"{first} must be a NumPy or CuPy array, got list"):
        case.operator.function(**{**arrays, first: arrays[first].tolist()}, **fixed)
    for name in arrays:
        if name != first:
            with pytest.raises(TypeError, match=f"one dtype, got {first} float64 and {name} float32"):
                case.operator.function(**{**arrays, name: arrays[name].astype(np.float32)}, **fixed)


# -- unusual but fine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFORMABLE)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(rng, name):
    arrays, fixed = example(name, rng, batch=0)
    output = OPERATORS[name].function(**arrays, **fixed)
    assert output.shape[0] == 0
    grads = OPERATORS[name].backward(output, **arrays, **fixed)
    for key, array in arrays.items():
        grad = getattr(grads, key)
        assert grad.shape == array.shape
        assert not grad.any()


@pytest.mark.parametrize("name", DEFORMABLE)
def test_one_pixel_images(rng, name):
    arrays, fixed = example(name, rng, size=(1, 1))
    operator = OPERATORS[name]
    output = operator.function(**arrays, **fixed)
    assert_close(output, operator.loops(**arrays, **fixed))
    grad = rng.standard_normal(output.shape)
    actual, expected = operator.backward(grad, **arrays, **fixed), operator.loops_backward(grad, **arrays, **fixed)
    for key in arrays:
        assert_close(getattr(actual, key), getattr(expected, key), name=key)


def strided(array):
    """Return the same numbers, not contiguous in memory."""
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    spread[..., ::2] = array
    return spread[..., ::2]


@pytest.mark.parametrize("how", [strided, np.asfortranarray], ids=["strided", "fortran"])
@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda c: f"{c.operator.name}-{c.label}")
def test_memory_layout_changes_nothing_and_nothing_is_modified(rng, case, how):
    arrays, fixed = case.arguments(rng), case.fixed()
    output = case.operator.function(**arrays, **fixed)
    odd = {key: how(array) for key, array in arrays.items()}
    for array in odd.values():
        array.flags.writeable = False  # writing would raise
    assert_close(case.operator.function(**odd, **fixed), output)
    grad = rng.standard_normal(output.shape)
    odd_grad = how(grad)
    odd_grad.flags.writeable = False
    actual, expected = case.operator.backward(odd_grad, **odd, **fixed), case.operator.backward(grad, **arrays, **fixed)
    if not hasattr(expected, "_fields"):
        actual, expected = [actual], [expected]
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            assert_close(a, e)
            assert a.flags.c_contiguous or case.operator.function.__module__ == "dcnlab.modulation", (
                "elementwise: keeps the layout"
            )
            assert a.flags.writeable


@pytest.mark.parametrize("name", DEFORMABLE)
def test_results_share_no_memory_with_arguments(rng, name):
    arrays, fixed = example(name, rng)
    output = OPERATORS[name].function(**arrays, **fixed)
    grads = OPERATORS[name].backward(output, **arrays, **fixed)
    for result in (output, *(g for g in grads if g is not None)):
        assert not any(np.shares_memory(result, array) for array in arrays.values())


def test_offset_scale_zero_is_one_point(rng):
    arrays, _ = example("dcnv3", rng)
    output = dcnlab.dcnv3(**arrays, offset_scale=0.0)
    assert_close(output, arrays["input"] * arrays["mask"].sum(axis=-1, keepdims=True))
