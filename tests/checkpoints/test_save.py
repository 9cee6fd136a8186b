"""Writing: what others read of it, what is refused, and that a crash leaves the old file."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import bfloat16, tensor, torch_zip
from helpers import GOLDEN

import dcnlab
from dcnlab import cli
from dcnlab.checkpoints import save

SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
ARRAYS = {
    "model.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "byte": np.uint8([1, 2, 3]),
    "scalar": np.array(3),
    "half": np.float16([[0.5]]),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 2)),
    "file": np.int16([1]),
    "\u00df": np.int8([1]),
    "numpy scalar": np.float64(2.5),
}


def assert_same(loaded, expected):
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes(), name


@SUFFIXES
def test_round_trip(suffix, tmp_path):
    dcnlab.save_checkpoint(tmp_path / f"x{suffix}", ARRAYS)
    assert_same(dcnlab.load_checkpoint(tmp_path / f"x{suffix}"), ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]


@SUFFIXES
def test_strides_and_byte_order(suffix, tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    arrays = {"t": base.T, "part": base[1:, ::2], "big": base.astype(">f8"), "back": base[::-1], "wide": base[0:1, :]}
    arrays["wide"] = np.broadcast_to(base[0], (3, 6))
    dcnlab.save_checkpoint(tmp_path / f"x{suffix}", arrays)
    loaded = dcnlab.load_checkpoint(tmp_path / f"x{suffix}")
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    assert loaded["big"].dtype == np.float64


def test_the_library_of_the_format_reads_it(tmp_path):
    judge = pytest.importorskip("safetensors.numpy", reason="the format's own library: pip install safetensors")
    dcnlab.save_checkpoint(tmp_path / "x.safetensors", ARRAYS)
    read = judge.load_file(tmp_path / "x.safetensors")
    assert set(read) == set(ARRAYS)
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in ARRAYS.items())


def test_numpy_reads_it(tmp_path):
    dcnlab.save_checkpoint(tmp_path / "x.npz", ARRAYS)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as read:
        assert_same(read, ARRAYS)


def test_mapped_arrays_are_aligned_whatever_the_order(tmp_path):
    arrays = {"a": np.uint8([1]), "b": np.arange(3.0), "c": np.uint8([1, 2]), "d": np.float32([1])}
    dcnlab.save_checkpoint(tmp_path / "x.safetensors", arrays)
    loaded = dcnlab.load_checkpoint(tmp_path / "x.safetensors")
    assert_same(loaded, arrays)
    assert all(array.flags.aligned and not array.flags.owndata for array in loaded.values())


@SUFFIXES
@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"w": np.zeros(1, complex)}, ValueError, "'w': expected one of float64, .*, got complex128"),
        ({"w": np.array([None])}, ValueError, "got object"),
        ({"w": np.array(["x"])}, ValueError, "got <U1"),
        ({"w": np.zeros(1, [("a", "f4")])}, ValueError, "got "),
        ({"w": [1, 2]}, TypeError, "'w': expected a NumPy array, got list"),
        ({3: np.zeros(1)}, TypeError, "expected names of str, got int"),
        ({"../w": np.zeros(1)}, ValueError, r"cannot write the name '\.\./w'"),
        ({"/w": np.zeros(1)}, ValueError, "cannot write the name"),
        ({"": np.zeros(1)}, ValueError, "cannot write the name ''"),
        ({"\ud800": np.zeros(1)}, ValueError, r"cannot write the name '\\ud800'"),
        ({"__metadata__": np.zeros(1)}, ValueError, "__metadata__ means something else"),
        ({"w": np.zeros((1,) * 33)}, ValueError, "at most 32 dimensions, got 33"),
    ],
)
def test_what_cannot_be_written(suffix, arrays, error, message, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error, match=message):
        dcnlab.save_checkpoint(path, {"good": np.zeros(3), **arrays})
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["x.pth", "x", "x.npy", "x.NPZ.gz"])
def test_other_suffixes(name, tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.safetensors or \.npz, got"):
        dcnlab.save_checkpoint(tmp_path / name, ARRAYS)
    assert not list(tmp_path.iterdir())


@SUFFIXES
@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_the_old_file(suffix, fails, error, tmp_path, monkeypatch):
    path = tmp_path / f"x{suffix}"
    dcnlab.save_checkpoint(path, {"w": np.zeros(3)})
    old = path.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(save.os, fails, fail)
    with pytest.raises(type(error)):
        dcnlab.save_checkpoint(path, {"w": np.ones(3)})
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@SUFFIXES
def test_a_failure_in_the_middle_leaves_the_old_file(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    stored = save._stored

    def fail_at_the_second(array):
        if array.size == 2:
            raise MemoryError
        return stored(array)

    monkeypatch.setattr(save, "_stored", fail_at_the_second)
    with pytest.raises(MemoryError):
        dcnlab.save_checkpoint(path, {"a": np.zeros(1000), "b": np.zeros(2)})
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@SUFFIXES
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_leaves_the_old_file(suffix, tmp_path):
    """Killed once with the new content half written, and once just before the file takes its place."""
    path = tmp_path / f"x{suffix}"
    dcnlab.save_checkpoint(path, {"w": np.zeros(3)})
    old = path.read_bytes()
    for moment in ("fsync", "replace"):
        script = f"""
            import os, signal
            import numpy as np
            import dcnlab
            from dcnlab.checkpoints import save
            save.os.{moment} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
            dcnlab.save_checkpoint({str(path)!r}, {{"w": np.ones(100_000)}})
            """
        environment = {**os.environ, "PYTHONPATH": str(Path(dcnlab.__file__).parents[1])}
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=False)
        assert run.returncode == -signal.SIGKILL
        assert path.read_bytes() == old
    left = [found for found in tmp_path.iterdir() if found != path]
    assert len(left) == 2  # nobody could remove these; their names say what they are
    assert all(found.name.startswith(f".x{suffix}.") and found.suffix == ".tmp" for found in left)
    dcnlab.save_checkpoint(path, {"w": np.ones(3)})
    assert dcnlab.load_checkpoint(path)["w"].tolist() == [1, 1, 1]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        dcnlab.save_checkpoint(tmp_path / "absent" / "x.npz", ARRAYS)


@pytest.mark.skipif(os.name != "posix", reason="links and permissions of POSIX systems")
def test_links_and_permissions(tmp_path):
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to("real.npz")
    old_mask = os.umask(0o027)
    try:
        dcnlab.save_checkpoint(tmp_path / "link.npz", ARRAYS)
    finally:
        os.umask(old_mask)
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "real.npz").stat().st_mode & 0o777 == 0o640
    assert_same(dcnlab.load_checkpoint(tmp_path / "real.npz"), ARRAYS)


def convert(*arguments):
    return cli.main(["convert", *map(str, arguments)])


@SUFFIXES
def test_convert(suffix, tmp_path, capsys):
    source, target = GOLDEN / "dcnv3" / "net_b_post_norm.pth", tmp_path / f"x{suffix}"
    assert convert(source, target) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{target}: 135 arrays, 492 kB (float32 x 134, int64 x 1), ")
    assert line.endswith(" s\n")
    assert line.count("\n") == 1
    assert_same(dcnlab.load_checkpoint(target), dcnlab.load_checkpoint(source))
    assert convert(target, tmp_path / "again.npz") == 0
    assert convert(tmp_path / "again.npz", target) == 0  # replaces it


def test_convert_bfloat16(tmp_path):
    (tmp_path / "x.pth").write_bytes(torch_zip({"state_dict": {"w": bfloat16([1.5])}}))
    assert convert(tmp_path / "x.pth", tmp_path / "x.safetensors") == 0
    assert dcnlab.load_checkpoint(tmp_path / "x.safetensors")["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("x.npz", "x.npz", "expected another file to write than the one to read"),
        ("x.npz", "link.npz", "expected another file to write than the one to read"),
        ("x.npz", "y.pth", "expected a name that ends in .safetensors or .npz, got '.pth'"),
        ("absent.pth", "y.npz", "No such file"),
        (".", "y.npz", "got a folder"),
        ("text.pth", "y.npz", "expected a checkpoint of torch (.pth), .safetensors or .npz"),
        ("x.npz", "absent/y.npz", "No such file"),
        ("unsafe.pth", "y.npz", "asks to run os.system"),
    ],
)
def test_convert_says_in_a_line_what_is_wrong(source, target, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dcnlab.save_checkpoint("x.npz", {"w": np.zeros(3)})
    os.link("x.npz", "link.npz")
    Path("text.pth").write_text("no checkpoint")
    attack = b"\x80\x02}X\x01\x00\x00\x00wcos\nsystem\nX\x04\x00\x00\x00true\x85Rs."
    Path("unsafe.pth").write_bytes(torch_zip({"w": tensor(np.zeros(1))}, data_pkl=attack))
    before = sorted(tmp_path.iterdir())
    assert convert(source, target) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dcnlab convert: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
