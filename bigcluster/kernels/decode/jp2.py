"""JPEG 2000 by its boxes: depth, sign and colours of its components. Source: ITU-T T.800, annexes A.5.1 and I."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from bigcluster.kernels.decode.result import RejectedError

CODESTREAM = b"\xff\x4f\xff\x51"
CONTAINER = b"\0\0\0\x0cjP  "
_COLORS = {12: (4,), 16: (3, 4), 17: (1, 2), 18: (3,)}
"""Enumerated colour space -> numbers of components: CMYK, sRGB, grey, sYCC."""
_CMYK, _SYCC = 12, 18
_MOST_BOXES = 1000
_FARTHEST = 1 << 61
"""Bytes from where on nothing is looked for: no file is that long, and none can be asked for what lies beyond 2^63."""
_MOST_HEADER = 16 << 20
"""Bytes of the header box that are read; a colour profile is the largest thing in it."""


def jp2_bits(file: Any) -> int:
    """Bits a sample, of an open file. Raises RejectedError where the samples mean what no reader gets right."""
    file.seek(0)
    colors, has_palette, start = None, False, 0
    if file.read(len(CONTAINER)) == CONTAINER:
        for kind, at, n_bytes in _boxes(file, 0, None):
            if kind == b"jp2h":
                for inner, inner_at, inner_bytes in _boxes(file, at, at + min(n_bytes, _MOST_HEADER)):
                    file.seek(inner_at)
                    told = file.read(7) if inner == b"colr" and inner_bytes >= 7 and colors is None else b""
                    if len(told) == 7:
                        method, _, _, number = struct.unpack(">BBBI", told)
                        colors = number if method == 1 else None
                    has_palette = has_palette or inner == b"pclr"
            elif kind == b"jp2c":
                start = at
                break
        else:
            raise RejectedError("damaged", "it has no codestream")
    file.seek(start)
    head = file.read(42)
    if len(head) < 42 or not head.startswith(CODESTREAM):
        raise RejectedError("damaged", "its codestream has no header")
    n_components = struct.unpack_from(">H", head, 40)[0]
    components: bytes = file.read(3 * n_components)
    if not n_components or len(components) < 3 * n_components:
        raise RejectedError("damaged", "its codestream has no header")
    if len(set(components[0::3])) > 1 or components[0] & 0x80:
        raise _unknown("signed components, or several depths")
    if set(components[1::3]) | set(components[2::3]) != {1}:
        raise _unknown("components of several sizes")
    bits = int(components[0]) + 1
    deep = bits > 8
    if n_components > 4 or bits not in range(8, 17) or (deep and (n_components == 2 or has_palette)):
        raise _unknown(f"{n_components} components of {bits} bits{', with a palette' if has_palette else ''}")
    known = colors is None or has_palette or n_components in _COLORS.get(colors, ())
    if not known or (deep and colors in (_CMYK, _SYCC)):
        raise _unknown(f"{n_components} components of {bits} bits in colour space {colors}")
    return bits


def _boxes(file: Any, at: int, stop: int | None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, bytes of it) of the boxes from `at`; the last one may reach to the end."""
    for _ in range(_MOST_BOXES):
        if at > _FARTHEST or (stop is not None and at + 8 > stop):
            return
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        n_bytes, kind = struct.unpack_from(">I4s", head)
        n_head = 8
        if n_bytes == 1 and len(head) == 16:
            n_bytes, n_head = struct.unpack_from(">Q", head, 8)[0], 16
        last = n_bytes == 0
        if not last and (n_bytes < n_head or n_bytes > _FARTHEST):
            return
        yield kind, at + n_head, _FARTHEST if last else n_bytes - n_head
        if last:
            return
        at += n_bytes


def _unknown(what: str) -> RejectedError:
    return RejectedError("unsupported", f"JPEG 2000: {what}")
