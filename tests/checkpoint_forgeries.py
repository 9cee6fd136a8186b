"""Archives, headers and arrays that lie about their content: name -> the file. Each must be refused, within bounds."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
from checkpoint_attacks import CANARY, W
from checkpoint_files import Stored, Tensor, safetensors, tensor, torch_legacy, torch_pickle, torch_zip, zip_of


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
