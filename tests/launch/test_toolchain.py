import shutil
import sys

import pytest

from dcnlab.errors import BackendUnavailable
from dcnlab.launch import find_compiler, module, toolchain

SOURCE = 'extern "C" __global__ void f() {}\n'


def test_cxx_is_taken_at_its_word(compiler, monkeypatch):
    command = find_compiler().command
    monkeypatch.setenv("CXX", f"{command[0]} -DNOTHING")
    assert find_compiler().command[-1] == "-DNOTHING"


@pytest.mark.parametrize("named", ["no-such-compiler", "/no/such/file -O2"])
def test_cxx_that_names_nothing(monkeypatch, named):
    monkeypatch.setenv("CXX", named)
    with pytest.raises(BackendUnavailable, match=r"names no program.*pip install ziglang") as caught:
        find_compiler()
    assert "\n" not in str(caught.value)


def test_cxx_that_is_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BackendUnavailable, match="false --version failed"):
        module(SOURCE, target="cpu")


def without_compilers(monkeypatch, ziglang):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object() if ziglang else None)


def test_no_compiler_at_all(monkeypatch):
    without_compilers(monkeypatch, ziglang=False)
    with pytest.raises(BackendUnavailable, match=r"no C\+\+ compiler was found .* pip install ziglang"):
        module(SOURCE, target="cpu")


def test_the_ziglang_wheel_is_the_last_resort(monkeypatch):
    without_compilers(monkeypatch, ziglang=True)
    monkeypatch.setattr(toolchain, "_identify", lambda command: command)
    assert find_compiler() == (sys.executable, "-m", "ziglang", "c++")


def test_other_systems_are_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BackendUnavailable, match="under Linux only so far, this is win32; use backend='numpy'"):
        module(SOURCE, target="cpu")


def test_no_fast_math():
    flags = [flag for flags in toolchain.MODES.values() for flag in flags]
    assert not {"-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"} & set(flags)
