"""What can go wrong with a kernel: it does not compile, or it does something it must not."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dcnlab.launch.signature import Parameter
from dcnlab.launch.sources import short_name


class KernelCompileError(RuntimeError):
    """The compiler refused a kernel. The message is its first error; `log` is all that it said."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Access:
    """Where something happened.

    Attributes
    ----------
    file, line
        In the kernel's source; line 0 where it is not known.
    block, thread : (x, y, z)
    """

    file: str
    line: int
    block: tuple[int, int, int]
    thread: tuple[int, int, int]

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file or "an unknown line"
        return f"{place}, block {self.block}, thread {self.thread}"


class KernelFault(RuntimeError):
    """A kernel did something it must not do.

    Attributes
    ----------
    kernel : str
    kind : str
        "out of bounds", "misaligned access", "null pointer", "data race", "uninitialised shared memory", "divergent
        barrier", "bad shuffle mask", "deadlock", "undefined behaviour", "memory fault", "arithmetic fault", "assertion
        failed", "trap" or "out of memory".
    at : Access
    other : Access or None
        The other side of a data race.
    argument : str or None
        The array concerned, and `index`, the element of it (flat; outside the array for an access out of bounds).
    """

    def __init__(
        self,
        message: str,
        kernel: str,
        kind: str,
        at: Access,
        other: Access | None,
        argument: str | None,
        index: int | None,
    ) -> None:
        super().__init__(message)
        self.kernel, self.kind, self.at, self.other = kernel, kind, at, other
        self.argument, self.index = argument, index

    @property
    def file(self) -> str:
        """The source file."""
        return self.at.file

    @property
    def line(self) -> int:
        """The line in it."""
        return self.at.line


class _Place(ctypes.Structure):
    _fields_ = (("file", ctypes.c_char * 400), ("line", ctypes.c_int32), ("address", ctypes.c_uint64))


class Report(ctypes.Structure):
    """Mirror of Report in kernels/cpu/control.h."""

    _fields_ = (
        ("kind", ctypes.c_char * 48),
        ("text", ctypes.c_char * 400),
        ("block", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_uint32 * 3),
        ("place", _Place),
        ("argument", ctypes.c_int32),
        ("index", ctypes.c_int64),
        ("has_other", ctypes.c_int32),
        ("other_does", ctypes.c_char * 16),
        ("other_block", ctypes.c_uint32 * 3),
        ("other_thread", ctypes.c_uint32 * 3),
        ("other", _Place),
    )


def fault_from(
    report: Report, kernel: str, parameters: tuple[Parameter, ...], sizes: list[int], library: Path
) -> KernelFault:
    """Return the exception that says what the report does; `sizes` are the elements of the array arguments."""
    kind, text = report.kind.decode(), report.text.decode(errors="replace")
    at = Access(*_line_of(report.place, library), _triple(report.block), _triple(report.thread))
    argument = index = other = None
    if report.argument >= 0:
        argument, index = parameters[report.argument].name, int(report.index)
        size = sizes[report.argument]
        text += f" of {argument}[{index}]" + ("" if 0 <= index < size else f", which has {size} elements")
    message = f"{kernel}: {kind} at {at}: {text}"
    if report.has_other:
        place = _line_of(report.other, library)
        other = Access(*place, _triple(report.other_block), _triple(report.other_thread))
        message += f"; {report.other_does.decode()} by {other}, with no barrier between"
    return KernelFault(message, kernel, kind, at, other, argument, index)


def _triple(values: ctypes.Array[ctypes.c_uint32]) -> tuple[int, int, int]:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _line_of(place: _Place, library: Path) -> tuple[str, int]:
    file, line = place.file.decode(errors="replace"), int(place.line)
    if place.address:
        file, line = _line_of_address(int(place.address), library)
    return (short_name(Path(file)) if file else ""), line


def _line_of_address(address: int, library: Path) -> tuple[str, int]:
    """Ask the debug information. Every compiler but ziglang brings one of these tools along."""
    tools = [tool for tool in ("addr2line", "llvm-addr2line", "llvm-symbolizer") if shutil.which(tool)]
    for tool in tools:
        style = ["--output-style=GNU"] if tool == "llvm-symbolizer" else []
        command = [tool, *style, "-e", str(library), hex(address)]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        match = re.match(r"(.+):(\d+)", found)
        if match and match[1] != "??":
            return match[1], int(match[2])
    return ("" if tools else "an unknown line (install binutils, which has addr2line)"), 0
