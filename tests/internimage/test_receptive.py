"""Sampling points on the image, and effective receptive fields against finite differences and geometry."""

import numpy as np
import pytest

from dcnlab import InternImage, nn, viz
from dcnlab.internimage import effective_receptive_field, radius_of_share, sampling_grids, share_within
from dcnlab.internimage.receptive import centre_on_image, fields_of_maps, middle

TINY = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 5, "rng": 0}


def moved_model(rng, dtype="float64", **settings):
    model = InternImage(**TINY, dtype=dtype, **settings).eval()
    for name, parameter in model.named_parameters():
        parameter.value = parameter.value + (0.3 if ".offset." in name else 0.1) * rng.standard_normal(parameter.shape)
    return model


# -- where the layers sample ---------------------------------------------------------------------------------------


def test_a_hand_example_on_the_image():
    """Tap 5 of the layer in stage 3 (stride 16) stands at column +0, row +1 of its pixel, dcnv3 counting columns."""
    model = InternImage(**TINY).eval()
    dcn = model.levels[2].blocks[1].dcn
    bias = np.zeros(dcn.offset.bias.shape)
    bias[2 * 5], bias[2 * 5 + 1] = 0.25, -0.5  # group 0, tap 5: x, then y
    dcn.offset.bias.value = bias
    model(np.zeros((1, 3, 96, 128), np.float32))
    layer = sampling_grids(model)[3]
    assert (layer.stage, layer.block, layer.stride) == (2, 1, 16)
    assert layer.grid.output_size == (6, 8)
    position = layer.grid.positions()[0, 4, 3, 0, 5]
    assert position.tolist() == [4 + 1 - 0.5, 3 + 0 + 0.25]
    assert layer.on_image().positions()[0, 4, 3, 0, 5].tolist() == [16 * 4.5, 16 * 3.25]
    assert layer.on_image().regular()[4, 3, 5].tolist() == [16 * 5, 16 * 3]
    np.testing.assert_array_equal(layer.modulation, np.float32(1 / 9))


def test_the_grids_are_what_the_layers_sampled(rng):
    model = moved_model(rng, offset_scale=2.0, remove_center=True)
    model.features(rng.standard_normal((2, 3, 50, 37)))
    layers = sampling_grids(model)
    assert [(layer.stage, layer.block) for layer in layers] == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    for layer in layers:
        dcn = model.levels[layer.stage].blocks[layer.block].dcn
        np.testing.assert_array_equal(layer.grid.positions(), dcn.sampling_positions())
        on_image = layer.on_image().positions()
        np.testing.assert_allclose(on_image, layer.stride * layer.grid.positions(), rtol=1e-12, atol=1e-12)
        assert layer.modulation.shape == on_image.shape[:-1]
        np.testing.assert_allclose(layer.modulation.sum(axis=-1), 1, rtol=1e-12)
        viz.sampling_points(np.zeros((50, 37)), layer.on_image(), layer.modulation)  # belongs to the image


