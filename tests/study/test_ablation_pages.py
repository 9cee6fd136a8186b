"""From a record to what it says: the rule both ways, the table, the figures and the page, on made-up numbers."""

import json

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from scipy import stats

from dcnlab.study.ablation import STUDIES, verdicts, write_pages
from dcnlab.study.ablation.cost import counted
from dcnlab.study.ablation.depth import all_depths
from dcnlab.study.ablation.extra_figures import cost, depth, memory
from dcnlab.study.ablation.figures import accuracy, all_figures, rates, scales, sums
from dcnlab.study.ablation.studies import Claim
from dcnlab.study.ablation.verdicts import HEAD, Comparison, best_rate, by_rate, compare, judge, lines

SEEDS = 3


def layers(count, level):
    return {
        "loss": 1.0,
        "layers": [
            {"stage": stage, "block": block, "sum_mean": level, "sum_std": 0.1 * level, "sum_least": 0.0}
            | {"sum_most": 9.0, "operator": level / (i + 1), "stream": level * (i + 1), "gradient": 1e-3 * level}
            for i, (stage, block) in enumerate((s, b) for s in range(4) for b in range(count - 3 if s == 2 else 1))
        ],
    }


def made_up(name, points, diverged=()):
    """A record in which `points(configuration, rate)` is the mean accuracy in percent; seeds are 1 point apart."""
    study = STUDIES[name]
    runs = []
    for configuration, settings in study.configurations.items():
        for rate in settings.rates:
            for seed in range(SEEDS):
                lost = (configuration, rate) in diverged
                share = (points(configuration, rate) + seed - 1) / 100
                level = 4.5 if "sigmoid" in configuration else 1.0
                blocks = 9 if "deep" in configuration else 5
                row = {"epoch": 1, "step": 4, "lr": rate, "train_loss": 2.0 - share, "train_accuracy": share}
                row |= {"test_loss": 1.9 - share, "test_accuracy": share, "gradient_norm": 1.0, "seconds": 0.5}
                runs.append(
                    {"configuration": configuration, "rate": rate, "seed": seed, "parameters": 1000, "seconds": 1.0}
                    | {"rows": [] if lost else [row, {**row, "epoch": 2}], "accuracy": None if lost else share}
                    | {"diverged": "step 2: NaN" if lost else None, "before": layers(blocks, 1.0)}
                    | {"after": None if lost else layers(blocks, level)}
                )
    return {
        "study": name,
        "machine": {"date": "2026-01-02", "cpu": "a <cpu>", "system": "Linux", "python": "3", "numpy": "2"},
        "size": {"train": 200, "test": 100, "epochs": 2, "measured": 16, "blocks": 3, "batch": 64, "seeds": SEEDS},
        "settings": {"data": "mnist5k"},
        "configurations": {key: {"rates": list(c.rates)} for key, c in study.configurations.items()},
        "runs": runs,
        "seconds": 12.0,
    }


@pytest.fixture(scope="module")
def modulation():
    rates_of = STUDIES["modulation"].configurations["none"].rates
    record = made_up(
        "modulation", lambda name, rate: 90.0, diverged={("none", rates_of[-1]), ("sigmoid", rates_of[-1])}
    )
    return json.loads(json.dumps(record | {"depth": all_depths(3)}))


@pytest.fixture(scope="module")
def sharing():
    digits = {
        "shared": {"parameters": 1000, "kept_bytes": 5_000_000, "peak_bytes": 8_000_000},
        "unshared": {"parameters": 1500, "kept_bytes": 4_000_000, "peak_bytes": 9_000_000},
    }
    record = made_up("sharing", lambda name, rate: 93.0)
    return json.loads(json.dumps(record | {"cost": {"digits": digits, "published": [counted("T"), counted("H")]}}))


# -- the rule ------------------------------------------------------------------------------------------------------


