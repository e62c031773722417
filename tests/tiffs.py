"""TIFF files with any tags, written sample by sample: what the tests of the decoder compare with."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
"""Type of a tag -> its struct code (TIFF 6.0, section 2; BigTIFF)."""


def packed(samples: NDArray[Any], bits: int, order: str) -> bytes:
    """(rows, values) of whole numbers or floats -> rows of packed bits, each padded to a byte."""
    if samples.dtype.kind == "f":
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    if bits in (8, 16, 32, 64):
        return samples.astype(np.dtype(f"{order}{samples.dtype.kind}{bits // 8}")).tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    each = (samples[..., None].astype(np.int64) >> shifts) & 1
    return np.packbits(each.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    samples: NDArray[Any],
    *,
    bits: int,
    photometric: int | None,
    extra: Sequence[int] = (),
    sample_format: int | None = None,
    planar: int = 1,
    fill_order: int = 1,
    order: str = "<",
    big: bool = False,
    deflate: bool = False,
    compression: int | None = None,
    tags: Sequence[tuple[int, int, Sequence[int]]] = (),
) -> bytes:
    """(h, w, n) samples as a TIFF file of one strip (one for each plane).

    compression : the value of its tag where that is to lie. tags : further (tag, type, values).
    """
    height, width, n = samples.shape
    planes = [samples.reshape(height, width * n)] if planar == 1 else [samples[..., i] for i in range(n)]
    strips = [packed(plane, bits, order) for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    if fill_order == 2:
        flipped = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
        strips = [strip.translate(flipped) for strip in strips]
    entries: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * n),
        (259, 3, [compression or (8 if deflate else 1)]),
        (277, 3, [n]),
        (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]),
        (284, 3, [planar]),
        *tags,
    ]
    if photometric is not None:
        entries.append((262, 3, [photometric]))
    if fill_order != 1:
        entries.append((266, 3, [fill_order]))
    if extra:
        entries.append((338, 3, list(extra)))
    if sample_format is not None:
        entries.append((339, 3, [sample_format] * n))
    start = 16 if big else 8
    offsets = list(np.cumsum([start, *map(len, strips)]))
    entries.append((273, 4, [int(offset) for offset in offsets[:-1]]))
    at = int(offsets[-1])
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    )
    room = 8 if big else 4
    count, word, entry = ("Q", "Q", "HHQ") if big else ("H", "I", "HHI")
    after = at + struct.calcsize(order + count) + len(entries) * (struct.calcsize(order + entry) + room) + room
    table, values = struct.pack(order + count, len(entries)), b""
    for tag, kind, held in sorted(entries):
        data = struct.pack(f"{order}{len(held)}{_CODES[kind]}", *held)
        if len(data) <= room:
            inline = data.ljust(room, b"\0")
        else:
            inline = struct.pack(order + word, after + len(values))
            values += data
        table += struct.pack(order + entry, tag, kind, len(held) // (2 if kind == 5 else 1)) + inline
    return head + b"".join(strips) + table + bytes(room) + values
