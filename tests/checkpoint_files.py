"""Torch files made without torch, by Python's own pickler; and files that mean harm."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from unittest import mock

import numpy as np

# What no reader of arrays does: import, run, compile, start, connect, or change files.
FORBIDDEN = ("import", "exec", "compile", "pickle.", "marshal.", "subprocess.", "os.", "shutil.", "socket.", "ctypes.")
"".encode("cp437")  # the code of names in old zip files, which Python imports when it first meets one
_watch = {"on": False, "seen": []}


def _hook(event, arguments):
    if _watch["on"] and event.startswith(FORBIDDEN):
        _watch["seen"].append(f"{event} {arguments!r:.100}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def nothing_runs():
    """Fail if Python reports, by its audit events, that the block imports, runs, compiles or starts anything."""
    _watch["on"], _watch["seen"] = True, []
    try:
        yield
    finally:
        _watch["on"] = False
    assert not _watch["seen"], _watch["seen"][:3]


KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(eq=False)
class Stored:
    """A storage: its bytes, how many elements they are, and the torch class; `part` is the legacy view metadata."""

    raw: bytes
    size: int
    kind: str
    part: tuple | None = None


def stored(array, kind=None, byteorder="<"):
    array = np.asarray(array)
    raw = array.ravel().astype(array.dtype.newbyteorder(byteorder)).tobytes()
    return Stored(raw, array.size, kind or KINDS[array.dtype.name])


@dataclass(eq=False)
class Tensor:
    storage: Stored
    offset: int
    shape: tuple
    strides: tuple
    more: tuple = (False, OrderedDict())

    def __reduce_ex__(self, protocol):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, self.offset, self.shape, self.strides, *self.more)


@dataclass(eq=False)
class Parameter:
    tensor: Tensor

    def __reduce_ex__(self, protocol):
        return sys.modules["torch._utils"]._rebuild_parameter, (self.tensor, True, OrderedDict())


def tensor(array):
    """The tensor of an array, contiguous, with a storage of its own."""
    array = np.asarray(array)
    strides = tuple(stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides)
    return Tensor(stored(array), 0, array.shape, strides)


def bfloat16(array):
    """The tensor of the upper halves of float32 numbers."""
    array = np.asarray(array, np.float32)
    made = tensor((array.view(np.uint32) >> 16).astype(np.uint16).view(np.int16))
    made.storage.kind = KINDS["bfloat16"]
    return made


@contextlib.contextmanager
def torch_names():
    """Modules that hold what a pickle of torch names; Python's pickler looks them up."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in [*KINDS.values(), "ComplexFloatStorage"]:
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_sparse_tensor"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    torch._utils = utils
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield


class _Pickler(pickle.Pickler):
    def __init__(self, file, protocol, storages, legacy):
        super().__init__(file, protocol)
        self.storages, self.legacy = storages, legacy

    def persistent_id(self, obj):
        if not isinstance(obj, Stored):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        kind = getattr(sys.modules["torch"], obj.kind)
        identifier = ("storage", kind, str(self.storages.index(obj)), "cpu", obj.size)
        return (*identifier, obj.part) if self.legacy else identifier


def torch_pickle(obj, protocol=2, legacy=False):
    """The pickle, and the storages that it names, in the order of their keys 0, 1, ..."""
    storages, file = [], io.BytesIO()
    with torch_names():
        _Pickler(file, protocol, storages, legacy).dump(obj)
    return file.getvalue(), storages


def zip_of(members, compression=zipfile.ZIP_STORED):
    """A zip archive of (name, content) pairs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def torch_zip(obj, protocol=2, byteorder="little", compression=zipfile.ZIP_STORED, data_pkl=None):
    """A file of today's torch.save; `data_pkl` takes the place of the pickle."""
    made, storages = torch_pickle(obj, protocol)
    members = [
        ("archive/data.pkl", made if data_pkl is None else data_pkl),
        ("archive/byteorder", byteorder),
        ("archive/version", "3\n"),
    ]
    members += [(f"archive/data/{key}", storage.raw) for key, storage in enumerate(storages)]
    return zip_of(members, compression)


def torch_legacy(obj, protocol=2, made=None):
    """A file of torch.save before 1.6; `made` takes the place of the object's pickle."""
    pickled, storages = torch_pickle(obj, protocol, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    file = b"".join(pickle.dumps(part, protocol) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    file += (pickled if made is None else made) + pickle.dumps([str(key) for key in range(len(storages))], protocol)
    return file + b"".join(struct.pack("<q", storage.size) + storage.raw for storage in storages)


def safetensors(header, content=b"", length=None):
    """A file of this header (bytes) and content."""
    return struct.pack("<Q", len(header) if length is None else length) + header + content
