"""Reads PNG files by chunks, and separates the picture from its metadata. Source: PNG, third edition, section 5.

Libraries refuse a file for faults of its text, and for profiles that are larger than their limits. The picture is in
IHDR, PLTE, tRNS and IDAT, which have checksums of their own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.result import MOST_METADATA_BYTES, MOST_PARTS, RejectedError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type -> depths that it may have."""


@dataclass(frozen=True)
class PngHead:
    """The header of a PNG file: what stands before the pixels."""

    width: int
    height: int
    depth: int
    """Bits a sample, or a palette index."""
    color_type: int
    transparency: bytes | None
    """The content of tRNS."""
    animated: bool
    exif: bytes

    @property
    def is_color(self) -> bool:
        return self.color_type in (2, 3, 6)

    @property
    def key(self) -> int | None:
        """The grey sample that is transparent, in the depth of the file; None where there is none."""
        if self.color_type != 0 or self.transparency is None or len(self.transparency) < 2:
            return None
        return int.from_bytes(self.transparency[:2], "big") & ((1 << self.depth) - 1)


def parse_png(file: Any) -> PngHead:
    """Read the header of an open PNG file. Raises RejectedError where a chunk of the picture is missing or damaged."""
    file.seek(len(SIGNATURE))
    head: tuple[int, ...] | None = None
    transparency: bytes | None = None
    animated, exif = False, b""
    for _ in range(MOST_PARTS):
        start = file.read(8)
        if len(start) < 8:
            raise RejectedError("truncated", "the file ends before its pixels")
        n_bytes, kind = struct.unpack(">I4s", start)
        if kind == b"CgBI":
            raise RejectedError("unsupported", "Apple's own variant of PNG (CgBI)")
        if kind == b"IDAT":
            break
        if head is None and kind != b"IHDR":
            raise RejectedError("damaged", "it does not begin with IHDR")
        if n_bytes > MOST_METADATA_BYTES:
            file.seek(n_bytes + 4, 1)
            continue
        data = file.read(n_bytes)
        checksum = file.read(4)
        if len(checksum) < 4:
            raise RejectedError("truncated", "the file ends before its pixels")
        if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            if kind in _PICTURE:
                raise RejectedError("damaged", f"the checksum of {kind.decode()} is wrong")
            # of metadata: told of by `fault_of_metadata`
        elif kind == b"IHDR":
            head = _checked_head(data)
        elif kind == b"tRNS":
            transparency = data
        elif kind == b"acTL":
            animated = True
        elif kind == b"eXIf":
            exif = exif or data
    else:
        raise RejectedError("damaged", f"more than {MOST_PARTS} chunks before its pixels")
    if head is None:
        raise RejectedError("damaged", "it does not begin with IHDR")
    width, height, depth, color_type = head
    return PngHead(width, height, depth, color_type, transparency, animated, exif)


def picture_only(data: bytes) -> bytes:
    """Remove all metadata from a file, so that no decoder refuses it for them.

    Raises RejectedError where a checksum of the picture is wrong, because not every decoder checks it.
    """
    parts = [SIGNATURE, *_picture_chunks(data), b"\0\0\0\0IEND\xaeB`\x82"]
    return b"".join(parts)


def fault_of_metadata(data: bytes) -> str:
    """Say what is wrong with the chunks of metadata, anywhere in the file; '' where nothing is."""
    at = len(SIGNATURE)
    for _ in range(MOST_PARTS):
        if at + 12 > len(data):
            return ""
        n_bytes, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + n_bytes > len(data):
            return ""
        end = at + 8 + n_bytes
        if kind not in _PICTURE and n_bytes <= MOST_METADATA_BYTES:
            if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                return f"the checksum of the {_shown(kind)} chunk is wrong; the picture's own are right"
            if kind[:1].isupper() and kind != b"IEND":
                return f"the chunk {_shown(kind)}, which it calls critical, is of no known kind; the picture is whole"
        if kind == b"IEND":
            return ""
        at = end + 4
    return ""


def _picture_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of the picture; in a file that ends early the last one is cut, which the decoder reports."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        n_bytes, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        if kind in _PICTURE:
            whole = data[at : at + n_bytes + 12]
            yield whole
            if len(whole) < n_bytes + 12:
                return
            if zlib.crc32(memoryview(whole)[4:-4]) != int.from_bytes(whole[-4:], "big"):
                raise RejectedError("damaged", f"the checksum of {kind.decode()} is wrong")
        at += n_bytes + 12


def _checked_head(data: bytes) -> tuple[int, int, int, int]:
    if len(data) != 13:
        raise RejectedError("damaged", "IHDR has a wrong length")
    width, height, depth, color_type, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31) or depth not in _DEPTHS.get(color_type, ()):
        raise RejectedError("damaged", f"IHDR asks for {width} x {height}, colour type {color_type}, depth {depth}")
    if compression or filtering or interlace > 1:
        raise RejectedError("damaged", "IHDR asks for methods that PNG does not have")
    return width, height, depth, color_type


def _shown(kind: bytes) -> str:
    return "".join(chr(byte) if 32 < byte < 127 else "?" for byte in kind)
