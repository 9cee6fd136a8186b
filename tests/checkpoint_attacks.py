"""Files that mean harm, or are broken: name -> content. Each must be refused, within bounds, running nothing."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
from checkpoint_files import Stored, Tensor, safetensors, stored, tensor, torch_legacy, torch_pickle, torch_zip, zip_of

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


def code_execution():
    """Programs that Python's own pickle would run."""
    canary, command, source = CANARY, f"touch {CANARY}", f"open({CANARY!r}, 'w').close()"
    path = name("pathlib", "PosixPath") + text(canary) + b"\x85R"
    touch = name("builtins", "getattr") + path + text("touch") + b"\x86R)R"
    popen = name("subprocess", "Popen") + b"(" + text(command) + b"I-1\nNNNNNI01\nI01\ntR"
    calls = {
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
    attacks = {f"{label} as a weight": in_zip(entry(call)) for label, call in calls.items()}
    attacks |= {f"{label} as the file": in_zip(b"\x80\x04" + call + b".") for label, call in calls.items()}
    attacks |= {
        f"{label} as tensor data": in_zip(entry(rebuild(b"(" + call + b"K\x00K\x02\x85K\x01\x85t")))
        for label, call in calls.items()
    }
    attacks |= {f"{label} in the old format": torch_legacy([], made=entry(call)) for label, call in calls.items()}
    attacks |= {f"{label} before the magic number": b"\x80\x04" + call + b"." for label, call in calls.items()}
    attacks |= {f"{label} as persistent id": in_zip(entry(call + b"Q")) for label, call in calls.items()}
    attacks |= {
        f"{label} as parameter": in_zip(entry(name("torch._utils", "_rebuild_parameter") + call + b"\x88]\x87R"))
        for label, call in calls.items()
    }
    return attacks


def pickles():
    """Programs that are malformed, or exhaust an interpreter that trusts them."""
    doubled = b"".join(b"2\x86" for _ in range(64))  # (x, x), 64 times: 2^64 leaves
    pairs = b"](" + b"".join(b"]" + text(f"{i}") + b"aK\x00a" for i in range(2000)) + b"eq\x01"
    many = b"(" + b"K\x01" * 100_000 + b"tq\x01"
    programs = {
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
        "name that is a number": b"\x80\x04K\x01K\x02\x93.",
        "buffers outside": b"\x80\x05\x97\x98.",
        "half a million marks": b"\x80\x02" + b"(" * 500_000 + b".",
        "a list half a million deep": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "a tuple half a million deep": b"\x80\x02)" + b"\x85" * 500_000 + b".",
        "a dict that holds itself": b"\x80\x02}q\x01" + text("model") + b"h\x01s.",
        "a list that holds itself": b"\x80\x02]q\x01h\x01a.",
        "too many objects": b"\x80\x02" + b"]0" * 1_100_000 + b"}.",
        "a key that takes 2^64 steps to hash": b"\x80\x02})" + doubled + b"K\x01s.",
        "ints that collide": b"\x80\x02}("
        + b"".join(b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(1, 50_000))
        + b"u.",
        "a key that is a list": b"\x80\x02}]K\x01s.",
        "a set of 2^64 leaves": b"\x80\x04\x8f()" + doubled + b"\x90.",
        "an id of 2^64 leaves": entry(b")" + doubled + b"Q"),
        "a call of 2^64 leaves": entry(b")" + doubled + b")R"),
        "pairs read again and again": b"\x80\x02"
        + pairs
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
        "a shape of 100 000": view(shape=many, strides=b"h\x01"),
    }
    return {f"pickle: {label}": in_zip(program) for label, program in programs.items()}


def tensors():
    """Views and storages that do not fit each other."""
    huge = b"\x8a\x09" + (2**64).to_bytes(9, "little")
    large = b"\x8a\x08" + (2**62).to_bytes(8, "little")
    tera = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    programs = {
        "one row beyond": view(shape=b"K\x03K\x03\x86"),
        "offset beyond": view(offset=b"K\x01"),
        "offset negative": view(offset=b"J\xff\xff\xff\xff"),
        "offset 2^62": view(offset=large),
        "offset 2^64": view(offset=huge),
        "offset True": view(offset=b"\x88"),
        "offset float": view(offset=b"G" + struct.pack(">d", 1.0)),
        "stride negative": view(strides=b"J\xff\xff\xff\xffK\x01\x86"),
        "stride 2^62, wraps around": view(strides=large + b"K\x01\x86", shape=b"K\x05K\x01\x86"),
        "shape negative": view(shape=b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"),
        "shape True": view(shape=b"\x88\x88\x86"),
        "shape 2^64": view(shape=huge + b"K\x00\x86", strides=b"K\x00K\x00\x86"),
        "shape 2^62 x 0 x 2^62": view(shape=large + b"K\x00" + large + b"\x87", strides=b"K\x00K\x00K\x00\x87"),
        "shape nested": view(shape=b"K\x02K\x03\x86\x85"),
        "shape text": view(shape=text("23")),
        "shape without strides": view(strides=b")"),
        "expanded to 10^12": view(shape=tera + b"K\x03\x86", strides=b"K\x00K\x01\x86"),
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
        "storage size 2^62": view(storage=storage_id(size=large)),
        "storage size 2^64": view(storage=storage_id(size=huge)),
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
    whole = stored(np.zeros(2**18, np.float32))
    shared = {f"{i}": Tensor(whole, 0, (2**18,), (1,)) for i in range(200)}
    attacks = {f"tensor: {label}": in_zip(program) for label, program in programs.items()}
    return attacks | {"tensor: 200 views of a MiB": torch_zip(shared), "tensor: 200 old views": torch_legacy(shared)}


def patched(content, old, new, count=-1):
    assert old in content
    return content.replace(old, new, count)


def archives():
    """Zip archives that are bombs, ambiguous, or lead elsewhere."""
    good = torch_zip({"w": tensor(W)})
    pickled, _ = torch_pickle({"w": tensor(W)})
    base = [("archive/data.pkl", pickled), ("archive/data/0", W.tobytes())]
    deflated = torch_zip({"w": tensor(np.zeros(4096, np.float32))}, compression=zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", 4 * 4096)
    directory = good.index(b"PK\1\2")

    def members(*more):
        return zip_of([*base, *more])

    return {
        "zip: bomb": zip_of([*base, ("archive/data/1", bytes(10**8))], zipfile.ZIP_DEFLATED),
        "zip: declares less than it holds": patched(deflated, size, struct.pack("<I", 4096)),
        "zip: declares more than it holds": patched(deflated, size, struct.pack("<I", 4 * 4097)),
        "zip: declares 4 GB": patched(deflated, size, b"\xfe\xff\xff\xff"),
        "zip: ../": members(("archive/../../evil", b"x")),
        "zip: absolute": members(("/evil", b"x")),
        "zip: backslash": members(("archive\\..\\evil", b"x")),
        "zip: drive": members(("C:evil", b"x")),
        "zip: NUL": patched(members(("archive/evil", b"x")), b"/evil", b"/ev\0l"),
        "zip: twice the same name": patched(members(("archive/data/1", b"x")), b"data/1", b"data/0"),
        "zip: two data.pkl": members(("other/data.pkl", pickled)),
        "zip: data.pkl too deep": zip_of([("a/b/data.pkl", pickled)]),
        "zip: data.pkl in no folder": zip_of([("data.pkl", pickled)]),
        "zip: no data.pkl": zip_of([("archive/data/0", W.tobytes())]),
        "zip: checksum": patched(good, W.tobytes(), W.tobytes()[::-1]),
        "zip: encrypted": good[: directory + 8] + b"\1" + good[directory + 9 :],
        "zip: other compression": zip_of(base, zipfile.ZIP_BZIP2),
        "zip: member outside": good[: directory + 42] + b"\xff\xff\xff\x7f" + good[directory + 46 :],
        "zip: no local header": b"PK\3\5" + good[4:],
        "zip: cut short": good[:-30],
        "zip: only the beginning": good[:200],
        "zip: storage missing": zip_of(base[:1]),
        "zip: damaged deflate": patched(deflated, b"\xed", b"\xff", 1),
    }


def legacy():
    """The old format, with its parts at odds."""
    good = torch_legacy({"w": tensor(W)})
    keys = b"X\x01\x00\x00\x000"
    last = good.rindex(keys)
    size = struct.pack("<q", 6)
    position = good.rindex(size + W.tobytes())

    def part(view):
        return torch_legacy({"w": Tensor(Stored(W.tobytes(), 6, "FloatStorage", view), 0, (6,), (1,))})

    return {
        "legacy: another magic number": b"\x80\x02K\x01." + good[5:],
        "legacy: another version": patched(good, b"M\xe9\x03", b"M\xea\x03", 1),
        "legacy: cut in the data": good[:-1],
        "legacy: cut in the sizes": good[: position + 4],
        "legacy: cut in the pickle": good[: last - 40],
        "legacy: size negative": good[:position] + struct.pack("<q", -1) + good[position + 8 :],
        "legacy: size 2^62": good[:position] + struct.pack("<q", 2**62) + good[position + 8 :],
        "legacy: size other": good[:position] + struct.pack("<q", 5) + good[position + 8 :],
        "legacy: unknown key": good[:last] + keys[:-1] + b"9" + good[last + 6 :],
        "legacy: key a number": good[:last] + b"K\x00" + good[last + 6 :],
        "legacy: keys a dict": good[: last - 3] + b"}." + good[last:],
        "legacy: no keys": good[: last - 3] + b"]." + good[last:],
        "legacy: view of 2^62": part(("v", 0, 2**62)),
        "legacy: view that wraps around": part(("v", 2**63 - 1, 2**63 - 1)),
        "legacy: view from -1": part(("v", -1, 7)),
        "legacy: view of text": part("v"),
        "legacy: view of two": part(("v", 0)),
        "legacy: a pickle of something else": b"\x80\x02}.",
    }


def headers():
    """Safetensors headers that lie."""
    numbers = W.tobytes()

    def made(content=numbers, **fields):
        return safetensors(
            json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | fields}).encode(), content
        )

    def two(first, second, content=48):
        fields = {n: {"dtype": "F32", "shape": [2, 3], "data_offsets": o} for n, o in (("a", first), ("b", second))}
        return safetensors(json.dumps(fields).encode(), bytes(content))

    return {
        "safetensors: 7 bytes": b"\x05\0\0\0\0\0\0",
        "safetensors: header of 2^64 - 1": safetensors(b"{}", length=2**64 - 1),
        "safetensors: header of 2^63": safetensors(b"{}", length=2**63),
        "safetensors: header longer than the file": safetensors(b"{}", length=3),
        "safetensors: header empty": safetensors(b""),
        "safetensors: header no JSON": safetensors(b"{'w': 1}"),
        "safetensors: header a list": safetensors(b"[]"),
        "safetensors: header no UTF-8": safetensors(b'{"\xff": 1}'),
        "safetensors: nested": safetensors(b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "safetensors: too many objects": safetensors(b'{"w": [' + b"[]," * 2_000_000 + b"[]]}"),
        "safetensors: the same name": safetensors(b'{"w": 1, "w": 2}'),
        "safetensors: a field twice": safetensors(b'{"w": {"dtype": "F32", "dtype": "F16"}}'),
        "safetensors: a number of 5000 digits": safetensors(b'{"w": ' + b"9" * 5000 + b"}"),
        "safetensors: entry no object": safetensors(b'{"w": 1}'),
        "safetensors: field missing": safetensors(b'{"w": {"dtype": "F32", "shape": []}}'),
        "safetensors: field unknown": made(evil=1),
        "safetensors: dtype unknown": made(dtype="F8_E4M3"),
        "safetensors: dtype a list": made(dtype=["F32"]),
        "safetensors: shape negative": made(shape=[-2, -3]),
        "safetensors: shape float": made(shape=[2.0, 3]),
        "safetensors: shape bool": made(shape=[True, 6]),
        "safetensors: shape wraps around": made(shape=[2**62, 2**62]),
        "safetensors: shape of 10^18 and 0": made(b"", shape=[0, 10**18, 10**18], data_offsets=[0, 0]),
        "safetensors: shape other": made(shape=[2, 4]),
        "safetensors: shape of 1000": made(shape=[1] * 1000, data_offsets=[0, 4]),
        "safetensors: offsets reversed": made(data_offsets=[24, 0]),
        "safetensors: offsets negative": made(data_offsets=[-24, 0]),
        "safetensors: offsets beyond": made(data_offsets=[24, 48]),
        "safetensors: offsets three": made(data_offsets=[0, 12, 24]),
        "safetensors: offsets float": made(data_offsets=[0.0, 24.0]),
        "safetensors: content too short": made(numbers[:-1]),
        "safetensors: content too long": made(numbers + b"x"),
        "safetensors: overlap": two([0, 24], [12, 36], 36),
        "safetensors: the same place": two([0, 24], [0, 24], 24),
        "safetensors: hole": two([0, 24], [28, 52], 52),
        "safetensors: hole at the start": two([4, 28], [28, 52], 52),
    }


def npy(header, content=b"", version=1):
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + content


def npz():
    """.npy members that are pickles, lie, or are none."""

    class Evil:
        def __reduce__(self):
            return open, (CANARY, "w")

    pickled = io.BytesIO()
    np.save(pickled, np.array([Evil()], dtype=object), allow_pickle=True)
    plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
    members = {
        "objects": pickled.getvalue(),
        "objects by another name": npy(plain.replace("<f4", "|O"), b"x" * 48),
        "a record": npy(plain.replace("'<f4'", "[('a', '<f4')]"), bytes(24)),
        "text": npy(plain.replace("<f4", "<U1"), bytes(24)),
        "dates": npy(plain.replace("<f4", "<M8[s]"), bytes(48)),
        "10^12 numbers": npy(plain.replace("(2, 3)", "(1000000000000,)"), bytes(24)),
        "2^62 x 2^62 numbers": npy(plain.replace("(2, 3)", f"({2**62}, {2**62})"), bytes(24)),
        "10^18 x 0 x 10^18 numbers": npy(plain.replace("(2, 3)", f"(0, {10**18}, {10**18})")),
        "a negative shape": npy(plain.replace("(2, 3)", "(-2, -3)"), bytes(24)),
        "1000 dimensions": npy(plain.replace("(2, 3)", "(" + "1, " * 1000 + ")"), bytes(4)),
        "too few numbers": npy(plain, bytes(23)),
        "too many numbers": npy(plain, bytes(25)),
        "an expression": npy("__import__('os').system('true')"),
        "nested brackets": npy("(" * 5000 + ")" * 5000),
        "a header beyond the file": npy(plain)[:20],
        "a header of 2^32 - 1": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(24),
        "version 9": npy(plain, bytes(24), version=9),
        "no array": b"text",
        "nothing": b"",
    }
    attacks = {f"npz: {label}": zip_of([("w.npy", content)]) for label, content in members.items()}
    attacks["npz: bomb"] = zip_of([("w.npy", npy(plain, bytes(10**8)))], zipfile.ZIP_DEFLATED)
    attacks["npz: ../"] = zip_of([("../w.npy", members["too few numbers"])])
    attacks["npz: something beside"] = zip_of([("w.npy", npy(plain, bytes(24))), ("w.py", b"print()")])
    return attacks


def others():
    return {
        "nothing": b"",
        "one byte": b"\x80",
        "text": b"import os\n" * 20,
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "PK": b"PK",
        "zeros": bytes(1000),
        "pickle of text": b"\x80\x02X\x01\x00\x00\x00x.",
    }


GROUPS = (code_execution, pickles, tensors, archives, legacy, headers, npz, others)
