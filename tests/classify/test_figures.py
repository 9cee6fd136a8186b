"""The numbers in the figures: points where the layers sampled, taps that count, lengths of offsets, circles."""

import numpy as np
import pytest

from dcnlab import InternImage
from dcnlab.classify.figures import (
    Field,
    Look,
    effective_taps,
    offset_lengths,
    points,
    query_pixels,
    receptive_fields,
)
from dcnlab.internimage import Prediction, preprocess, sampling_grids

SIZE = 64


@pytest.fixture(scope="module")
def look():
    """What the page shows of a model whose offsets and modulations are known."""
    model = InternImage(channels=8, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], num_classes=3, offset_scale=2.0, rng=0)
    dcn = model.eval().levels[1].blocks[0].dcn
    dcn.offset.bias.value = np.tile([0.3, 0.4], len(dcn.offset.bias.value) // 2)
    logits = np.zeros((2, 9))
    logits[1, 5] = 99  # the second group listens to one tap
    dcn.mask.bias.value = logits.ravel()
    photo = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    model(preprocess(photo, SIZE))
    values = np.zeros((SIZE, SIZE))
    values[32, 32], values[32, 42], values[32, 52] = 6, 3, 1
    fields = [Field(values * 10.0**-stage, (32, 32)) for stage in range(4)]
    return Look("photo.png", photo, "a model", [Prediction(0, 1.0, None)], sampling_grids(model), fields)


def test_points_stand_where_the_layer_sampled(look):
    layer = look.last_block(1)
    figure = points(look, 1)
    whole, *close = figure.axes[:4]
    for number, (letter, (y, x)) in enumerate(query_pixels(layer).items()):
        expected = 8 * layer.grid.positions()[0, y, x][..., ::-1]  # stage 2 has stride 8; as (x, y)
        np.testing.assert_allclose(whole.collections[number].get_offsets(), expected.reshape(-1, 2), rtol=1e-6)
        drawn = [c.get_offsets() for c in close[number].collections]
        for group in range(2):
            assert any(d.shape == (9, 2) and np.allclose(d, expected[group], rtol=1e-6) for d in drawn), letter
        (left, right), (bottom, top) = close[number].get_xlim(), close[number].get_ylim()
        assert ((left + right) / 2, (bottom + top) / 2) == (8 * x, 8 * y)


def test_taps_that_count(look):
    counts = effective_taps(look.last_block(1))
    np.testing.assert_allclose(counts[..., 0], 9, rtol=1e-6)
    np.testing.assert_allclose(counts[..., 1], 1, rtol=1e-6)


def test_lengths_are_in_pixels_of_the_map(look):
    np.testing.assert_allclose(offset_lengths(look.last_block(1)), 2 * 0.5, rtol=1e-6)  # offset_scale 2
    assert not offset_lengths(look.last_block(2)).any()


def test_circles_hold_half_and_nine_tenths(look):
    figure = receptive_fields(look)
    for ax in figure.axes[1:5]:
        assert [circle.radius for circle in ax.patches] == [0, 10]
        assert "90 % within 10 px" in ax.get_title()
        assert ax.images[0].get_array().max() == 0  # of its own largest value


def test_a_field_of_zeros_can_be_drawn(look):
    nothing = look._replace(fields=[Field(np.zeros((SIZE, SIZE)), (32, 32))] * 4)
    figure = receptive_fields(nothing)
    figure.canvas.draw()
    assert "no gradient" in figure.axes[1].get_title()
