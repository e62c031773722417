"""Reads JPEG files by segments: size, kind and EXIF; and removes the bytes that belong to no segment.

Source: ITU-T T.81, annex B. Encoders and repair tools leave filling between segments, and before restart markers:
libjpeg decodes on and says "extraneous bytes". As it tells of one fault of a file only, a file is decoded without its
filling: whatever is said then is damage.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.result import MOST_PARTS, RejectedError

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
END_OF_IMAGE = bytes((0xFF, _EOI))
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
"""Frames that libjpeg decodes: baseline, extended, progressive, and the latter two in arithmetic coding."""
_OTHER_FRAMES = {0xC3: "lossless", 0xF7: "JPEG-LS"}
_FRAMES = (*(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)), 0xF7)
_ALONE = (0x01, *range(0xD0, 0xD8))
"""Markers without a segment: TEM, RST0 to RST7."""
_MOST_FILLING = 1 << 16
"""Bytes between segments that are passed over before the file counts as damaged."""
_EXIF = b"Exif\0\0"
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILLED = re.compile(rb"(?<!\xff)\x00+(?=\xff[\xd0-\xd7])")
"""Zeros before a restart marker; the one behind 0xFF belongs to that byte."""


@dataclass(frozen=True)
class JpegHead:
    """The header of a JPEG file: what stands before the first scan."""

    width: int
    height: int
    n_components: int
    progressive: bool
    exif: bytes
    filling: tuple[tuple[int, int], ...]
    """(start, stop) of bytes that belong to no segment."""
    scans_start: int
    """Where the first scan begins, in bytes."""


def parse_jpeg(file: Any) -> JpegHead:
    """Read the header of an open JPEG file. Raises RejectedError where it is damaged, or of a kind not decoded."""
    file.seek(2)
    at, filling, exif, frame = 2, list[tuple[int, int]](), b"", None
    for _ in range(MOST_PARTS):
        code, start = _next_marker(file, at)
        if start > at:
            filling.append((at, start))
        at = file.tell()
        if code in (_SOI, _EOI):
            raise RejectedError("damaged", "the header ends before the picture begins")
        if code in _ALONE:
            continue
        length = file.read(2)
        if len(length) < 2:
            raise RejectedError("truncated", "the file ends within its header")
        n_bytes = int.from_bytes(length, "big") - 2
        if n_bytes < 0:
            raise RejectedError("damaged", f"a segment (marker 0x{code:02x}) has no length")
        if code == _SOS:
            break
        if code in _FRAMES:
            if frame is not None:
                raise RejectedError("unsupported", "several frames in one picture")
            frame = code, _whole(file, n_bytes)
        elif code == 0xE1 and not exif:
            data = _whole(file, n_bytes)
            exif = data if data.startswith(_EXIF) else b""
        else:
            file.seek(n_bytes, 1)
        at += n_bytes + 2
    else:
        raise RejectedError("damaged", f"more than {MOST_PARTS} segments before the picture")
    if frame is None:
        raise RejectedError("damaged", "no frame header before the picture")
    width, height, n_components = _checked_frame(*frame)
    return JpegHead(width, height, n_components, frame[0] in (0xC2, 0xCA), exif, tuple(filling), at)


def without_gaps(data: bytes, head: JpegHead) -> bytes:
    """Remove the bytes between the segments of the header."""
    parts, at = [], 0
    for start, stop in head.filling:
        parts.append(data[at:start])
        at = stop
    return b"".join([*parts, data[at:]]) if parts else data


def without_filling(data: bytes, head: JpegHead) -> list[bytes]:
    """Remove zeros before restart markers: one or two files that may have been meant, the likelier one first.

    A scan may end with a zero byte of its own, so the first file lacks only as many zeros as all markers have before
    them.
    """
    start, scans = data[: head.scans_start], data[head.scans_start :]
    runs = [found.end() - found.start() for found in _FILLED.finditer(scans)]
    if not runs:
        return []
    shared = min(runs) if len(runs) == len(_RESTART.findall(scans)) else 0
    meant = [start + _FILLED.sub(lambda found: found[0][shared:], scans)] if shared else []
    return [*meant, start + _FILLED.sub(b"", scans)]


_NEXT = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
"""A marker that ends a scan: neither a stuffed zero nor a restart."""
_ALL_COEFFICIENTS = 64
"""Coefficients of a block of 8 x 8 samples."""


def lacks_end(data: bytes, head: JpegHead) -> bool:
    """Whether a file ends within its last scan: all of its scans began, and no end marker follows.

    A progressive picture comes in scans of some coefficients, and of some of their bits; a picture of several
    components may have one scan for each.
    """
    if data.endswith(b"\0\0"):  # a download into a file of its full size: what is missing may look like pixels
        return False
    at = head.scans_start
    bits_left: dict[tuple[int, int], int] = {}  # (component, coefficient) -> the lowest bit that came
    while True:
        segment = data[at : at + int.from_bytes(data[at : at + 2], "big")]
        n = segment[2] if len(segment) > 2 else 0
        if len(segment) < 2 * n + 6 or n == 0:
            return False  # it ends within a header
        first, last, low = segment[3 + 2 * n], segment[4 + 2 * n], segment[5 + 2 * n] & 15
        for component in segment[3 : 3 + 2 * n : 2]:
            for coefficient in range(first, min(last, _ALL_COEFFICIENTS - 1) + 1):
                bits_left[component, coefficient] = low
        at += len(segment)
        while True:  # segments between this scan and the next
            found = _NEXT.search(data, at)
            if found is None:
                return len(bits_left) == head.n_components * _ALL_COEFFICIENTS and not any(bits_left.values())
            code, at = found[0][-1], found.end()
            if code == _EOI:
                return False
            if code == _SOS:
                break
            at += int.from_bytes(data[at : at + 2], "big")


def _next_marker(file: Any, at: int) -> tuple[int, int]:
    """Find the next marker: (code, offset); bytes 0xFF before it are part of it. Source: T.81, B.1.1.2."""
    stop = at + _MOST_FILLING
    while at < stop:
        start, byte = at, file.read(1)
        at += 1
        if byte != b"\xff":
            if not byte:
                raise RejectedError("truncated", "the file ends within its header")
            continue
        while byte == b"\xff":
            byte = file.read(1)
            at += 1
        if byte not in (b"", b"\0"):
            return byte[0], start
    raise RejectedError("damaged", "no marker follows where a segment ends")


def _whole(file: Any, n_bytes: int) -> bytes:
    data: bytes = file.read(n_bytes)
    if len(data) < n_bytes:
        raise RejectedError("truncated", "the file ends within its header")
    return data


def _checked_frame(code: int, data: bytes) -> tuple[int, int, int]:
    if len(data) < 6:
        raise RejectedError("damaged", "the frame header is too short")
    bits, height, width, n_components = struct.unpack_from(">BHHB", data)
    if code not in _DECODED:
        raise RejectedError("unsupported", f"JPEG of another kind: {_OTHER_FRAMES.get(code, f'marker 0x{code:02x}')}")
    if bits != 8:
        raise RejectedError("unsupported", f"JPEG with {bits} bits a sample")
    if n_components not in (1, 3, 4):
        raise RejectedError("unsupported", f"JPEG with {n_components} components")
    if width == 0:
        raise RejectedError("damaged", "the frame header says a width of 0")
    if height == 0:
        raise RejectedError("unsupported", "JPEG that says its height only at its end")
    return width, height, n_components
