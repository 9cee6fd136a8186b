"""InternImage as a user builds it: all block orders, settings, modes, gradients, memory kept."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from dcnlab import InternImage, nn
from dcnlab.internimage import sampling_grids
from dcnlab.internimage.blocks import Block, BlockSettings
from dcnlab.internimage.prediction import variant_of
from dcnlab.internimage.summary import costs

SMALL = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 5}
CLIP = {"pretrain_embed_dim": 32, "attnpool_num_heads": 4, "clip_embed_dim": 24}
ORDERS = {
    "pre-norm": {},
    "post_norm": {"post_norm": True},
    "res_post_norm": {"res_post_norm": True},
    "layer_scale": {"layer_scale": 0.5},
    "layer_scale post_norm": {"layer_scale": 0.5, "post_norm": True},
    "layer_scale res_post_norm": {"layer_scale": 0.5, "res_post_norm": True},
    "remove_center": {"remove_center": True, "offset_scale": 2.0},
    "H": {
        "res_post_norm": True,
        "center_feature_scale": True,
        "dw_kernel_size": 5,
        "use_clip_projector": True,
        "clip_embed_dims": CLIP,
        "level2_post_norm": True,
        "level2_post_norm_block_ids": [1],
    },
    "G": {
        "post_norm": True,
        "center_feature_scale": True,
        "dw_kernel_size": 5,
        "use_clip_projector": True,
        "clip_embed_dims": CLIP,
        "level2_post_norm": True,
        "level2_post_norm_block_ids": [0, 1],
    },
}


def random_model(dtype="float64", seed=0, **settings):
    """Return a model none of whose parameters has its first value, with offsets of about a third of a pixel."""
    return randomised(InternImage(**{**SMALL, **settings}, dtype=dtype, rng=seed), seed)


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        spread = 0.05 if ".offset." in f".{name}" else 0.2
        parameter.value = parameter.value + spread * rng.standard_normal(parameter.shape)
    return model


BLOCKS = {name: order for name, order in ORDERS.items() if name != "G"}  # G's blocks are those of post_norm and H


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("order", BLOCKS)
def test_gradients_of_a_block(order, training, rng):
    fields = {field.name for field in dataclasses.fields(BlockSettings)}
    settings = BlockSettings(**{k: v for k, v in BLOCKS[order].items() if k in fields}, mlp_ratio=2, dtype="float64")
    block = randomised(Block(8, 2, 0.4, settings, rng)).train(training)
    unused = order == "layer_scale res_post_norm"  # as published, its further norms have no effect
    used = [name for name, _ in block.named_parameters() if not (unused and name.startswith("res_post_norm"))]
    report = nn.check_layer(block, rng.standard_normal((3, 3, 4, 8)), wrt=["input", *used], step=3e-4)
    assert report.ok, str(report)
    assert len(report.checks) == 1 + len(used)


@pytest.mark.parametrize("order", ["pre-norm", "H", "G"])
def test_gradients_of_a_model_in_training(order, rng):
    """Along random directions, by a central difference: how the checked parts are joined, batch norm, drop path."""
    model = random_model(**ORDERS[order], drop_path_rate=0.3).train()
    arrays = {"images": rng.standard_normal((2, 3, 32, 64))}
    parameters = dict(model.named_parameters())
    for name in ("patch_embed.conv1.weight", "levels.1.blocks.0.dcn.offset.weight", "levels.2.downsample.conv.weight"):
        arrays[name] = parameters[name].value
    grad_output = rng.standard_normal((2, 5))
    drops = [m.rng for m in model.modules() if isinstance(m, nn.DropPath)]

    def loss(changed, value):
        for number, generator in enumerate(drops):
            generator.bit_generator.state = np.random.default_rng(number).bit_generator.state  # drop the same again
        for name in parameters.keys() & arrays.keys():
            parameters[name].value = value if name == changed else arrays[name]
        return float((model(value if changed == "images" else arrays["images"]) * grad_output).sum())

    loss(None, None)
    grads = {"images": model.backward(grad_output)} | model.grad_dict()
    for name, array in arrays.items():
        direction = rng.standard_normal(array.shape)
        direction /= np.linalg.norm(direction)
        step = 1e-6  # rounding 1e-10 of the loss over 2e-6, truncation 1e-12
        slope = (loss(name, array + step * direction) - loss(name, array - step * direction)) / (2 * step)
        scale = np.linalg.norm(grads[name]) / np.sqrt(array.size)
        assert abs((grads[name] * direction).sum() - slope) < 1e-5 * scale, name


def test_a_wrong_residual_is_noticed(monkeypatch, rng):
    """The check above can fail: a backward pass that forgets a thousandth of the shortcut."""
    settings = BlockSettings(mlp_ratio=2, dtype="float64")
    block = randomised(Block(8, 2, 0.0, settings, rng))
    right = Block.backward
    monkeypatch.setattr(Block, "backward", lambda self, grad: right(self, grad) - 0.001 * grad)
    report = nn.check_layer(block, rng.standard_normal((1, 3, 4, 8)), step=3e-4)
    assert not report.ok
    assert report.worst.input == "input"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (37, 50)])
def test_what_is_kept_is_what_the_summary_says(order, size, rng):
    if "use_clip_projector" in ORDERS[order]:
        size = tuple(-(-side // 32) * 32 for side in size)  # all that the attention pooling head takes
    model = random_model("float32", **ORDERS[order]).eval()
    model(rng.standard_normal((1, 3, *size)).astype(np.float32))
    assert kept_numbers(model) == sum(cost.kept for cost in costs(model, size))


def kept_numbers(model):
    """Return how many numbers the layers keep, arrays that several of them keep counted once."""
    owners = {}
    layers = [
        *model.modules(),
        *(m for b in model.modules() if isinstance(b, Block) for c in b.branches for m in c.modules),
    ]
    for layer in layers:
        for value in vars(layer._kept or SimpleNamespace()).values():
            for array in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(array, np.ndarray):
                    owner = array
                    while isinstance(owner.base, np.ndarray):
                        owner = owner.base
                    owners[id(owner)] = array
    state = {id(s.value) for _, s in model.named_state()}
    return sum(array.size for key, array in owners.items() if key not in state)


def test_stages_shapes_and_odd_sizes(rng):
    model = random_model("float32").eval()
    for height, width in ((32, 32), (33, 65), (1, 1), (224, 7)):
        shapes = [m.shape for m in model.features(rng.standard_normal((2, 3, height, width)).astype(np.float32))]
        h, w = -(-height // 4), -(-width // 4)  # ceil of ceil
        for stage, shape in enumerate(shapes):
            assert shape == (2, h, w, 8 * 2**stage)
            h, w = -(-h // 2), -(-w // 2)
    assert model(np.zeros((0, 3, 32, 32), np.float32)).shape == (0, 5)


def test_the_gradient_of_one_entry_of_one_map(rng):
    model = random_model(num_classes=None)
    images = rng.standard_normal((1, 3, 32, 32))
    maps = model.features(images)
    grads = [None, np.zeros_like(maps[1]), None, None]
    grads[1][0, 2, 1, 3] = 1
    grad = model.backward_features(grads)
    direction = rng.standard_normal(images.shape)
    step = 1e-6
    ends = [model.features(images + sign * step * direction)[1][0, 2, 1, 3] for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx((grad * direction).sum(), rel=1e-6)
    with pytest.raises(ValueError, match="at least one of them not None"):
        model.backward_features([None] * 4)
    with pytest.raises(ValueError, match=r"no head \(num_classes=None\): use features"):
        model(images)
    with pytest.raises(ValueError, match="use backward_features"):
        model.backward(np.ones((1, 5)))


def test_a_new_model_starts_as_published():
    model = InternImage(**SMALL, layer_scale=1e-5, drop_path_rate=0.2, rng=3)
    assert model.training
    state = model.state_dict()
    for name, value in state.items():
        starts_at_0 = name.endswith(".bias") and ".conv" not in name and "dw_conv.0" not in name
        if starts_at_0 or ".dcn.offset." in name or ".dcn.mask." in name:
            assert not value.any(), name
        if "norm" in name and name.endswith("weight"):
            assert (value == 1).all(), name
        if "gamma" in name:
            assert (value == np.float32(1e-5)).all(), name
    assert 0.015 < state["levels.3.blocks.0.mlp.fc1.weight"].std() < 0.025  # truncated normal, 0.02
    bound = np.sqrt(6 / (2 * 64))
    assert 0.9 * bound < abs(state["levels.3.blocks.0.dcn.input_proj.weight"]).max() <= bound  # Xavier
    drops = [block.drop_path1.p for stage in model.levels for block in stage.blocks]
    assert drops == pytest.approx(np.linspace(0, 0.2, 5))
    again = InternImage(**SMALL, layer_scale=1e-5, drop_path_rate=0.2, rng=3)
    for name in reversed(state):  # whatever is looked at first
        assert np.array_equal(dict(again.named_state())[name].value, state[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": [1, 1, 1]}, "depths must be 4 positive ints"),
        ({"groups": [3, 3, 3, 3]}, "groups must divide channels"),
        ({"channels": 7}, "positive even number, got 7"),
        ({"core_op": "DCNv4"}, "core_op is accepted as 'DCNv3' or 'DCNv3_pytorch', or as a function, got 'DCNv4'"),
        ({"norm_layer": "BN"}, "norm_layer is accepted as 'LN'"),
        ({"level2_post_norm": True}, "level2_post_norm needs level2_post_norm_block_ids"),
        ({"level2_post_norm": True, "level2_post_norm_block_ids": [2]}, "different numbers from 0 to 1"),
        ({"use_clip_projector": True, "clip_embed_dims": {"heads": 2}}, "clip_embed_dims has pretrain_embed_dim"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InternImage(**{**SMALL, **settings})
    with pytest.raises(TypeError, match="has no setting 'chanels'"):
        InternImage(chanels=3)


def test_published_settings_without_a_meaning_are_accepted():
    published = {
        "core_op": "DCNv3",
        "act_layer": "GELU",
        "norm_layer": "LN",
        "drop_path_type": "linear",
        "drop_rate": 0.0,
    }
    assert InternImage(**SMALL, **published).parameter_count() == InternImage(**SMALL).parameter_count()


def test_bad_images_are_refused(rng):
    model = random_model("float32")
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), got \(1, 32, 32, 3\)"):
        model(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        model(np.zeros((1, 3, 32, 32)))
    clip = random_model("float32", **ORDERS["H"])
    with pytest.raises(ValueError, match=r"multiples of 32: stage 3 has 3x3 pixels, stage 4 2x2"):
        clip(np.zeros((1, 3, 48, 48), np.float32))


def test_another_core_operator_takes_the_place_of_dcnv3():
    sigmoid = InternImage(**SMALL, core_op=partial(nn.DCNv3, modulation="sigmoid"), rng=0)
    assert {block.dcn.modulation for stage in sigmoid.stages for block in stage.blocks} == {"sigmoid"}
    assert list(sigmoid.state_dict()) == list(InternImage(**SMALL, rng=0).state_dict())

    def mixing_channels(channels, dtype, rng, **settings):
        assert settings["groups"] in SMALL["groups"]
        return nn.Linear(channels, channels, dtype=dtype, rng=rng)

    model = InternImage(**SMALL, core_op=mixing_channels, rng=0).eval()
    logits = model(np.ones((2, 3, 32, 32), np.float32))
    assert model.backward(np.ones_like(logits)).shape == (2, 3, 32, 32)
    started = model.stages[0].blocks[0].dcn.bias
    assert np.any(started.value), "a core operator starts as it likes: a Linear with a bias that is not 0"
    assert variant_of(model) is None
    with pytest.raises(ValueError, match="expected a model of DCNv3 layers, got one of Linear"):
        costs(model, 32)
    with pytest.raises(ValueError, match="expected a model of DCNv3 layers, got one of Linear"):
        sampling_grids(model)
