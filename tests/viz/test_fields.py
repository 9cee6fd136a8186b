import numpy as np
import pytest

import dcnlab
from dcnlab import viz
from dcnlab.geometry import packed_modulation, packed_offset
from dcnlab.viz.fields import wheel_colours

H, W = 10, 13


def random_grid(layout):
    rng = np.random.default_rng(1)
    offset, modulation = rng.normal(0, 1, (1, H, W, 2, 9, 2)), rng.random((1, H, W, 2, 9))
    grid = dcnlab.sampling_grid(packed_offset(offset, layout=layout), 3, padding=1, layout=layout)
    mask = packed_modulation(modulation, layout=layout)
    return grid, dcnlab.sampling_modulation(mask, 9, layout=layout), offset


@pytest.mark.parametrize("layout", ["deform_conv2d", "dcnv3"])
def test_arrows_of_one_tap_are_its_offsets(layout):
    grid, _, offset = random_grid(layout)
    drawn = viz.offset_arrows(grid, tap=5, group=1, every=1, image=np.zeros((H, W)))
    np.testing.assert_allclose(drawn.arrows.U, offset[0, :, :, 1, 5, 1].ravel(), atol=1e-12)
    np.testing.assert_allclose(drawn.arrows.V, offset[0, :, :, 1, 5, 0].ravel(), atol=1e-12)
    np.testing.assert_allclose(drawn.longest, np.linalg.norm(offset[0, :, :, 1, 5], axis=-1).max())
    first = np.asarray(grid.regular())[0, 0, 5]
    np.testing.assert_array_equal(drawn.arrows.get_offsets()[0], first[::-1])


@pytest.mark.parametrize("layout", ["deform_conv2d", "dcnv3"])
def test_mean_positions_weigh_by_the_modulation(layout):
    grid, modulation, _ = random_grid(layout)
    positions = grid.positions()
    expected = sum(modulation[..., k, None] * positions[..., k, :] for k in range(9))
    expected = expected / sum(modulation[..., k, None] for k in range(9))
    np.testing.assert_allclose(viz.mean_positions(grid, modulation), expected)
    arrows = viz.offset_arrows(grid, modulation, every=1).arrows
    y, x = np.mgrid[:H, :W]
    np.testing.assert_allclose(arrows.U.reshape(H, W), expected[0, :, :, 0, 1] - x, atol=1e-12)
    np.testing.assert_allclose(arrows.V.reshape(H, W), expected[0, :, :, 0, 0] - y, atol=1e-12)


def test_mesh_runs_through_the_mean_positions():
    grid, modulation, _ = random_grid("dcnv3")
    drawn = viz.sampling_mesh(grid, modulation, image=np.zeros((H, W, 3)), every=4)
    mean = viz.mean_positions(grid, modulation)[0, :, :, 0, ::-1]
    rows = drawn.rows.get_segments()
    assert len(rows) == 2  # output rows 2 and 6
    np.testing.assert_allclose(rows[0], mean[2])
    np.testing.assert_allclose(drawn.columns.get_segments()[1], mean[:, 6])


def test_wheel_shows_direction_by_hue_and_length_by_saturation():
    from matplotlib.colors import to_rgb

    from dcnlab.viz.fields import WHEEL

    right, down, left, up = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], float)
    for direction, rim in zip((right, down, left, up), WHEEL, strict=True):
        np.testing.assert_allclose(wheel_colours(direction), to_rgb(rim), atol=1e-12)
        np.testing.assert_allclose(wheel_colours(direction / 2), (1 + np.array(to_rgb(rim))) / 2)
        np.testing.assert_allclose(wheel_colours(5 * direction), to_rgb(rim), atol=1e-12)  # beyond the rim
    assert wheel_colours(np.zeros(2)).tolist() == [1, 1, 1]
    assert wheel_colours(np.array([np.nan, 0])).tolist() == [0.5, 0.5, 0.5]


def test_opposite_directions_differ_for_every_kind_of_colour_vision():
    # Of red, green and blue light a dichromat keeps the blue-yellow balance and the lightness.
    turn = np.linspace(0, np.pi, 32, endpoint=False)
    one = wheel_colours(np.stack([np.sin(turn), np.cos(turn)], axis=-1))
    other = wheel_colours(-np.stack([np.sin(turn), np.cos(turn)], axis=-1))
    lightness = (one - other) @ (0.299, 0.587, 0.114)
    blue = one[:, 2] - one[:, :2].mean(axis=1) - (other[:, 2] - other[:, :2].mean(axis=1))
    assert np.hypot(lightness, blue).min() > 0.3


def test_wheel_image_and_its_rim():
    grid, _, offset = random_grid("dcnv3")
    drawn = viz.offset_wheel(grid, tap=2)
    lengths = np.linalg.norm(offset[0, :, :, 0, 2], axis=-1)
    np.testing.assert_allclose(drawn.longest, lengths.max())
    colours = np.asarray(drawn.image.get_array())
    np.testing.assert_allclose(colours, wheel_colours(offset[0, :, :, 0, 2] / lengths.max()), atol=1e-9)


def test_zero_nan_and_infinite_offsets_are_drawn():
    for value in (0.0, np.nan, np.inf):
        grid = dcnlab.sampling_grid(np.full((1, H, W, 18), value), 3, padding=1, layout="dcnv3")
        for draw in (viz.offset_arrows, viz.offset_wheel, viz.sampling_mesh):
            draw(grid).ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tap": 9}, r"tap must be in 0\.\.8, got 9"),
        ({"group": 2}, r"group must be in 0\.\.1"),
        ({"batch": 1}, r"batch must be in 0\.\.0"),
        ({"modulation": np.ones((H, W))}, "modulation must have shape"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message):
    grid, _, _ = random_grid("dcnv3")
    for draw in (viz.offset_arrows, viz.offset_wheel, viz.sampling_mesh):
        with pytest.raises(ValueError, match=message):
            draw(grid, **arguments)


def test_steps_and_lengths_are_positive():
    grid, _, _ = random_grid("dcnv3")
    for draw in (viz.offset_arrows, viz.sampling_mesh):
        with pytest.raises(ValueError, match="every must be"):
            draw(grid, every=0)
    for longest in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="longest must be a positive number"):
            viz.offset_wheel(grid, longest=longest)
