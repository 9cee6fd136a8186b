import numpy as np
import pytest

import dcnlab
from dcnlab import viz

H, W = 6, 8


def grid(layout="dcnv3", taps=9, **kwargs):
    shape = (1, H, W, 2 * taps) if layout == "dcnv3" else (1, 2 * taps, H, W)
    return dcnlab.sampling_grid(np.zeros(shape), 3, padding=1, layout=layout, **kwargs)


@pytest.mark.parametrize("layout", ["deform_conv2d", "dcnv3"])
def test_maps_stand_as_the_taps_do(layout):
    modulation = np.random.default_rng(0).random((1, H, W, 1, 9))
    drawn = viz.modulation_maps(grid(layout), modulation)
    for k, shown in enumerate(drawn.maps):
        np.testing.assert_array_equal(shown.get_array(), modulation[0, :, :, 0, k])
        assert shown.norm is drawn.maps[0].norm  # one colour scale
    lefts = [shown.get_extent()[0] for shown in drawn.maps]
    along = 1 if layout == "deform_conv2d" else 3  # the next tap to the right
    assert lefts[0] < lefts[along] < lefts[2 * along]
    assert lefts[0] == lefts[4 - along]


def test_a_removed_centre_leaves_a_hole():
    drawn = viz.modulation_maps(grid(taps=8, remove_center=True), np.full((1, H, W, 1, 8), 0.125))
    assert len(drawn.maps) == 8
    assert [text.get_text() for text in drawn.ax.texts].count("removed") == 1


def test_counts_add_up_and_softmax_fills_one_bin():
    logits = np.random.default_rng(0).normal(0, 2, (500, 2, 9))
    kinds = {"sigmoid": dcnlab.sigmoid(logits), "softmax": dcnlab.softmax(logits)}
    drawn = viz.modulation_sums(kinds, bins_per_unit=4)
    heights = {name: np.array([bar.get_height() for bar in bars]) for name, bars in drawn.bars.items()}
    for height in heights.values():
        np.testing.assert_allclose(height.sum(), 100.0)
    assert np.count_nonzero(heights["softmax"]) == 1
    full = drawn.bars["softmax"][int(heights["softmax"].argmax())]
    assert full.get_x() < 1 < full.get_x() + full.get_width()
    sums = kinds["sigmoid"].sum(axis=-1).ravel()
    low, high = drawn.edges[10], drawn.edges[11]
    np.testing.assert_allclose(heights["sigmoid"][10], 100 * np.mean((sums >= low) & (sums < high)))
    assert sums.min() > 0
    assert sums.max() < 9


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_extremes_of_the_sigmoid_are_inside_the_histogram(value):
    drawn = viz.modulation_sums({"sigmoid": np.full((10, 9), value)})
    assert sum(bar.get_height() for bar in drawn.bars["sigmoid"]) == 100


@pytest.mark.parametrize(
    ("modulations", "message"),
    [
        ({}, "at least one"),
        ({"a": np.zeros((0, 9))}, "'a' must be a finite"),
        ({"b": np.array([np.nan])}, "'b'"),
    ],
)
def test_bad_arguments_get_one_line(modulations, message):
    with pytest.raises(ValueError, match=message):
        viz.modulation_sums(modulations)
