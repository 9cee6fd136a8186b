"""The record of a run: exact, whole after any crash, and its curves."""

import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dcnlab
from dcnlab.train.history import COLUMNS, History, draw_curves

HEADER = "epoch,step,lr,train_loss,train_accuracy,test_loss,test_accuracy,gradient_norm,seconds"


def row(epoch, /, **changes):
    made = {"epoch": epoch, "step": 10 * epoch, "lr": 1e-3 / epoch, "train_loss": 2.0 / epoch, "train_accuracy": 0.5}
    return made | {"test_loss": 2.1 / epoch, "test_accuracy": 0.4, "gradient_norm": 1.5, "seconds": 3.25} | changes


def written(path, count):
    history = History(path)
    for epoch in range(1, count + 1):
        history.append(row(epoch))
    return history


# -- rows ----------------------------------------------------------------------------------------------------------


def test_what_is_appended_comes_back(tmp_path):
    history = written(tmp_path / "history.csv", 3)
    assert history.rows() == [row(1), row(2), row(3)]
    assert (tmp_path / "history.csv").read_text().startswith(f"{HEADER}\n1,10,0.001,2.0,0.5,2.1,0.4,1.5,3.25\n")
    assert [type(value) for value in history.rows()[0].values()] == [int] * 2 + [float] * 7
    assert History(tmp_path / "history.csv").rows() == history.rows()


NUMBERS = st.floats() | st.integers(-(2**53), 2**53)


@settings(max_examples=30)  # each is flushed to the disk
@given(values=st.lists(NUMBERS, min_size=7, max_size=7), step=st.integers(0, 2**63))
def test_numbers_come_back_exactly(tmp_path_factory, values, step):
    given_row = dict(zip(COLUMNS, [1, step, *values], strict=True))
    history = History(tmp_path_factory.mktemp("history") / "history.csv")
    history.append(given_row)
    np.testing.assert_array_equal(list(history.rows()[0].values()), list(given_row.values()))  # NaN equals NaN


def test_numpy_numbers_are_numbers(tmp_path):
    history = History(tmp_path / "history.csv")
    history.append(row(1, step=np.int64(7), train_loss=np.float32(0.1), test_loss=np.array(0.25)))
    assert history.rows() == [row(1, step=7, train_loss=float(np.float32(0.1)), test_loss=0.25)]


def test_an_epoch_that_is_not_tested(tmp_path):
    history = History(tmp_path / "history.csv")
    untested = {name: value for name, value in row(1).items() if not name.startswith("test")}
    history.append(untested)
    history.append(row(2, test_loss=None, test_accuracy=None))
    assert history.rows() == [row(1, test_loss=None, test_accuracy=None), row(2, test_loss=None, test_accuracy=None)]


def test_no_file_is_no_rows(tmp_path):
    history = History(tmp_path / "history.csv")
    assert history.rows() == []
    history.truncate(after_step=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": 1.0}, ValueError, r"unexpected \['loss'\]"),
        ({"lr": None}, ValueError, r"missing \['lr'\]"),
        ({"step": 1.5}, ValueError, "step must be a whole number of at least 0, got 1.5"),
        ({"epoch": -1}, ValueError, "epoch must be a whole number of at least 0, got -1"),
        ({"step": math.nan}, TypeError, "step must be a number, got nan"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"lr": np.zeros(2)}, TypeError, "lr must be a number"),
    ],
)
def test_a_row_that_is_none_is_refused_and_nothing_is_written(tmp_path, changes, error, message):
    history = written(tmp_path / "history.csv", 1)
    with pytest.raises(error, match=message):
        history.append(row(2, **changes))
    assert history.rows() == [row(1)]


# -- crashes -------------------------------------------------------------------------------------------------------


def test_cut_anywhere_the_whole_rows_remain_and_it_goes_on(tmp_path):
    path = tmp_path / "history.csv"
    written(path, 2)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in {*range(0, len(content), 7), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}:
        path.write_bytes(content[:length])
        whole = [row(1), row(2)][: max(0, sum(end <= length for end in ends) - 1)]
        history = History(path)
        assert history.rows() == whole, length
        history.append(row(9))
        assert history.rows() == [*whole, row(9)], length
        assert path.read_text().count(HEADER) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_leaves_whole_rows(tmp_path):
    """Killed once just after a row is on the disk, and once with a truncated file that is not yet in its place."""
    path = tmp_path / "history.csv"
    history = written(path, 3)
    for call, kill_at in (("append(" + repr(row(4)) + ")", "fsync"), ("truncate(after_step=10)", "replace")):
        script = f"""
            import os, signal
            from dcnlab.train.history import History
            os.{kill_at} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
            History({str(path)!r}).{call}
            """
        environment = {**os.environ, "PYTHONPATH": str(Path(dcnlab.__file__).parents[1])}
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=False)
        assert run.returncode == -signal.SIGKILL
        assert history.rows() == [row(epoch) for epoch in (1, 2, 3, 4)]


