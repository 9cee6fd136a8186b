"""Pickles that mean harm, or are broken: name -> a file that holds one. Each must be refused, running nothing."""

from __future__ import annotations

import struct

import numpy as np
from checkpoint_files import Tensor, stored, tensor, torch_legacy, torch_zip

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def entry(value):
    """{"w": value} as a pickle."""
    return b"\x80\x04}" + text("w") + value + b"s."


def in_zip(program):
    return torch_zip({"w": tensor(W)}, data_pkl=program)


def rebuild(arguments):
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def storage_id(key="0", size=b"K\x06", kind=None, tag="storage"):
    return b"(" + text(tag) + (kind or name("torch", "FloatStorage")) + text(key) + text("cpu") + size + b"tQ"


def view(offset=b"K\x00", shape=b"K\x02K\x03\x86", strides=b"K\x03K\x01\x86", storage=None):
    return entry(rebuild(b"(" + (storage or storage_id()) + offset + shape + strides + b"t"))


CANARY = "canary"  # the file that those attacks make, in the working directory, that succeed


def calls():
    """What makes the file CANARY if it is run, or runs something else, as parts of a pickle."""
    canary, command, source = CANARY, f"touch {CANARY}", f"open({CANARY!r}, 'w').close()"
    path = name("pathlib", "PosixPath") + text(canary) + b"\x85R"
    touch = name("builtins", "getattr") + path + text("touch") + b"\x86R)R"
    popen = name("subprocess", "Popen") + b"(" + text(command) + b"I-1\nNNNNNI01\nI01\ntR"
    return {
        "os.system": name("os", "system") + text(command) + b"\x85R",
        "posix.system": name("posix", "system") + text(command) + b"\x85R",
        "subprocess": popen,
        "eval": name("builtins", "eval") + text(f"exec({source!r})") + b"\x85R",
        "exec": name("builtins", "exec") + text(source) + b"\x85R",
        "exec of Python 2": name("__builtin__", "exec") + text(source) + b"\x85R",
        "import": name("builtins", "__import__") + text("antigravity") + b"\x85R",
        "runpy": name("runpy", "_run_code") + text(source) + b"}\x86R",
        "stack global": b"\x8c\x02os\x8c\x06system\x93" + text(command) + b"\x85R",
        "dotted name": b"\x8c\x08builtins\x8c\x0dexec.__call__\x93" + text(source) + b"\x85R",
        "OBJ": b"(" + name("os", "system") + text(command) + b"o",
        "INST": b"(" + text(command) + b"ios\nsystem\n",
        "NEWOBJ": name("subprocess", "Popen") + text(command) + b"\x85\x81",
        "pathlib": touch,
        "pdb": name("pdb", "run") + text(source) + b"\x85R",
        "timeit": name("timeit", "timeit") + text("pass") + text(source) + b"\x86R",
        "partial": name("functools", "partial") + name("timeit", "timeit") + text(source) + b"\x86R)R",
        "numpy": name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R",
        "torch.load": name("torch", "load") + text(canary) + b"\x85R",
        "call of text": text("os.system") + text(command) + b"\x85R",
        "extension 1": b"\x82\x01",
        "extension 2": b"\x83\x01\x00",
        "extension 4": b"\x84\x01\x00\x00\x00",
    }


def code_execution():
    """Files that Python's own pickle would run, with the call in every place where a reader might make it."""
    made = calls()
    attacks = {f"{label} as a weight": in_zip(entry(call)) for label, call in made.items()}
    attacks |= {f"{label} as the file": in_zip(b"\x80\x04" + call + b".") for label, call in made.items()}
    attacks |= {
        f"{label} as tensor data": in_zip(entry(rebuild(b"(" + call + b"K\x00K\x02\x85K\x01\x85t")))
        for label, call in made.items()
    }
    attacks |= {f"{label} in the old format": torch_legacy([], made=entry(call)) for label, call in made.items()}
    attacks |= {f"{label} before the magic number": b"\x80\x04" + call + b"." for label, call in made.items()}
    attacks |= {f"{label} as persistent id": in_zip(entry(call + b"Q")) for label, call in made.items()}
    attacks |= {
        f"{label} as parameter": in_zip(entry(name("torch._utils", "_rebuild_parameter") + call + b"\x88]\x87R"))
        for label, call in made.items()
    }
    return attacks


