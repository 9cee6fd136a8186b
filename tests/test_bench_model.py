"""`dcnlab bench model`: what it records, and that watching layers leaves no trace. No time is asserted."""

import json

import numpy as np
import pytest

from dcnlab import nn
from dcnlab.bench import model as bench
from dcnlab.bench import model_memory
from dcnlab.cli import main
from dcnlab.internimage import InternImage


@pytest.fixture
def small():
    model = InternImage(8, [1, 1, 1, 1], [1, 2, 4, 8], num_classes=3, rng=0).eval()
    return model, bench.random_images(32)


def test_the_command_records_what_it_prints(tmp_path, capsys):
    path = tmp_path / "model.json"
    assert main(["bench", "model", "--size", "32", "--repeats", "1", "--out", str(path)]) == 0
    text, record = capsys.readouterr().out, json.loads(path.read_text())
    assert bench.report(record) + "\n" == text
    assert record["ms"][bench.YARDSTICK] > 0
    for backend, layers in record["layers"].items():
        assert record["ratio"][f"{backend} forward"] < record["ratio"][f"{backend} forward + backward"]
        assert {"forward Linear", "backward Linear", "forward DCNv3", "backward GELU"} <= set(layers)
        assert set(layers["forward DCNv3"]) == {"stage 1", "stage 2", "stage 3", "stage 4"}
        assert set(layers["forward Conv2d"]) == {"stem", "stage 1", "stage 2", "stage 3", "head"}
    (memory,) = record["memory"]
    assert memory["finite"]
    assert memory["weights_mb"] == 120
    assert 120 <= memory["model_and_forward_mb"] <= 2 * memory["weights_mb"] + memory["largest_stage_mb"]
    assert "<= 104" not in text, "the bounds are those of 224 x 224"


def test_a_layer_s_time_is_its_own(small, monkeypatch):
    """A clock that moves by 1 at every look: each pass of a layer then takes 1, whatever is inside it."""
    model, images = small
    ticks = iter(range(10**9))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(ticks)))
    found = bench.layer_times(model, images, "numpy", 1)
    layers = [m for m in model.modules() if m is not model and not isinstance(m, nn.ModuleList)]
    for way in ("forward", "backward"):
        assert {kind for kind in found if kind.startswith(way)} == {f"{way} {type(m).__name__}" for m in layers}
    for kind in ("forward GELU", "backward Linear"):
        name = kind.split()[1]
        expected = sum(type(m).__name__ == name for m in layers)
        assert sum(found[kind].values()) == 1e3 * expected


def test_watching_leaves_no_trace(small):
    model, images = small
    before = bench.forward(model, images, "numpy")
    totals = {}
    with bench._watched(model, totals), pytest.raises(ValueError, match="expected images"):
        bench.forward(model, images[:, :1], "numpy")
    with bench._watched(model, totals):
        bench.forward(model, images, "numpy")
    assert totals
    assert not any("forward" in vars(m) or "backward" in vars(m) for m in model.modules())
    assert np.array_equal(bench.forward(model, images, "numpy"), before)


def test_the_offsets_of_the_measured_model_are_not_zero():
    model = bench.random_model("T")
    offset = model.levels[3].blocks[0].dcn.offset
    assert abs(offset.bias.value).mean() > 0.5
    assert not model.training


def test_the_sentence_about_memory():
    memory = {"variant": "H", "size": 224, "weights_mb": 10, "largest_stage_mb": 3, "model_and_forward_mb": 12}
    assert "12 MB (weights 10 MB; bound: twice the weights and the 3 MB" in model_memory.sentence(
        memory | {"peak_rss_mb": 50}
    )
