"""What a decode may take, checked against the header: pixels, and working memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.header import Header, parse_header
from bigcluster.kernels.decode.result import DecodeSpec, RejectedError
from bigcluster.kernels.decode.working import careful_bytes, direct_bytes
from bigcluster.units import show_bytes


def check_limits(header: Header, spec: DecodeSpec, n_bytes: int) -> None:
    n_pixels = header.width * header.height
    if n_pixels > spec.max_pixels:
        raise RejectedError(
            "too_large",
            f"{header.width} x {header.height} pixels, image.max_pixels is {spec.max_pixels}",
        )
    need = working_bytes(header, spec, n_bytes)
    if spec.max_bytes is not None and need > spec.max_bytes:
        raise RejectedError(
            "too_large",
            f"decoding needs {show_bytes(need)}, the memory budget leaves {show_bytes(spec.max_bytes)}",
            need,
        )


@dataclass(frozen=True)
class Look:
    """What a header says of the work that a file makes."""

    n_pixels: int
    n_bytes: int
    is_jpeg: bool
    reduction: int
    """Of a JPEG that is decoded at a reduced scale: 2, 4 or 8."""
    working_bytes: int


def look(file: Any, n_bytes: int, spec: DecodeSpec) -> Look | None:
    """At an open binary file of n_bytes; None where there is no readable header, or more pixels than are decoded."""
    try:
        header = parse_header(file, n_bytes)
    except RejectedError:
        return None
    n_pixels = header.width * header.height
    if n_pixels > spec.max_pixels:
        return None
    return Look(n_pixels, n_bytes, header.is_jpeg, reduction_of(header, spec), working_bytes(header, spec, n_bytes))


def working_bytes(header: Header, spec: DecodeSpec, n_bytes: int) -> int:
    """Upper bound of what the decode holds: the file's bytes, the picture, and the result before it is handed over."""
    if header.direct:
        picture = direct_bytes(
            header.width,
            header.height,
            color=spec.color or (header.format == "PNG" and header.mode == "RGB"),
            reduction=reduction_of(header, spec),
            coefficients_of=header.mode if header.progressive else None,
        )
    else:
        picture = careful_bytes(header.width * header.height, image_format=header.format, deep=header.deep)
    return n_bytes * header.n_copies + picture + 2 * spec.n_values


def reduction_of(header: Header, spec: DecodeSpec) -> int:
    if not header.is_jpeg:
        return 1
    width, height = header.seen
    return next((by for by in (8, 4, 2) if width >= by * spec.width and height >= by * spec.height), 1)