def test_truncate_removes_what_comes_after_a_step(tmp_path):
    history = written(tmp_path / "history.csv", 5)
    history.truncate(after_step=30)
    assert history.rows() == [row(1), row(2), row(3)]
    history.append(row(4, lr=0.5))
    history.truncate(after_step=1000)
    assert history.rows() == [row(1), row(2), row(3), row(4, lr=0.5)]
    history.truncate(after_step=0)
    assert history.rows() == []
    history.append(row(1))
    assert history.rows() == [row(1)]
    assert list(tmp_path.iterdir()) == [history.path], "no temporary file stays"


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX systems")
def test_a_link_stays_a_link(tmp_path):
    history = written(tmp_path / "history.csv", 2)
    link = tmp_path / "link.csv"
    link.symlink_to(history.path)
    History(link).truncate(after_step=10)
    assert link.is_symlink()
    assert history.rows() == [row(1)]


# -- other files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"hello", b"\0\1\2\xff\xfe\n", b"epoch,step\n1,2\n", f"\n{HEADER}\n".encode(), b"\r\n" * 3],
)
def test_another_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    for use in (History(path).rows, lambda: History(path).append(row(1)), lambda: History(path).truncate(0)):
        with pytest.raises(ValueError, match=r"is no history: expected a first line epoch,step,lr") as refused:
            use()
        assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line", ["1,2,3", "a" * 1000, "1,2,3,4,5,6,7,8,9,10", "1.5,1,1,1,1,1,1,1,1", "1,1,,1,1,1,1,1,1"]
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "history.csv"
    written(path, 1)
    path.write_text(path.read_text() + line + "\n" + "2,20,1,1,1,1,1,1,1\n")
    with pytest.raises(ValueError, match=r"history.csv, line 3: expected epoch,step") as refused:
        History(path).rows()
    assert len(str(refused.value)) < 500


@given(st.binary(max_size=300))
def test_whatever_the_file_holds_there_are_rows_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    for start in (b"", HEADER.encode() + b"\n"):
        path.write_bytes(start + content)
        rows, message = read_or_refused(path)
        assert len(message.splitlines()) <= 1
        assert all(tuple(found) == COLUMNS for found in rows)


def read_or_refused(path):
    try:
        return History(path).rows(), ""
    except ValueError as refused:
        return [], str(refused)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="expected a history of at most 100000000 bytes, a regular file"):
            History(path).rows()


# -- curves --------------------------------------------------------------------------------------------------------

UNTESTED = {"test_loss": None, "test_accuracy": None}


@pytest.mark.parametrize(
    "rows",
    [
        [row(1)],
        [row(epoch) for epoch in range(1, 301)],
        [row(epoch, train_loss=math.inf if epoch == 3 else 1.0, test_loss=math.nan) for epoch in range(1, 6)],
        [row(1, train_loss=math.nan, **UNTESTED), row(2, train_loss=math.nan, **UNTESTED)],
        [row(1, lr=0.0), row(2, lr=0.0)],
    ],
    ids=["one", "300", "not finite", "nothing finite", "rate 0"],
)
def test_curves_are_drawn(tmp_path, rows):
    draw_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1200, 360)
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    blue = (abs(drawn - [0x00, 0x72, 0xB2]).max(axis=-1) < 40).reshape(360, 3, 400).sum(axis=(0, 2))
    finite = [math.isfinite(rows[0]["train_loss"]), True, True]
    assert ((blue > 10) == finite).all(), f"pixels of the training curve in each panel: {blue}"


def test_the_test_curve_appears_only_when_there_is_one(tmp_path):
    def orange(rows):
        draw_curves(rows, tmp_path / "curves.png")
        drawn = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
        return int((abs(drawn - [0xD5, 0x5E, 0x00]).max(axis=-1) < 40).sum())

    assert orange([row(1, **UNTESTED), row(2, **UNTESTED)]) == 0
    assert orange([row(1), row(2, **UNTESTED), row(3)]) > 100


def test_no_rows_no_curves(tmp_path):
    with pytest.raises(ValueError, match="there are no rows to draw"):
        draw_curves([], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
