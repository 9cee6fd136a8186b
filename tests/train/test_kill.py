"""A run that is killed goes on as if it had not been: at every call that touches the disk, and at any other moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training import write_bars

import dcnlab
from dcnlab.train.history import History

DRIVER = Path(__file__).parent.parent / "crash_driver.py"
ENVIRONMENT = {**os.environ, "DCNLAB_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def files_of(folder):
    """Return what a run leaves: arrays, weights, settings, and the log without its times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in History(folder / "log.csv").rows()]
    state = json.loads((folder / "state.json").read_text())
    state.pop("seconds")
    arrays = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    return rows, state, (folder / "settings.json").read_text(), arrays, sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_killed_at_every_call_that_touches_the_disk(tmp_path):
    write_bars(tmp_path / "bars.npz", 20)
    found = subprocess.run(
        [sys.executable, DRIVER, tmp_path], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=True
    )
    killed = json.loads(found.stdout.splitlines()[-1])
    assert len(killed) > 15, "too few calls were hit to mean anything"
    assert {"fsync", "replace", "unlink"} <= set(killed)
    unbroken = files_of(tmp_path / "unbroken")
    for number, call in enumerate(killed):
        assert files_of(tmp_path / f"killed-{number}") == unbroken, f"killed at call {number}, {call}"


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """From outside, by kill -9, a little later each time, until the run is done."""
    write_bars(tmp_path / "bars.npz", 20)
    command = [sys.executable, "-m", "dcnlab", "train"]
    options = ["--epochs", "6", "--batch", "4", "--test", "4", "--save-every", "2", "--backend", "numpy"]
    begin = [*command, tmp_path / "bars.npz", *options, "--out"]
    subprocess.run([*begin, tmp_path / "unbroken"], env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    folder, kills, delay = tmp_path / "killed", 0, 0.9
    while True:
        started = (folder / "settings.json").exists()
        process = subprocess.Popen(
            [*command, "--resume", folder] if started else [*begin, folder],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.wait(timeout=delay) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, delay = kills + 1, delay * 1.2
    assert kills >= 1
    assert files_of(folder) == files_of(tmp_path / "unbroken")


def test_the_weights_can_be_used(tmp_path):
    write_bars(tmp_path / "bars.npz", 20)
    from dcnlab.train.program import resume, train
    from dcnlab.train.settings import Settings

    settings = Settings(data=str(tmp_path / "bars.npz"), epochs=1, batch=8, test=4, backend="numpy")
    started = time.time()
    assert train(settings, tmp_path / "run") == 0
    weights = tmp_path / "run" / "model.safetensors"
    model = dcnlab.InternImage.from_checkpoint(weights, offset_scale=1.0)  # a file cannot tell it
    assert model(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 2)
    assert (tmp_path / "run" / "curves.png").stat().st_mtime >= started - 1
    before = files_of(tmp_path / "run")
    assert resume(tmp_path / "run") == 0, "a finished run has nothing left to do"
    assert files_of(tmp_path / "run") == before
    with pytest.raises(ValueError, match="holds a run; go on with it by --resume"):
        train(settings, tmp_path / "run")
