"""Where kernels lie, what they include, and the text that identifies a build."""

from __future__ import annotations

import importlib.resources
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def kernels_folder() -> Path:
    """Return the folder of the library's own kernels: inside an installed package, beside it in a working copy."""
    inside = Path(str(importlib.resources.files("dcnlab"))) / "kernels"
    folder = inside if inside.is_dir() else inside.parent.parent / "kernels"
    if not folder.is_dir():
        raise FileNotFoundError(f"dcnlab's kernels are neither in {inside} nor in {folder}")
    return folder


def include_folders() -> list[Path]:
    """Return where the quoted includes of a kernel are looked for, after its own folder."""
    return [kernels_folder() / "include"]


@dataclass(frozen=True)
class Source:
    """A kernel's text, and the file it came from if it came from one."""

    text: str
    path: Path | None

    @property
    def name(self) -> str:
        """How messages call it: relative to the kernels folder, the file's name, or kernel.cu for a text."""
        return "kernel.cu" if self.path is None else short_name(self.path)

    @cached_property
    def included(self) -> dict[Path, str]:
        """The text of every file that is included with quotes, directly or not."""
        found: dict[Path, str] = {}
        waiting = [(self.text, self.path.parent if self.path else None)]
        while waiting:
            text, folder = waiting.pop()
            for name in _INCLUDE.findall(text):
                folders = ([folder] if folder else []) + include_folders()
                path = next((f / name for f in folders if (f / name).is_file()), None)
                if path is None or path.resolve() in found:
                    continue  # a system header, or a file that has been seen
                found[path.resolve()] = path.read_text()
                waiting.append((found[path.resolve()], path.parent))
        return found

    @property
    def everything(self) -> str:
        """The source and what it includes, without comments: where kernels and shared memory are looked for."""
        return without_comments("\n".join([*self.included.values(), self.text]))


def short_name(path: Path) -> str:
    """Return how messages call a file."""
    folder = kernels_folder()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def without_comments(text: str) -> str:
    """Return the text with every comment replaced by a space."""
    return _COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)


def read_source(path_or_source: str | os.PathLike[str]) -> Source:
    """Return the kernel source that `path_or_source` is, or names.

    Parameters
    ----------
    path_or_source
        CUDA C++ itself (any str with a line break or with ``__global__`` in it), or a path: absolute, relative to the
        current folder, or relative to dcnlab's kernels ("sampling/1_naive.cu").

    Raises
    ------
    FileNotFoundError
        Naming both places that were tried.
    """
    if isinstance(path_or_source, str) and ("\n" in path_or_source or "__global__" in path_or_source):
        return Source(path_or_source, None)
    path = Path(path_or_source)
    for candidate in (path, kernels_folder() / path):
        if candidate.is_file():
            return Source(candidate.read_text(), candidate.resolve())
    raise FileNotFoundError(f"no kernel {str(path)!r}: neither in {Path.cwd()} nor in {kernels_folder()}")
