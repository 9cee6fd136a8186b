import numpy as np
import pytest

import dcnlab
from dcnlab import viz
from dcnlab.geometry import packed_offset

H, W = 16, 18


def layer(shift=(0.0, 0.0), size=(H, W), stride=1, layout="dcnv3", kernel=3):
    ho, wo = dcnlab.output_size(size, kernel, stride, kernel // 2)
    offset = np.broadcast_to(np.array(shift, float), (1, ho, wo, 1, kernel**2, 2))
    packed = packed_offset(offset, layout=layout)
    return dcnlab.sampling_grid(packed, kernel, stride, kernel // 2, layout=layout)


def sorted_points(points):
    return np.asarray(sorted(np.asarray(points).round(9).tolist()))


@pytest.mark.parametrize("layout", ["dcnv3", "deform_conv2d"])
def test_two_shifted_layers_add_their_shifts(layout):
    grids = [layer((0.25, 0.5), layout=layout), layer((1.0, -2.0), layout=layout)]
    drawn = viz.stacked_sampling_points(np.zeros((H, W)), grids, pixel=(8, 9))
    deep, shallow = (np.asarray(points.get_offsets()) for points in drawn.layers)
    around = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1)], float)
    np.testing.assert_allclose(sorted_points(deep), sorted_points(around + np.array([9 - 2, 8 + 1])))
    both = (around[:, None] + around).reshape(-1, 2) + np.array([9 - 2 + 0.5, 8 + 1 + 0.25])
    np.testing.assert_allclose(sorted_points(shallow), sorted_points(both))


def test_layers_with_a_stride_are_drawn_in_pixels_of_the_image():
    grids = [layer(stride=2), layer(size=(8, 9))]
    drawn = viz.stacked_sampling_points(np.zeros((H, W)), grids, pixel=(4, 4))
    np.testing.assert_array_equal(drawn.pixel.get_offsets(), [(8, 8)])
    deep = np.asarray(drawn.layers[0].get_offsets())
    np.testing.assert_array_equal(sorted_points(deep), [(x, y) for x in (6, 8, 10) for y in (6, 8, 10)])


def test_weights_are_products_of_the_modulations():
    rng = np.random.default_rng(0)
    grids = [layer(), layer()]
    modulations = [dcnlab.softmax(rng.standard_normal((1, H, W, 1, 9))) for _ in grids]
    drawn = viz.stacked_sampling_points(np.zeros((H, W)), grids, modulations, (8, 9))
    outer = modulations[1][0, 8, 9, 0]
    np.testing.assert_allclose(drawn.weights[0], outer)
    inner = np.stack([modulations[0][0, 8 + j, 9 + i, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    np.testing.assert_allclose(drawn.weights[1], (outer[:, None] * inner).ravel())
    np.testing.assert_allclose(drawn.weights[1].sum(), 1.0)  # softmax: a weighted mean, at any depth


def test_points_beyond_the_border_of_a_map_weigh_nothing():
    drawn = viz.stacked_sampling_points(np.zeros((H, W)), [layer(), layer()], pixel=(0, 9))
    weights = drawn.weights[1].reshape(9, 9)
    outside = np.array([j == -1 for i in (-1, 0, 1) for j in (-1, 0, 1)])  # dcnv3 counts column by column
    assert (weights[outside] == 0).all()
    assert (weights[~outside] == 1).all()


def test_the_first_layer_is_the_strongest():
    drawn = viz.stacked_sampling_points(np.zeros((H, W)), [layer()] * 3)
    alphas = [points.get_alpha() for points in drawn.layers]
    assert alphas == sorted(alphas)
    assert alphas[0] < alphas[-1]
    assert [len(points.get_offsets()) for points in drawn.layers] == [9, 81, 729]


@pytest.mark.parametrize(
    ("grids", "modulations", "message"),
    [
        ([], None, "at least one layer"),
        ([layer(), layer(size=(8, 9))], None, "does not belong to this grid"),
        ([layer()], [None, None], "one entry a layer, 1, got 2"),
        ([layer()] * 6, None, "at most 200000 points"),
    ],
)
def test_bad_arguments_get_one_line(grids, modulations, message):
    with pytest.raises(ValueError, match=message):
        viz.stacked_sampling_points(np.zeros((H, W)), grids, modulations)
