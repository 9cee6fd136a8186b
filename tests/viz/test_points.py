import matplotlib.pyplot as plt
import numpy as np
import pytest

import dcnlab
from dcnlab import viz
from dcnlab.geometry import packed_modulation, packed_offset
from dcnlab.viz.canvas import GROUP_COLOURS

H, W, GROUPS = 9, 12, 2
LAYOUTS = ("deform_conv2d", "dcnv3")


def canonical(seed=0, groups=GROUPS):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.7, (2, H, W, groups, 9, 2)), rng.random((2, H, W, groups, 9))


def grid_and_modulation(layout, seed=0, groups=GROUPS):
    offset, modulation = canonical(seed, groups)
    grid = dcnlab.sampling_grid(packed_offset(offset, layout=layout), 3, padding=1, layout=layout)
    mask = packed_modulation(modulation, layout=layout)
    return grid, dcnlab.sampling_modulation(mask, 9, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taps_stand_where_the_formula_says(layout):
    offset, _ = canonical()
    grid, modulation = grid_and_modulation(layout)
    drawn = viz.sampling_points(np.zeros((H, W)), grid, modulation, [(4, 5), (2, 3)], batch=1)
    taps = [divmod(t, 3) if layout == "deform_conv2d" else divmod(t, 3)[::-1] for t in range(9)]
    for group in range(GROUPS):
        expected = [
            (x - 1 + i + offset[1, y, x, group, t, 1], y - 1 + j + offset[1, y, x, group, t, 0])
            for y, x in [(4, 5), (2, 3)]
            for t, (j, i) in enumerate(taps)
        ]
        np.testing.assert_allclose(drawn.taps[group].get_offsets(), expected, atol=1e-12)
        ends = np.array([segment[1] for segment in drawn.moves[group].get_segments()])
        np.testing.assert_allclose(ends, expected, atol=1e-12)
        starts = np.array([segment[0] for segment in drawn.moves[group].get_segments()])
        np.testing.assert_array_equal(starts, drawn.regular.get_offsets())
    np.testing.assert_array_equal(drawn.pixels.get_offsets(), [(5, 4), (3, 2)])


def test_both_layouts_of_one_sampling_draw_the_same_points():
    offset, modulation = canonical(3)
    v3 = dcnlab.sampling_grid(packed_offset(offset, layout="dcnv3"), 3, padding=1, layout="dcnv3")
    # dcnv3 counts its taps column by column: the same taps, in deform_conv2d's order.
    order = np.arange(9).reshape(3, 3).T.ravel()
    v2 = dcnlab.sampling_grid(
        packed_offset(offset[..., order, :], layout="deform_conv2d"), 3, padding=1, layout="deform_conv2d"
    )
    a = viz.sampling_points(np.zeros((H, W)), v3, modulation, [(4, 5)])
    b = viz.sampling_points(np.zeros((H, W)), v2, modulation[..., order], [(4, 5)])
    for left, right in zip(a.taps, b.taps, strict=True):
        np.testing.assert_allclose(left.get_offsets()[order], right.get_offsets(), atol=1e-12)
        np.testing.assert_array_equal(left.get_sizes()[order], right.get_sizes())


def test_size_and_colour_follow_the_modulation():
    grid, modulation = grid_and_modulation("dcnv3")
    drawn = viz.sampling_points(np.zeros((H, W)), grid, modulation, [(4, 5)])
    values = modulation[0, 4, 5]
    for group, taps in enumerate(drawn.taps):
        np.testing.assert_array_equal(taps.get_array(), values[group])
        # Area is affine in the modulation: the same area for every unit of it.
        slope = np.diff(taps.get_sizes()) / np.diff(values[group])
        np.testing.assert_allclose(slope, slope[0], rtol=1e-9)
        assert slope[0] > 0
        rim = plt.matplotlib.colors.to_rgba(GROUP_COLOURS[group])
        np.testing.assert_allclose(taps.get_edgecolor()[0], rim)
    largest = max(taps.get_sizes().max() for taps in drawn.taps)
    assert drawn.taps[values.max(axis=1).argmax()].get_sizes().max() == largest
    assert drawn.colorbar is not None


def test_without_modulation_all_taps_are_alike():
    grid, _ = grid_and_modulation("dcnv3", groups=1)
    drawn = viz.sampling_points(np.zeros((H, W, 3)), grid)
    assert len(set(drawn.taps[0].get_sizes())) == 1
    assert drawn.colorbar is None
    np.testing.assert_array_equal(drawn.pixels.get_offsets(), [(W // 2, H // 2)])


def test_numbers_are_those_of_the_layout_and_do_not_overlap():
    grid, modulation = grid_and_modulation("dcnv3", groups=1)
    drawn = viz.sampling_points(np.zeros((H, W)), grid, modulation, [(4, 5)])
    assert [text.get_text() for text in drawn.numbers] == [str(k) for k in range(9)]
    points = np.asarray(drawn.taps[0].get_offsets())
    np.testing.assert_allclose([text.xy for text in drawn.numbers], points)
    drawn.ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in drawn.numbers]
    overlapping = [(a, b) for a in range(9) for b in range(a) if boxes[a].overlaps(boxes[b])]
    assert overlapping == []


def test_given_axes_are_used_and_the_whole_image_can_be_shown():
    _, axes = plt.subplots(1, 2)
    grid, _ = grid_and_modulation("deform_conv2d")
    drawn = viz.sampling_points(np.zeros((H, W)), grid, margin=None, ax=axes[1])
    assert drawn.ax is axes[1]
    assert axes[1].get_xlim() == (-0.5, W - 0.5)
    assert axes[1].get_ylim() == (H - 0.5, -0.5)
    assert drawn.numbers == []
    assert not axes[0].has_data()


def test_samples_that_are_nowhere_do_not_stretch_the_view():
    offset, modulation = canonical()
    offset[0, 4, 5, 0, :3] = [[np.nan, 0], [np.inf, 0], [1e30, 0]]
    grid = dcnlab.sampling_grid(packed_offset(offset, layout="dcnv3"), 3, padding=1, layout="dcnv3")
    drawn = viz.sampling_points(np.zeros((H, W)), grid, modulation, [(4, 5)])
    assert np.ptp(drawn.ax.get_xlim()) < 2 * W
    drawn.ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((H, W + 1))}, "image width 13 does not belong to this grid: .* need width 12"),
        ({"image": np.zeros((H - 1, W))}, "image height 8 does not belong"),
        ({"image": np.zeros((H, W, 2))}, r"image must have shape \(H, W\)"),
        ({"image": np.zeros(5)}, r"image must have shape \(H, W\)"),
        ({"pixels": [(H, 0)]}, r"output pixel y must be in 0\.\.8, got 9"),
        ({"pixels": [(0, -1)]}, r"output pixel x must be in 0\.\.11, got -1"),
        ({"pixels": [(1, 2, 3)]}, "must be a pair"),
        ({"pixels": [5]}, "must be a pair"),
        ({"pixels": []}, "at least one"),
        ({"batch": 2}, r"batch must be in 0\.\.1"),
        ({"modulation": np.ones((2, H, W, 18))}, r"\(N, Ho, Wo, G, K\) = \(2, 9, 12, 2, 9\)"),
    ],
)
def test_bad_arguments_get_one_line(change, message):
    grid, modulation = grid_and_modulation("dcnv3")
    arguments = {"image": np.zeros((H, W)), "grid": grid, "modulation": modulation} | change
    with pytest.raises(ValueError, match=message) as caught:
        viz.sampling_points(**arguments)
    assert "\n" not in str(caught.value)


def test_pixels_are_whole_numbers():
    grid, _ = grid_and_modulation("dcnv3")
    with pytest.raises(TypeError, match="output pixel y must be an int"):
        viz.sampling_points(np.zeros((H, W)), grid, pixels=[(1.5, 2)])


@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(1, 1, 3), (2, 1, 3), (3, 2, (2, 5)), (1, 3, (4, 1))])
def test_every_image_of_the_right_size_is_accepted(stride, dilation, kernel):
    kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    for height in range(14, 20):
        ho, wo = dcnlab.output_size((height, 21), kernel, stride, 2, dilation)
        offset = np.zeros((1, 2 * kh * kw, ho, wo))
        grid = dcnlab.sampling_grid(offset, kernel, stride, 2, dilation, layout="deform_conv2d")
        viz.sampling_points(np.zeros((height, 21)), grid, numbers=False)
        plt.close("all")
        with pytest.raises(ValueError, match="does not belong"):
            viz.sampling_points(np.zeros((height + stride, 21)), grid)
