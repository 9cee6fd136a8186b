"""Read a checkpoint, whatever its format, without running anything in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from dcnlab.checkpoints.archive import Archive
from dcnlab.checkpoints.bounds import shown
from dcnlab.checkpoints.npz import is_npz_archive, read_npz
from dcnlab.checkpoints.pickles import Inert
from dcnlab.checkpoints.safetensors import looks_like_safetensors, read_safetensors
from dcnlab.checkpoints.tensors import View, read_views
from dcnlab.checkpoints.torch_legacy import read_torch_legacy
from dcnlab.checkpoints.torch_zip import is_torch_archive, read_torch_zip
from dcnlab.errors import UnsafeCheckpoint

# Where training programs put the weights, the released models' place first; the average of the weights, last.
WRAPPERS = ("model", "module", "state_dict", "model_ema")


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint; nothing in the file is executed.

    The format is told by the content: torch's .pth (zip, and the format before torch 1.6), .safetensors, .npz.

    Parameters
    ----------
    path : the file

    Returns
    -------
    dict of str to array
        Under the names of the file, in its order, and of its types (float16 too), except bfloat16, which becomes
        float32 exactly. Arrays from .safetensors are read-only views of the mapped file, read when they are used: copy
        what you change, and do not write into the file meanwhile. All others are copies, contiguous and separate even
        where the file shares one storage between two names.

    Raises
    ------
    UnsafeCheckpoint
        If the file asks for more than arrays: a call that would make an entry of the state dict; a function that only
        an attack needs (os.system, eval, ...), anywhere; names that lead out of a folder; numbers from outside their
        storage; more memory than 64 MiB plus 8 times the file's size.
    ValueError
        If the file is malformed, cut short, of another format, or a .pth without tensors. UnsafeCheckpoint is one.
    OSError
        If there is no such file (FileNotFoundError), it is a folder (IsADirectoryError), or cannot be read.

    Notes
    -----
    A .pth file may be the state dict, or a dict with the state dict under 'model', 'module', 'state_dict' or
    'model_ema': the first of these that holds tensors. What lies beside it (optimizer, epoch, a config object) is never
    built: an unknown class or function becomes a placeholder that keeps its name only. Inside the state dict, numbers,
    text and instances of foreign classes are left out; what a foreign function would make there is refused, since it
    stands where a weight should.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     dcnlab.save_checkpoint(path, {"bias": np.arange(3.0)})
    ...     dcnlab.load_checkpoint(path)
    {'bias': array([0., 1., 2.])}
    """
    where = Path(path)
    mode = os.stat(where).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{where}: expected a checkpoint file, got a folder")
    try:
        if not stat.S_ISREG(mode):
            raise ValueError("expected a checkpoint file, got a device or pipe")
        return _load(where)
    except ValueError as error:
        kind = UnsafeCheckpoint if isinstance(error, UnsafeCheckpoint) else ValueError
        raise kind(f"{where}: {error}") from None


def _load(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ValueError("the file is empty")
        mapped = np.asarray(np.memmap(file, np.uint8, "r"))
        data = mapped.data
        if data[:2] == b"PK":
            return _load_archive(Archive(file, data))
    if looks_like_safetensors(data) or path.suffix == ".safetensors":
        return read_safetensors(mapped)
    if data[0] == 0x80:
        pickled, bytes_of = read_torch_legacy(data)
        return read_views(state_dict(pickled), bytes_of, len(data))
    raise ValueError("expected a checkpoint of torch (.pth), .safetensors or .npz; the content is none of these")


def _load_archive(archive: Archive) -> dict[str, np.ndarray]:
    if is_torch_archive(archive):
        pickled, bytes_of, byteorder = read_torch_zip(archive)
        return read_views(state_dict(pickled), bytes_of, len(archive.data), byteorder)
    if is_npz_archive(archive):
        return read_npz(archive)
    raise ValueError("expected a zip archive of torch (with a data.pkl) or of NumPy (.npy members), got another")


def state_dict(pickled: object) -> dict[str, View]:
    """The tensors of a pickled state dict, out of its wrapper."""
    found = _unwrapped(pickled)
    if isinstance(found, Inert):
        raise UnsafeCheckpoint(f"expected a state dict, got an object that {found.origin} makes")
    entries = found if isinstance(found, dict) else {}
    for name, value in entries.items():
        if isinstance(value, Inert) and value.called:
            raise UnsafeCheckpoint(f"{shown(name)} is what {value.origin} makes, expected a plain tensor")
    if not _holds_tensors(found):
        got = ", ".join(shown(name) for name in list(entries)[:5]) or shown(found)
        raise ValueError(f"expected a state dict, plain or under {', '.join(WRAPPERS)}, got {got}")
    return {name: value for name, value in entries.items() if isinstance(value, View)}


def _unwrapped(pickled: object) -> object:
    """What lies under the first wrapper that holds tensors; if none does, the object, or what its first wrapper has."""
    if not isinstance(pickled, dict):
        return pickled
    wrapped = [pickled[name] for name in WRAPPERS if name in pickled]
    for value in wrapped:
        if _holds_tensors(value):
            return value
    return pickled if _holds_tensors(pickled) or not wrapped else wrapped[0]


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, View) for entry in value.values())
