"""`dcnlab classify` end to end: what it prints, what it writes and where, and one line for what it cannot use."""

import dataclasses
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dcnlab
from dcnlab import InternImage, backends, cli
from dcnlab.classify.figures import shown_groups
from dcnlab.errors import BackendUnavailable
from dcnlab.internimage import class_names, classify

TINY = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8]}
FIGURES = {
    *(f"points-stage{stage}.png" for stage in (1, 2, 3, 4)),
    "modulation.png",
    "depth.png",
    "receptive-fields.png",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photo and a small checkpoint with offsets of about half a pixel."""
    folder, rng = tmp_path_factory.mktemp("input"), np.random.default_rng(3)
    model = InternImage(**TINY, num_classes=12, rng=0)
    for name, parameter in model.named_parameters():
        if ".dcn.offset." in name or ".dcn.mask." in name:
            parameter.value = parameter.value + 0.3 * rng.standard_normal(parameter.shape)
    dcnlab.save_checkpoint(folder / "tiny.safetensors", model.state_dict())
    pixels = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((150, 120)).save(folder / "photo <b>.png")
    return folder / "photo <b>.png", folder / "tiny.safetensors"


@pytest.fixture
def numpy_only(monkeypatch):
    def missing():
        raise BackendUnavailable("no compiler; pip install one")

    monkeypatch.setitem(backends.BACKENDS, "cpu", dataclasses.replace(backends.BACKENDS["cpu"], require=missing))


def command(files, *options):
    return cli.main(["classify", str(files[0]), "--weights", str(files[1]), *map(str, options)])


def tree(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


def test_what_is_printed(files, capsys, numpy_only):
    assert command(files, "--size", "64", "--top", "3") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].startswith("InternImage.from_checkpoint: the checkpoint is none of the published variants")
    assert lines[1] == "backend: numpy, which is slower; cpu is off: no compiler; pip install one"
    assert re.fullmatch(
        r"InternImage, none of the published variants, 0\.\d million parameters, 64x64 pixels", lines[2]
    )
    with pytest.warns(UserWarning, match="none of the published variants"):
        model = InternImage.from_checkpoint(files[1])
    expected = [(p.class_index, p.probability) for p in classify(model, files[0], top=3, size=64)]
    found = [re.fullmatch(r" ?(\d)  +([\d.]+) %  class +(\d+)", line).groups() for line in lines[3:6]]
    assert [int(rank) for rank, _, _ in found] == [1, 2, 3]
    assert [int(index) for _, _, index in found] == [index for index, _ in expected]
    assert [float(share) for _, share, _ in found] == pytest.approx([100 * p for _, p in expected], abs=0.006)
    assert lines[6:] == ["no names: they are known for the 1000 classes of ImageNet-1k only, this model has 12"]


def test_the_compiled_backend_is_taken_where_it_runs(files, capsys, compiler):
    assert command(files, "--size", "32") == 0
    assert "backend: cpu, the compiled kernels" in capsys.readouterr().out


def test_names_are_printed_where_they_are_known(tmp_path, files, capsys, monkeypatch, numpy_only):
    model = InternImage(**TINY, num_classes=1000, rng=0)
    dcnlab.save_checkpoint(tmp_path / "w.npz", model.state_dict())
    monkeypatch.setattr(class_names, "READERS", {"pkg": lambda folder: [f"thing {i}" for i in range(1000)]})
    monkeypatch.setattr(class_names, "_folder", lambda package: tmp_path)
    assert command((files[0], tmp_path / "w.npz"), "--size", "32", "--top", "1") == 0
    assert re.search(r"%  class +(\d+)  thing \1\n", capsys.readouterr().out)
    monkeypatch.setattr(class_names, "_folder", lambda package: None)
    assert command((files[0], tmp_path / "w.npz"), "--size", "32", "--top", "1") == 0
    assert "no names: none of torchvision, timm, which ship them, is installed" in capsys.readouterr().out


class References(HTMLParser):
    """Everything that a page refers to, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def shown(files, tmp_path_factory):
    """One run with --show, and where it ran. 50 is no multiple of any stride."""
    home = tmp_path_factory.mktemp("work")
    before = tree(files[0].parent)
    old = os.getcwd()
    os.chdir(home)
    try:
        assert command(files, "--size", "50", "--show", "deep/out") == 0
    finally:
        os.chdir(old)
    assert tree(files[0].parent) == before
    return home


def test_only_the_folder_is_written(shown):
    assert tree(shown) == {"deep", "deep/out", "deep/out/index.html", *(f"deep/out/{name}" for name in FIGURES)}


def test_the_page_needs_nothing_but_itself(shown):
    page = (shown / "deep/out/index.html").read_text(encoding="utf-8")
    references = References(page)
    assert references.open == []
    assert len(references.addresses) == 1 + len(FIGURES)
    assert all(address.startswith("data:") for address in references.addresses)
    assert "http" not in page
    assert "<b>" not in page
    assert "photo &lt;b&gt;.png" in page
    assert "$" not in page
    assert "nan" not in page.lower().split("data:")[0]


def test_the_figures_are_pictures(shown):
    for name in FIGURES:
        with Image.open(shown / "deep/out" / name) as picture:
            assert picture.width == 1300
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert len(np.unique(colours[::7], axis=0)) > 20


def test_a_map_of_one_pixel_can_be_shown(files, tmp_path, numpy_only):
    assert command(files, "--size", "32", "--show", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FIGURES | {"index.html"}


def test_groups_that_are_shown_exist():
    for groups in (1, 2, 3, 8, 128):
        assert max(shown_groups(groups)) == groups - 1
        assert len(set(shown_groups(groups))) == min(groups, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "7"], r"size must be in 8\.\.4096, got 7"),
        (["--variant", "T"], r"tiny\.safetensors is no InternImage-T: it has channels 8"),
        (["--weights", "missing.pth"], "No such file"),
        (["--weights", "photo <b>.png"], "photo <b>.png"),
    ],
)
def test_what_cannot_be_used_gets_one_line_and_exit_2(files, capsys, monkeypatch, options, message, tmp_path):
    monkeypatch.chdir(files[0].parent)
    out = tmp_path / "out"
    assert command(files, *options, "--show", out) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dcnlab classify: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)
    assert not out.exists(), "nothing is written for an input that cannot be used"


def test_a_photo_that_cannot_be_read_is_refused_before_the_weights(files, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    assert command((tmp_path / "bad.jpg", tmp_path / "missing.pth")) == 2
    assert "bad.jpg': not an image in a known format" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder(files, tmp_path, capsys, numpy_only):
    (tmp_path / "out").write_text("mine")
    assert command(files, "--size", "32", "--show", tmp_path / "out") == 2
    assert "cannot make the folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_bad_options_are_explained(files, capsys):
    for options in (["--variant", "Q"], ["--top", "0"]):
        with pytest.raises(SystemExit) as caught:
            command(files, *options)
        assert caught.value.code == 2
    assert "invalid choice: 'Q'" in capsys.readouterr().err
