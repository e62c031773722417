"""Reads the tags of an image file directory: the first one of a TIFF file, or that of EXIF data, of the same form.

It reads within bounds, so that size, orientation and the meaning of samples have one source, whichever library decodes.
Source: TIFF 6.0, section 2; BigTIFF as in libtiff.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

ORIENTATION = 274
"""The tag that says how a picture has to be turned."""
_CODES = {1: "B", 3: "H", 4: "I", 5: "2I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Type of a tag -> struct code, of the integer types and of RATIONAL, which is a numerator and a denominator."""
_RATIONAL = 5
"""The type of a value that is a fraction: two numbers of 32 bits."""
_MOST_ENTRIES = 4096
"""Entries of a directory that are looked at; real ones have a few dozen."""
_MOST_VALUES = 3 << 16
"""Values of one tag that are read: those of the largest palette."""
_EXIF = b"Exif\0\0"


@dataclass
class Directory:
    """A directory: values of the requested tags, and the offsets of the entries of all tags."""

    order: str
    """Byte order as of `struct`: '<' or '>'."""
    values: dict[int, tuple[int, ...]] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    """Tag -> offset of its entry in the file, in bytes."""
    is_big: bool = False

    def one(self, tag: int, default: int | None = None) -> int | None:
        """The first value of a tag, or `default` where it is not there."""
        return next(iter(self.values.get(tag, ())), default)


def read_directory(file: Any, tags: Collection[int]) -> Directory | None:
    """Read the first directory of an open TIFF file; None where there is none. Values outside the file are left out.

    tags : the tags whose values are read.
    """
    head = _at(file, 0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return None
    magic = struct.unpack_from(order + "H", head, 2)[0]
    if magic == 43 and len(head) == 16:
        count_code, entry_code, start = "Q", "HHQ", struct.unpack_from(order + "Q", head, 8)[0]
    elif magic == 42:
        count_code, entry_code, start = "H", "HHI", struct.unpack_from(order + "I", head, 4)[0]
    else:
        return None
    directory = Directory(order, is_big=magic == 43)
    count_bytes, room = struct.calcsize("=" + count_code), 8 if directory.is_big else 4
    entry_bytes = struct.calcsize("=" + entry_code) + room
    counted = _at(file, start, count_bytes)
    if len(counted) < count_bytes:
        return None
    n_entries = min(struct.unpack(order + count_code, counted)[0], _MOST_ENTRIES)
    table = _at(file, start + count_bytes, n_entries * entry_bytes)
    for at in range(0, len(table) - entry_bytes + 1, entry_bytes):
        tag, kind, count = struct.unpack_from(order + entry_code, table, at)
        if tag in directory.places:
            continue
        directory.places[tag] = start + count_bytes + at
        if tag in tags and kind in _CODES and 0 < count <= _MOST_VALUES:
            n_bytes = count * struct.calcsize("=" + _CODES[kind])
            inline = table[at + entry_bytes - room : at + entry_bytes]
            if n_bytes > room:
                inline = _at(file, struct.unpack(order + ("Q" if directory.is_big else "I"), inline)[0], n_bytes)
            if len(inline) >= n_bytes:
                n, code = (2 * count, "I") if kind == _RATIONAL else (count, _CODES[kind])
                directory.values[tag] = struct.unpack(f"{order}{n}{code}", inline[:n_bytes])
    return directory


def directory_start(file: Any) -> int:
    """The offset of the first directory of an open TIFF file, in bytes, as its header says."""
    head = _at(file, 0, 16)
    order = "<" if head[:2] == b"II" else ">"
    code, at = ("Q", 8) if struct.unpack_from(order + "H", head.ljust(4), 2)[0] == 43 else ("I", 4)
    start: int = struct.unpack_from(order + code, head.ljust(16, b"\xff"), at)[0]
    return start


def orientation_in(exif: bytes) -> int:
    """Read the orientation (1 to 8) in EXIF data, of any integer type; 1 where there is none.

    An orientation in XMP does not count, as in browsers.
    """
    directory = read_directory(io.BytesIO(exif.removeprefix(_EXIF)), (ORIENTATION,))
    return 1 if directory is None else valid_orientation(directory.one(ORIENTATION))


def valid_orientation(value: int | None) -> int:
    """The orientation, or 1 where it is not one of 1 to 8."""
    return value if value is not None and 1 <= value <= 8 else 1


def _at(file: Any, start: int, n_bytes: int) -> bytes:
    if start >= 1 << 63:  # no file has such an offset
        return b""
    file.seek(start)
    data: bytes = file.read(n_bytes)
    return data
