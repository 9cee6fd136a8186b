"""The per-user cache of compiled kernels.

An entry is a shared library with a trailer that holds the hash of what stands before it (loaders ignore what follows
a library). It is written under another name and renamed into place: a reader sees all of it or nothing. An entry
whose hash does not fit is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MARK = b"dcnlab-sha256:"
_TRAILER = len(_MARK) + 32


def cache_folder() -> Path:
    """Return the folder, made if need be: $DCNLAB_CACHE, $XDG_CACHE_HOME/dcnlab, ~/.cache/dcnlab, or a temporary one.

    The first that can be written to. A temporary folder that others could have prepared is not used: a library
    loaded from there would be theirs.
    """
    for candidate in _candidates():
        with contextlib.suppress(OSError):
            candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(candidate, os.W_OK | os.X_OK) and _is_writable(candidate):
                return candidate
    shared = Path(tempfile.gettempdir()) / f"dcnlab-{os.getuid()}"
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        status = shared.lstat()
        private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
        if private and _is_writable(shared):
            return shared
    return _process_folder()


def build(folder: Path, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the library `name`-`key`.so of the cache, made if it is missing or damaged.

    Parameters
    ----------
    make
        Called with the path to write the library to; nothing is kept if it raises. Only one process at a time makes
        an entry, others wait for it (where the file system has locks).
    """
    entry = folder / f"{name}-{key}.so"
    if _is_whole(entry):
        return entry
    with _lock(folder / f"{name}-{key}.lock"):
        if _is_whole(entry):
            return entry
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
            fresh = Path(scratch) / "library.so"
            make(fresh)
            content = fresh.read_bytes()
            fresh.write_bytes(content + _MARK + hashlib.sha256(content).digest())
            os.replace(fresh, entry)
    return entry


@dataclass(frozen=True)
class Contents:
    """What is in a cache folder.

    Attributes
    ----------
    entries : int
        Compiled kernels, and runtimes that they share.
    bytes : int
    """

    entries: int
    bytes: int


def contents(folder: Path) -> Contents:
    """Return how much a cache folder holds."""
    sizes = []
    for entry in folder.glob("*.so"):
        with contextlib.suppress(OSError):  # another process may have replaced it
            sizes.append(entry.stat().st_size)
    return Contents(len(sizes), sum(sizes))


def unusable_folder() -> Path | None:
    """Return the folder that the cache should be in, where that cannot be written to and another one is used."""
    first = next(_candidates(), None)
    return None if first is None or cache_folder() == first else first


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("DCNLAB_CACHE"):
        yield Path(named)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        yield Path(xdg) / "dcnlab"
    with contextlib.suppress(RuntimeError):  # no home
        yield Path.home() / ".cache" / "dcnlab"


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


_own_folder: tempfile.TemporaryDirectory[str] | None = None


def _process_folder() -> Path:
    """Return a folder of this process alone, removed when it ends."""
    global _own_folder
    if _own_folder is None:
        _own_folder = tempfile.TemporaryDirectory(prefix="dcnlab-")
    return Path(_own_folder.name)


def _is_whole(entry: Path) -> bool:
    try:
        content = entry.read_bytes()
    except OSError:
        return False
    body, trailer = content[:-_TRAILER], content[-_TRAILER:]
    return trailer == _MARK + hashlib.sha256(body).digest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl  # not everywhere; this package must be importable there too

    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: the work may be done twice, no more
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
