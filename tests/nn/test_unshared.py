"""DCNv3 with a projection of its own for every tap: the same as DCNv3 where all are equal, and what it has more."""

import numpy as np
import pytest
from nn.layers import randomise

from dcnlab import InternImage, nn

SETTINGS = {
    "plain": {"groups": 2},
    "one group": {"groups": 1, "modulation": "sigmoid"},
    "scaled, uneven kernel": {"groups": 4, "kernel_size": (3, 5), "padding": (1, 2), "offset_scale": 1.5},
    "dilated, strided": {"groups": 2, "dilation": 2, "padding": 2, "stride": (2, 1), "modulation": "twice_sigmoid"},
    "no centre": {"groups": 2, "remove_center": True, "offset_scale": 0.5, "modulation": "none"},
    "kernel of the branch": {"groups": 8, "dw_kernel_size": 5},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def pair(request):
    """A DCNv3 with random parameters, and the layer without shared weights that computes the same."""
    rng = np.random.default_rng(7)
    shared = nn.DCNv3(8, dtype=np.float64, rng=0, **request.param)
    randomise(shared, rng)
    unshared = nn.UnsharedDCNv3(8, dtype=np.float64, rng=1, **request.param)
    state = shared.state_dict()
    weight, bias = state.pop("output_proj.weight"), state.pop("output_proj.bias")
    state |= {"weight": np.broadcast_to(weight[:, :, None, None], unshared.weight.shape), "bias": bias}
    unshared.load_state_dict(state)
    return shared, unshared, rng.standard_normal((2, 6, 5, 8))


def assert_equal(actual, expected, name):
    scale = np.abs(expected).max() or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * scale, err_msg=name)


def test_equal_taps_are_dcnv3(pair):
    shared, unshared, x = pair
    expected = shared(x)
    assert_equal(unshared(x), expected, "output")
    assert_equal(unshared.sampling_positions(), shared.sampling_positions(), "positions")
    grad = np.random.default_rng(3).standard_normal(expected.shape)
    assert_equal(unshared.backward(grad), shared.backward(grad), "input")
    found, wanted = unshared.grad_dict(), shared.grad_dict()
    # One weight that stands for all taps has the sum of their gradients.
    by_tap = found.pop("weight")
    assert_equal(by_tap.sum(axis=(2, 3)), wanted.pop("output_proj.weight"), "weight")
    assert_equal(found.pop("bias"), wanted.pop("output_proj.bias"), "bias")
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert_equal(found[name], expected, name)


def test_each_weight_belongs_to_its_tap_in_rows():
    """On a bright pixel, a tap's weight shows where the kernel meets it: (row, column), as in deform_conv2d."""
    layer = nn.UnsharedDCNv3(2, groups=1, modulation="twice_sigmoid", dtype=np.float64, rng=0)
    layer.input_proj.weight.value = np.eye(2)
    layer.weight.value = np.arange(9.0).reshape(1, 1, 3, 3) * np.eye(2)[:, :, None, None]
    x = np.zeros((1, 5, 5, 2))
    x[0, 2, 2] = 1
    output = layer(x)  # offsets 0 and modulation 1: a plain convolution
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = np.arange(9.0).reshape(3, 3)[::-1, ::-1]
    np.testing.assert_allclose(output[0, :, :, 0], expected, atol=1e-13)


def test_a_new_layer_starts_as_the_dcnv3_of_the_same_seed():
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 8))
    shared, unshared = (layer(8, groups=2, dtype=np.float64, rng=5) for layer in (nn.DCNv3, nn.UnsharedDCNv3))
    assert_equal(unshared(x), shared(x), "output")


def test_names_and_shapes_of_the_state():
    layer = nn.UnsharedDCNv3(8, groups=2, kernel_size=(3, 5), padding=(1, 2))
    shapes = {name: state.shape for name, state in layer.named_state()}
    shared = {name: s.shape for name, s in nn.DCNv3(8, groups=2, kernel_size=(3, 5), padding=(1, 2)).named_state()}
    for name in ("output_proj.weight", "output_proj.bias"):
        del shared[name]
    assert shapes == shared | {"weight": (8, 8, 3, 5), "bias": (8,)}
    assert all(state._value is None for _, state in layer.named_state()), "counting allocates nothing"


def test_the_removed_centre_has_no_gradient(rng):
    layer = nn.UnsharedDCNv3(4, groups=2, remove_center=True, dtype=np.float64, rng=0)
    randomise(layer, rng)
    layer.backward(layer(rng.standard_normal((1, 4, 4, 4))))
    assert not layer.weight.grad[:, :, 1, 1].any()
    assert np.delete(layer.weight.grad.reshape(4, 4, 9), 4, axis=2).all()


def test_it_is_a_core_operator_of_the_model(rng):
    tiny = {"channels": 8, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8], "num_classes": 3}
    x = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    model = InternImage(**tiny, core_op=nn.UnsharedDCNv3, rng=0)
    np.testing.assert_allclose(model(x), InternImage(**tiny, rng=0)(x), atol=1e-5)
    assert model.backward(np.ones((2, 3), np.float32)).shape == x.shape
    assert model.levels[0].blocks[0].dcn.weight.grad.any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="center_feature_scale must be False, got True"):
        nn.UnsharedDCNv3(8, center_feature_scale=True)
    with pytest.raises(ValueError, match="groups must divide channels = 8, got 3"):
        nn.UnsharedDCNv3(8, groups=3)
    layer = nn.UnsharedDCNv3(8)
    with pytest.raises(ValueError, match=r"UnsharedDCNv3: expected \(N, H, W, 8\), got \(1, 8, 4, 4\)"):
        layer(np.zeros((1, 8, 4, 4), np.float32))
    layer(np.zeros((1, 4, 4, 8), np.float32))
    with pytest.raises(ValueError, match=r"grad_output must have the output's shape \(1, 4, 4, 8\)"):
        layer.backward(np.zeros((1, 8, 4, 4), np.float32))
