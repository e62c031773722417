"""This module finds BMP files that Pillow decodes wrongly, and the reason why runs have too few pixels.

The layout is that of BITMAPINFOHEADER and later headers. The offset of the pixels is at byte 10, the size of the header
at 14, the bits per pixel at 28, the compression at 30 and the mask of alpha at 66.
"""

from __future__ import annotations

from typing import Any

from bigcluster.kernels.decode.result import RejectedError


def check_masks(file: Any) -> None:
    """Raise RejectedError for a BMP of 16 bits with a mask for alpha, whose transparent pixels Pillow would show."""
    file.seek(0)
    head: bytes = file.read(70)
    has_masks = _number(head, 30, 4) in (3, 6)  # BI_BITFIELDS, BI_ALPHABITFIELDS
    if _number(head, 14, 4) >= 56 and _number(head, 28, 2) == 16 and has_masks and _number(head, 66, 4):
        raise RejectedError("unsupported", "BMP: 16 bits, of which some are an alpha channel")


def check_runs(data: bytes) -> None:
    """Raise RejectedError for a BMP with run-length coding (RLE) in which Pillow found too few pixels.

    Runs with an end mark leave out pixels on purpose. The format does not define the colour of such pixels, and
    programs show different ones. Where the end mark is missing, the file ends early. Nothing happens for other files.
    """
    kind = _number(data, 30, 4)  # 1 is BI_RLE8, 2 is BI_RLE4
    if not data.startswith(b"BM") or kind not in (1, 2):
        return
    at = _number(data, 10, 4)
    while at + 1 < len(data):
        count, value = data[at], data[at + 1]
        at += 2
        if count or value == 0:  # a run, or the end of a row
            continue
        if value == 1:
            raise RejectedError("unsupported", "BMP: its runs leave out pixels, which have no agreed colour")
        n_bytes = value if kind == 1 else (value + 1) // 2
        at += 2 if value == 2 else n_bytes + n_bytes % 2  # a jump, or pixels one by one
    raise RejectedError("truncated", "the file ends before the last pixels")


def _number(data: bytes, at: int, n_bytes: int) -> int:
    return int.from_bytes(data[at : at + n_bytes], "little")
