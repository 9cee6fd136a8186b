"""The cache: right after any change, under concurrent builds, damage, and folders that cannot be used."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dcnlab.launch import cache, cache_folder, find_compiler, kernels_folder, module, sources, toolchain
from dcnlab.launch.cpu import _build_runtime

SOURCE = 'extern "C" __global__ void count(int* y) { y[threadIdx.x] = threadIdx.x; }\n'


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(compiler, tmp_path, monkeypatch):
    """A cache with nothing but the runtime in it, which takes the longest to build."""
    runtime = _build_runtime(find_compiler(), cache_folder())
    (tmp_path / "cache").mkdir()
    shutil.copy(runtime, tmp_path / "cache")
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(content, calls):
    def make(path):
        calls.append(path)
        path.write_bytes(content)

    return make


def test_an_entry_is_made_once(tmp_path):
    calls = []
    entry = cache.build(tmp_path, "kernel", "0" * 8, write(b"library", calls))
    assert cache.build(tmp_path, "kernel", "0" * 8, write(b"library", calls)) == entry
    assert len(calls) == 1
    assert entry.read_bytes().startswith(b"library")
    cache.build(tmp_path, "kernel", "1" * 8, write(b"another", calls))
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [b"", b"libr", b"library", b"LIBRARY" + b"x" * 60, None])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    calls = []
    entry = cache.build(tmp_path, "kernel", "k", write(b"library", calls))
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] if damage is None else damage)
    cache.build(tmp_path, "kernel", "k", write(b"library", calls))
    assert len(calls) == 2
    assert entry.read_bytes() == whole


def test_a_failed_build_leaves_nothing(tmp_path):
    def make(path):
        path.write_bytes(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.build(tmp_path, "kernel", "k", make)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_damage_is_noticed_by_the_next_process(compiler, folder):
    program = f"import numpy as np; from dcnlab.launch import module; y = np.zeros(4, np.int32)\n" \
        f"module({SOURCE!r}, target='cpu')['count'][1, 4](y); print(y.tolist())"  # fmt: skip
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "[0, 1, 2, 3]\n"
        for entry in folder.glob("*.so"):
            entry.write_bytes(entry.read_bytes()[:1000])


def test_concurrent_builds(compiler, empty_folder):
    """Four processes at once, all starting from nothing: each gets the right library, each entry is whole."""
    program = textwrap.dedent(f"""
        import numpy as np
        from dcnlab.launch import module
        y = np.zeros(4, np.int32)
        module({SOURCE!r}, target="cpu")["count"][1, 4](y)
        print(y.tolist())
    """)
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in running] == ["[0, 1, 2, 3]\n"] * 4
    entries = sorted(path.name.split("-")[0] for path in empty_folder.glob("*.so"))
    assert entries == ["kernel", "runtime"]
    assert all(cache._is_whole(path) for path in empty_folder.glob("*.so"))
    assert not list(empty_folder.glob("build-*"))


def test_order_of_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("DCNLAB_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "dcnlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says: ignore
    assert cache_folder() == tmp_path / "home" / ".cache" / "dcnlab"
    assert cache_folder().stat().st_mode & 0o077 == 0


@pytest.fixture
def unusable(tmp_path, monkeypatch):
    """Neither the named folder nor the home can be written to, not even by root: files stand where folders should."""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_an_unwritable_home(compiler, unusable):
    assert cache_folder() == unusable / f"dcnlab-{os.getuid()}"
    y = np.zeros(4, np.int32)
    module(SOURCE, target="cpu")["count"][1, 4](y)
    assert y.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("prepared", ["writable by others", "a link"])
def test_a_temporary_folder_that_others_prepared_is_not_used(unusable, monkeypatch, prepared, tmp_path):
    monkeypatch.setattr(cache, "_own_folder", None)
    shared = unusable / f"dcnlab-{os.getuid()}"
    if prepared == "a link":
        (tmp_path / "elsewhere").mkdir()
        shared.symlink_to(tmp_path / "elsewhere")
    else:
        shared.mkdir()
        shared.chmod(0o777)
    chosen = cache_folder()
    assert chosen != shared
    assert chosen.parent == unusable
    assert cache_folder() == chosen
    cache._own_folder.cleanup()


def test_the_key_covers_compiler_flags_and_processor(compiler, folder, monkeypatch):
    def entries():
        return {path.name for path in folder.glob("kernel-*.so")}

    module(SOURCE, target="cpu")
    first = entries()
    module(SOURCE, target="cpu")
    assert entries() == first
    module(SOURCE, target="cpu", defines={"X": 1})
    assert len(entries()) == 2
    monkeypatch.setattr(toolchain, "_processor", lambda: "flags: another processor")
    module(SOURCE, target="cpu")
    assert len(entries()) == 3


def test_another_runtime_is_another_key(compiler, folder, tmp_path, monkeypatch):
    """What is compiled depends on the headers and runtime of the CPU target, to the last file."""
    copy = tmp_path / "kernels"
    shutil.copytree(kernels_folder(), copy)
    for place in ("dcnlab.launch.cpu", "dcnlab.launch.sources"):
        monkeypatch.setattr(f"{place}.kernels_folder", lambda: copy)
    assert sources.kernels_folder() == copy
    module(SOURCE, target="cpu")
    with (copy / "cpu" / "intrinsics.h").open("a") as header:
        header.write("// changed\n")
    module(SOURCE, target="cpu")
    assert len(list(folder.glob("kernel-*.so"))) == 2
    assert len(list(folder.glob("runtime-*.so"))) == 2


def test_paths_of_an_entry_are_files_of_the_folder_only(compiler, folder, tmp_path):
    before = {p for p in tmp_path.rglob("*") if folder not in p.parents and p != folder}
    module(SOURCE, target="cpu")
    assert {p for p in tmp_path.rglob("*") if folder not in p.parents and p != folder} == before
    assert all(isinstance(p, Path) and p.suffix in (".so", ".lock") for p in folder.iterdir())
