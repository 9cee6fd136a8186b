"""From a checkpoint file to a model: inferred settings, key layouts, errors that name the keys."""

import warnings

import numpy as np
import pytest
from golden_nets import FOLDER, NETS, load_net, settings_of

import dcnlab
from dcnlab import InternImage
from dcnlab.internimage import VARIANTS, infer_settings, published_names
from dcnlab.internimage.loading import matching_variant

SMALL = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 5}


def saved(tmp_path, model, name="model.safetensors", change=lambda state: state):
    """Save a model's state, changed, and return the path."""
    path = tmp_path / name
    dcnlab.save_checkpoint(path, change(dict(model.state_dict())))
    return path


@pytest.mark.parametrize("name", NETS)
def test_the_settings_of_the_golden_nets_are_found(name):
    found = infer_settings(published_names(dcnlab.load_checkpoint(FOLDER / f"{name}.pth")))
    published = settings_of(name)
    published |= {"layer_scale": 1.0 if published["layer_scale"] else None}  # where training starts cannot be seen
    published["dw_kernel_size"] = published["dw_kernel_size"] or 3
    if "clip_embed_dims" in published:
        del published["clip_embed_dims"]["attnpool_num_heads"]
    assert {key: published[key] for key in found} == found


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variant_is_recognised_by_its_shapes(name):
    model = InternImage(**InternImage.variants[name])
    shapes = {key: np.broadcast_to(np.float32(0), state.shape) for key, state in model.named_state()}
    found = infer_settings(shapes)
    assert matching_variant(found) == name
    wanted = {"layer_scale": None, "post_norm": False, "res_post_norm": False, **InternImage.variants[name]}
    wanted["layer_scale"] = wanted["layer_scale"] and 1.0
    for key in found.keys() & wanted.keys():
        assert found[key] == wanted[key], key


