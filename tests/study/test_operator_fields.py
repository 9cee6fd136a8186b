"""Fields and adaptation: against what each operator reads, which is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dcnlab import nn
from dcnlab.study import operator_layers as operators
from dcnlab.study.operator_fields import (
    DECADES,
    adaptation,
    farthest,
    gradients,
    packed,
    points_moved,
    receptive_field,
    unpacked,
)

SIDE, PIXEL = 20, (5, 9)


@pytest.fixture(scope="module")
def photo():
    return operators.sample_photo()


@pytest.fixture(scope="module")
def inputs(photo):
    """Features of the photo, and of the photo mirrored."""
    return [operators.features(each, SIDE) for each in (photo, photo[:, ::-1])]


@pytest.fixture(scope="module")
def layers(inputs):
    return operators.build(inputs[0])


@pytest.fixture(scope="module")
def rows(layers, inputs):
    """For every operator, the rows of one pixel for both inputs."""
    return {name: [gradients(layer, x, [PIXEL], 2) for x in inputs] for name, layer in layers.items()}


def box(rows, columns):
    found = np.zeros((SIDE, SIDE), bool)
    found[rows, columns] = True
    return found


# -- what is read --------------------------------------------------------------------------------------------------


def test_the_pixels_that_each_operator_reads(rows, layers, inputs):
    reads = {name: receptive_field(found[0][0]) > 0 for name, found in rows.items()}
    y, x = PIXEL
    np.testing.assert_array_equal(reads[operators.GLOBAL], np.ones((SIDE, SIDE), bool))
    np.testing.assert_array_equal(reads[operators.WINDOWED], box(slice(0, 7), slice(7, 14)))
    np.testing.assert_array_equal(reads[operators.LARGE], box(slice(0, y + 16), slice(0, x + 16)))
    np.testing.assert_array_equal(reads[operators.SMALL], box(slice(y - 1, y + 2), slice(x - 1, x + 2)))


def test_dcnv3_reads_the_corners_of_its_samples_and_what_predicts_them(rows, layers, inputs):
    layer = layers[operators.DEFORMABLE]
    layer(inputs[0])
    y, x = PIXEL
    expected = box(slice(y - 1, y + 2), slice(x - 1, x + 2))  # of the depthwise convolution
    cells = np.floor(layer.sampling_positions()[0, y, x].reshape(-1, 2)).astype(int)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for row, column in cells + corner:
            if 0 <= row < SIDE and 0 <= column < SIDE:
                expected[row, column] = True
    np.testing.assert_array_equal(receptive_field(rows[operators.DEFORMABLE][0][0]) > 0, expected)


def test_the_field_of_a_convolution_is_its_kernel(rows, layers):
    """|sign * weight|, summed over channels: whatever the signs."""
    weight = layers[operators.SMALL][1].weight.value
    expected = np.abs(weight[:, 0]).sum(axis=0, dtype=np.float64)
    found = receptive_field(rows[operators.SMALL][0][0])[4:7, 8:11]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32


def test_rows_are_derivatives():
    layer = nn.MultiHeadSelfAttention(4, 2, dtype=np.float64, rng=0).eval()
    rng = np.random.default_rng(1)
    x, step = rng.standard_normal((1, 3, 4, 4)), 1e-5 * rng.standard_normal((1, 3, 4, 4))
    found = gradients(layer, x, [(1, 2), (0, 3)], 2, seed=7)
    assert found.shape == (2, 2, 3, 4, 4)
    signs = np.random.default_rng(7).choice((-1.0, 1.0), (2, 4))
    difference = layer(x + step) - layer(x - step)
    for place, (row, column) in enumerate([(1, 2), (0, 3)]):
        expected = signs @ difference[0, row, column] / 2
        np.testing.assert_allclose((found[place] * step).sum(axis=(1, 2, 3)), expected, rtol=1e-6)


def test_farthest():
    field = np.zeros((6, 7))
    field[0, 6] = field[5, 3] = 1e-300
    assert farthest(field, (3, 3)) == np.hypot(3, 3)


# -- what adapts ---------------------------------------------------------------------------------------------------


def test_what_adapts(rows):
    """Nothing in a convolution, the weights of attention, both of DCNv3: figure 1 of the InternImage paper."""
    found = {name: adaptation(*each) for name, each in rows.items()}
    for name in (operators.LARGE, operators.SMALL):
        assert found[name] == (0, 0), name
    for name in (operators.GLOBAL, operators.WINDOWED):
        assert found[name].positions == 0
        assert 0.05 < found[name].weights < 2**0.5
    assert 0.05 < found[operators.DEFORMABLE].positions < 1
    assert 0.05 < found[operators.DEFORMABLE].weights < 2**0.5


def test_a_new_dcnv3_does_not_adapt(inputs):
    layer = nn.DCNv3(operators.CHANNELS, rng=0).eval()
    assert adaptation(*(gradients(layer, x, [PIXEL], 1) for x in inputs)) == (0, 0)
    assert points_moved(layer, *inputs) == 0


def test_training_statistics_would_adapt(inputs):
    """Why the convolutions are compared in eval mode: batch norm looks at the whole image."""
    layer = operators.channels_last(nn.LargeKernelConv2d(operators.CHANNELS, 3, 1, rng=0))
    assert adaptation(*(gradients(layer, x, [PIXEL], 1) for x in inputs)).weights > 0
    layer.eval()
    assert adaptation(*(gradients(layer, x, [PIXEL], 1) for x in inputs)) == (0, 0)


def test_points_moved(inputs):
    """One layer whose offsets are one channel of a projection of the pixel's own features."""
    layer = nn.DCNv3(4, groups=1, kernel_size=1, dw_kernel_size=1, padding=0, rng=0)
    layer.offset.weight.value[...] = [[1, 0, 0, 0], [0, 0, 0, 0]]  # x, y
    x, other = (each[..., :4] for each in inputs)
    features = [layer.dw_conv(each.transpose(0, 3, 1, 2))[..., 0] for each in (x, other)]
    assert points_moved(layer, x, other) == pytest.approx(np.abs(features[1] - features[0]).mean(), rel=1e-4)


