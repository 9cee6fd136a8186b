"""The C++ compiler of this machine: finding it, naming it, calling it."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dcnlab.errors import BackendUnavailable
from dcnlab.launch.faults import KernelCompileError

CURE = "install a C++20 compiler (apt install g++) or run: pip install ziglang"

# No -ffast-math: NaN, infinities and the order of sums are part of the results. CUDA, too, fuses a*b + c.
_ARCHITECTURE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
BASE = ("-std=c++20", "-fPIC", "-pthread", "-Wno-unknown-pragmas")
MODES = {
    "fast": ("-O3", _ARCHITECTURE, "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    # Only compiled with the sanitizers, never linked with them: our runtime answers their calls.
    # The sanitizers do not see accesses of more than 16 bytes, which clang makes even here if it may.
    "check": (
        "-O1",
        "-fno-tree-vectorize",
        "-fno-tree-slp-vectorize",
        "-gdwarf-4",
        "-DDCNLAB_CHECK",
        "-fsanitize=thread,bounds,alignment",
    ),
    "ubsan": ("-O1", "-gdwarf-4", "-fsanitize=undefined,float-cast-overflow", "-fno-sanitize=vptr"),
}
# ziglang's clang comes with -fsanitize=undefined turned on, and set to trap rather than to call us.
CLANG = ("-fno-sanitize=undefined", "-fno-sanitize-trap=all")

# `extern __shared__` in a template: g++ would call a function that sets the memory up, and nobody has such a function.
GCC = ("-fno-extern-tls-init",)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that calls it, and what it says it is."""

    command: tuple[str, ...]
    version: str

    @property
    def identity(self) -> str:
        """Everything about compiler and processor that may change what comes out."""
        return "\n".join([*self.command, self.version, platform.machine(), _processor()])

    def flags(self, mode: str) -> tuple[str, ...]:
        """Return the flags of a mode: "fast", "check" or "ubsan"."""
        return (*BASE, *(CLANG if "clang" in self.version else GCC), *MODES[mode])

    def run(self, *arguments: str, source_name: str) -> None:
        """Run the compiler; raise KernelCompileError with its first error."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelCompileError(f"{source_name} does not compile: {_first_error(done.stderr)}", done.stderr)


def find_compiler() -> Compiler:
    """Return the compiler: $CXX, g++, clang++, or the one in the ziglang wheel.

    Raises
    ------
    BackendUnavailable
        With the reason and the line that cures it.
    """
    if sys.platform != "linux":
        raise BackendUnavailable(
            f"kernels run on the CPU under Linux only so far, this is {sys.platform}; use backend='numpy'"
        )
    if sys.maxsize < 2**32:
        raise BackendUnavailable("kernels run on 64-bit processors only; use backend='numpy'")
    named = os.environ.get("CXX")
    if named:
        command = tuple(shlex.split(named))
        if not command or shutil.which(command[0]) is None:
            raise BackendUnavailable(f"CXX={named!r} names no program; correct or unset CXX, or {CURE}")
        return _identify(command)
    for program in ("g++", "clang++"):
        if path := shutil.which(program):
            return _identify((path,))
    if importlib.util.find_spec("ziglang"):
        return _identify((sys.executable, "-m", "ziglang", "c++"))
    raise BackendUnavailable(f"no C++ compiler was found (CXX, g++, clang++, ziglang); {CURE}")


@functools.lru_cache
def _identify(command: tuple[str, ...]) -> Compiler:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailable(f"the compiler {shlex.join(command)} does not start ({error}); {CURE}") from None
    if done.returncode:
        raise BackendUnavailable(f"{shlex.join(command)} --version failed; correct or unset CXX, or {CURE}")
    return Compiler(command, done.stdout)


@functools.lru_cache
def _processor() -> str:
    """Return the line that lists what this processor can do; -march=native depends on it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def _first_error(log: str) -> str:
    found = re.search(r"([^\s:]+):(\d+):(?:\d+:)? (?:fatal )?error: (.*)", log)
    if found:
        return f"{Path(found[1]).name}:{found[2]}: {found[3]}"
    lines = [line for line in log.splitlines() if "error" in line or "undefined" in line] or log.splitlines()
    return lines[0].strip() if lines else "the compiler said nothing"
