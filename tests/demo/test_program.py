import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from dcnlab import __version__
from dcnlab.demo import DemoError, picture, run
from dcnlab.demo import program as program_module

FILES = {
    "report.html",
    "results.json",
    "demo.png",
    "photos.png",
    "fields.png",
    "learning.png",
    "taps.png",
    "modulation.png",
}


def test_results(small_run):
    folder, results = small_run
    assert json.loads((folder / "results.json").read_text()) == results
    for operator in ("dcnv2", "dcnv3"):
        learned = results[operator]
        # 80 steps at 64 pixels are a third of the work on a sixth of the pixels: half of the full run's ratio is asked.
        assert learned["after"] < learned["before"] / 2.5
        assert learned["ratio"] == learned["before"] / learned["after"]
    # Both start from regular sampling, so from the same distance: the mean length of the true offsets.
    np.testing.assert_allclose(results["dcnv2"]["before"], results["dcnv3"]["before"])
    assert 0 < results["dcnv2"]["before"] < results["longest_offset"] <= 64 * 7 / 160 * 1.01
    modulation = results["modulation"]
    assert modulation["softmax"]["sum_min"] == pytest.approx(1)
    assert modulation["softmax"]["sum_max"] == pytest.approx(1)
    assert 0 < modulation["sigmoid"]["sum_min"] < 4.5 < modulation["sigmoid"]["sum_max"] < 9
    assert modulation["sigmoid"]["output_scale"][-1] > 1000 > 1 >= modulation["softmax"]["output_scale"][-1] > 0.5
    assert results["gradcheck"]["ok"]
    assert results["gradcheck"]["checks"] > 50
    assert results["gradcheck"]["worst_error"] < 1e-8
    assert results["seed"] == 1
    assert results["shape"] == [64, 55]
    assert results["seconds"] > results["dcnv2"]["seconds"] + results["dcnv3"]["seconds"]
    assert results["versions"]["dcnlab"] == __version__


def test_files(small_run):
    folder, _ = small_run
    assert {path.name for path in folder.iterdir()} == FILES
    for name in FILES - {"report.html", "results.json"}:
        with Image.open(folder / name) as figure:
            assert figure.width >= 1000
            assert np.asarray(figure.convert("L")).std() > 10  # not an empty canvas
    assert (folder / "demo.png").stat().st_size < 300_000


def test_report_stands_alone(small_run):
    folder, results = small_run
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page) < 6_000_000
    assert re.findall(r"https?://[^\"'\s<]+", page) == []
    sources = re.findall(r"""(?:src|href)=["']([^"']*)["']""", page)
    assert len(sources) >= 6
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"@import|url\(|\$[a-z_{]+\b(?=<)", page)
    for operator in ("dcnv2", "dcnv3"):
        assert f"{results[operator]['before']:.2f} → {results[operator]['after']:.2f} px" in page
    assert page.count("<tr") > results["gradcheck"]["checks"]


def test_animation_ends_where_the_learning_ended(small_run):
    folder, results = small_run
    page = (folder / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    frames = len(data["steps"])
    assert data["steps"][0] == 0
    assert data["steps"][-1] == 80
    assert all(len(data["mesh"][name]) == len(data["distances"][name]) == frames for name in ("DCNv2", "DCNv3"))
    assert data["distances"]["DCNv3"][-1] == pytest.approx(results["dcnv3"]["after"], abs=1e-4)
    np.testing.assert_allclose(np.sum(data["weights"], axis=1), 1, atol=0.05)  # rounded to two digits
    # The taps start as the regular 3x3 grid, and their mean comes closer to the goal.
    taps, weights, goal = (np.array(data[key]) for key in ("taps", "weights", "goal"))
    assert sorted((taps[0] - taps[0].mean(axis=0)).round(6).tolist()) == [
        [x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)
    ]
    mean = (weights[..., None] * taps).sum(axis=1) / weights.sum(axis=1)[:, None]
    far = np.linalg.norm(mean - goal, axis=-1)
    assert far[-1] < far[0] / 2.5


def test_names_are_escaped_and_nothing_is_written_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program_module, "_gradient_table", lambda *_: _no_checks())
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    name = "<script>alert(1)&amp;.png"
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(name)
    results = run(name, "deep/out", size=48, steps=(2, 2))
    page = (tmp_path / "deep/out/report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&amp;amp;.png" in page
    assert results["image"] == name
    assert {path.name for path in tmp_path.iterdir()} == {name, "deep"}
    assert {path.name for path in (tmp_path / "deep/out").iterdir()} == FILES
    assert "structure" in page  # four steps do not undo anything, and the report says so
    printed = capsys.readouterr().out
    assert "DCNv3: mean distance to the true offsets" in printed
    assert "\r" not in printed


def _no_checks():
    from dcnlab.gradient_table import GradTable

    return GradTable([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "missing.png"}, "cannot read 'missing.png': No such file"),
        ({"seed": -1}, "seed must be an int of at least 0, got -1"),
        ({"size": 20}, r"size must be an int in 48\.\.512, got 20"),
        ({"steps": (0, 5)}, "steps must be two ints"),
        ({"steps": 5}, "steps must be two ints"),
    ],
)
def test_bad_arguments_get_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DemoError, match=message) as caught:
        run(**arguments, progress=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_gets_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    for out in ("out", "out/deeper"):
        with pytest.raises(DemoError, match="cannot make the folder"):
            run(out=tmp_path / out, progress=False)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_gets_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DemoError, match="cannot write"):
        run(out=tmp_path, progress=False)


def test_the_picture_can_be_made_alone(tmp_path):
    import matplotlib.pyplot as plt

    open_figures = plt.get_fignums()
    picture(tmp_path / "demo.png", size=48, steps=(2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]
    with Image.open(tmp_path / "demo.png") as made:
        assert made.width == 1200
    assert plt.get_fignums() == open_figures  # a script's own figures stay its own


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4])  # the smallest ratio of the seeds 0 to 15
def test_the_full_run_comes_five_times_closer(tmp_path, seed):
    results = run(out=tmp_path, seed=seed, progress=False)
    for operator in ("dcnv2", "dcnv3"):
        assert results[operator]["after"] * 5 <= results[operator]["before"]
