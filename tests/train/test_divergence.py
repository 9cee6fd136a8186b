"""Where a run went wrong: the first layer with a number that is not finite is named."""

import numpy as np
import pytest

from dcnlab import nn
from dcnlab.train.divergence import has_diverged, watched, where_from


class Reciprocal(nn.Module):
    """1 / x, which turns 0 into infinity, and its gradient into NaN."""

    @np.errstate(all="ignore")
    def forward(self, input):
        self.keep(input=input)
        return 1 / input

    @np.errstate(all="ignore")
    def backward(self, grad_output):
        return -grad_output / self.kept().input ** 2


class Root(nn.Module):
    """sqrt(x): finite at 0, but its slope is not."""

    def forward(self, input):
        self.keep(output=np.sqrt(input))
        return self.kept().output

    @np.errstate(all="ignore")
    def backward(self, grad_output):
        return grad_output / (2 * self.kept().output)


@pytest.fixture
def net():
    def with_middle(middle):
        model = nn.Sequential(nn.Linear(3, 3, rng=0), middle, nn.Linear(3, 2, rng=1))
        vars(model)["0"].weight.value = np.eye(3)
        vars(model)["0"].bias.value = np.zeros(3)

        def again():
            return model.backward(np.ones_like(model(np.array([[1, 0, 2]], np.float32))))

        return model, again

    return with_middle


def test_the_layer_that_made_infinity_is_named(net):
    assert where_from(*net(Reciprocal())) == (
        "1 (Reciprocal) made an output with an infinite number of an input that is finite"
    )


def test_the_layer_that_made_an_infinite_gradient_is_named(net):
    assert where_from(*net(Root())) == (
        "1 (Root) made an input gradient with an infinite number of an output gradient that is finite"
    )


def test_a_parameter_that_is_not_finite_is_named(net):
    model, again = net(nn.GELU())
    model[2].bias.value = np.array([0, np.nan])
    assert where_from(model, again) == "2.bias holds NaN"


def test_where_all_is_finite_the_largest_output_is_named(net):
    model, again = net(nn.GELU())
    model[0].weight.value = 1e6 * np.eye(3)
    model[2].weight.value = np.zeros((2, 3))
    found = where_from(model, again)
    assert found.startswith("everything is finite; the largest output is that of 0 (Linear), rms 1.29e+06")


def test_watching_leaves_the_model_as_it_was(net):
    model, again = net(nn.GELU())
    again()
    before, seen = {name: dict(vars(m)) for name, m in model.named_modules()}, []
    with watched(model, lambda *call: seen.append(call[:3:2])):
        again()
    layers = ["0", "1", "2", "Sequential"]
    assert [name for name, _ in seen] == [*layers, *layers[2::-1], "Sequential"]
    assert [direction for _, direction in seen] == ["forward"] * 4 + ["backward"] * 4
    assert all(set(vars(m)) == set(before[name]) for name, m in model.named_modules())


@pytest.mark.parametrize(
    ("loss", "steps", "norm", "lost"),
    [(float("nan"), 1, 1.0, True), (1.0, 1, float("nan"), True), (6.8, 20, 1.0, False), (7.0, 20, 1.0, True)],
)
def test_the_rule(loss, steps, norm, lost):
    assert has_diverged(loss, steps, norm, classes=10) is lost
