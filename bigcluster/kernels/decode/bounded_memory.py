"""Decides which files have a header that bounds the memory of their decode; all others are decoded in a limited child.

The memory of a decode follows from the header, if the header tells the truth. In TIFF, WebP, AVIF, HEIF and JPEG 2000
it need not: a tile may be larger than the picture, a frame larger than its container says, and a library may hold the
whole file several times to find out. JPEG and PNG have one size, in one place; but their metadata may come in millions
of segments, or unfold to a thousand times their length. Files whose metadata are small have bounded memory.
"""

from __future__ import annotations

import struct
from typing import Any

_JPEG, _PNG, _GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_LIARS = (
    *(b"II", b"MM", b"RIFF", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"),
    *(b"\xff\x0a", b"\0\0\0\x0cJXL", b"FUJIFILM", b"FOVb", b"\0MRM"),
)
"""How TIFF and most camera RAW, WebP and JPEG 2000 (as stream and in its boxes) begin; then JPEG XL and other RAW."""
_BOX = b"ftyp"
"""From the fifth byte on: AVIF and HEIF."""
HEAD_BYTES = 32
"""Bytes at the start of a file in which every format can be recognized, and which have the size of a WebP canvas."""

_MOST_HEADER_BYTES = 1 << 20
"""Of metadata, to which the decode may add copies: colour profiles and previews of cameras have some hundred KB."""
_MOST_PARTS = 4096
"""Segments of a JPEG before its picture, and chunks of a PNG, at most. A JPEG with a colour profile and a preview has
some dozen segments; writers of PNG put 8 KiB or more of pixels into a chunk."""
_MOST_COMPRESSED_BYTES = 8 << 10
"""Of compressed text in a PNG, which may unfold to 8 MiB."""
_MOST_EXTENSION_BYTES = 64 << 10
"""Of a GIF before its first frame: palette, comments, colour profile."""
_SOS, _ALONE = 0xDA, (0x01, *range(0xD0, 0xD8))
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))


def header_may_lie(start: bytes) -> bool:
    """Whether a file is of a format whose header may be wrong about the size. start : HEAD_BYTES or more of it."""
    return start.startswith(_LIARS) or start[4:8] == _BOX


def has_bounded_memory(file: Any, *, whole: bool) -> bool:
    """Whether the header of an open binary file bounds the memory that it takes to decode it, or to read its header.

    whole : True for decoding, False for reading the header. As a rule a few hundred bytes are read, and never more than
    some hundred KB.
    """
    file.seek(0)
    start = file.read(HEAD_BYTES)
    if start.startswith(_JPEG):
        return _is_bounded_jpeg(file)
    if start.startswith(_PNG):
        return _is_bounded_png(file, whole)
    if start.startswith(_GIF):
        return _is_bounded_gif(file)
    return not header_may_lie(start)


def _is_bounded_jpeg(file: Any) -> bool:
    """A JPEG with unusual segments is left to the child. Source: ITU-T T.81, annex B."""
    at, frame, n_components = 2, 0, 0
    for _ in range(_MOST_PARTS):
        file.seek(at)
        start = file.read(10)
        if len(start) < 4 or start[0] != 0xFF:
            return len(start) < 4  # it ends within its header: nothing is decoded
        code = start[1]
        if code == 0xFF:  # filling
            at += 1
            continue
        if code in _ALONE:
            at += 2
            continue
        if code == _SOS:
            # A picture whose components come one after the other is held as a whole, as a progressive one is.
            return frame not in _SEQUENTIAL or start[4] == n_components
        if code in _FRAMES:
            if frame or len(start) < 10:
                return False
            frame = code
            n_components = start[9]
        at += 2 + int.from_bytes(start[2:4], "big")
        if at > _MOST_HEADER_BYTES:
            return False
    return False


def _is_bounded_png(file: Any, whole: bool) -> bool:
    """Source: PNG, third edition, section 5."""
    at, other_bytes, compressed_bytes = len(_PNG), 0, 0
    for _ in range(_MOST_PARTS):
        file.seek(at)
        start = file.read(8)
        if len(start) < 8:
            return True  # it ends early
        n_bytes, kind = struct.unpack(">I4s", start)
        if kind == b"IEND" or (kind == b"IDAT" and not whole):
            return True
        if kind not in (b"IDAT", b"fdAT"):
            other_bytes += n_bytes + 12
            compressed_bytes += n_bytes if kind in (b"zTXt", b"iTXt") else 0
        if other_bytes > _MOST_HEADER_BYTES or compressed_bytes > _MOST_COMPRESSED_BYTES:
            return False
        at += n_bytes + 12
    return False


def _is_bounded_gif(file: Any) -> bool:
    """Source: GIF89a, sections 18 to 26: comments and other extensions may stand before the first frame."""
    file.seek(0)
    data = file.read(_MOST_EXTENSION_BYTES)
    if len(data) < 13:
        return True  # it ends early
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while at + 2 < len(data) and data[at] == 0x21:  # an extension block
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return at < len(data) or len(data) < _MOST_EXTENSION_BYTES
