"""AdamW against closed forms, groups of a real model, clipping, and the moving average against its recursion."""

import contextlib
import math

import numpy as np
import pytest
import strict_cupy
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st
from strict_cupy import StrictArray, unwrap, wrap

import dcnlab
from dcnlab import nn
from dcnlab.nn import Buffer, Parameter
from dcnlab.nn.initialise import zeros
from dcnlab.train.optimiser import AdamW, MovingAverage, ParameterGroup, clip_gradients, parameter_groups

# 20 steps of a dozen roundings each, of numbers near 1.
ROUNDING = 20 * 12 * 2**-53


def parameter(value, dtype="float64"):
    array = np.asarray(value, dtype)
    made = Parameter(array.shape, zeros, dtype)
    made.value = array.copy()
    return made


def optimiser(made, weight_decay=0.0, rate=1.0, **settings):
    return AdamW([ParameterGroup({"p": made}, weight_decay, rate)], **settings)


def small_model(dtype="float64", rng=0, **settings):
    shape = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 3}
    return dcnlab.InternImage(**shape, **settings, dtype=dtype, rng=rng)


def with_random_grads(model, seed=0):
    rng = np.random.default_rng(seed)
    for state in model.parameters():
        state.grad = rng.standard_normal(state.shape).astype(state.dtype)
    return model


# -- AdamW ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_with_one_gradient_for_ever_the_closed_form(steps):
    """The moments, corrected, are g and g^2 at every step: p_t = (1 - a)^t p_0 - s ((1 - (1 - a)^t) / a, a = lr wd."""
    start, grad = np.array([2.0, -1.0, 0.5]), np.array([0.3, -20.0, 1e-9])
    lr, decay, eps = 0.01, 0.4, 1e-8
    made = parameter(start)
    adam = optimiser(made, decay, eps=eps)
    for _ in range(steps):
        made.grad = grad.copy()
        adam.step(lr)
    kept = (1 - lr * decay) ** steps
    expected = kept * start - lr * grad / (abs(grad) + eps) * (1 - kept) / (lr * decay)
    # The corrections 1 - beta^t lose up to 1 / (1 - beta_2) = 1000 times the rounding at t = 1.
    np.testing.assert_allclose(made.value, expected, rtol=0, atol=1000 * ROUNDING)


def test_with_changing_gradients_the_sums_of_the_moments(rng):
    """Both moments written out as weighted sums over all gradients so far, without any recursion."""
    grads, (beta1, beta2), eps, decay = rng.standard_normal((20, 7)), (0.85, 0.97), 1e-3, 0.1
    rates = 0.05 / np.arange(1, 21)
    made = parameter(np.linspace(-1, 1, 7))
    adam, expected = optimiser(made, decay, betas=(beta1, beta2), eps=eps), np.linspace(-1, 1, 7)
    for t in range(20):
        made.grad = grads[t]
        adam.step(rates[t])
        ages = np.arange(t, -1, -1)[:, None]
        first = ((1 - beta1) * beta1**ages * grads[: t + 1]).sum(axis=0) / (1 - beta1 ** (t + 1))
        second = ((1 - beta2) * beta2**ages * grads[: t + 1] ** 2).sum(axis=0) / (1 - beta2 ** (t + 1))
        expected = expected * (1 - rates[t] * decay) - rates[t] * first / (np.sqrt(second) + eps)
    np.testing.assert_allclose(made.value, expected, rtol=0, atol=100 * ROUNDING)


def test_decay_is_decoupled_from_the_gradient():
    made = parameter([1.0, -4.0])
    adam = optimiser(made, weight_decay=0.5)
    made.grad = np.zeros(2)
    adam.step(0.1)
    np.testing.assert_allclose(made.value, [0.95, -3.8], rtol=2**-52)
    with_decay, without = parameter([3.0]), parameter([3.0])
    pair = optimiser(with_decay, 0.5), optimiser(without)
    for adam, made in zip(pair, (with_decay, without), strict=True):
        made.grad = np.array([7.0])
        adam.step(0.1)
    np.testing.assert_allclose(without.value - with_decay.value, 0.1 * 0.5 * 3.0, rtol=1e-14)
    moments = [adam.state_dict() for adam in pair]
    assert moments[0] == moments[1], "decay must not enter the moments"


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_steps_do_not_depend_on_the_scale_of_the_gradients(scale, seed):
    """Up to eps: with |g| >= 0.1 * 1e-3, eps = 1e-20 changes the quotient by less than its rounding."""
    grads = np.random.default_rng(seed).uniform(0.1, 1, (5, 4))
    values = []
    for factor in (1.0, scale):
        made = parameter(np.ones(4))
        adam = optimiser(made, 0.1, eps=1e-20)
        for grad in grads:
            made.grad = factor * grad
            adam.step(0.01)
        values.append(made.value)
    np.testing.assert_allclose(values[1], values[0], rtol=0, atol=1000 * ROUNDING)


