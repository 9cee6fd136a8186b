"""The comparison of operators end to end: what it prints, records, draws and writes, and where."""

import contextlib
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dcnlab import nn
from dcnlab.internimage.receptive import radius_of_share
from dcnlab.pages import new_figure
from dcnlab.study import operator_costs as costs
from dcnlab.study import operator_figures, operators
from dcnlab.study.operator_fields import gradients, receptive_field, unpacked
from dcnlab.study.operator_layers import (
    DEFORMABLE,
    GLOBAL,
    LARGE,
    OPERATORS,
    SMALL,
    WINDOWED,
    build,
    features,
    spread_dcnv3,
)
from dcnlab.study.operator_text import CLAIMS, claim_rows, findings, rows, table

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "results" / "operators.json"
FIGURES = {"fields.png", "adaptation.png", "growth.png"}
SIDES, PIXEL = (7, 14), (6, 3)


@contextlib.contextmanager
def small():
    """The study on images of a quarter of the side, and one pixel to compare inputs at."""
    settings = {
        "SIDE": SIDES[-1],
        "COMPARED_SIDE": 14,
        "COMPARED": (6,),
        "FLAG": PIXEL,
        "VIEWS": {"here": (PIXEL, False), "mirrored": (PIXEL, True)},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(operators, name, value)
        yield


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Record, folder, and what was printed."""
    folder, printed = tmp_path_factory.mktemp("out") / "new", io.StringIO()
    with contextlib.redirect_stdout(printed), small():
        record = operators.run(folder, 3, SIDES)
    return record, folder, printed.getvalue()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


# -- a run ---------------------------------------------------------------------------------------------------------


def test_files_and_record(result):
    record, folder, printed = result
    assert {path.name for path in folder.iterdir()} == {"operators.html", "operators.json", *FIGURES}
    assert json.loads((folder / "operators.json").read_text(encoding="utf-8")) == record
    assert record["seed"] == 3
    assert record["machine"]["date"]
    assert table(record) in printed
    assert all(sentence in printed for sentence in findings(record))
    assert f"Wrote {folder / 'operators.html'}" in printed.splitlines()[-1]


def test_what_is_recorded_of_each_operator(result):
    record = result[0]
    assert list(record["operators"]) == list(OPERATORS)
    layers = build(features(operators.sample_photo(), SIDES[-1], 3), 3)
    for name, found in record["operators"].items():
        counts = [costs.multiply_adds(layers[name], side, side) for side in SIDES]
        assert found["multiply_adds"] == [count.total for count in counts]
        assert found["mixing"] == [count.mixing for count in counts]
        assert len(found["kept"]) == len(found["peak"]) == len(found["forward_ms"]) == len(SIDES)
        assert found["exponents"]["peak"] == pytest.approx(costs.exponent(SIDES, found["peak"]))
        for field in found["fields"].values():
            values = unpacked(field["levels"], SIDES[-1])
            exact = [radius_of_share(values, PIXEL, share) for share in (0.5, 0.9)]
            assert field["radii"] == pytest.approx(exact, abs=1)  # the levels are rounded
    assert [name for name, f in record["operators"].items() if f["positions"]] == [DEFORMABLE]
    assert [name for name, f in record["operators"].items() if not f["weights"]] == [LARGE, SMALL]
    fixed = record["operators"][LARGE]["fields"]
    assert fixed["here"] == fixed["mirrored"]
    assert record["operators"][DEFORMABLE]["fields"]["here"] != record["operators"][DEFORMABLE]["fields"]["mirrored"]


def test_longer_offsets_reach_farther(recorded):
    """In the record, and anew; the layer is left as it was."""
    layer = spread_dcnv3(nn.DCNv3(64, rng=0), features(operators.sample_photo(), 56), np.random.default_rng(0))
    anew = operators._reach(layer, features(operators.sample_photo(), 56), 0)
    assert layer.offset_scale == 1
    for reach in (anew, recorded["dcnv3_reach"]):
        assert list(reach) == ["1", "2", "4", "8"]
        assert list(reach.values()) == sorted(reach.values())
        assert reach["8"] > 3 * reach["1"]
    fields = recorded["operators"][DEFORMABLE]["fields"]
    assert recorded["dcnv3_reach"]["1"] == next(iter(fields.values()))["farthest"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images, self.cells, self.addresses = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[key] for key in ("src", "href") if key in found]
        if tag == "img":
            self.images.append(found)
        self.cells += tag == "td"
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(result):
    record, folder, _ = result
    text = (folder / "operators.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert not page.open
    assert len(page.images) == len(FIGURES)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    outside = [address for address in page.addresses if not address.startswith("data:")]
    assert outside == ["https://arxiv.org/abs/2211.05778"]  # a link to read, nothing that is loaded
    assert page.cells == sum(map(len, rows(record))) + sum(map(len, claim_rows(record)))
    assert not re.search(r"\$\w", text)


def test_the_same_seed_gives_the_same_numbers(result):
    """All but what was measured by a clock or an allocator."""
    layers = build(features(operators.sample_photo(), SIDES[-1], 3), 3)
    with small():
        again = operators._fields(layers, operators.sample_photo(), 3, lambda what: None)
    assert {name: found["fields"] for name, found in result[0]["operators"].items()} == again


def test_a_cost_that_is_too_high_is_left_out(monkeypatch):
    monkeypatch.setattr(costs, "MOST_BYTES", 1.6e6)  # global attention at 14 x 14 needs more, the small kernel less
    layers = build(features(operators.sample_photo(), 28))
    few = {name: layers[name] for name in (GLOBAL, SMALL)}
    points = operators._points(few, operators.sample_photo(), (7, 14, 28), 0, lambda what: None)
    assert {name: len(found) for name, found in points.items()} == {GLOBAL: 2, SMALL: 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be an int of at least 0, got -1"),
        ({"seed": True}, "seed must be an int of at least 0, got True"),
        ({"seed": 0.5}, "seed must be an int of at least 0, got 0.5"),
        ({"sides": (7, 14)}, "56 among them"),
        ({"sides": (28, 56, 100)}, "each be twice the one before"),
        ({"sides": (56,)}, "each be twice the one before"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        operators.run(tmp_path / "new", **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the folder"):
        operators.run(tmp_path / "file")


def test_a_file_that_cannot_be_written_is_one_line(result, tmp_path):
    (tmp_path / "operators.json").mkdir()
    with pytest.raises(ValueError, match=r"cannot write to '.*': Is a directory"):
        operators._write(result[0], tmp_path)


# -- figures and text from a record --------------------------------------------------------------------------------


def test_curves_are_the_record(recorded):
    figure = operator_figures.growth(recorded)
    for ax, (what, unit) in zip(figure.axes, {"multiply_adds": 1e6, "peak": 1e6, "forward_ms": 1}.items(), strict=True):
        assert ax.get_xscale() == ax.get_yscale() == "log"
        for line, name in zip(ax.get_lines(), OPERATORS, strict=True):
            found = recorded["operators"][name]
            np.testing.assert_allclose(line.get_ydata(), np.array(found[what]) / unit)
            np.testing.assert_array_equal(line.get_xdata(), recorded["sides"][: len(found[what])])
            assert line.get_label() == f"{name} (n$^{{{found['exponents'][what]:.2f}}}$)"


def test_bars_are_the_record(recorded):
    for ax, what in zip(operator_figures.adaptation(recorded).axes, ("positions", "weights"), strict=True):
        assert [bar.get_width() for bar in ax.patches] == [recorded["operators"][n][what] for n in OPERATORS]
        assert [text.get_text() for text in ax.texts] == [
            f"{recorded['operators'][n][what]:.2f}" if recorded["operators"][n][what] else "0" for n in OPERATORS
        ]


def test_fields_are_drawn_for_every_view_and_operator(recorded):
    figure = operator_figures.fields(recorded)
    views, panels = recorded["views"], figure.axes[: 3 * (1 + len(OPERATORS))]
    for number, (name, view) in enumerate(views.items()):
        photo, *fields = panels[number * (1 + len(OPERATORS)) :][: 1 + len(OPERATORS)]
        assert photo.get_ylabel() == name
        for ax, operator in zip(fields, OPERATORS, strict=True):
            found = recorded["operators"][operator]["fields"][name]
            drawn = ax.images[1].get_array()
            np.testing.assert_array_equal(drawn.mask, unpacked(found["levels"], recorded["side"]) == 0)
            assert ax.get_xlabel() == f"90 % within {found['radii'][1]:.3g} px"
            assert len(ax.child_axes) == (found["farthest"] <= operator_figures.CLOSE_UP)
        pixel = 4 * (np.array(view["pixel"][::-1]) + 0.5) - 0.5
        np.testing.assert_allclose(photo.collections[0].get_offsets(), [pixel])


def test_sentences_say_what_the_record_says(recorded):
    changed = copy.deepcopy(recorded)
    found = changed["operators"]
    at = changed["sides"].index(changed["side"])
    found[GLOBAL]["multiply_adds"][at] = 7 * found[DEFORMABLE]["multiply_adds"][at]
    found[LARGE]["weights"] = 0.25  # as if it adapted
    changed["dcnv3_reach"] = {"1": 2.0, "9": 11.0}
    changed["crossovers"] = {WINDOWED: None, DEFORMABLE: 77}
    reach, adaptation, crossovers, cost = findings(changed)
    assert "Scaled by 1 and 9, they make the farthest pixel that it reads 2 and 11 px away" in reach
    assert adaptation.startswith(f"Of {SMALL}, neither")
    assert f"Of {GLOBAL}, {WINDOWED} and {LARGE}, the weights change" in adaptation
    assert f"more multiply-adds than {DEFORMABLE} from 77x77 pixels on." in crossovers
    assert f"multiply-adds: 7.0 for {GLOBAL}" in cost
    assert "11 px, offsets x 9" in claim_rows(changed)[-1][2]


def test_slower_from_is_the_smallest_side_without_exception():
    from dcnlab.study.operator_text import _slower_from

    ms = {"a": [5.0, 1.0, 9.0, 9.0], "b": [1.0, 2.0, 3.0], "c": [9.0, 9.0, 99.0]}
    record = {"sides": [7, 14, 28, 56], "operators": {name: {"forward_ms": each} for name, each in ms.items()}}
    assert _slower_from(record, "a", "b") == 28
    assert _slower_from(record, "a", "c") is None


def test_the_table_names_its_columns(recorded):
    head, _, *lines = table(recorded).splitlines()
    assert len(lines) == len(OPERATORS)
    at = recorded["sides"].index(recorded["side"])
    for line, name in zip(lines, OPERATORS, strict=True):
        assert line.startswith(name)
        cells = dict(zip(re.split(r"  +", head), re.split(r"  +", line), strict=True))
        assert cells["M mult-adds"] == f"{recorded['operators'][name]['multiply_adds'][at] / 1e6:.1f}"


# -- the recorded run ----------------------------------------------------------------------------------------------


def test_the_recorded_run_is_of_this_code(recorded):
    """Sizes, seed, formulas and exponents: what the documentation shows was not made by something else."""
    assert recorded["seed"] == 0
    assert tuple(recorded["sides"]) == operators.SIDES
    assert recorded["views"] == {n: {"pixel": list(p), "mirrored": m} for n, (p, m) in operators.VIEWS.items()}
    seen = features(operators.sample_photo(), operators.SIDE)
    layers = build(seen)
    for name in (DEFORMABLE, SMALL):
        field = receptive_field(gradients(layers[name], seen, [operators.FLAG])[0])
        radii = [radius_of_share(field, operators.FLAG, share) for share in (0.5, 0.9)]
        # Another BLAS may round a sample into the next cell.
        assert recorded["operators"][name]["fields"]["pixel A"]["radii"] == pytest.approx(radii, abs=0.5)
    for name, found in recorded["operators"].items():
        counts = [costs.multiply_adds(layers[name], side, side).total for side in recorded["sides"]]
        assert found["multiply_adds"] == counts
        for what, exponent in found["exponents"].items():
            sides = recorded["sides"][: len(found[what])]
            assert exponent == pytest.approx(costs.exponent(sides, found[what]), rel=1e-9)


def test_the_paper_and_the_computation_agree(recorded):
    """Figure 1 of arXiv 2211.05778: who adapts, who sees far, whose cost grows faster than the image."""
    for name, (long_range, adaptive, efficient) in CLAIMS.items():
        found = recorded["operators"][name]
        assert bool(found["positions"] or found["weights"]) == adaptive, name
        assert (found["exponents"]["multiply_adds"] < 1.05 and found["exponents"]["peak"] < 1.05) == efficient, name
        farthest = max(field["farthest"] for field in found["fields"].values())
        if name == DEFORMABLE:  # as far as its offsets are long
            farthest = max(recorded["dcnv3_reach"].values())
        assert (farthest > 15) == long_range, name


def test_figures_are_drawn_without_pyplot(recorded):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    new_figure(1, 1)
    operator_figures.adaptation(recorded)
    assert plt.get_fignums() == before