def test_the_interval_is_students():
    rng = np.random.default_rng(0)
    for n, m in ((5, 5), (3, 7), (2, 2)):
        a, b = rng.normal(90, 2, n), rng.normal(88, 1, m)
        expected = stats.ttest_ind(a, b).confidence_interval(0.95)
        difference, half = compare(a, b)
        np.testing.assert_allclose([difference - half, difference + half], expected)


def test_one_run_has_no_interval():
    assert compare([90.0], [80.0, 81.0]).half_width == np.inf
    assert not judge(Claim("a", "b", 17.8), compare([90.0], [10.0]))


@pytest.mark.parametrize(
    ("difference", "half", "shows"),
    [(3.0, 2.9, True), (3.0, 3.1, False), (0.0, 0.0, False), (-3.0, 1.0, False)],
)
def test_an_effect_shows_if_the_interval_lies_on_its_side_of_zero(difference, half, shows):
    assert judge(Claim("a", "b", 1.2), Comparison(difference, half)) == shows
    assert judge(Claim("b", "a", -1.2), Comparison(-difference, half)) == shows


@pytest.mark.parametrize(
    ("difference", "half", "shows"), [(0.2, 0.7, True), (-0.2, 0.7, True), (0.4, 0.7, False), (0.0, 3.0, False)]
)
def test_two_are_equal_if_the_interval_lies_within_a_point(difference, half, shows):
    assert judge(Claim("a", "b", -0.1, equal=True), Comparison(difference, half)) == shows


def test_the_verdict_follows_the_numbers_both_ways():
    better = {"8 channels a group": 96.0, "4 channels a group": 90.0, "1 group": 90.0}
    found = verdicts(made_up("groups", lambda name, rate: better[name]))
    assert [verdict.shows for verdict in found] == [True, False]
    assert found[0].text == (
        "8 channels a group against 1 group: +6.0 points (interval +3.7 to +8.3; paper +1.2). Shows the paper's effect "
        "at this scale."
    )
    assert "+0.0 points" in found[1].text
    assert found[1].text.endswith("Does not show the paper's effect at this scale.")
    worse = verdicts(made_up("groups", lambda name, rate: 100 - better[name]))
    assert worse[0].text.endswith("Does not show the paper's effect at this scale: it shows the opposite.")


def test_a_diverged_run_counts_as_guessing(modulation):
    highest = STUDIES["modulation"].configurations["none"].rates[-1]
    rows = {(line[0], line[1]): dict(zip(HEAD, line, strict=True)) for line in lines(modulation)}
    lost = rows["none", f"{highest:g}"]
    assert (lost["accuracy %"], lost["diverged"], lost["below 20%"]) == ("10.00", "3 of 3", "3 of 3")
    assert lost["mean sum over taps"] == ""
    kept = rows["softmax", f"{highest:g}"]
    assert (kept["accuracy %"], kept["spread"], kept["range"]) == ("90.00", "1.00", "89.0 to 91.0")
    assert (kept["diverged"], kept["below 20%"], kept["mean sum over taps"]) == ("0 of 3", "0 of 3", "1.00")


def test_the_best_rate_is_the_lowest_of_equals():
    record = made_up("modulation", lambda name, rate: 95.0 if rate > 0.01 and name == "softmax" else 80.0)
    configurations = STUDIES["modulation"].configurations
    assert best_rate(record, "softmax") == configurations["softmax"].rates[1]
    assert best_rate(record, "sigmoid") == configurations["sigmoid"].rates[0]
    assert [run["seed"] for run in by_rate(record, "softmax")[best_rate(record, "softmax")]] == [0, 1, 2]


# -- figures -------------------------------------------------------------------------------------------------------


def test_the_strip_has_a_mark_for_every_run(modulation):
    ax = accuracy(modulation).axes[0]
    points = [point for c in ax.collections if isinstance(c, PathCollection) for point in c.get_offsets()]
    assert len(points) == SEEDS * len(modulation["configurations"])
    assert sorted({round(float(y)) for _, y in points}) == [89, 90, 91]


