"""Members of a zip archive, within bounds: what torch's .pth and NumPy's .npz files are made of."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import BinaryIO

from dcnlab.checkpoints.bounds import MAX_MEMBERS, check_allowance, shown
from dcnlab.errors import UnsafeCheckpoint

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of name and extra field
_ENCRYPTED = 0x1
# What zipfile raises on damaged directories: its own error, and those of the modules that it reads them with.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError, ValueError, IndexError, OSError)


class Archive:
    """A zip archive in memory (or mapped there). Stored members are read without a copy.

    Raises
    ------
    ValueError
        If the archive is damaged, or uses what torch and NumPy do not write.
    UnsafeCheckpoint
        If its members would take too much memory, share a name, or have a name that leads out of a folder.
    """

    def __init__(self, file: BinaryIO, data: memoryview) -> None:
        self.data = data
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except _DAMAGED as error:
            raise ValueError(f"damaged zip archive: {shown(str(error))}") from None
        if len(entries) > MAX_MEMBERS:
            raise UnsafeCheckpoint(f"expected at most {MAX_MEMBERS} members in the archive, got {len(entries)}")
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            check_member_name(entry.orig_filename)
            if entry.orig_filename in self.entries:
                raise UnsafeCheckpoint(f"two members of the archive are named {shown(entry.orig_filename)}")
            self.entries[entry.orig_filename] = entry
        check_allowance(sum(entry.file_size for entry in entries), len(data), "unpacking the archive")

    def read(self, name: str) -> memoryview:
        """The bytes of a member, checked against its checksum."""
        if name not in self.entries:
            raise ValueError(f"the archive has no member {shown(name)}")
        entry = self.entries[name]
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {shown(name)} is encrypted, or compressed other than by deflate")
        packed = self._packed(entry)
        content = packed if entry.compress_type == zipfile.ZIP_STORED else _inflated(packed, entry)
        if len(content) != entry.file_size:
            raise UnsafeCheckpoint(f"member {shown(name)} has {len(content)} bytes, expected {entry.file_size}")
        if zlib.crc32(content) != entry.CRC:
            raise ValueError(f"damaged file: the checksum of member {shown(name)} does not match")
        return content

    def _packed(self, entry: zipfile.ZipInfo) -> memoryview:
        start = entry.header_offset + _LOCAL_HEADER.size
        if not 0 <= entry.header_offset <= start <= len(self.data):
            raise ValueError(f"damaged zip archive: member {shown(entry.orig_filename)} lies outside the file")
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self.data[entry.header_offset : start])
        if signature != b"PK\3\4":
            raise ValueError(f"damaged zip archive: no member begins where {shown(entry.orig_filename)} should")
        start += name_length + extra_length
        if start + entry.compress_size > len(self.data):
            raise ValueError(f"damaged zip archive: member {shown(entry.orig_filename)} is cut short")
        return self.data[start : start + entry.compress_size]


def _inflated(packed: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """Unpack; stop one byte after the declared size, which `Archive` has bounded."""
    try:
        return memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, entry.file_size + 1))
    except zlib.error as error:
        raise ValueError(f"damaged zip archive: member {shown(entry.orig_filename)}: {error}") from None


def check_member_name(name: str) -> None:
    """Refuse names that a program which unpacks the archive might take out of its folder."""
    parts = name.split("/")
    if not name or name[0] == "/" or ".." in parts or any(sign in name for sign in "\\:\0") or len(name) > 1000:
        raise UnsafeCheckpoint(f"expected a plain name for a member of an archive, got {shown(name)}")