DOUBLED = b"".join(b"2\x86" for _ in range(64))  # (x, x), 64 times: 2^64 leaves
PAIRS = b"](" + b"".join(b"]" + text(f"{i}") + b"aK\x00a" for i in range(2000)) + b"eq\x01"
MANY = b"(" + b"K\x01" * 100_000 + b"tq\x01"
PICKLES = {
    "empty": b"",
    "no stop": b"\x80\x02}",
    "stop alone": b".",
    "two objects": b"\x80\x02}}.",
    "an open mark": b"\x80\x02}(.",
    "protocol 99": b"\x80\x63}.",
    "unknown opcode": b"\x80\x02\xff.",
    "underflow": b"\x80\x020.",
    "underflow below a mark": b"\x80\x02}K\x01(s.",
    "no mark": b"\x80\x02}u.",
    "odd items": b"\x80\x02}(K\x01u.",
    "recall of nothing": b"\x80\x02h\x07.",
    "memo index of 2^32 - 1": b"\x80\x02}r\xff\xff\xff\xff.",
    "bytes of 2^62": b"\x80\x02\x8e" + struct.pack("<Q", 2**62) + b".",
    "bytes of 2^32 - 1": b"\x80\x02B\xff\xff\xff\xff.",
    "text of 2^64 - 1": b"\x80\x02\x8d" + b"\xff" * 8 + b".",
    "bytearray of 2^63": b"\x80\x02\x96" + struct.pack("<Q", 2**63) + b".",
    "text of negative length": b"\x80\x02T\xff\xff\xff\xff.",
    "number of negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b".",
    "number of many digits": b"\x80\x02I" + b"9" * 200 + b"\n.",
    "number that is none": b"\x80\x02Iabc\n.",
    "line without an end": b"\x80\x02c" + b"a" * 100_000,
    "name with line breaks and colours": entry(b"\x8c\x08\x1b[31m\nxx\x8c\x01y\x93)R"),
    "name of 250 letters": entry(name("\0" * 125, "\x1b" * 125) + b")R"),
    "name that is a number": b"\x80\x04K\x01K\x02\x93.",
    "buffers outside": b"\x80\x05\x97\x98.",
    "half a million marks": b"\x80\x02" + b"(" * 500_000 + b".",
    "a list half a million deep": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "a tuple half a million deep": b"\x80\x02)" + b"\x85" * 500_000 + b".",
    "a dict that holds itself": b"\x80\x02}q\x01" + text("model") + b"h\x01s.",
    "a list that holds itself": b"\x80\x02]q\x01h\x01a.",
    "too many objects": b"\x80\x02" + b"]0" * 1_100_000 + b"}.",
    "a key that takes 2^64 steps to hash": b"\x80\x02})" + DOUBLED + b"K\x01s.",
    "ints that collide": b"\x80\x02}("
    + b"".join(b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(1, 50_000))
    + b"u.",
    "a key that is a list": b"\x80\x02}]K\x01s.",
    "a set of 2^64 leaves": b"\x80\x04\x8f()" + DOUBLED + b"\x90.",
    "an id of 2^64 leaves": entry(b")" + DOUBLED + b"Q"),
    "a call of 2^64 leaves": entry(b")" + DOUBLED + b")R"),
    "pairs read again and again": b"\x80\x02"
    + PAIRS
    + (name("collections", "OrderedDict") + b"h\x01\x85R0") * 5000
    + b".",
    "pairs that are none": b"\x80\x02" + name("collections", "OrderedDict") + b"]K\x01a\x85R.",
    "pairs of three": b"\x80\x02" + name("collections", "OrderedDict") + b"](K\x01K\x02K\x03ta\x85R.",
    "attributes of text": b"\x80\x02" + text("x") + b"}b.",
    "items of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "add to a list": b"\x80\x02](K\x01\x90.",
    "an instance of text": b"\x80\x02" + text("x") + b")\x81.",
    "an instance of nothing": b"\x80\x02(o.",
    "a shape of 100 000": view(shape=MANY, strides=b"h\x01"),
}


