"""The moving average of a model's state, against its recursion."""

import contextlib

import numpy as np
import pytest
from training import small_model, with_random_grads

from dcnlab import nn
from dcnlab.nn import Buffer, Parameter
from dcnlab.nn.initialise import zeros
from dcnlab.train.optimiser import AdamW, MovingAverage, parameter_groups

# -- moving average ------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A parameter, a buffer of floats and one of ints."""

    def __init__(self):
        self.weight = Parameter((2,), zeros, "float64")
        self.mean = Buffer((3,), zeros, "float64")
        self.batches = Buffer((), zeros, "int64")

    def forward(self, input):
        raise NotImplementedError

    def backward(self, grad_output):
        raise NotImplementedError


def test_the_average_is_the_weighted_sum_of_all_states(rng):
    """Each state weighs 1 - d_n, times all later d; what remains is the start's."""
    model = Counting()
    states = rng.standard_normal((31, 5))
    model.weight.value, model.mean.value = states[0, :2], states[0, 2:]
    average = MovingAverage(model, decay=0.6)
    for number, state in enumerate(states[1:], start=1):
        model.weight.value, model.mean.value, model.batches.value = state[:2], state[2:], np.array(number)
        average.update()
    decays = np.array([min(0.6, (1 + n) / (10 + n)) for n in range(30)])
    assert 5 < (decays < 0.6).sum() < 20, "both the warm-up and the decay are seen"
    later = np.append(np.cumprod(decays[::-1])[::-1], 1.0)  # later[n]: product of the decays from update n on
    expected = later[0] * states[0] + ((1 - decays) * later[1:]) @ states[1:]
    state = average.state_dict()
    np.testing.assert_allclose(state["average.weight"], expected[:2], rtol=1e-13)
    np.testing.assert_allclose(state["average.mean"], expected[2:], rtol=1e-13)
    assert state["average.batches"] == 30
    assert state["average.batches"].dtype == np.int64
    assert state["updates"] == 30


def test_in_use_swaps_the_state_and_gives_it_back():
    model = small_model("float32")
    average = MovingAverage(model, 0.9)
    arrays = model.state_dict()
    with_random_grads(model)
    AdamW(parameter_groups(model, 0.1)).step(0.5)
    own = {name: array.copy() for name, array in model.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")
    model.eval()
    moved = model(x)
    with average.in_use():
        averaged = model(x)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, average.state_dict()[f"average.{name}"])
    assert (averaged != moved).any()
    np.testing.assert_array_equal(averaged, small_model("float32").eval()(x), "no update yet: the first state")
    np.testing.assert_array_equal(model(x), moved)
    for name, array in model.state_dict().items():
        assert array is arrays[name], "the arrays that the optimiser changes"
        np.testing.assert_array_equal(array, own[name])


def test_the_state_comes_back_after_an_error():
    model = Counting()
    average = MovingAverage(model, 0.9)
    model.weight.value = np.ones(2)
    with contextlib.suppress(KeyError), average.in_use():
        assert not model.weight.value.any()
        raise KeyError
    assert model.weight.value.all()
    average.update()  # and it goes on


def test_while_in_use_the_average_does_not_change():
    average = MovingAverage(Counting(), 0.9)
    with average.in_use():
        for refused in (average.update, lambda: average.load_state_dict({}), average.in_use().__enter__):
            with pytest.raises(RuntimeError, match="not inside in_use"):
                refused()


def test_an_average_of_another_model_is_refused():
    average = MovingAverage(nn.Linear(2, 2), 0.9)
    with pytest.raises(ValueError, match=r"^MovingAverage.load_state_dict: 1 missing: average.bias; 2 unex"):
        average.load_state_dict(MovingAverage(Counting(), 0.9).state_dict())
    with pytest.raises(ValueError, match=r"decay must be in 0..1, without 1, got 1.0"):
        MovingAverage(nn.Linear(2, 2), 1.0)