def test_what_shapes_cannot_tell_comes_from_the_variant(monkeypatch, tmp_path):
    small = VARIANTS["L"].__class__("tiny L", (8, 4, 1, 1), 384, dict(VARIANTS["L"].options))
    monkeypatch.setitem(VARIANTS, "tiny L", small)
    path = saved(tmp_path, InternImage(**small.settings, num_classes=3, rng=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = InternImage.from_checkpoint(path)
        assert InternImage.from_checkpoint(path, variant="tiny L").settings == model.settings
        overridden = InternImage.from_checkpoint(path, offset_scale=1.5)
    assert not model.training
    assert model.settings.offset_scale == 2.0
    assert overridden.settings.offset_scale == 1.5


def test_without_a_variant_the_defaults_are_taken_with_a_warning_that_names_them(tmp_path):
    path = saved(tmp_path, InternImage(**SMALL, rng=0))
    with pytest.warns(UserWarning, match=r"none of the published variants .* offset_scale=1.0\. Give them"):
        InternImage.from_checkpoint(path)
    with pytest.warns(UserWarning, match="none of the published variants") as caught:
        model = InternImage.from_checkpoint(FOLDER / "net_h.pth", offset_scale=1.0)
    message = str(caught[0].message)
    assert "post_norm=False" in message
    assert "level2_post_norm_block_ids=[1, 3]" in message
    assert "clip_embed_dims['attnpool_num_heads']=16" in message
    assert model.clip_projector.cross_dcn.heads == 16
    assert caught[0].filename == __file__, "the warning points at the caller"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_saved_model_comes_back(tmp_path, suffix, rng):
    model = InternImage(**SMALL, offset_scale=2.0, post_norm=True, rng=rng).eval()
    path = saved(tmp_path, model, f"model{suffix}")
    again = InternImage.from_checkpoint(path, offset_scale=2.0)
    images = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert np.array_equal(again(images), model(images))
    assert InternImage.from_checkpoint(path, offset_scale=2.0, dtype=np.float64).head.weight.value.dtype == "float64"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"model.{key}": value for key, value in state.items()},
        lambda state: {f"module.model.{key}": value for key, value in state.items()},
        lambda state: (
            {f"backbone.{key}": v for key, v in state.items()} | {"decode_head.weight": np.zeros(3, np.float32)}
        ),
    ],
)
def test_prefixes_of_other_programs(tmp_path, change):
    model = InternImage(**SMALL, layer_scale=1.0, rng=0)
    path = saved(tmp_path, model, change=change)
    again = InternImage.from_checkpoint(path, offset_scale=1.0)
    assert all(
        np.array_equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_a_detection_backbone_has_no_head(tmp_path, rng):
    backbone = InternImage(**{**SMALL, "num_classes": None}, layer_scale=1.0, rng=0)
    path = saved(tmp_path, backbone, change=lambda state: {f"backbone.{key}": value for key, value in state.items()})
    again = InternImage.from_checkpoint(path, offset_scale=1.0)
    assert len(again.features(rng.standard_normal((1, 3, 32, 32)).astype(np.float32))) == 4
    with pytest.raises(ValueError, match="no head"):
        again(np.zeros((1, 3, 32, 32), np.float32))


def test_remove_center_takes_the_centre_out_of_a_nine_tap_checkpoint(tmp_path, rng):
    nine = InternImage(**SMALL, rng=0)
    for name, parameter in nine.named_parameters():
        if ".dcn.offset." in name or ".dcn.mask." in name:
            parameter.value = rng.standard_normal(parameter.shape)
    eight = InternImage.from_checkpoint(saved(tmp_path, nine), offset_scale=1.0, remove_center=True)
    before, after = nine.levels[1].blocks[0].dcn, eight.levels[1].blocks[0].dcn
    taps = np.delete(np.arange(9), 4)
    mask = before.mask.weight.value.reshape(2, 9, 16)[:, taps]
    offset = before.offset.bias.value.reshape(2, 9, 2)[:, taps]
    assert np.array_equal(after.mask.weight.value.reshape(2, 8, 16), mask)
    assert np.array_equal(after.offset.bias.value.reshape(2, 8, 2), offset)
    again = InternImage.from_checkpoint(saved(tmp_path, eight, "eight.npz"), offset_scale=1.0)
    assert again.settings.remove_center
    assert np.array_equal(again.levels[1].blocks[0].dcn.mask.weight.value, after.mask.weight.value)


def test_errors_name_missing_unexpected_and_misshapen_keys(tmp_path):
    model = InternImage(**SMALL, rng=0)

    def spoil(state):
        del state["levels.1.blocks.0.norm2.0.bias"]
        state["levels.1.extra"] = np.zeros(2, np.float32)
        state["levels.3.blocks.0.mlp.fc2.bias"] = np.zeros(7, np.float32)
        return state

    with pytest.raises(ValueError, match="does not fit InternImage with the settings inferred from it") as caught:
        InternImage.from_checkpoint(saved(tmp_path, model, change=spoil), offset_scale=1.0)
    message = str(caught.value)
    assert "1 missing: levels.1.blocks.0.norm2.0.bias (16,)" in message
    assert "1 unexpected: levels.1.extra (2,)" in message
    assert "levels.3.blocks.0.mlp.fc2.bias (expected (64,), got (7,))" in message
    assert "\n" not in message
    with pytest.raises(ValueError, match=r"as variant S: .* of another shape"):
        InternImage.from_checkpoint(saved(tmp_path, model), variant="S", **InternImage.variants["S"])
    with pytest.raises(ValueError, match=r"no InternImage-T: it has channels 8 \(expected 64\), depths \[1, 1, 2, 1\]"):
        InternImage.from_checkpoint(saved(tmp_path, model), variant="T")


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    dcnlab.save_checkpoint(path, {"conv.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"no InternImage checkpoint: it has no 'patch_embed.conv2.weight'"):
        InternImage.from_checkpoint(path)
    with pytest.raises(ValueError, match="variant must be one of T, S, B, L, XL, H, G, got 'Q'"):
        InternImage.from_checkpoint(FOLDER / "net_t.pth", variant="Q")
    with pytest.raises(FileNotFoundError):
        InternImage.from_checkpoint(tmp_path / "absent.pth")

    def odd(state):
        return {key: value[:-1] if key.endswith("dcn.mask.weight") else value for key, value in state.items()}

    with pytest.raises(ValueError, match="no number of groups of 9 or 8 taps"):
        InternImage.from_checkpoint(saved(tmp_path, InternImage(**SMALL, rng=0), change=odd))


def test_loading_does_not_draw_random_numbers(monkeypatch):
    real = np.random.default_rng

    def refuse(seed=None):
        assert not isinstance(seed, np.random.SeedSequence), "a parameter was drawn"
        return real(seed)

    monkeypatch.setattr(np.random, "default_rng", refuse)
    load_net("net_t", "float32")
    with pytest.raises(AssertionError, match="a parameter was drawn"):
        InternImage(**SMALL, rng=0).state_dict()
