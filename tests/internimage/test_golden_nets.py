"""InternImage against the published code: logits, stage maps, training mode, every gradient."""

import numpy as np
import pytest
from golden_nets import FOLDER, NETS, golden, load_net
from helpers import assert_close

import dcnlab

pytestmark = pytest.mark.usefixtures("each_backend")

# float64: about 100 layers deep, each with the error of sums of up to 1,000 products. float32: the published code's own
# float32 results are 1e-6 of the largest logit away.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
STORED = 1e-7  # gradients of parameters are stored in float32

# Invariance of the softmax makes these gradients 0; what is left is rounding.
ZERO = ("clip_projector.cross_dcn.k_bias", "clip_projector.norm1_k.0.bias")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_logits_and_stage_maps(name, dtype):
    model, data = load_net(name, dtype), golden(name, dtype)
    logits, maps = model(data["input"]), model.features(data["input"])
    assert logits.dtype == dtype
    assert not model.training
    assert_close(logits, data["logits"], TOLERANCE[dtype], "logits")
    for number, stage in enumerate(maps):
        assert stage.dtype == dtype
        assert_close(stage, data[f"stage{number}"], TOLERANCE[dtype], f"stage {number}")


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_the_image(name):
    model, data = load_net(name, "float64"), golden(name, "float64")
    model(data["input"])
    assert_close(model.backward(data["grad_logits"]), data["grad_input"], TOLERANCE["float64"], "grad_input")


@pytest.mark.parametrize("name", ["net_b_post_norm", "net_h"])
def test_the_gradient_of_every_parameter(name):
    model, data = load_net(name, "float64"), golden(name, "float64")
    expected = dict(np.load(FOLDER / f"{name}_grads.npz", allow_pickle=False))
    model(data["input"])
    model.backward(data["grad_logits"])
    found = model.grad_dict()
    assert set(found) == set(expected)
    largest = max(abs(grad).max() for grad in expected.values())
    for key, grad in expected.items():
        if key in ZERO:
            assert abs(found[key]).max() < 1e-12 * largest, key
        else:
            assert_close(found[key], grad.astype(float), STORED, key)


@pytest.mark.parametrize("name", ["net_b_post_norm"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_mode(name, dtype):
    model, data = load_net(name, dtype).train(), golden(name, dtype)
    logits, norm = model(data["input"]), model.conv_head[1][0]
    assert_close(logits, data["logits_train"], TOLERANCE[dtype], "logits")
    assert_close(norm.running_mean.value, data["train_running_mean"], TOLERANCE[dtype], "running mean")
    assert_close(norm.running_var.value, data["train_running_var"], TOLERANCE[dtype], "running variance")


def test_the_hugging_face_layout_is_the_same_model():
    ours = load_net("net_b_post_norm", "float32")
    theirs = load_net("net_b_post_norm", "float32", "net_b_post_norm_hf.safetensors")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert np.array_equal(a, b), name


def test_without_gradients_the_results_are_the_same_and_nothing_is_kept():
    model, data = load_net("net_t", "float32"), golden("net_t", "float32")
    expected = model(data["input"])
    with dcnlab.nn.no_grad():
        assert np.array_equal(model(data["input"]), expected)
    assert all(module._kept is None for module in model.modules())
    with pytest.raises(RuntimeError, match="no forward pass to go back through"):
        model.backward(np.ones_like(expected))