def test_diverged_runs_are_marked_against_the_rate(modulation):
    ax = rates(modulation).axes[0]
    crosses = [point for c in ax.collections[1::2] for point in c.get_offsets()]  # marks and crosses take turns
    highest = STUDIES["modulation"].configurations["none"].rates[-1]
    assert len(crosses) == 2 * SEEDS
    assert all(y == 10 and x == pytest.approx(highest, rel=0.2) for x, y in crosses)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["softmax", "sigmoid", "twice_sigmoid", "none"]


def test_sums_and_scales_are_drawn_by_block_and_depth(modulation):
    axes = sums(modulation).axes
    assert len(axes) == 4, "two depths, before and after"
    assert [len(ax.get_xticks()) for ax in axes] == [5, 5, 9, 9]
    after = {line.get_label(): line.lines[0].get_ydata() for line in axes[1].containers}
    np.testing.assert_allclose(after["sigmoid"], 4.5)
    np.testing.assert_allclose(after["none"], 1.0)
    stream = scales(modulation).axes[1]
    solid = next(line for line in stream.lines if line.get_label() == "sigmoid")
    np.testing.assert_allclose(solid.get_ydata(), 4.5 * np.arange(1, 6))


def test_a_configuration_whose_runs_all_diverged_is_drawn_without_numbers():
    every = {("none", rate) for rate in STUDIES["modulation"].configurations["none"].rates}
    record = made_up("modulation", lambda name, rate: 90.0, diverged=every)
    for name, (figure, caption) in all_figures(record).items():
        figure.canvas.draw()
        assert caption.endswith("."), name


def test_the_stacks_are_drawn(modulation):
    figure = depth(modulation)
    lines_of = figure.axes[0].lines
    assert len(lines_of) == 9, "four kinds, two starts, and the line at 1"
    assert "sigmoid: sum 4.5" in [line.get_label() for line in lines_of]


def test_the_costs_are_drawn(sharing):
    left, middle, right = cost(sharing).axes
    assert [bar.get_height() for bar in left.containers[1]] == [1.5, 0.8, 1.125]
    more = [1 + p["more_parameters"] for p in sharing["cost"]["published"]]
    np.testing.assert_allclose([bar.get_height() for bar in middle.containers[1]], more)
    saved = [1 - 1 / bar.get_height() for bar in right.containers[2]]
    np.testing.assert_allclose(saved, [p["saved_memory"] for p in sharing["cost"]["published"]])
    assert memory(sharing["cost"]["published"][0], "shared") == 4 * (4 * 29_918_424 + counted("T")["kept"]["shared"])


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_numbers(sharing, tmp_path):
    path = write_pages(sharing, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "sharing.html"
    assert "83.6 %" in page
    assert "93.0 %" in page
    assert verdicts(sharing)[0].text in page
    assert "61.8 % more; sharing saves 38.2 % of them" in page
    assert "66.1 % more parameters without sharing" in page
    assert "a &lt;cpu&gt;" in page
    assert "2026-01-02" in page
    assert "<cpu>" not in page
    assert page.count("data:image/png;base64,") == len(list(tmp_path.glob("sharing_*.png"))) == 5
    assert "$" not in page


@pytest.mark.slow
def test_the_page_of_modulation_has_its_figures(modulation, tmp_path):
    page = write_pages(modulation, tmp_path).read_text(encoding="utf-8")
    names = {path.name.removeprefix("modulation_") for path in tmp_path.glob("*.png")}
    assert names == {f"{name}.png" for name in ("accuracy", "curves", "depth", "rates", "scales", "sums")}
    assert page.count('<tr class="bad">') == 2, "the rates at which runs failed are marked"


def test_something_else_than_a_record_is_refused(tmp_path):
    for other in ({}, [], {"study": "sharing"}):
        with pytest.raises(ValueError, match="expected the record of a study, with study, machine"):
            write_pages(other, tmp_path)
    with pytest.raises(ValueError, match="study must be one of"):
        write_pages(made_up("groups", lambda name, rate: 90.0) | {"study": "other"}, tmp_path)
    assert not list(tmp_path.iterdir())