def test_without_a_forward_pass_there_are_no_grids():
    model = InternImage(**TINY).eval()
    with nn.no_grad():
        model(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(RuntimeError, match="call the layer first"):
        sampling_grids(model)


# -- effective receptive fields ------------------------------------------------------------------------------------


def signed_features(model, images, stage, pixel, signs):
    return model.features(images)[stage][:, pixel[0], pixel[1]] @ signs


@pytest.mark.parametrize("stage", range(4))
def test_the_field_is_the_slope(stage, rng):
    """With one direction it is the absolute slope of r.F, summed over the colours; here by central differences."""
    model, images = moved_model(rng), rng.standard_normal((2, 3, 40, 48))
    pixel = (1, 0)
    field = effective_receptive_field(model, images, stage, pixel, directions=1, rng=7)
    assert field.shape == (2, 40, 48)
    signs = np.random.default_rng(7).choice((-1.0, 1.0), 8 * 2**stage)
    y, x = np.unravel_index(np.argmax(field[1]), field[1].shape)
    for place in ((y, x), (y + 1, x + 2)):
        slopes = []
        for colour in range(3):
            step = np.zeros_like(images)
            step[1, colour, place[0], place[1]] = 1e-6
            ends = [signed_features(model, images + sign * step, stage, pixel, signs)[1] for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / 2e-6)
        # rounding: 1e-15 of the features over 2e-6, about 1e-9 of the largest slope
        assert field[1, place[0], place[1]] == pytest.approx(np.abs(slopes).sum(), abs=1e-6 * field[1].max())


def reach(stage, depths):
    """Return how far, in pixels, regular 3x3 kernels reach: the stem's two, each block's, each way down's."""
    far = 1 + 2  # of the stem: strides 1 and 2
    for level in range(stage + 1):
        stride = 4 * 2**level
        far += depths[level] * stride  # the depthwise convolution looks as far as the taps
        far += stride if level < stage else 0  # the way down
    return far


@pytest.mark.parametrize("stage", range(4))
def test_without_offsets_the_field_is_the_regular_one(stage, rng):
    model = InternImage(**TINY, dtype="float64").eval()
    images = rng.standard_normal((1, 3, 224, 224))
    field = effective_receptive_field(model, images, stage, directions=1)[0]
    y, x = centre_on_image(middle((7 * 2 ** (3 - stage),) * 2), stage)
    far = reach(stage, TINY["depths"])
    rows, columns = np.nonzero(field)
    assert (rows.min(), rows.max()) == (max(y - far, 0), min(y + far, 223))
    assert (columns.min(), columns.max()) == (max(x - far, 0), min(x + far, 223))


def test_offsets_carry_the_field_away(rng):
    model = InternImage(**TINY, dtype="float64").eval()
    dcn = model.levels[1].blocks[0].dcn
    dcn.offset.bias.value = np.tile([3.0, 0.0], len(dcn.offset.bias.value) // 2)  # 3 pixels of stride 8 to the right
    images = rng.standard_normal((1, 3, 96, 96))
    field = effective_receptive_field(model, images, 1)[0]
    y, x = centre_on_image((6, 6), 1)
    assert field[y, x + 32] > 0  # further than `reach` says without offsets
    assert reach(1, TINY["depths"]) < 32
    assert not field[:, : x - 8 - 11].any()  # left there are only the shortcut and the depthwise convolution


def test_the_sum_of_the_features_would_say_nothing(rng):
    """Why signs are drawn: behind a new layer norm the features add up to 0, whatever the image."""
    model, images = InternImage(**TINY, dtype="float64").eval(), rng.standard_normal((1, 3, 32, 32))
    maps = model.features(images)
    grads = [None, np.zeros_like(maps[1]), None, None]
    grads[1][0, 2, 2] = 1
    summed = np.abs(model.backward_features(grads)).sum()
    assert summed < 1e-9 * effective_receptive_field(model, images, 1, (2, 2)).sum()


def test_one_forward_serves_all_stages(rng):
    model, images = moved_model(rng, "float32"), rng.standard_normal((1, 3, 33, 47)).astype(np.float32)
    maps = model.features(images)
    for stage in (3, 0):
        field = fields_of_maps(model, maps, stage, directions=2)
        assert field.dtype == np.float32
        np.testing.assert_array_equal(field, effective_receptive_field(model, images, stage, directions=2))


def test_shares_and_radii():
    field = np.zeros((7, 7))
    field[3, 3], field[3, 5], field[0, 3] = 5, 3, 2
    assert share_within(field, (3, 3), [0, 1.9, 2, 3]) == [0.5, 0.5, 0.8, 1.0]
    assert [radius_of_share(field, (3, 3), share) for share in (0.5, 0.51, 0.8, 0.9, 1.0)] == [0, 2, 2, 3, 3]
    for nothing in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        assert np.isnan([*share_within(nothing, (1, 1), [1, 2]), radius_of_share(nothing, (1, 1), 0.5)]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": 4}, r"stage must be in 0\.\.3, got 4"),
        ({"stage": True}, r"stage must be in 0\.\.3, got True"),
        ({"stage": 1, "pixel": (4, 0)}, r"pixel must be \(y, x\) in a map of 4x4 pixels, got \(4, 0\)"),
        ({"stage": 1, "pixel": (-1, 0)}, "in a map of 4x4 pixels"),
        ({"stage": 1, "pixel": 3}, "in a map of 4x4 pixels, got 3"),
        ({"stage": 1, "pixel": (0.5, 1)}, "in a map of 4x4 pixels"),
        ({"stage": 1, "directions": 0}, "directions must be an int of at least 1, got 0"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(InternImage(**TINY).eval(), np.zeros((1, 3, 32, 32), np.float32), **arguments)
