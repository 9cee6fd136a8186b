"""`dcnlab demo` as a command: what it passes on, and one line and exit status 2 for what it cannot use."""

import json

import pytest

from dcnlab import cli, demo


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not an image in a known format"),
        (b"\x89PNG\r\n\x1a\n" + 40 * b"\0", "cannot read"),
        (None, "No such file"),
    ],
    ids=["text", "broken png", "missing"],
)
def test_a_bad_file_gets_one_line_and_exit_2(tmp_path, capsys, content, message):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out"
    assert cli.main(["demo", str(path), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("dcnlab demo: ")
    assert message in printed.err
    assert not out.exists(), "nothing is written for an image that cannot be used"


def test_image_folder_and_seed_reach_the_demo(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(demo, "run", lambda *args: seen.append(args))
    assert cli.main(["demo", "photo.jpg", "--out", str(tmp_path), "--seed", "7"]) == 0
    assert cli.main(["demo"]) == 0
    assert json.loads(json.dumps(seen)) == [["photo.jpg", str(tmp_path), 7], [None, "dcnlab-demo", 0]]
