"""Write a checkpoint as .safetensors or .npz; a crash at any moment leaves the old file or the new one, whole."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dcnlab.checkpoints.archive import check_member_name
from dcnlab.checkpoints.bounds import MAX_DIMENSIONS, MAX_HEADER_BYTES, shown
from dcnlab.checkpoints.elements import BY_DTYPE
from dcnlab.checkpoints.safetensors import METADATA


def save_checkpoint(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under their names, as .safetensors or .npz by the suffix of `path`.

    The file is written beside `path` under another name, flushed to the disk, and then renamed: whoever reads `path`,
    even after a crash, finds the old content or the new one. An existing file is replaced.

    Parameters
    ----------
    path : the file; its folder must exist
    arrays : float64, float32, float16, int64, int32, int16, int8, uint8 or bool, of any strides and byte order

    Raises
    ------
    ValueError
        If the suffix is another, or the format cannot hold an array's type or name.
    TypeError
        If a value is not an array, or a name is not text.
    OSError
        If the file cannot be written. Nothing is left behind.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.safetensors")
    ...     dcnlab.save_checkpoint(path, {"scale": np.float32([1, 2])})
    ...     np.array(dcnlab.load_checkpoint(path)["scale"])
    array([1., 2.], dtype=float32)
    """
    target = Path(os.path.realpath(path))  # a link stays a link to the file
    write = writer(path)
    for name, array in arrays.items():
        _check_array(path, name, array)
    with replacing(target) as file:
        write(file, arrays)


def writer(path: str | os.PathLike[str]) -> Callable[[BinaryIO, Mapping[str, np.ndarray]], None]:
    """The function that writes the format of this suffix; ValueError if there is none."""
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(_WRITERS)}, got {shown(suffix)}")
    return _WRITERS[suffix]


def _check_array(path: str | os.PathLike[str], name: object, array: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{path}: expected names of str, got {type(name).__name__}")
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"{path}: {shown(name)}: expected a NumPy array, got {type(array).__name__}")
    if array.dtype.newbyteorder("=") not in BY_DTYPE:
        known = ", ".join(str(dtype) for dtype in BY_DTYPE)
        raise ValueError(f"{path}: {shown(name)}: expected one of {known}, got {array.dtype}")
    if array.ndim > MAX_DIMENSIONS:
        raise ValueError(f"{path}: {shown(name)}: expected at most {MAX_DIMENSIONS} dimensions, got {array.ndim}")
    try:
        name.encode("utf-8")
        check_member_name(name)
    except ValueError as error:
        raise ValueError(f"{path}: cannot write the name {shown(name)}: {error}") from None
    if name == METADATA:
        raise ValueError(f"{path}: the name {METADATA} means something else in .safetensors")


def _stored(array: np.ndarray) -> np.ndarray:
    """Contiguous and little-endian, as both formats are written; copied only if it is not so yet."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    # Large types first: every tensor is then aligned when the file is mapped. The header keeps the order of names.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    ends = np.cumsum([arrays[name].nbytes for name in order], dtype=np.int64).tolist()
    spans = {name: [end - arrays[name].nbytes, end] for name, end in zip(order, ends, strict=True)}
    fields = {
        name: {
            "dtype": BY_DTYPE[array.dtype.newbyteorder("=")].safetensors,
            "shape": list(array.shape),
            "data_offsets": spans[name],
        }
        for name, array in arrays.items()
    }
    header = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"the names take {len(header)} bytes, expected at most {MAX_HEADER_BYTES}")
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for name in order:
        file.write(_stored(arrays[name]).reshape(-1).view(np.uint8).data)


def _write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _stored(array), version=(1, 0), allow_pickle=False)


_WRITERS: dict[str, Callable[[BinaryIO, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
}


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `target` if the block ends well, and vanishes if it does not."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt too
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the renaming itself, where the system lets a folder be opened (Windows does not)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
