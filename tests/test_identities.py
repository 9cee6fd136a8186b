"""What must be equal by definition, and a live peer: onnxruntime's DeformConv."""

import numpy as np
import pytest
from helpers import assert_close, dcnv3_cases, deform_conv2d_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnlab
from dcnlab import catalogue
from dcnlab.bench.peers import gather_einsum_dcnv3, onnxruntime_deform_conv2d

pytestmark = pytest.mark.usefixtures("each_backend")

SEEDS = st.integers(0, 2**32 - 1)


def all_finite(arrays):
    return {key: value for key, value in arrays.items() if key not in ("offset", "mask")}


@settings(max_examples=40)
@given(deform_conv2d_cases(offsets=st.just("zero")), SEEDS)
def test_zero_offsets_and_modulation_one_are_a_regular_convolution(case, seed):
    fixed, shapes = case
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes)
    if "mask" in arrays:
        arrays["mask"] = np.ones_like(arrays["mask"])
    regular = dcnlab.conv2d(**all_finite(arrays), **fixed)
    assert_close(dcnlab.deform_conv2d(**arrays, **fixed), regular)
    grad = np.random.default_rng(seed).standard_normal(regular.shape)
    deformed, plain = (
        dcnlab.deform_conv2d_backward(grad, **arrays, **fixed),
        dcnlab.conv2d_backward(grad, **all_finite(arrays), **fixed),
    )
    assert_close(deformed.input, plain.input, name="gradient of input")
    assert_close(deformed.weight, plain.weight, name="gradient of weight")


def test_depthwise_is_a_grouped_convolution(rng):
    x, w, b = rng.standard_normal((2, 3, 6, 7)), rng.standard_normal((3, 1, 3, 2)), rng.standard_normal(3)
    assert_close(dcnlab.depthwise_conv2d(x, w, b, (2, 1), 1), dcnlab.conv2d(x, w, b, (2, 1), 1))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, 0), (0, -1), (-2, 3), (4, 0), (0, -5)])
def test_integer_offsets_are_shifts(rng, dy, dx):
    x = rng.standard_normal((1, 2, 4, 5))
    shifted = np.zeros_like(x)
    for y, column in np.ndindex(4, 5):
        if 0 <= y + dy < 4 and 0 <= column + dx < 5:
            shifted[:, :, y, column] = x[:, :, y + dy, column + dx]
    offset = np.empty((1, 2, 4, 5))
    offset[:, 0], offset[:, 1] = dy, dx
    identity = np.eye(2).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(dcnlab.deform_conv2d(x, offset, identity), shifted)
    channels_last, swapped = x.transpose(0, 2, 3, 1), offset[:, ::-1].transpose(0, 2, 3, 1)
    found = dcnlab.dcnv3(channels_last, swapped, np.ones((1, 4, 5, 1)), kernel_size=1, padding=0)
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), shifted)


@settings(max_examples=40)
@given(dcnv3_cases(), SEEDS)
def test_dcnv3_is_deform_conv2d_under_the_converters(case, seed):
    fixed, shapes = case
    arrays = catalogue.dcnv3_arguments(np.random.default_rng(seed), **fixed, **shapes)
    channels, (kh, kw) = shapes["channels"], fixed["kernel_size"]
    layout = {key: fixed[key] for key in ("kernel_size", "dilation", "offset_scale", "remove_center")}
    offset2, mask2 = dcnlab.dcnv2_from_dcnv3(arrays["offset"], arrays["mask"], **layout)
    window = {key: fixed[key] for key in ("stride", "padding", "dilation")}
    image = arrays["input"].transpose(0, 3, 1, 2)
    as_v2 = dcnlab.deform_conv2d(image, offset2, np.ones((channels, 1, kh, kw)), None, **window, mask=mask2)
    # 1.1 * offset and its split into two terms round differently: at a lattice line the value is continuous.
    assert_close(as_v2.transpose(0, 2, 3, 1), dcnlab.dcnv3(**arrays, **fixed))
    back_offset, back_mask = dcnlab.dcnv3_from_dcnv2(offset2, mask2, **layout)
    np.testing.assert_allclose(
        back_offset, arrays["offset"], rtol=0, atol=1e-13 * (1 + abs(arrays["offset"]).max(initial=0))
    )
    np.testing.assert_array_equal(back_mask, arrays["mask"])


