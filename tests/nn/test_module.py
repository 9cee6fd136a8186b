"""State, gradients and modes: what all layers share."""

import copy
import re
import threading

import numpy as np
import pytest
from nn.layers import LAYERS

import dcnlab
from dcnlab import nn
from dcnlab.nn import initialise

IDS = [case.name for case in LAYERS]


def small(rng=0):
    return nn.Sequential(nn.Linear(3, 4, rng=rng), nn.GELU(), nn.Linear(4, 2, rng=rng))


# -- lazy parameters -----------------------------------------------------------------------------------------------


def test_counting_makes_no_array():
    layer = nn.Linear(1_000_000, 1_000_000)  # 4 TB
    assert layer.parameter_count() == 10**12 + 10**6
    assert layer.weight.shape == (1_000_000, 1_000_000)


@pytest.mark.parametrize("case", [c for c in LAYERS if c.has_dtype], ids=lambda c: c.name)
def test_first_values_do_not_depend_on_the_order_of_access(case):
    first, second = (case.make(dtype=np.float32, rng=np.random.default_rng(7)) for _ in range(2))
    forwards = first.state_dict()
    backwards = {name: state.value for name, state in reversed(list(second.named_state()))}
    for name, array in forwards.items():
        np.testing.assert_array_equal(array, backwards[name], err_msg=name)
    other = case.make(dtype=np.float32, rng=np.random.default_rng(8)).state_dict()
    random = [name for name, array in forwards.items() if array.size > 1 and np.ptp(array) > 0]
    assert all((forwards[name] != other[name]).any() for name in random)


def test_parameters_of_one_layer_and_of_two_differ():
    layer = small()
    assert (layer[0].weight.value[:2, :2] != layer[2].weight.value[:2, :2]).all()
    assert (layer[0].weight.value[:, 0] != layer[0].bias.value).all()
    assert (nn.Linear(3, 4).weight.value != nn.Linear(3, 4).weight.value).any(), "without a seed, each is new"


def test_float32_and_float64_start_alike():
    single, double = (nn.Conv2d(3, 4, 3, dtype=dtype, rng=0).weight.value for dtype in (np.float32, np.float64))
    np.testing.assert_array_equal(single, double.astype(np.float32))


def test_loading_draws_no_random_numbers(monkeypatch):
    arrays = small().state_dict()
    layer = small(1)
    for _, state in layer.named_state():
        monkeypatch.setattr(state, "_initialise", None)  # calling it would fail
    layer.load_state_dict(arrays)
    np.testing.assert_array_equal(layer[2].weight.value, arrays["2.weight"])


def test_start_from_draws_anew_from_the_same_seed():
    layer = nn.Linear(3, 4, rng=0)
    before = layer.weight.value
    layer.weight.start_from(initialise.truncated_normal(0.02))
    assert abs(layer.weight.value).max() < 0.1
    layer.weight.start_from(initialise.by_fan_in(3))
    np.testing.assert_array_equal(layer.weight.value, before)


def test_initial_values():
    rng = np.random.default_rng(0)
    assert abs(initialise.by_fan_in(100)(rng, (1000,))).max() <= 0.1
    assert abs(initialise.xavier_uniform(rng, (50, 10))).max() <= 0.1**0.5
    wide = initialise.truncated_normal(2.0)(rng, (10000,))
    assert abs(wide).max() <= 2
    assert 0.9 < wide.std() < 1.3, "a normal of deviation 2 cut at +-2 is nearly uniform: 4 / sqrt 12 = 1.15"
    conv = nn.Conv2d(6, 4, 3, groups=2, rng=0)
    bound = 1 / 27**0.5  # fan in: 3 channels of its group, 3x3
    assert 0.9 * bound < abs(conv.weight.value).max() <= bound
    assert abs(conv.bias.value).max() <= bound


def test_assigned_values_are_converted_and_their_shape_is_checked():
    layer = nn.Linear(3, 2)
    layer.weight.value = np.ones((2, 3), int)
    assert layer.weight.value.dtype == np.float32
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(3, 2\)"):
        layer.weight.value = np.ones((3, 2))
    with pytest.raises(TypeError, match="this parameter is float32, got complex128"):
        layer.weight.value = np.ones((2, 3), complex)


def test_a_copy_of_a_layer_is_another_layer():
    layer = small()
    twin = copy.deepcopy(layer)
    twin[0].weight.value[0, 0] += 1
    assert layer[0].weight.value[0, 0] != twin[0].weight.value[0, 0]


# -- state dictionaries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_a_state_dictionary_restores_a_layer(case):
    layer = case.layer(np.float32, seed=1)
    other = case.layer(np.float32, seed=2)
    arrays = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    assert other.load_state_dict(arrays) == ([], [])
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array, err_msg=name)
        assert other.state_dict()[name].dtype == array.dtype
        assert not np.shares_memory(other.state_dict()[name], arrays[name])
    layer.eval(), other.eval()
    inputs = case.inputs(np.float32)
    np.testing.assert_array_equal(layer(*inputs), other(*inputs))