def test_adaptation_is_a_mean_over_pixels():
    same, unlike = np.ones((1, 1, 2, 2, 1)), np.array([1.0, -1, 1, -1]).reshape(1, 1, 2, 2, 1)
    both = adaptation(np.concatenate([same, same]), np.concatenate([same, unlike]))
    assert both == (0, pytest.approx(0.5))
    nothing_in_common = np.array([1.0, 0, 0, 0]).reshape(1, 1, 2, 2, 1)
    assert adaptation(nothing_in_common, nothing_in_common[:, :, ::-1]) == (1, 0)


# -- the operators -------------------------------------------------------------------------------------------------


def test_spreads_are_what_they_are_said_to_be(layers, inputs):
    dcn = layers[operators.DEFORMABLE]
    dcn(inputs[0])
    assert np.sqrt(np.mean(dcn.kept().offset.astype(np.float64) ** 2)) == pytest.approx(operators.OFFSET_SPREAD, 1e-4)
    assert dcn.kept().logits.std() == pytest.approx(operators.LOGIT_SPREAD, 1e-4)
    for name in (operators.GLOBAL, operators.WINDOWED):
        layer = layers[name]
        query, key = layer.qkv(inputs[0][:, ::4, ::4]).reshape(-1, 3, 4, 16)[:, :2].transpose(1, 2, 0, 3)
        assert (query @ key.transpose(0, 2, 1) / 4).std() == pytest.approx(operators.LOGIT_SPREAD, 1e-4)


def test_the_large_kernel_has_its_small_branch_inside(layers):
    """Both branches have outputs of variance 1, so that each of the 25 weights in the middle is far larger."""
    weight = np.abs(layers[operators.LARGE][1].weight.value[:, 0])
    assert weight.shape == (operators.CHANNELS, 31, 31)
    middle = weight[:, 13:18, 13:18].mean()
    weight[:, 13:18, 13:18] = np.nan
    assert middle > 3 * np.nanmean(weight)


def test_layers_and_features_depend_on_the_seed_alone(photo, inputs, layers):
    np.testing.assert_array_equal(operators.features(photo, SIDE), inputs[0])
    assert abs(operators.features(photo, SIDE, 1) - inputs[0]).max() > 0.1
    again, other = operators.build(inputs[0]), operators.build(inputs[0], 1)
    for name, layer in layers.items():
        for key, array in layer.state_dict().items():
            np.testing.assert_array_equal(again[name].state_dict()[key], array, err_msg=f"{name} {key}")
        assert any(np.any(other[name].state_dict()[k] != a) for k, a in layer.state_dict().items()), name


def test_features_show_the_photo(photo, inputs):
    """Normalised at every pixel; and a patch of one colour gives the same features wherever it is."""
    assert inputs[0].shape == (1, SIDE, SIDE, operators.CHANNELS)
    np.testing.assert_allclose(inputs[0].mean(axis=-1), 0, atol=1e-5)
    halves = np.zeros((80, 80, 3), np.uint8)
    halves[:, 40:] = (200, 30, 90)
    found = operators.features(halves, SIDE)[0]
    np.testing.assert_allclose(found[:, :8], np.broadcast_to(found[3, 3], (SIDE, 8, 64)), atol=1e-5)
    assert abs(found[3, 3] - found[3, 15]).max() > 0.5


# -- a field in a record -------------------------------------------------------------------------------------------


@given(arrays(np.float64, (5, 5), elements=st.one_of(st.just(0.0), st.floats(1e-12, 1e12))))
def test_a_packed_field_is_the_field_to_half_a_level(field):
    field[2, 2] = 2e12  # the largest
    found = unpacked(packed(field), 5)
    expected = field / field.max()
    np.testing.assert_array_equal(found == 0, expected == 0)
    held = expected >= 10.0**-DECADES
    half_a_level = DECADES / 254 / 2
    assert np.all(abs(np.log10(found[held]) - np.log10(expected[held])) <= half_a_level * (1 + 1e-9))
    np.testing.assert_allclose(found[~held & (expected > 0)], 10.0**-DECADES)
