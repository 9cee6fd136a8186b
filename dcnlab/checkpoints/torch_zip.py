"""The zip format of torch.save (torch 1.6 and later): NAME/data.pkl beside one member NAME/data/KEY per storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from dcnlab.checkpoints.archive import Archive
from dcnlab.checkpoints.bounds import shown
from dcnlab.checkpoints.pickles import read_pickle
from dcnlab.checkpoints.tensors import Storage, Storages, call
from dcnlab.errors import UnsafeCheckpoint

_PICKLE = "/data.pkl"
_BYTEORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}


def is_torch_archive(archive: Archive) -> bool:
    """Whether the archive has a member data.pkl in a folder."""
    return any(name.endswith(_PICKLE) for name in archive.entries)


def read_torch_zip(archive: Archive) -> tuple[object, Callable[[Storage], memoryview], Literal["<", ">"]]:
    """The pickled object, a function that reads a storage's bytes, and their byte order ("<" or ">")."""
    pickles = [name for name in archive.entries if name.endswith(_PICKLE)]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        raise UnsafeCheckpoint(f"expected one data.pkl, one folder deep, got {', '.join(map(shown, pickles[:3]))}")
    folder = pickles[0].removesuffix("data.pkl")
    order = bytes(archive.read(f"{folder}byteorder")) if f"{folder}byteorder" in archive.entries else b"little"
    if order.strip() not in _BYTEORDERS:
        raise ValueError(f"expected byteorder 'little' or 'big', got {shown(order.decode('latin-1'))}")
    pickled, _ = read_pickle(archive.read(pickles[0]), 0, call, Storages().persistent)
    read: dict[str, memoryview] = {}  # several tensors may share a storage

    def bytes_of(storage: Storage) -> memoryview:
        if storage.key not in read:
            raw = archive.read(f"{folder}data/{storage.key}")
            expected = storage.whole * storage.element.stored.itemsize
            if len(raw) != expected:
                raise ValueError(f"storage {shown(storage.key)} has {len(raw)} bytes, expected {expected}")
            read[storage.key] = raw
        return read[storage.key]

    return pickled, bytes_of, _BYTEORDERS[order.strip()]
