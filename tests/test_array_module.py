"""The reference never mixes its arrays with NumPy's behind their back: what lets it run on CuPy arrays unchanged.

There is no GPU here, so a stand-in plays CuPy: its arrays refuse every NumPy function and every operation with a plain
NumPy array, as CuPy's do, and only its own module can make them.
"""

import sys
import types

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from golden_nets import golden, load_net
from helpers import assert_close
from nn.layers import LAYERS

import dcnlab
from dcnlab import catalogue
from dcnlab.reference import activation, convolution, deformable, dense, depthwise, normalisation


class StrictArray(np.ndarray):
    """An array of the stand-in: NumPy's functions are not for it."""

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called on an array of another library")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        for value in (*inputs, *out):
            if type(value) is np.ndarray and value.ndim:
                raise TypeError(f"{ufunc.__name__} mixes an array of another library with a NumPy array")
        plain = [x.view(np.ndarray) if isinstance(x, StrictArray) else x for x in inputs]
        if out:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        return wrap(getattr(ufunc, method)(*plain, **kwargs))


StrictArray.__module__ = "cupy"


def wrap(value):
    if isinstance(value, np.ndarray):
        return value.view(StrictArray)
    return np.asarray(value).view(StrictArray) if isinstance(value, np.generic) else value


def unwrap(value):
    if isinstance(value, StrictArray):
        return value.view(np.ndarray)
    return type(value)(map(unwrap, value)) if type(value) in (list, tuple) else value


class Module(types.ModuleType):
    """The stand-in's functions: NumPy's, on its own arrays only."""

    def __getattr__(self, name):
        target = getattr(np, name)
        if isinstance(target, type) or not callable(target):
            return target

        def call(*args, **kwargs):
            refused = [a for a in args if type(a) is np.ndarray and a.ndim] if name not in ("asarray", "array") else []
            if refused:
                raise TypeError(f"cupy.{name} was called on a NumPy array")
            return wrap(target(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()}))

        return call


class StrictMatrix:
    """A sparse matrix of the stand-in."""

    def __init__(self, arrays, shape, turned=False):
        (self.data, self.indices, self.indptr), self.shape, self.turned = arrays, shape, turned

    @property
    def T(self):
        return StrictMatrix((self.data, self.indices, self.indptr), self.shape, turned=True)

    def __matmul__(self, other):
        arrays = (self.data, self.indices, self.indptr)
        assert all(type(a) is StrictArray for a in (*arrays, other))
        matrix = scipy.sparse.csr_matrix(tuple(map(unwrap, arrays)), shape=self.shape)
        return wrap((matrix.T if self.turned else matrix) @ unwrap(other))


@pytest.fixture
def cupy(monkeypatch):
    """Put the stand-in where `import cupy` would find it."""
    module = Module("cupy")
    sparse = types.ModuleType("cupyx.scipy.sparse")
    sparse.csr_matrix = lambda arrays, shape: StrictMatrix(arrays, shape)
    special = types.ModuleType("cupyx.scipy.special")
    special.ndtr = lambda array, out: wrap(scipy.special.ndtr(unwrap(array), out=unwrap(out)))
    parents = {name: types.ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    parents["cupyx"].scipy, parents["cupyx.scipy"].sparse = parents["cupyx.scipy"], sparse
    stand_ins = {"cupy": module, "cupyx.scipy.sparse": sparse, "cupyx.scipy.special": special, **parents}
    for name, value in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, value)
    return module


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
