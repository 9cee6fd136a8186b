"""The settings of a run: ranges, JSON, the model they describe, and the options of the command line."""

import dataclasses

import pytest

from dcnlab import nn
from dcnlab.cli import main
from dcnlab.train.settings import MODELS, Settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"batch": True}, "batch must be a whole number, got True"),
        ({"lr": 0.0}, "lr must be more than 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"average": 1.0}, "average must lie from 0 to less than 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path must lie from 0 to less than 1"),
        ({"modulation": "relu"}, "modulation must be one of softmax, sigmoid, twice_sigmoid, none, got 'relu'"),
        ({"model": "Q"}, "model must be one of digits, T, S, B, L, XL, H, G, got 'Q'"),
        ({"data": 3}, "data must be text, got 3"),
        ({"seed": 2**63}, "seed must be less than 9223372036854775808, got 9223372036854775808"),
        ({"smallest": 2.0}, "smallest must not exceed largest = 1.2, got 2.0"),
    ],
)
def test_a_value_out_of_range_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        Settings(**given)


def test_json_brings_back_every_field():
    changed = {f.name: f.default + 1 for f in dataclasses.fields(Settings) if isinstance(f.default, int)}
    settings = Settings(lr=0.1 + 0.2, data="a folder", modulation="none", **changed)
    assert Settings.from_json(settings.as_json(), "x") == settings


@pytest.mark.parametrize(
    "text", ["", "[1]", "null", '{"epoch": 3}', '{"epochs": "3"}', '{"epochs": 1e400}', "[" * 9999]
)
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"^settings\.json: not the settings of a run: [^\n]+$"):
        Settings.from_json(text, "settings.json")


@pytest.mark.parametrize("modulation", ["softmax", "twice_sigmoid"])
def test_the_model_is_the_one_described(modulation):
    model = Settings(modulation=modulation, drop_path=0.5, dtype="float64", seed=3).build(7)
    layers = [module for module in model.modules() if isinstance(module, nn.DCNv3)]
    assert {layer.modulation for layer in layers} == {modulation}
    assert len(layers) == sum(MODELS["digits"]["depths"])
    assert max(m.p for m in model.modules() if isinstance(m, nn.DropPath)) == 0.5
    assert model.head.weight.value.shape[0] == 7
    assert model.head.weight.value.dtype == "float64"


def test_every_field_is_an_option_with_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        if field.name != "data":
            assert f"--{field.name.replace('_', '-')} " in shown
        assert " ".join(field.metadata["help"].split()) in shown


def test_a_resumed_run_takes_no_settings(tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 2
    assert "leave out epochs" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "holds no run: there is no settings.json in it" in capsys.readouterr().err