def pickles():
    """Programs that are malformed, or exhaust an interpreter that trusts them."""
    return {f"pickle: {label}": in_zip(program) for label, program in PICKLES.items()}


HUGE = b"\x8a\x09" + (2**64).to_bytes(9, "little")
LARGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")
TERA = b"\x8a\x06" + (10**12).to_bytes(6, "little")
VIEWS = {
    "one row beyond": view(shape=b"K\x03K\x03\x86"),
    "offset beyond": view(offset=b"K\x01"),
    "offset negative": view(offset=b"J\xff\xff\xff\xff"),
    "offset 2^62": view(offset=LARGE),
    "offset 2^64": view(offset=HUGE),
    "offset True": view(offset=b"\x88"),
    "offset float": view(offset=b"G" + struct.pack(">d", 1.0)),
    "stride negative": view(strides=b"J\xff\xff\xff\xffK\x01\x86"),
    "stride 2^62, wraps around": view(strides=LARGE + b"K\x01\x86", shape=b"K\x05K\x01\x86"),
    "shape negative": view(shape=b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"),
    "shape True": view(shape=b"\x88\x88\x86"),
    "shape 2^64": view(shape=HUGE + b"K\x00\x86", strides=b"K\x00K\x00\x86"),
    "shape 2^62 x 0 x 2^62": view(shape=LARGE + b"K\x00" + LARGE + b"\x87", strides=b"K\x00K\x00K\x00\x87"),
    "shape nested": view(shape=b"K\x02K\x03\x86\x85"),
    "shape text": view(shape=text("23")),
    "shape without strides": view(strides=b")"),
    "expanded to 10^12": view(shape=TERA + b"K\x03\x86", strides=b"K\x00K\x01\x86"),
    "storage text": view(storage=text("0")),
    "storage None": view(storage=b"N"),
    "storage instance": view(storage=name("a", "b") + b")\x81"),
    "storage of unknown type": view(storage=storage_id(kind=name("torch", "QInt8Storage"))),
    "storage of a foreign type": view(storage=storage_id(kind=name("evil", "FloatStorage"))),
    "storage type text": view(storage=storage_id(kind=text("FloatStorage"))),
    "storage missing": view(storage=storage_id(key="7")),
    "storage elsewhere": view(storage=storage_id(key="../../../../etc/passwd")),
    "storage the pickle": view(storage=storage_id(key="../data.pkl")),
    "storage size negative": view(storage=storage_id(size=b"J\xff\xff\xff\xff")),
    "storage size 2^62": view(storage=storage_id(size=LARGE)),
    "storage size 2^64": view(storage=storage_id(size=HUGE)),
    "storage size too small": view(storage=storage_id(size=b"K\x05")),
    "storage size too large": view(storage=storage_id(size=b"K\x07")),
    "id of another kind": view(storage=storage_id(tag="device")),
    "id None": view(storage=b"NQ"),
    "id text": view(storage=text("storage") + b"Q"),
    "id short": view(storage=text("storage") + text("x") + b"\x86Q"),
    "two arguments": entry(rebuild(b"K\x01K\x02\x86")),
    "no arguments": entry(rebuild(b")")),
    "arguments that are a list": entry(rebuild(b"]")),
    "parameter of nothing": entry(name("torch._utils", "_rebuild_parameter") + b")R"),
    "one storage of two types": entry(storage_id() + b"0" + storage_id(kind=name("torch", "IntStorage"))),
}


def tensors():
    """Views and storages that do not fit each other."""
    whole = stored(np.zeros(2**18, np.float32))
    shared = {f"{i}": Tensor(whole, 0, (2**18,), (1,)) for i in range(200)}
    attacks = {f"tensor: {label}": in_zip(program) for label, program in VIEWS.items()}
    return attacks | {"tensor: 200 views of a MiB": torch_zip(shared), "tensor: 200 old views": torch_legacy(shared)}
