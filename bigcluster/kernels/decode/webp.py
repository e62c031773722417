"""This module distinguishes a broken WebP file from one for whose canvas the system has no memory.

The error of libwebp is the same for both. Its decoder allocates two canvases with 4 bytes for each pixel, and the
header has their size, so allocating as much shows whether there is memory. Source: WebP container specification, RFC
9649; RFC 6386, section 9.1.
"""

from __future__ import annotations

import numpy as np

from bigcluster.kernels.decode.bounded_memory import HEAD_BYTES

_AMBIGUOUS = "could not create decoder object"
"""Part of the message of Pillow in both cases."""
_BESIDE_BYTES = 1 << 20
"""Bytes that the decoder takes beside its canvases: its state, tables of codes and rows of the picture. Chosen, not
measured."""


def check_memory(start: bytes, error: Exception) -> None:
    """Raise MemoryError where an error of the WebP decoder is a lack of memory. start : HEAD_BYTES of the file."""
    if start[:4] != b"RIFF" or _AMBIGUOUS not in str(error):
        return
    n_pixels = _pixels(start)
    canvases = [np.empty(n_bytes, np.uint8) for n_bytes in (4 * n_pixels, 4 * n_pixels, _BESIDE_BYTES)]
    del canvases


def _pixels(start: bytes) -> int:
    """Return the number of pixels of the canvas; 0 where the header does not say it."""
    kind = start[12:16]
    if len(start) < HEAD_BYTES:
        return 0
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return 0
    return width * height
