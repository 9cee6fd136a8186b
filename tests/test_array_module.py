"""The reference never mixes its arrays with NumPy's behind their back: what lets it run on CuPy arrays unchanged.

There is no GPU here, so a stand-in plays CuPy (strict_cupy.py).
"""

import sys

import numpy as np
import pytest
import strict_cupy
from golden_nets import golden, load_net
from helpers import assert_close
from nn.layers import LAYERS
from strict_cupy import StrictArray, unwrap, wrap

import dcnlab
from dcnlab import catalogue
from dcnlab.reference import activation, convolution, deformable, dense, depthwise, normalisation


@pytest.fixture
def cupy(monkeypatch):
    """Put the stand-in where `import cupy` would find it."""
    return strict_cupy.install(monkeypatch)


HOMES = {
    "deform_conv2d": deformable,
    "dcnv3": deformable,
    "depthwise_conv2d": depthwise,
    "linear": dense,
    "attention": dense,
    "layer_norm": normalisation,
    "batch_norm": normalisation,
    "gelu": activation,
    "softmax": activation,
    "cross_entropy": activation,
}


@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda c: f"{c.operator.name}-{c.label}")
def test_the_reference_runs_on_arrays_that_refuse_numpy(cupy, rng, case):
    arrays = case.arguments(rng)
    name = case.operator.name
    module = HOMES.get(name) or (convolution if "conv" in name else sys.modules["dcnlab.modulation"])
    function, backward = getattr(module, name), getattr(module, f"{name}_backward")
    expected = function(**arrays, **case.settings)
    grad = rng.standard_normal(expected.shape)
    strict = {key: wrap(array) for key, array in arrays.items()}

    with dcnlab.use_backend("numpy"):
        output = function(**strict, **case.settings)
        grads = backward(wrap(grad), **strict, **case.settings)
    assert type(output) is StrictArray
    assert_close(unwrap(output), expected)
    expected_grads = backward(grad, **arrays, **case.settings)
    if not hasattr(grads, "_fields"):
        grads, expected_grads = [grads], [expected_grads]
    for actual, wanted in zip(grads, expected_grads, strict=True):
        if wanted is not None:
            assert type(actual) is StrictArray
            assert_close(unwrap(actual), wanted)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda c: c.name)
def test_layers_run_on_arrays_that_refuse_numpy(cupy, case, mode):
    plain, layer = (case.layer().train(mode == "train") for _ in range(2))
    inputs = case.inputs()
    for _, state in layer.named_state():
        state.value = wrap(state.value)
    expected = plain(*inputs)
    grad = np.random.default_rng(0).standard_normal(np.shape(expected))
    expected_grads = plain.backward(grad)
    with dcnlab.use_backend("numpy"):
        output = layer(*map(wrap, inputs))
        grads = layer.backward(wrap(grad))
    assert type(output) is StrictArray
    assert_close(unwrap(output), np.asarray(expected))
    if not isinstance(grads, tuple):
        grads, expected_grads = (grads,), (expected_grads,)
    for actual, wanted in zip(grads, expected_grads, strict=True):
        assert type(actual) is StrictArray
        assert_close(unwrap(actual), wanted)
    for name, actual in layer.grad_dict().items():
        assert type(actual) is StrictArray
        if name not in case.constant_in:
            assert_close(unwrap(actual), plain.grad_dict()[name], name=name)
    for name, actual in layer.state_dict().items():
        assert type(actual) is StrictArray
        assert_close(unwrap(actual), plain.state_dict()[name], 1e-12, name=name)


def test_a_whole_model_runs_on_arrays_that_refuse_numpy(cupy):
    model, data = load_net("net_h", "float64"), golden("net_h", "float64")
    model.to(cupy)
    with dcnlab.use_backend("numpy"):
        logits = model(wrap(data["input"]))
        grad = model.backward(wrap(data["grad_logits"]))
    assert type(logits) is StrictArray
    assert type(grad) is StrictArray
    assert_close(unwrap(logits), data["logits"])
    assert_close(unwrap(grad), data["grad_input"])


def test_the_stand_in_refuses_what_cupy_refuses(cupy):
    array = wrap(np.ones(3))
    with pytest.raises(TypeError, match=r"numpy\.sum was called"):
        np.sum(array)
    with pytest.raises(TypeError, match="mixes"):
        array + np.ones(3)
    with pytest.raises(TypeError, match=r"cupy\.stack was called on a NumPy array|cupy\.exp"):
        cupy.exp(np.ones(3))
