"""The format of torch.save before torch 1.6: four pickles, the list of storage keys, and the storages end to end.

That is: magic number, protocol version, sizes of C types, the object, [keys], then for each key its number of elements
(int64) and the elements, all little-endian.
"""

from __future__ import annotations

from collections.abc import Callable

from dcnlab.checkpoints.bounds import shown
from dcnlab.checkpoints.pickles import read_pickle
from dcnlab.checkpoints.tensors import Storage, Storages, call

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


def read_torch_legacy(data: memoryview) -> tuple[object, Callable[[Storage], memoryview]]:
    """The pickled object, and a function that reads a storage's bytes (little-endian)."""
    storages = Storages()
    magic, position = read_pickle(data, 0, call, storages.persistent)
    if magic != MAGIC_NUMBER or type(magic) is not int:
        raise ValueError("expected a file of torch.save, got a pickle of something else")
    version, position = read_pickle(data, position, call, storages.persistent)
    if version != PROTOCOL_VERSION or type(version) is not int:
        raise ValueError(f"expected version {PROTOCOL_VERSION} of torch's format, got {shown(version)}")
    _, position = read_pickle(data, position, call, storages.persistent)  # sizes of C types, which nothing uses
    pickled, position = read_pickle(data, position, call, storages.persistent)
    keys, position = read_pickle(data, position, call, storages.persistent)
    raw = _raw_storages(data, position, keys, storages.named)

    def bytes_of(storage: Storage) -> memoryview:
        if storage.key not in raw:
            raise ValueError(f"the file has no storage {shown(storage.key)}")
        return raw[storage.key]

    return pickled, bytes_of


def _raw_storages(data: memoryview, position: int, keys: object, named: dict[str, Storage]) -> dict[str, memoryview]:
    """Where each storage lies, checking the sizes beside the data against those in the pickle."""
    if not isinstance(keys, list):
        raise ValueError(f"expected a list of storage keys, got {shown(keys)}")
    raw: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str) or key not in named or key in raw:
            raise ValueError(f"expected each storage of the pickle once, got {shown(key)}")
        size = int.from_bytes(data[position : position + 8], "little")
        if size != named[key].whole:
            raise ValueError(f"storage {shown(key)} has {size} elements, expected {named[key].whole}")
        start = position + 8
        position = start + size * named[key].element.stored.itemsize
        if position > len(data):
            raise ValueError(f"the file is cut short: storage {shown(key)} ends at {position}, the file at {len(data)}")
        raw[key] = data[start:position]
    return raw