def test_what_does_not_fit_is_named_with_its_shapes_and_nothing_changes():
    layer = small()
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    arrays = {**layer.state_dict(), "extra.bias": np.ones(5), "2.bias": np.ones((2, 1)), "0.weight": np.zeros((4, 3))}
    del arrays["2.weight"]
    message = (
        "Sequential.load_state_dict: 1 of another shape: 2.bias (expected (2,), got (2, 1)); "
        "1 missing: 2.weight (2, 4); 1 unexpected: extra.bias (5,)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer.load_state_dict(arrays)
    with pytest.raises(
        ValueError, match=r"load_state_dict: 1 of another shape: 2.bias \(expected \(2,\), got \(2, 1\)\)$"
    ):
        layer.load_state_dict(arrays, strict=False)
    with pytest.raises(ValueError, match=r"0.bias \(expected \(4,\), got \(4,\) of <U1\)"):
        layer.load_state_dict({**layer.state_dict(), "0.bias": np.array(["a"] * 4)})
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_without_strict_the_rest_is_loaded_and_the_difference_returned():
    layer = small()
    found = layer.load_state_dict({"0.bias": np.full(4, 7.0), "gamma": np.ones(2)}, strict=False)
    assert found.missing == ["0.weight", "2.weight", "2.bias"]
    assert found.unexpected == ["gamma"]
    np.testing.assert_array_equal(layer[0].bias.value, 7)


def test_long_lists_are_cut():
    layer = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(ValueError, match=r"20 missing: 0\.weight \(1, 1\), .*3\.bias \(1,\) and 12 more$"):
        layer.load_state_dict({})


def test_published_names():
    def names(layer):
        return list(layer.state_dict())

    branch = ["dw_conv.0.weight", "dw_conv.0.bias", "dw_conv.1.1.weight", "dw_conv.1.1.bias"]
    linears = [
        f"{name}.{kind}" for name in ("offset", "mask", "input_proj", "output_proj") for kind in ("weight", "bias")
    ]
    scaling = ["center_feature_scale_proj_weight", "center_feature_scale_proj_bias"]
    assert names(nn.DCNv3(8)) == branch + linears
    assert names(nn.DCNv3(8, center_feature_scale=True)) == scaling + branch + linears
    assert names(nn.BatchNorm2d(3)) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    biases = ["q_bias", "k_bias", "v_bias"]
    cross = [*biases, "q.weight", "k.weight", "v.weight", "proj.weight", "proj.bias"]
    assert names(nn.CrossAttention(4, 2)) == cross
    norms = [f"norm1_{which}.0.{kind}" for which in "qkv" for kind in ("weight", "bias")]
    assert names(nn.AttentionPoolingBlock(4, 2)) == norms + [f"cross_dcn.{name}" for name in cross]
    assert names(nn.MLP(4)) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert names(nn.DeformConv2d(4, 4, 3)) == ["weight", "bias", "conv_offset.weight", "conv_offset.bias"]


def test_published_shapes():
    shapes = {
        name: array.shape for name, array in nn.DCNv3(12, groups=3, center_feature_scale=True).state_dict().items()
    }
    assert shapes["dw_conv.0.weight"] == (12, 1, 3, 3)
    assert shapes["offset.weight"] == (54, 12)
    assert shapes["mask.weight"] == (27, 12)
    assert shapes["center_feature_scale_proj_weight"] == (3, 12)
    assert nn.DCNv3(12, groups=3, remove_center=True).offset.weight.shape == (48, 12)


# -- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_a_second_backward_pass_overwrites_the_gradients(case):
    layer, inputs = case.layer().eval(), case.inputs()
    output = np.asarray(layer(*inputs))
    layer.backward(np.ones_like(output))
    once = {name: grad.copy() for name, grad in layer.grad_dict().items()}
    layer.backward(np.ones_like(output))
    assert set(once) == {name for name, _ in layer.named_parameters()}
    for name, grad in layer.grad_dict().items():
        np.testing.assert_array_equal(grad, once[name], err_msg=name)


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_under_no_grad_nothing_is_kept_and_backward_says_so(case):
    layer, inputs = case.layer(), case.inputs()
    output = np.asarray(layer(*inputs))
    with nn.no_grad():
        layer.eval()(*inputs)
    assert all(module._kept is None for module in layer.modules())
    with pytest.raises(RuntimeError, match=r"there is no forward pass to go back through; call the layer first"):
        layer.backward(np.ones_like(output))


def test_backward_before_forward():
    with pytest.raises(RuntimeError, match=r"^Linear: there is no forward pass"):
        nn.Linear(3, 2).backward(np.ones((1, 2), np.float32))
    assert nn.Linear(3, 2).grad_dict() == {}


def test_no_grad_ends_with_its_block_and_is_local_to_its_thread():
    layer, x = nn.GELU(), np.ones(3)
    elsewhere = nn.GELU()
    with nn.no_grad():
        with nn.no_grad():
            pass
        layer(x)
        thread = threading.Thread(target=elsewhere, args=(x,))
        thread.start()
        thread.join()
    assert layer._kept is None
    np.testing.assert_allclose(elsewhere.backward(x), dcnlab.gelu_backward(x, x))
    with pytest.raises(ZeroDivisionError), nn.no_grad():
        _ = 1 / 0
    layer(x)
    assert layer.kept().input is x


# -- modes and containers ------------------------------------------------------------------------------------------


def test_modes_reach_all_modules():
    layer = nn.DCNv3(4)
    assert all(module.training for module in layer.modules())
    assert layer.eval() is layer
    assert not any(module.training for module in layer.modules())
    assert len(list(layer.modules())) > 8
    assert all(module.training for module in layer.train().modules())


def test_containers():
    layers = nn.ModuleList(nn.GELU(), nn.Linear(3, 2))
    assert len(layers) == 2
    assert list(layers.state_dict()) == ["1.weight", "1.bias"]
    assert isinstance(layers[0], nn.GELU)
    with pytest.raises(TypeError, match="cannot be called"):
        layers(np.ones(3))
    with pytest.raises(TypeError, match="no backward pass"):
        layers.backward(np.ones(3))
    empty, x = nn.Sequential(), np.ones(3)
    assert empty(x) is x
    assert empty.backward(x) is x
