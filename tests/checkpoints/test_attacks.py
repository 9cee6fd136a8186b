"""Hostile and broken files are refused by a short message, within bounds of time and memory, and run nothing."""

import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_attacks import CANARY, code_execution, entry, in_zip, name, pickles, tensors, text
from checkpoint_files import nothing_runs, safetensors, tensor, torch_legacy, torch_pickle, torch_zip
from checkpoint_forgeries import archives, headers, legacy, npz, others

import dcnlab

GROUPS = (code_execution, pickles, tensors, archives, legacy, headers, npz, others)
SECONDS = 20  # for one file; the slowest takes 1 on one core
MEBIBYTES = 512  # for one file, beyond what importing dcnlab takes


@pytest.fixture(autouse=True)
def warm(load, tmp_path, monkeypatch):
    """Import what loading needs, so that a later import would be the file's doing."""
    weights = torch_zip({"w": tensor(np.zeros(2, np.float32))})
    load(weights)
    monkeypatch.chdir(tmp_path)


def suffix(label):
    kind = label.split(":")[0]
    return f".{kind}" if kind in ("safetensors", "npz") else ".pth"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_refused(group, tmp_path):
    wrong = []
    for label, content in group().items():
        path = tmp_path / f"attack{suffix(label)}"
        path.write_bytes(content)
        started = time.perf_counter()
        with nothing_runs(), pytest.raises(ValueError) as caught:  # noqa: PT011
            dcnlab.load_checkpoint(path)
        message = str(caught.value)
        if type(caught.value) not in (ValueError, dcnlab.UnsafeCheckpoint):
            wrong.append(f"{label}: {type(caught.value)}")
        if not (message.startswith(f"{path}: ") and message.isprintable() and len(message) < len(str(path)) + 300):
            wrong.append(f"{label}: {message!r}")
        if time.perf_counter() - started > SECONDS:
            wrong.append(f"{label}: took {time.perf_counter() - started:.1f} s")
        if Path(CANARY).exists():
            wrong.append(f"{label}: ran")
            Path(CANARY).unlink()
    assert not wrong


@pytest.mark.skipif(os.name != "posix", reason="the attacks call programs and classes of POSIX systems")
def test_the_attacks_are_real(tmp_path):
    """Python's own pickle falls for those that are a whole file and need nothing but its library."""
    labels = [
        "os.system",
        "posix.system",
        "subprocess",
        "eval",
        "exec",
        "stack global",
        "dotted name",
        "pathlib",
        "timeit",
    ]
    attacks = code_execution()
    for label in labels:
        program = attacks[f"{label} before the magic number"]
        script = f"import pickle; made = pickle.loads({program!r}); hasattr(made, 'wait') and made.wait()"
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True)
        (tmp_path / CANARY).unlink()  # there is one


def test_code_execution_is_unsafe_not_merely_wrong(load):
    for label, content in code_execution().items():
        if label.endswith("before the magic number"):
            continue  # no torch file at all; a ValueError, if the name is not on the list
        with pytest.raises(dcnlab.UnsafeCheckpoint):
            load(content)
        assert not Path(CANARY).exists(), label


@pytest.mark.parametrize("where", ["config", "optimizer", "epoch"])
def test_an_attack_beside_the_weights(where, load):
    """A name of the list refuses the file; another is inert."""
    made, _ = torch_pickle({"model": {"w": tensor(np.zeros(2, np.float32))}, where: None})
    position = made.index(where.encode()) + len(where) + 2  # after its BINPUT; then comes the value None
    assert made[position : position + 1] == b"N"

    def attack(value):
        program = made[:position] + value + made[position + 1 :]
        return torch_zip({"w": tensor(np.zeros(2, np.float32))}, data_pkl=program)

    with nothing_runs(), pytest.raises(dcnlab.UnsafeCheckpoint, match=r"asks to run os\.system, .*nothing was run"):
        load(attack(name("os", "system") + text(f"touch {CANARY}") + b"\x85R"))
    path = name("pathlib", "PosixPath") + text(CANARY) + b"\x85R"
    loaded = load(attack(name("builtins", "getattr") + path + text("touch") + b"\x86R)R"))
    assert list(loaded) == ["w"]
    assert not Path(CANARY).exists()


def test_state_of_a_tensor_is_not_set(load):
    state = b"}" + text("__class__") + name("evil", "Class") + b"s"
    made, _ = torch_pickle({"w": tensor(np.ones(2, np.float32))})
    program = made[: made.rindex(b"s.")] + state + b"bs."
    assert load(torch_zip({"w": tensor(np.ones(2, np.float32))}, data_pkl=program))["w"].tolist() == [1, 1]


def test_a_memo_index_is_a_name_not_a_size(load):
    """Python's own unpickler allocates 32 GiB for this."""
    made, _ = torch_pickle({"w": tensor(np.ones(2, np.float32))})
    program = made[:3] + b"r\xff\xff\xff\xff" + made[3:]
    assert load(torch_zip({"w": tensor(np.ones(2, np.float32))}, data_pkl=program))["w"].tolist() == [1, 1]


def test_a_header_over_the_limit_of_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    with open(path, "wb") as file:  # a sparse file, as long as it says
        file.write(struct.pack("<Q", 150_000_000) + b"{")
        file.truncate(200_000_000)
    with pytest.raises(dcnlab.UnsafeCheckpoint, match="header of at most 100 MB, got 150 MB"):
        dcnlab.load_checkpoint(path)


def test_memory_stays_bounded(tmp_path):
    """All attacks in a process that may take only so much more memory than importing the library took."""
    resource = pytest.importorskip("resource", reason="address space cannot be limited on this system")
    assert resource.RLIMIT_AS
    (tmp_path / "attacks").mkdir()
    for group in GROUPS:
        for number, (label, content) in enumerate(group().items()):
            (tmp_path / "attacks" / f"{group.__name__}{number}{suffix(label)}").write_bytes(content)
    script = f"""
        import pathlib, resource
        import numpy as np
        import dcnlab
        dcnlab.load_checkpoint  # import what it needs
        status = pathlib.Path("/proc/self/status")
        used = int(status.read_text().split("VmSize:")[1].split()[0]) * 1024 if status.exists() else 2**31
        resource.setrlimit(resource.RLIMIT_AS, (used + {MEBIBYTES} * 2**20,) * 2)
        for path in sorted(pathlib.Path("attacks").iterdir()):
            try:
                dcnlab.load_checkpoint(path)
                print("loaded", path)
            except ValueError:
                pass
            except BaseException as error:
                print(type(error), path)
        try:
            np.ones({MEBIBYTES} * 2**17)
        except MemoryError:
            print("limited")
        """
    environment = {**os.environ, "PYTHONPATH": str(Path(dcnlab.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert run.stdout == "limited\n"


def test_messages_name_what_came(load):
    for content, message in [
        (in_zip(entry(name("my.pkg", "Thing") + b")R")), "'w' is what my.pkg.Thing makes, expected a plain tensor"),
        (safetensors(b"{}", length=2**40), "expected a safetensors header of at most 2 B, got 1.1 TB"),
        (torch_legacy([], made=b"\x80\x02K\x01."), "got 1"),
        (pickle.dumps([1]), "expected a file of torch.save"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            load(content)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        dcnlab.load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(IsADirectoryError, match="expected a checkpoint file, got a folder"):
        dcnlab.load_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="got a device or pipe"):
        dcnlab.load_checkpoint(tmp_path / "pipe.pth")
