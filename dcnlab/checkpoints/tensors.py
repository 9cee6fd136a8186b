"""torch's tensors inside a pickle: what its few functions mean, and arrays from storages.

A torch tensor is a view (offset, sizes, strides, all in elements) of a one-dimensional storage, whose bytes lie outside
the pickle. The pickle names a storage by a persistent id, and makes the view by calling `torch._utils` functions. Here
these become `Storage` and `View`; every other function becomes an `Inert`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dcnlab.checkpoints.bounds import check_allowance, checked_shape, is_natural, shown
from dcnlab.checkpoints.elements import BY_TORCH, Element, decoded
from dcnlab.checkpoints.pickles import Global, Inert
from dcnlab.errors import UnsafeCheckpoint

_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


@dataclass(frozen=True, slots=True)
class Storage:
    """`size` elements from `start` on of the storage `key`, which has `whole` elements of the torch class `kind`."""

    kind: Global
    key: str
    whole: int
    start: int
    size: int

    @property
    def element(self) -> Element:
        """Its element type; ValueError if that is none of ours."""
        known = BY_TORCH.get(self.kind.name) if self.kind.module in _STORAGE_MODULES else None
        if known is None:
            raise ValueError(f"expected a storage of {', '.join(BY_TORCH)}, got {self.kind}")
        return known


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: offset and strides in elements of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def loaded_bytes(self) -> int:
        """What the array will take."""
        return math.prod(self.shape) * self.storage.element.loaded.itemsize


class Storages:
    """The storages that a pickle names; `persistent` is what `read_pickle` asks for."""

    def __init__(self) -> None:
        self.named: dict[str, Storage] = {}

    def persistent(self, identifier: object) -> object:
        """Storage of ("storage", class, key, device, size[, None or (view key, offset, size)])."""
        if not isinstance(identifier, tuple) or not 2 <= len(identifier) <= 6:
            raise UnsafeCheckpoint(f"expected a persistent id that names a storage, got {shown(identifier)}")
        if identifier[0] == "module" and isinstance(identifier[1], Global):
            return identifier[1]  # a class with its source code beside it, which old torch wrote for whole models
        if identifier[0] != "storage" or len(identifier) < 5:
            raise UnsafeCheckpoint(f"expected a persistent id that names a storage, got {shown(identifier[0])}")
        _, kind, key, _, whole, *rest = identifier
        if not (isinstance(kind, Global) and isinstance(key, str) and is_natural(whole)):
            raise UnsafeCheckpoint(f"expected a storage's class, key and size, got {shown(key)} and {shown(whole)}")
        start, size = _part(rest[0] if rest else None, whole)
        storage = Storage(kind, key, whole, start, size)
        first = self.named.setdefault(key, storage)
        if (first.kind, first.whole) != (kind, whole):
            raise UnsafeCheckpoint(f"storage {shown(key)} is named with two types or sizes")
        return storage


def _part(view: object, whole: int) -> tuple[int, int]:
    """Start and size of the part of a storage that the old format's view metadata describe."""
    if view is None:
        return 0, whole
    if not (isinstance(view, tuple) and len(view) == 3 and is_natural(view[1]) and is_natural(view[2])):
        raise UnsafeCheckpoint("expected (key, offset, size) as the view of a storage")
    if view[1] + view[2] > whole:
        raise UnsafeCheckpoint(f"a view of a storage ends at {view[1] + view[2]}, expected at most {whole}")
    return view[1], view[2]


def call(function: Global, arguments: tuple[object, ...]) -> object:
    """What a call in a torch pickle makes: a View, or an Inert for all but torch's functions for dense tensors."""
    if function.module == "torch._utils":
        if function.name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _view(arguments)
        if function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            if arguments and isinstance(arguments[0], View | Inert):
                return arguments[0]
            raise UnsafeCheckpoint("expected a tensor as the data of a parameter")
    if (function.module, function.name) == ("torch._tensor", "_rebuild_from_type_v2") and len(arguments) == 4:
        inner, _, inner_arguments, _ = arguments  # a tensor with attributes or of a subclass, which are dropped
        if inner == _REBUILD and isinstance(inner_arguments, tuple):
            return _view(inner_arguments)
    return Inert(str(function), called=True)


def _view(arguments: tuple[object, ...]) -> View:
    """View of (storage, offset, sizes, strides[, requires_grad, hooks[, metadata]])."""
    if not 4 <= len(arguments) <= 7:
        raise UnsafeCheckpoint(f"expected a tensor of 4 to 7 arguments, got {len(arguments)}")
    storage, offset, sizes, steps = arguments[:4]
    if not isinstance(storage, Storage) or not is_natural(offset):
        raise UnsafeCheckpoint(f"expected a tensor's storage and offset, got {shown(storage)} and {shown(offset)}")
    shape, strides = checked_shape(sizes, 1), checked_shape(steps, 0)  # of strides, only the entries count
    if len(shape) != len(strides):
        raise UnsafeCheckpoint(f"expected as many strides as sizes, got {shown(strides)} for {shown(shape)}")
    if len(arguments) == 7 and arguments[6]:
        raise ValueError("expected a plain tensor, got one with its conjugate or negative bit set")
    assert type(offset) is int
    return View(storage, offset, shape, strides)


def read_views(
    views: Mapping[str, View],
    bytes_of: Callable[[Storage], memoryview],
    file_size: int,
    byteorder: Literal["<", ">"] = "<",
) -> dict[str, np.ndarray]:
    """Arrays of tensors, each contiguous and its own.

    Parameters
    ----------
    bytes_of : the raw bytes of a whole storage
    file_size : bounds what all arrays together may take (`bounds.memory_allowance`)
    byteorder : of the storages, "<" or ">"
    """
    for name, view in views.items():
        _check_inside(name, view)
    check_allowance(sum(view.loaded_bytes for view in views.values()), file_size, "the tensors")
    return {name: _array(view, bytes_of(view.storage), byteorder) for name, view in views.items()}


def _check_inside(name: str, view: View) -> None:
    """Raise unless every element of the view lies in its storage; in Python ints, which do not wrap around."""
    steps = zip(view.shape, view.strides, strict=True)
    last = view.offset + sum((size - 1) * stride for size, stride in steps) if all(view.shape) else 0
    checked_shape(view.shape, view.storage.element.loaded.itemsize)
    if all(view.shape) and last >= view.storage.size:
        raise UnsafeCheckpoint(
            f"tensor {shown(name)} reaches element {shown(last)} of a storage that has {view.storage.size}"
        )


def _array(view: View, raw: memoryview, byteorder: Literal["<", ">"]) -> np.ndarray:
    """One tensor, copied once, out of the bytes of its whole storage."""
    element = view.storage.element
    if not all(view.shape):
        return np.zeros(view.shape, element.loaded)
    stored = element.stored.newbyteorder(byteorder)
    itemsize = stored.itemsize
    # A stride along one element is never taken; torch writes any number there.
    strides = [stride * itemsize if size > 1 else 0 for size, stride in zip(view.shape, view.strides, strict=True)]
    start = (view.storage.start + view.offset) * itemsize
    return decoded(np.ndarray(view.shape, stored, raw, start, strides), element)
