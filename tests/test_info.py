"""`dcnlab info`: what runs here, and for what does not the reason and the line that cures it."""

import importlib.metadata
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from dcnlab import info
from dcnlab.launch import cache, toolchain

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def lines(capsys):
    """Run it and return its lines, by their first word."""

    def run():
        text = info.show_config()
        assert capsys.readouterr().out == f"{text}\n"
        return {line.split()[0]: line for line in text.splitlines() if line}

    return run


def test_the_compiler_is_shown_with_its_version(lines, monkeypatch):
    found = toolchain.Compiler(("/some/g++", "-m64"), "g++ 99.1\nCopyright\n")
    monkeypatch.setattr(info, "find_compiler", lambda: found)
    assert lines()["compiler"].split(maxsplit=2) == ["compiler", "on", "/some/g++ -m64: g++ 99.1"]


def test_no_compiler_and_what_to_do(lines, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = lines()["compiler"]
    assert line.split()[1] == "off"
    assert "CXX='no-such-compiler' names no program" in line
    assert "pip install ziglang" in line


def test_nothing_is_compiled_and_no_program_runs_but_the_compiler_once(lines, monkeypatch):
    """What makes it slow would be a compilation, or a program that is started anew in every call."""

    def never(*arguments, **options):
        raise AssertionError(f"info must not run {arguments[0]}")

    monkeypatch.setattr(toolchain.Compiler, "run", never)
    lines()
    monkeypatch.setattr(toolchain.subprocess, "Popen", never)
    lines()


def test_the_cache(lines, monkeypatch, tmp_path):
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "kernels"))
    assert lines()["cache"].split(maxsplit=2)[1:] == ["writable", f"{tmp_path / 'kernels'}: 0 entries, 0.0 MB"]
    cache.build(tmp_path / "kernels", "some", "key", lambda path: path.write_bytes(bytes(2_000_000)))
    assert f"{tmp_path / 'kernels'}: 1 entries, 2.0 MB" in lines()["cache"]


def test_a_cache_that_cannot_be_written_to(lines, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DCNLAB_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = lines()["cache"]
    assert line.split(maxsplit=2)[1] == "stopgap"
    assert f"{tmp_path / 'dcnlab'}: 0 entries" in line
    assert f"{tmp_path / 'file'} cannot be written to: set DCNLAB_CACHE to a folder that can" in line


def test_threads(monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "3")
    assert info._threads()[0] == ["kernels", "3", "DCNLAB_NUM_THREADS=3, for the BLAS too from the first kernel on"]
    assert info._threads()[1][2].startswith("blas")
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "many")
    wrong = ["kernels", "wrong", "DCNLAB_NUM_THREADS must be a number from 1 to 4096, got 'many'"]
    assert info._threads()[0] == wrong
    assert wrong[2] in info.show_config(), "a wrong number is shown, not raised"
    monkeypatch.delenv("DCNLAB_NUM_THREADS")
    assert info._threads()[0][2] == "every processor this process may use"


def test_cupy_is_looked_for_but_never_imported(lines, monkeypatch):
    monkeypatch.setattr(info, "version", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert lines()["CuPy"].split(maxsplit=2)[1:] == [
        "off",
        "not installed; run: pip install 'dcnlab[cuda13]' (or 'dcnlab[cuda12]')",
    ]
    monkeypatch.setattr(info, "version", lambda name: "14.2" if name == "cupy-cuda13x" else None)
    line = lines()["CuPy"]
    assert "installed" in line
    assert "cupy-cuda13x 14.2; to see whether it finds a GPU: python -c 'import cupy; " in line
    assert "cupy" not in sys.modules


def test_the_driver(lines, monkeypatch, tmp_path):
    monkeypatch.setattr(info, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(info, "WINDOWS_DRIVER", tmp_path / "dxg")
    line = lines()["driver"]
    assert line.split()[1] == "off"
    assert "needs an NVIDIA GPU and its driver; without one use target='cpu'" in line
    (tmp_path / "dxg").write_text("")
    assert "the one of Windows" in lines()["driver"]
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1  today\nGCC version: 12\n")
    assert lines()["driver"].split(maxsplit=2) == ["driver", "found", "NVIDIA UNIX x86_64 Kernel Module  580.1  today"]


def test_versions_are_those_of_the_metadata():
    assert info.version("numpy") == importlib.metadata.version("numpy")
    assert info.version("no-such-distribution") is None


def test_extras_say_what_they_are_for_and_what_turns_them_on(monkeypatch):
    known = {"mlxtend": "1", "mpi4py": "4.1"}
    monkeypatch.setattr(info, "version", known.get)
    rows = {name: (state, text) for name, state, text in info._extras()}
    assert rows["train"] == ("on", "dcnlab train mnist5k, and the studies: the digits")
    assert rows["mpi"][0] == "off"
    assert rows["mpi"][1].endswith("missing: mpich; run: pip install 'dcnlab[mpi]'")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, (packages, _) in info.EXTRAS.items():
        listed = " ".join(extras[name]).replace("jupyter>", "jupyterlab>")  # the metapackage brings it
        assert all(package in listed for package in packages), name
