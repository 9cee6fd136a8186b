"""What `dcnlab train` prints: lines in a file, a bar on a terminal, and why it stopped."""

import io
import sys

import numpy as np
import pytest
from training import write_bars

from dcnlab.cli import main
from dcnlab.train import program

OPTIONS = ["--epochs", "2", "--batch", "8", "--test", "4", "--backend", "numpy"]


@pytest.fixture
def data(tmp_path):
    write_bars(tmp_path / "bars.npz", 12)
    return str(tmp_path / "bars.npz")


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(program, "draw_curves", lambda rows, path: path.write_bytes(b""))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(data, tmp_path, capsys):
    assert main(["train", data, *OPTIONS, "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].endswith("8 to train on, 4 to test on")
    assert "2 epochs of 1 steps of 8 images; backend numpy" in lines[1]
    assert lines[2].startswith("epoch 1/2  loss ")
    assert lines[3].startswith("epoch 2/2  loss ")
    assert lines[4].startswith("test accuracy ")
    assert "model.safetensors" in lines[4]
    assert len(lines) == 5
    assert err == ""


def test_a_bar_on_a_terminal(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["train", data, *OPTIONS, "--out", str(tmp_path / "run")]) == 0
    assert "2/2" in sys.stderr.getvalue()
    assert "images/s" in sys.stderr.getvalue()
    assert "epoch 2/2" in capsys.readouterr().out


def test_divergence_is_said_with_status_1(data, tmp_path, capsys):
    wild = ["--lr", "1e9", "--clip", "0", "--warmup", "0", "--epochs", "60"]
    assert main(["train", data, *OPTIONS, *wild, "--out", str(tmp_path / "run")]) == 1
    assert "dcnlab train: training diverged in step" in capsys.readouterr().out
    assert not (tmp_path / "run" / program.WEIGHTS).exists()


def test_an_interrupt_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    step, folder = program.Trainer.step, tmp_path / "run"

    def interrupted(trainer):
        if trainer.progress.step == 1:
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(program.Trainer, "step", interrupted)
    assert main(["train", data, *OPTIONS, "--out", str(folder)]) == 130
    assert f"go on from the last saved state with: dcnlab train --resume {folder}" in capsys.readouterr().out
    monkeypatch.setattr(program.Trainer, "step", step)
    assert main(["train", "--resume", str(folder)]) == 0
    assert "going on after step 1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.npz"], "nothing.npz"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--batch", "9"], "batch must be at most the 8 training images, got 9"),
        (["--test", "12"], "12"),
    ],
)
def test_bad_input_is_one_line_and_status_2(data, tmp_path, capsys, arguments, message):
    given = [*([] if arguments[0].endswith("npz") else [data]), *OPTIONS, *arguments]
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dcnlab train: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("run/*")), "nothing was begun"


def test_a_damaged_run_is_refused(data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", data, *OPTIONS, "--out", str(folder)]) == 0
    for name, content in {"settings.json": "{}[", "state.json": "[1]"}.items():
        whole = (folder / name).read_text()
        (folder / name).write_text(content)
        assert main(["train", "--resume", str(folder)]) == 2
        assert name in capsys.readouterr().err
        (folder / name).write_text(whole)
    for path in folder.glob("state-*.safetensors"):
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    assert main(["train", "--resume", str(folder)]) == 2
