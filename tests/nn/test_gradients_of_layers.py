"""Every layer by gradcheck, for its inputs and every parameter, in training mode and in inference."""

import numpy as np
import pytest
from nn.layers import LAYERS

from dcnlab import nn
from dcnlab.nn import deformable

IDS = [case.name for case in LAYERS]


def by_name(name):
    return next(case for case in LAYERS if case.name == name)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_gradients(case, mode):
    layer = case.layer().train(mode == "train")
    report = nn.check_layer(layer, *case.inputs(), constant_in=case.constant_in)
    assert report.ok, str(report)
    assert len(report.checks) == len(case.shapes) + len(layer.parameters())


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_a_backward_pass_that_is_wrong_by_a_thousandth_fails(case, monkeypatch):
    """In the gradient of the input, and in that of each parameter."""
    layer, inputs = case.layer().eval(), case.inputs()
    right = type(layer).backward
    for name, parameter in layer.named_parameters():
        if name in case.constant_in:
            continue

        def wrong(self, grad, _parameter=parameter):
            found = right(self, grad)
            _parameter.grad = _parameter.grad * 1.001
            return found

        monkeypatch.setattr(type(layer), "backward", wrong)
        assert not nn.check_layer(layer, *inputs, wrt=[name]).ok, f"a wrong gradient of {name} passed"

    def wrong_input(self, grad):
        found = right(self, grad)
        return type(found)(*(1.001 * g for g in found)) if isinstance(found, tuple) else 1.001 * found

    monkeypatch.setattr(type(layer), "backward", wrong_input)
    report = nn.check_layer(layer, *inputs, constant_in=case.constant_in)
    assert [check.ok for check in report.checks[: len(case.shapes)]] == [False] * len(case.shapes)


@pytest.mark.parametrize("name", ["k_bias", "cross_dcn.k_bias"])
def test_a_gradient_that_should_be_zero_and_is_not_fails(name, monkeypatch):
    case = next(c for c in LAYERS if name in c.constant_in)
    layer = case.layer()
    attention = next(m for m in layer.modules() if isinstance(m, nn.CrossAttention))
    right = nn.CrossAttention.backward

    def wrong(self, grad):
        found = right(self, grad)
        attention.k_bias.grad = attention.k_bias.grad + 1e-6
        return found

    monkeypatch.setattr(nn.CrossAttention, "backward", wrong)
    assert not nn.check_layer(layer, *case.inputs(), wrt=[name], constant_in=case.constant_in).ok


@pytest.mark.parametrize("branch", ["offset", "mask"])
def test_a_lost_path_of_dcnv3_fails(branch, monkeypatch):
    """The input's gradient has three paths; one that is forgotten shows."""
    right = deformable.deformable.dcnv3_backward

    def wrong(*arguments):
        grads = right(*arguments)
        return grads._replace(**{branch: np.zeros_like(getattr(grads, branch))})

    monkeypatch.setattr(deformable.deformable, "dcnv3_backward", wrong)
    case = by_name("DCNv3")
    assert not nn.check_layer(case.layer(), *case.inputs(), wrt=["input"]).ok


def test_a_new_layer_samples_on_the_lattice_and_the_report_says_so():
    layer = nn.DCNv3(4, groups=2, dtype=np.float64, rng=0)
    x = np.random.default_rng(3).standard_normal((1, 4, 4, 4))
    report = nn.check_layer(layer, x)
    for check in report.checks:
        if check.input in ("offset.weight", "offset.bias"):  # each moves many samples, off both sides of their lines
            assert not check.ok
            assert check.kinks > 0
            assert "every step crosses a kink" in check.worst
        elif check.input.startswith("dw_conv"):
            assert check.kink_distance == np.inf, "offset.weight is 0: nothing before it moves a sample"
            assert check.ok
        else:
            assert check.ok


def test_the_check_leaves_the_layer_as_it_was():
    layer = nn.Sequential(nn.BatchNorm2d(4, dtype=np.float64), nn.Dropout(0.5, rng=1))
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 3))
    layer(x)
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    state = layer[1].rng.bit_generator.state
    assert nn.check_layer(layer, x).ok
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert layer[1].rng.bit_generator.state == state


def test_float32_parameters_are_refused():
    with pytest.raises(TypeError, match="weight must be a float64 array"):
        nn.check_layer(nn.Linear(3, 2), np.ones((2, 3)))