def test_the_first_step_has_the_length_of_the_learning_rate():
    made = parameter([0.0, 0.0, 0.0])
    made.grad = np.array([1e-3, -5.0, 0.0])
    optimiser(made, rate=0.1, eps=1e-30).step(0.5)
    np.testing.assert_allclose(made.value, [-0.05, 0.05, 0.0], rtol=1e-13)


def test_float32_stays_float32_and_agrees_with_float64(rng):
    grads, values = rng.standard_normal((10, 6, 5)), {}
    for dtype in ("float32", "float64"):
        made = parameter(np.ones((6, 5)), dtype)
        adam = optimiser(made, 0.1)
        for grad in grads:
            made.grad = grad.astype(dtype)
            adam.step(1e-2)
        values[dtype] = made.value
        assert {state.dtype.name for name, state in adam.state_dict().items() if name != "steps"} == {dtype}
    assert values["float32"].dtype == np.float32
    assert_close(values["float32"], values["float64"])


def test_it_works_in_place_and_leaves_gradients_alone(rng):
    made = parameter(rng.standard_normal((3, 4, 2)))
    made.grad = rng.standard_normal((2, 4, 3)).T  # not contiguous
    array, grad = made.value, made.grad.copy()
    before = array.copy()
    optimiser(made, 0.1).step(0.1)
    assert made.value is array
    assert (array != before).all()
    np.testing.assert_array_equal(made.grad, grad)


def test_a_parameter_without_a_gradient_stays():
    used, unused = parameter([1.0]), parameter([1.0])
    used.grad = np.ones(1)
    AdamW([ParameterGroup({"used": used, "unused": unused}, 0.5)]).step(0.1)
    assert unused.value[0] == 1
    assert used.value[0] < 0.9


def test_a_gradient_that_is_not_finite_warns_of_nothing_and_spoils_its_entry_only():
    made = parameter([1.0, 1.0, 1.0, 1.0], "float32")
    made.grad = np.array([1.0, np.nan, np.inf, 1e30], "float32")
    optimiser(made).step(0.1)
    assert np.isfinite(made.value).tolist() == [True, False, False, True]


def test_it_learns():
    """A layer finds the line through points that lie on one."""
    rng, layer, loss = np.random.default_rng(0), nn.Linear(2, 1, dtype="float64", rng=0), []
    x = rng.standard_normal((50, 2))
    target = x @ [[2.0], [-1.0]] + 0.5
    adam = AdamW(parameter_groups(layer, weight_decay=0.0))
    for step in range(400):
        wrong = layer(x) - target
        layer.backward(2 * wrong / len(x))
        adam.step(0.1 * (1 - step / 400))
        loss.append(float((wrong**2).mean()))
    np.testing.assert_allclose(layer.weight.value, [[2.0, -1.0]], atol=1e-3)
    np.testing.assert_allclose(layer.bias.value, [0.5], atol=1e-3)


# -- groups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"layer_scale": 1e-5, "post_norm": True}, {"center_feature_scale": True}])
def test_each_parameter_of_a_model_is_in_one_group(settings):
    model = small_model(**settings)
    groups = parameter_groups(model, weight_decay=0.05, offset_lr=0.1)
    assert len(groups) == 4
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    by_name = {name: group for group in groups for name in group.parameters}
    for name, made in model.named_parameters():
        assert by_name[name].parameters[name] is made
        assert by_name[name].weight_decay == (0.05 if made.value.ndim >= 2 else 0.0), name
        special = ".offset." in name or "center_feature_scale_proj" in name
        assert by_name[name].rate == (0.1 if special else 1.0), name


