"""Output sizes, tap order, positions: numbers worked out by hand."""

import numpy as np
import pytest

import dcnlab
from dcnlab import geometry


def test_output_size_by_hand():
    assert dcnlab.output_size((7, 9), 3, 1, 1) == (7, 9)
    assert dcnlab.output_size((7, 9), (3, 5), (2, 1), (1, 2)) == (4, 9)
    assert dcnlab.output_size((5, 5), 3, dilation=2) == (1, 1)
    assert dcnlab.output_size((2, 2), 2, 2) == (1, 1)


def test_tap_order_by_hand():
    """The question users ask most: which offset channel is which."""
    assert dcnlab.tap_positions(3).tolist() == [[j, i] for j in range(3) for i in range(3)]
    assert dcnlab.tap_positions(3, layout="dcnv3").tolist() == [[j, i] for i in range(3) for j in range(3)]
    assert dcnlab.tap_positions((2, 3), (2, 1)).tolist() == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1], [2, 2]]
    removed = dcnlab.tap_positions(3, layout="dcnv3", remove_center=True).tolist()
    assert removed == [[j, i] for i in range(3) for j in range(3) if (j, i) != (1, 1)]
    with pytest.raises(ValueError, match="deform_conv2d keeps all its taps"):
        dcnlab.tap_positions(3, remove_center=True)
    with pytest.raises(ValueError, match="layout must be one of deform_conv2d, dcnv3, got 'mmcv'"):
        dcnlab.tap_positions(3, layout="mmcv")


@pytest.mark.parametrize(("layout", "axis"), [("deform_conv2d", 0), ("dcnv3", 1)])
def test_the_first_channel_of_a_pair_moves_y_in_dcnv2_and_x_in_dcnv3(layout, axis):
    tap, group, taps = 5, 1, 9
    channel = (group * taps + tap) * 2
    shape = (1, 36, 4, 4) if layout == "deform_conv2d" else (1, 4, 4, 36)
    offset = np.zeros(shape)
    offset[(0, channel, 2, 3) if layout == "deform_conv2d" else (0, 2, 3, channel)] = 0.25
    moved = dcnlab.sampling_positions(offset, 3, padding=1, layout=layout)
    still = dcnlab.sampling_positions(np.zeros(shape), 3, padding=1, layout=layout)
    difference = np.argwhere(moved != still)
    assert difference.tolist() == [[0, 2, 3, group, tap, axis]]
    row, column = (tap // 3, tap % 3) if layout == "deform_conv2d" else (tap % 3, tap // 3)
    assert still[0, 2, 3, group, tap].tolist() == [2 - 1 + row, 3 - 1 + column]


def test_offset_scale_stretches_the_regular_grid_around_its_centre():
    grid = dcnlab.sampling_grid(np.zeros((1, 5, 5, 18)), 3, padding=1, layout="dcnv3", offset_scale=2.0)
    regular = grid.regular()[2, 2]
    assert sorted({tuple(p) for p in regular.tolist()}) == [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)]
    np.testing.assert_array_equal(grid.positions()[0, :, :, 0], grid.regular())


def test_even_kernels_with_odd_extent_have_their_centre_rounded_down():
    """r = (dilation*(k-1)) // 2 = 0 for a 2x2 kernel: the scale stretches away from the first tap."""
    regular = dcnlab.sampling_grid(np.zeros((1, 1, 1, 8)), 2, layout="dcnv3", offset_scale=3.0).regular()[0, 0]
    assert regular.tolist() == [[0, 0], [3, 0], [0, 3], [3, 3]]


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_the_two_parts_of_a_block_add_up_to_the_positions(rng, scale):
    offset = rng.standard_normal((2, 4, 3, 36))
    grid = dcnlab.sampling_grid(offset, 3, 2, 1, 2, layout="dcnv3", offset_scale=scale)
    (y, x), (dy, dx) = grid.block(1, slice(3, 9))
    assert y.dtype == np.int32
    whole = grid.positions()[1].reshape(12, 2, 9, 2)[3:9]
    np.testing.assert_allclose(np.stack([y + dy, x + dx], axis=-1), whole, atol=1e-13)
    assert abs(grid.residual).max() <= 0.5


def test_canonical_views_do_not_copy(rng):
    v2, v3 = rng.standard_normal((1, 36, 4, 5)), rng.standard_normal((1, 4, 5, 36))
    assert np.shares_memory(dcnlab.sampling_grid(v2, 3, layout="deform_conv2d").offset, v2)
    assert np.shares_memory(dcnlab.sampling_grid(v3, 3, layout="dcnv3").offset, v3)


@pytest.mark.parametrize("layout", geometry.LAYOUTS)
def test_packing_undoes_unpacking(rng, layout):
    offset = rng.standard_normal((2, 36, 4, 5) if layout == "deform_conv2d" else (2, 4, 5, 36))
    mask = rng.standard_normal((2, 18, 4, 5) if layout == "deform_conv2d" else (2, 4, 5, 18))
    canonical = dcnlab.sampling_grid(offset, 3, layout=layout).offset.reshape(2, 4, 5, 2, 9, 2)
    np.testing.assert_array_equal(geometry.packed_offset(canonical, layout=layout), offset)
    modulation = dcnlab.sampling_modulation(mask, 9, layout=layout)
    np.testing.assert_array_equal(geometry.packed_modulation(modulation, layout=layout), mask)


def test_messages():
    with pytest.raises(ValueError, match=r"offsets have G\*K\*2 = G\*9\*2 channels, got 20"):
        dcnlab.sampling_grid(np.zeros((1, 20, 2, 2)), 3, layout="deform_conv2d")
    with pytest.raises(ValueError, match="4 dimensions"):
        dcnlab.sampling_grid(np.zeros((20, 2, 2)), 3, layout="deform_conv2d")
    with pytest.raises(ValueError, match=r"masks have G\*K = G\*9 channels, got 10"):
        dcnlab.sampling_modulation(np.zeros((1, 10, 2, 2)), 9, layout="deform_conv2d")
    with pytest.raises(ValueError, match="4 dimensions"):
        dcnlab.sampling_modulation(np.zeros((10, 2, 2)), 9, layout="dcnv3")
    with pytest.raises(ValueError, match="offset_scale is an option of the dcnv3 layout"):
        dcnlab.sampling_grid(np.zeros((1, 18, 2, 2)), 3, layout="deform_conv2d", offset_scale=2.0)
    with pytest.raises(ValueError, match="two channels for each of the mask's"):
        dcnlab.dcnv2_from_dcnv3(np.zeros((1, 2, 2, 18)), np.zeros((1, 2, 2, 18)))
    with pytest.raises(ValueError, match="offset_scale must not be 0"):
        dcnlab.dcnv3_from_dcnv2(np.zeros((1, 18, 2, 2)), np.zeros((1, 9, 2, 2)), offset_scale=0)
