"""Batch norm over several ranks: what one layer computes on the joined batch."""

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.layers import randomise
from nn.lockstep import Lockstep
from strict_cupy import StrictArray, install, unwrap, wrap

from dcnlab import nn

CHANNELS = 3


def layer(dtype=np.float64, seed=0):
    norm = nn.BatchNorm2d(CHANNELS, momentum=0.3, dtype=dtype)
    randomise(norm, np.random.default_rng(seed))
    return norm


class Joint(nn.Module):
    """A layer that is computed by several ranks, each on its part of the batch."""

    def __init__(self, parts, dtype=np.float64):
        self.whole = layer(dtype)  # holds the parameters
        self.world = Lockstep(len(parts))
        self.cuts = np.cumsum(parts)[:-1]
        self.ranks = [layer(dtype) for _ in parts]  # a list is not part of the state
        for rank, norm in enumerate(self.ranks):
            norm.total = self.world.total(rank)

    def forward(self, input):
        for norm in self.ranks:
            norm.weight.value, norm.bias.value = self.whole.weight.value, self.whole.bias.value
        parts = np.split(input, self.cuts)
        return np.concatenate(self.world.run(lambda rank: self.ranks[rank](parts[rank])))

    def backward(self, grad_output):
        parts = np.split(grad_output, self.cuts)
        grads = self.world.run(lambda rank: self.ranks[rank].backward(parts[rank]))
        self.whole.weight.grad = sum(norm.weight.grad for norm in self.ranks)
        self.whole.bias.grad = sum(norm.bias.grad for norm in self.ranks)
        return np.concatenate(grads)


def assert_is_one_layer(parts, size, seed, dtype=np.float64):
    """Two steps, so that the running statistics move twice. Means of 5 and deviations of 2: centring matters."""
    rng = np.random.default_rng(seed)
    joint, whole = Joint(parts, dtype), layer(dtype)
    for _ in range(2):
        x, grad = (rng.standard_normal((sum(parts), CHANNELS, *size)).astype(dtype) for _ in range(2))
        x = 2 * x + 5
        assert_close(joint(x), whole(x), name="output")
        assert_close(joint.backward(grad), whole.backward(grad), name="gradient of the input")
        for name, expected in whole.grad_dict().items():
            assert_close(joint.grad_dict()[f"whole.{name}"], expected, name=name)
    for norm in joint.ranks:
        for name, expected in whole.state_dict().items():
            assert_close(norm.state_dict()[name], expected, 1e-12 if dtype == np.float64 else 1e-5, name)
            np.testing.assert_array_equal(norm.state_dict()[name], joint.ranks[0].state_dict()[name])


@settings(max_examples=30)  # each starts threads
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(lambda parts: sum(parts) >= 2),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 2**32),
)
def test_parts_of_a_batch_are_the_batch(parts, size, seed):
    """Also where a rank has no samples."""
    if sum(parts) * size[0] * size[1] < 4:
        size = (2, 2)  # of two or three values the gradient of the input nearly vanishes: rounding is all that is left
    assert_is_one_layer(parts, size, seed)


def test_float32_stays_float32():
    assert_is_one_layer([3, 2], (4, 5), 0, np.float32)
    joint = Joint([1, 1], np.float32)
    x = np.random.default_rng(0).standard_normal((2, CHANNELS, 2, 2)).astype(np.float32)
    assert {joint(x).dtype, joint.backward(x).dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize("parts", [(2, 1), (3, 0), (1, 1, 1)])
def test_the_gradient_of_the_joint_function(parts):
    x = np.random.default_rng(1).standard_normal((3, CHANNELS, 2, 3))
    report = nn.check_layer(Joint(parts), x, wrt=["input", "whole.weight", "whole.bias"])
    assert report.ok, str(report)


@pytest.mark.parametrize("lost", ["mean", "variance"])
def test_a_lost_path_through_the_statistics_fails(lost, monkeypatch):
    from dcnlab.nn import image

    right = image.layers.batch_norm_backward

    def wrong(*arguments):
        grads = right(*arguments)
        return grads._replace(**{lost: np.zeros_like(getattr(grads, lost))})

    monkeypatch.setattr(image.layers, "batch_norm_backward", wrong)
    x = np.random.default_rng(1).standard_normal((3, CHANNELS, 2, 3))
    assert not nn.check_layer(Joint((2, 1)), x, wrt=["input"]).ok


def nobody_answers(array):
    raise AssertionError("asked for a sum")


def test_inference_and_a_new_layer_ask_nobody():
    norm = nn.BatchNorm2d(CHANNELS)
    assert norm.total is None
    norm.total = nobody_answers
    x = np.ones((2, CHANNELS, 2, 2), np.float32)
    norm.eval()(x)
    assert norm.backward(x).shape == x.shape


def test_one_value_in_all_has_no_variance_and_none_changes_nothing():
    x = np.ones((1, CHANNELS, 1, 1))
    with pytest.raises(ValueError, match=r"more than one value per channel, got \([01], 3, 1, 1\)"):
        Joint((1, 0))(x)
    joint = Joint((0, 0))
    before = joint.ranks[0].running_var.value.copy()
    assert joint(x[:0]).shape == joint.backward(x[:0]).shape == (0, CHANNELS, 1, 1)
    np.testing.assert_array_equal(joint.ranks[0].running_var.value, before)
    assert Joint((1, 1))(np.concatenate([x, -x])).shape == (2, CHANNELS, 1, 1), "one value on each rank is enough"


def test_another_number_of_channels_is_refused():
    norm = layer()
    norm.total = lambda array: array
    with pytest.raises(ValueError, match=r"BatchNorm2d: expected \(N, 3, H, W\), got \(2, 4, 1, 1\)"):
        norm(np.ones((2, 4, 1, 1)))


def test_nan_warns_nobody():
    joint = Joint((1, 1))
    x = np.random.default_rng(0).standard_normal((2, CHANNELS, 2, 2))
    x[0, 0, 0, 0], x[0, 1, 0, 0] = np.nan, np.inf
    assert np.isnan(joint(x)[:, :2]).all(), "also on the rank whose own part is finite"
    assert np.isfinite(joint.backward(x[::-1])[:, 2]).all()


def test_arrays_that_refuse_numpy(monkeypatch):
    """All sums but the count, which the host needs to know, are on the array's side."""
    install(monkeypatch)
    plain, strict, summed = layer(), layer(), []
    for _, state in strict.named_state():
        state.value = wrap(state.value)
    strict.total = lambda array: summed.append(type(array)) or array
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((2, 2, CHANNELS, 3, 2))
    assert_close(unwrap(strict(wrap(x))), plain(x))
    assert_close(unwrap(strict.backward(wrap(grad))), plain.backward(grad))
    assert summed == [np.ndarray, StrictArray, StrictArray, StrictArray]
    assert_close(unwrap(strict.running_var.value), plain.running_var.value)