def test_some_parameters_by_name():
    model = small_model(layer_scale=1.0, center_feature_scale=True)
    groups = parameter_groups(model, weight_decay=0.05, offset_lr=0.1)
    found = {name: (group.weight_decay, group.rate) for group in groups for name in group.parameters}
    block = "levels.2.blocks.1."
    assert found[block + "dcn.offset.weight"] == (0.05, 0.1)
    assert found[block + "dcn.offset.bias"] == (0.0, 0.1)
    assert found[block + "dcn.center_feature_scale_proj_weight"] == (0.05, 0.1)
    assert found[block + "dcn.center_feature_scale_proj_bias"] == (0.0, 0.1)
    assert found[block + "dcn.mask.weight"] == (0.05, 1.0)
    assert found[block + "gamma1"] == (0.0, 1.0)
    assert found[block + "norm1.0.weight"] == (0.0, 1.0)
    assert found["head.weight"] == (0.05, 1.0)


def test_a_layer_without_offsets_has_no_empty_groups():
    assert [len(group.parameters) for group in parameter_groups(nn.Linear(2, 2), 0.1)] == [1, 1]


# -- resuming ------------------------------------------------------------------------------------------------------


def test_a_resumed_training_is_the_same_to_the_bit(tmp_path):
    def trained(model, adam, average, steps):
        for step in steps:
            with_random_grads(model, step)
            adam.step(0.01)
            average.update()
        return {**model.state_dict(), **adam.state_dict(), **average.state_dict()}

    def new(rng):
        model = small_model("float32", rng)
        return model, AdamW(parameter_groups(model, 0.05, 0.1)), MovingAverage(model, 0.9)

    whole = trained(*new(0), range(6))
    first = new(0)
    trained(*first, range(3))
    for part, name in zip(first, ("model", "adam", "average"), strict=True):
        dcnlab.save_checkpoint(tmp_path / f"{name}.safetensors", part.state_dict())
    second = new(1)
    for part, name in zip(second, ("model", "adam", "average"), strict=True):
        part.load_state_dict(dcnlab.load_checkpoint(tmp_path / f"{name}.safetensors"))
    resumed = trained(*second, range(3, 6))
    assert list(resumed) == list(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_the_names_of_the_state():
    layer = with_random_grads(nn.Linear(3, 2))
    adam = AdamW(parameter_groups(layer, 0.1))
    adam.step(0.1)
    state = adam.state_dict()
    assert list(state) == ["steps", "first.weight", "first.bias", "second.weight", "second.bias"]
    assert state["steps"].dtype == np.int64
    assert state["steps"] == 1
    np.testing.assert_allclose(state["second.bias"], 0.001 * layer.bias.grad**2, rtol=1e-5)


def wrongly_saved(state, change):
    name, value = change
    return {k: v for k, v in {**state, name: value}.items() if v is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("first.weight", None), r"load_state_dict: 1 missing: first.weight$"),
        (("extra", np.zeros(1)), r"1 unexpected: extra$"),
        (("first.weight", np.zeros((3, 2), "f4")), r"first.weight \(expected \(2, 3\) float32, got \(3, 2\) float32\)"),
        (("second.bias", np.zeros(2)), r"second.bias \(expected \(2,\) float32, got \(2,\) float64\)"),
        (("steps", np.array(1.5)), r"steps \(expected \(\) int64, got \(\) float64\)"),
        (("steps", np.array(-1)), r"steps must be at least 0, got -1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    layer = with_random_grads(nn.Linear(3, 2))
    adam = AdamW(parameter_groups(layer, 0.1))
    adam.step(0.1)
    before = {name: np.copy(array) for name, array in adam.state_dict().items()}
    saved = {name: 2 * array for name, array in before.items()}
    with pytest.raises(ValueError, match=message):
        adam.load_state_dict(wrongly_saved(saved, change))
    for name, array in adam.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_what_is_loaded_is_copied():
    adam = optimiser(parameter([1.0]))
    state = {"steps": np.array(3), "first.p": np.ones(1), "second.p": np.ones(1)}
    adam.load_state_dict(state)
    state["first.p"][:] = 9
    assert adam.state_dict()["first.p"] == 1
    assert adam.steps == 3


def test_many_problems_are_listed_in_one_short_line():
    adam = AdamW(parameter_groups(small_model(), 0.1))
    with pytest.raises(ValueError, match=r"^AdamW.load_state_dict: \d+ missing: steps, first\.") as refused:
        adam.load_state_dict({})
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


# -- bad arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"eps": 0.0},
        {"eps": math.nan},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"rate": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"^AdamW: .* got "):
        optimiser(parameter([1.0]), **settings)


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_a_learning_rate_out_of_range_is_refused(lr):
    made = parameter([1.0])
    made.grad = np.ones(1)
    adam = optimiser(made)
    with pytest.raises(ValueError, match="lr must be at least 0 and finite, got"):
        adam.step(lr)
    assert adam.steps == 0
    assert made.value == 1


def test_a_parameter_in_two_groups_or_of_another_type_is_refused():
    made = parameter([1.0])
    for name in ("p", "q"):
        with pytest.raises(ValueError, match=f"each parameter must be in one group, {name} is in two"):
            AdamW([ParameterGroup({"p": made}), ParameterGroup({name: made})])
    with pytest.raises(TypeError, match="p must be float32 or float64, got float16"):
        optimiser(parameter([1.0], "float16"))


# -- clipping ------------------------------------------------------------------------------------------------------


def norm_of(model):
    return math.sqrt(sum(float((grad.astype(float) ** 2).sum()) for grad in model.grad_dict().values()))


def test_gradients_are_scaled_to_the_limit_and_keep_their_direction():
    model = with_random_grads(nn.Linear(30, 20, dtype="float64"))
    before = {name: grad.copy() for name, grad in model.grad_dict().items()}
    expected = norm_of(model)
    assert clip_gradients(model, 2.0) == pytest.approx(expected, rel=1e-13)
    assert norm_of(model) == pytest.approx(2.0, rel=1e-13)
    for name, grad in model.grad_dict().items():
        np.testing.assert_allclose(grad, before[name] * 2.0 / expected, rtol=1e-14)


@pytest.mark.parametrize("limit", [1e3, math.inf])
def test_below_the_limit_nothing_changes(limit):
    model = with_random_grads(nn.Linear(3, 2))
    grads = model.grad_dict()
    clip_gradients(model, limit)
    assert all(model.grad_dict()[name] is grad for name, grad in grads.items())


def test_the_norm_is_summed_in_float64():
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.grad = np.array([[3e30], [4e30]], np.float32)  # their squares are beyond float32
    assert clip_gradients(layer, 1.0) == pytest.approx(5e30, rel=1e-6)
    np.testing.assert_allclose(layer.weight.grad, [[0.6], [0.8]], rtol=1e-6)
    assert layer.weight.grad.dtype == np.float32


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned_and_nothing_is_scaled(value):
    model = with_random_grads(nn.Linear(3, 2))
    model.bias.grad[0] = value
    before = {name: grad.copy() for name, grad in model.grad_dict().items()}
    assert not math.isfinite(clip_gradients(model, 1e-3))
    for name, grad in model.grad_dict().items():
        np.testing.assert_array_equal(grad, before[name])


def test_clipping_without_gradients_or_with_a_bad_limit():
    model = nn.Linear(3, 2)
    assert clip_gradients(model, 1.0) == 0
    for limit in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="limit must be more than 0, got"):
            clip_gradients(model, limit)


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


# -- CuPy ----------------------------------------------------------------------------------------------------------


def test_it_runs_on_arrays_that_refuse_numpy(monkeypatch):
    """There is no GPU here: a stand-in plays CuPy (strict_cupy.py)."""
    cupy = strict_cupy.install(monkeypatch)
    plain, other = (with_random_grads(nn.Linear(3, 2, dtype="float64", rng=0)) for _ in range(2))
    other.to(cupy)
    for state in other.parameters():
        state.grad = wrap(state.grad)
    found = []
    for model in (plain, other):
        adam, average = AdamW(parameter_groups(model, 0.1)), MovingAverage(model, 0.5)
        saved = {name: np.asarray(unwrap(array)) for name, array in adam.state_dict().items()}
        adam.load_state_dict(saved)  # as from a file: NumPy arrays
        norm = clip_gradients(model, 0.5)
        adam.step(0.1)
        average.update()
        with average.in_use():
            found.append([norm, *model.state_dict().values(), *adam.state_dict().values()])
        assert all(type(array) is type(model.weight.value) for array in average.state_dict().values() if array.ndim)
    assert type(other.weight.value) is StrictArray
    for mine, reference in zip(found[1], found[0], strict=True):
        np.testing.assert_array_equal(unwrap(mine), reference)
