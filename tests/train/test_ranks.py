"""`mpiexec -n 2 dcnlab train` computes what one process does on the joined batches."""

import numpy as np
import pytest
from training import write_bars

from dcnlab.checkpoints.load import load_checkpoint
from dcnlab.train.history import History

STEPS = 10
OPTIONS = ["--epochs", "5", "--batch", "7", "--test", "4", "--dtype", "float64", "--drop-path", "0.3", "--lr", "1e-3"]


@pytest.mark.slow
def test_two_ranks_and_one_agree(tmp_path, run_ranks):
    write_bars(tmp_path / "bars.npz", 20)
    train = ["-m", "dcnlab", "train", tmp_path / "bars.npz", *OPTIONS, "--backend", "numpy", "--out"]
    printed = {}
    for ranks, name in enumerate(("one", "two"), start=1):
        status, printed[name], err, _ = run_ranks(*train, tmp_path / name, ranks=ranks)
        assert status == 0, err
    assert "2 processes" in printed["two"]
    assert printed["two"].count("epoch 5/5") == 1, "only the first process speaks"
    one, two = (load_checkpoint(tmp_path / name / f"state-{STEPS:08d}.safetensors") for name in ("one", "two"))
    for name in one:
        own = np.asarray(one[name])
        bound = 1e-6 * max(np.abs(own).max(), 1e-3)
        np.testing.assert_allclose(two[name], own, rtol=0, atol=bound, err_msg=name)
    rows = [History(tmp_path / name / "log.csv").rows() for name in ("one", "two")]
    for first, second in zip(*rows, strict=True):
        for column in set(first) - {"seconds"}:
            assert second[column] == pytest.approx(first[column], rel=1e-6), column


@pytest.mark.slow
def test_ranks_that_cannot_begin_say_why(tmp_path, run_ranks):
    train = ["-m", "dcnlab", "train", tmp_path / "nothing.npz", "--out", tmp_path / "run"]
    status, _, err, _ = run_ranks(*train)
    assert status != 0
    said = [line for line in err.splitlines() if "nothing.npz" in line]
    assert 1 <= len(said) <= 2, "the first speaks for all, unless it is held up longer than the others wait"
    assert all(line.startswith("dcnlab train: rank ") for line in said)