def test_a_centre_tap_with_modulation_cannot_be_removed(rng):
    offset, mask = np.zeros((1, 18, 2, 2)), np.full((1, 9, 2, 2), 0.25)
    with pytest.raises(ValueError, match=r"centre tap, so its modulation must be 0 everywhere, got up to 0\.25"):
        dcnlab.dcnv3_from_dcnv2(offset, mask, remove_center=True)
    mask[:, 4] = 0
    assert dcnlab.dcnv3_from_dcnv2(offset, mask, remove_center=True)[0].shape == (1, 2, 2, 16)


@pytest.mark.parametrize("remove_center", [False, True])
def test_both_layouts_sample_at_the_same_points(rng, remove_center):
    offset = rng.standard_normal((1, 4, 5, 2 * 2 * (9 - remove_center)))
    mask = rng.random((1, 4, 5, 2 * (9 - remove_center)))
    offset2, mask2 = dcnlab.dcnv2_from_dcnv3(offset, mask, 3, 2, 0.5, remove_center)
    v3 = dcnlab.sampling_positions(offset, 3, 1, 2, 2, layout="dcnv3", offset_scale=0.5, remove_center=remove_center)
    v2 = dcnlab.sampling_positions(offset2, 3, 1, 2, 2, layout="deform_conv2d")
    order = [t for t in (0, 3, 6, 1, 4, 7, 2, 5, 8) if not (remove_center and t == 4)]
    np.testing.assert_allclose(v2[:, :, :, :, order], v3, atol=1e-12)
    m3 = dcnlab.sampling_modulation(mask, 9 - remove_center, layout="dcnv3")
    m2 = dcnlab.sampling_modulation(mask2, 9, layout="deform_conv2d")
    np.testing.assert_array_equal(m2[..., order], m3)


@settings(max_examples=40)
@given(deform_conv2d_cases(), SEEDS)
def test_deform_conv2d_agrees_with_onnxruntime_in_float64(case, seed):
    pytest.importorskip("onnxruntime", reason="onnxruntime is a development dependency")
    fixed, shapes = case
    shapes["batch"] = max(shapes["batch"], 1)  # onnxruntime refuses an empty batch
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes)
    peer = onnxruntime_deform_conv2d(arrays, **fixed)
    assert_close(dcnlab.deform_conv2d(**arrays, **fixed), peer())


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_the_straightforward_dcnv3_of_the_benchmark_is_dcnv3(groups, height, width, seed):
    rng = np.random.default_rng(seed)
    arrays = catalogue.dcnv3_arguments(rng, channels=2 * groups, size=(height, width), groups=groups)
    assert_close(gather_einsum_dcnv3(**arrays, groups=groups), dcnlab.dcnv3(**arrays, groups=groups))


def test_sampling_matrix_is_the_operator(rng):
    """S x, with the taps of a pixel added up, is DCNv3; a dense weight after S x is DCNv2."""
    arrays = catalogue.dcnv3_arguments(rng, channels=3, size=(5, 6), groups=1, offsets="medium")
    positions = dcnlab.sampling_positions(arrays["offset"], 3, padding=1, layout="dcnv3")
    modulation = dcnlab.sampling_modulation(arrays["mask"], 9, layout="dcnv3")
    matrix = dcnlab.sampling_matrix(positions, modulation, 5, 6)
    assert matrix.shape == (5 * 6 * 9, 5 * 6)
    samples = matrix @ arrays["input"].reshape(30, 3)
    assert_close(samples.reshape(1, 5, 6, 9, 3).sum(axis=3), dcnlab.dcnv3(**arrays))


def test_sampling_matrix_has_no_entry_outside_the_image_and_refuses_nan():
    outside = np.array([[-1.0, 0.5], [0.5, 3.0], [1e30, 0.0], [-np.inf, 0.0]])
    assert dcnlab.sampling_matrix(outside, None, 2, 3).nnz == 0
    border = dcnlab.sampling_matrix(np.array([[-0.25, 1.5]]), np.array([2.0]), 2, 3)
    np.testing.assert_array_equal(border.toarray(), [[0, 0.75, 0.75, 0, 0, 0]])
    with pytest.raises(ValueError, match="must not be NaN"):
        dcnlab.sampling_matrix(np.array([[np.nan, 0.0]]), None, 2, 3)
    with pytest.raises(ValueError, match=r"positions must have shape \(\.\.\., 2\)"):
        dcnlab.sampling_matrix(np.zeros(3), None, 2, 3)
