"""Loops = vectorised, forward and backward, on random geometries: every operator of the catalogue."""

import numpy as np
import pytest
from helpers import assert_close, assert_grads_close, conv_cases, dcnv3_cases, deform_conv2d_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnlab import arrays as arrays_module
from dcnlab import catalogue
from dcnlab.catalogue import OPERATORS

SEEDS = st.integers(0, 2**32 - 1)


def check(name, arguments, fixed, dtype="float64"):
    operator = OPERATORS[name]
    arguments = {key: value.astype(dtype) for key, value in arguments.items()}
    output = operator.function(**arguments, **fixed)
    assert output.dtype == dtype
    assert_close(output, operator.loops(**arguments, **fixed), name="output")
    grad = np.random.default_rng(0).standard_normal(output.shape).astype(dtype)
    actual = operator.backward(grad, **arguments, **fixed)
    expected = operator.loops_backward(grad, **arguments, **fixed)
    if hasattr(expected, "_fields"):
        assert_grads_close(actual, expected)
    else:
        assert_close(actual, expected, name="gradient")


@settings(max_examples=60)
@given(deform_conv2d_cases(), SEEDS)
def test_deform_conv2d(case, seed):
    fixed, shapes = case
    arguments = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes)
    check("deform_conv2d", arguments, fixed)


@settings(max_examples=60)
@given(dcnv3_cases(), SEEDS)
def test_dcnv3(case, seed):
    fixed, shapes = case
    check("dcnv3", catalogue.dcnv3_arguments(np.random.default_rng(seed), **fixed, **shapes), fixed)


def off_the_lattice(offsets, distance=0.02):
    """Push offsets away from integers, where a float32 position could fall into the neighbouring cell."""
    fraction = offsets - np.floor(offsets)
    return np.floor(offsets) + fraction.clip(distance, 1 - distance)


@settings(max_examples=25)
@given(deform_conv2d_cases(offsets=st.sampled_from(["small", "medium", "large"])), SEEDS)
def test_deform_conv2d_float32(case, seed):
    fixed, shapes = case
    arguments = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes)
    arguments["offset"] = off_the_lattice(arguments["offset"])
    check("deform_conv2d", arguments, fixed, "float32")


@settings(max_examples=25)
@given(dcnv3_cases(offsets=st.sampled_from(["small", "medium", "large"])), SEEDS)
def test_dcnv3_float32(case, seed):
    fixed, shapes = case
    fixed["offset_scale"] = 1.0  # positions are base + offset then, so that the push below moves them off the lattice
    arguments = catalogue.dcnv3_arguments(np.random.default_rng(seed), **fixed, **shapes)
    arguments["offset"] = off_the_lattice(arguments["offset"])
    check("dcnv3", arguments, fixed, "float32")


@settings(max_examples=40)
@given(conv_cases(), SEEDS)
def test_conv2d(case, seed):
    fixed, shapes = case
    check("conv2d", catalogue.conv_arguments(np.random.default_rng(seed), **shapes), fixed)


@settings(max_examples=40)
@given(conv_cases(depthwise=True), SEEDS)
def test_depthwise_conv2d(case, seed):
    fixed, shapes = case
    check("depthwise_conv2d", catalogue.conv_arguments(np.random.default_rng(seed), **shapes), fixed)


@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
def test_linear(rng, shape):
    check("linear", catalogue.linear_arguments(rng, shape), {})


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "twice_sigmoid"])
def test_modulations(rng, name):
    check(name, catalogue.logit_arguments(rng, (2, 3, 4)), {})


ROWS = st.lists(st.integers(0, 3), min_size=0, max_size=2).map(tuple)


@given(ROWS, st.integers(1, 6), st.sampled_from(["float64", "float32"]), SEEDS)
def test_layer_norm_and_gelu(rows, channels, dtype, seed):
    rng = np.random.default_rng(seed)
    if channels > 2:  # two numbers, normalised, are 1 and -1 but for eps: their gradient is what rounding leaves
        check("layer_norm", catalogue.norm_arguments(rng, (*rows, channels)), {"eps": 1e-2}, dtype)
    check("gelu", catalogue.logit_arguments(rng, (*rows, channels)), {}, dtype)


@given(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3), st.integers(2, 3), st.booleans(), SEEDS)
def test_batch_norm(batch, channels, height, width, statistics, seed):
    rng = np.random.default_rng(seed)
    arguments = catalogue.norm_arguments(rng, (batch, channels, height, width), axis=1, statistics=statistics)
    check("batch_norm", arguments, {"eps": 1e-2})


@given(ROWS, st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), SEEDS)
def test_attention(leading, queries, keys, width, values, seed):
    rng = np.random.default_rng(seed)
    check("attention", catalogue.attention_arguments(rng, leading, queries, keys, width, values), {"scale": 0.7})
    check("attention", catalogue.attention_arguments(rng, leading, queries, keys, width, values), {})


@given(st.integers(0, 4), st.integers(1, 5), st.sampled_from([0.0, 0.1, 1.0]), SEEDS)
def test_cross_entropy(rows, classes, label_smoothing, seed):
    rng = np.random.default_rng(seed)
    fixed = {"labels": rng.integers(0, classes, rows), "label_smoothing": label_smoothing}
    check("cross_entropy", {"logits": rng.standard_normal((rows, classes))}, fixed)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_along_any_axis(rng, axis):
    check("softmax", catalogue.logit_arguments(rng, (2, 3, 4)), {"axis": axis})


def test_every_operator_has_loops_or_is_made_of_operators_that_have():
    without = [name for name, operator in OPERATORS.items() if operator.loops is None]
    assert without == ["normalise_modulation"]


@pytest.mark.parametrize("name", ["deform_conv2d", "dcnv3", "conv2d"])
def test_blocks_change_nothing(rng, name, monkeypatch):
    """A workspace of one pixel at a time gives what one block gives."""
    case = next(c for c in catalogue.CASES if c.operator.name == name)
    arguments, fixed = case.arguments(rng), case.fixed()
    whole = case.operator.function(**arguments, **fixed)
    grad = rng.standard_normal(whole.shape)
    whole_grads = case.operator.backward(grad, **arguments, **fixed)
    monkeypatch.setattr(arrays_module, "BLOCK_BYTES", 1)
    assert_close(case.operator.function(**arguments, **fixed), whole, name="output")
    assert_grads_close(case.operator.backward(grad, **arguments, **fixed), whole_grads)
