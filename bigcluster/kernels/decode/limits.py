"""What a decode may take, checked against the header: pixels, and working memory.

Working memory of one decode: upper bounds in bytes per pixel, measured for every kind of picture that is read.

Direct pictures go through OpenCV, at a reduced scale where a JPEG allows it; all others through Pillow and conversions,
where the picture, its RGB or RGBA form and the array of it exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.header import Header, parse_header
from bigcluster.kernels.decode.result import DecodeSpec, RejectedError
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


DIRECT_GREY = 3
DIRECT_COLOR = 7
"""The picture in colour, its grey, and the codec's rows."""
JPEG_COEFFICIENTS = {"L": 2, "RGB": 6}
"""A progressive file keeps those of the whole picture, 2 bytes a sample, while its scans come in. By mode."""
CAREFUL = 17
DEEP = 20
CAREFUL_OF_FORMAT = {"WEBP": 26, "AVIF": 21, "JPEG2000": 26, "HEIF": 26, "JXL": 40}
"""Their codecs hold pictures of their own."""


def direct_bytes(
    width: int, height: int, *, color: bool, reduction: int = 1, coefficients_of: str | None = None
) -> int:
    """OpenCV's decode. color : of the file or of what is asked; coefficients_of : the mode of a progressive JPEG."""
    coefficients = 0 if coefficients_of is None else JPEG_COEFFICIENTS[coefficients_of] * width * height
    reduced = -(-width // reduction) * -(-height // reduction)
    return coefficients + (DIRECT_COLOR if color else DIRECT_GREY) * reduced


def careful_bytes(n_pixels: int, *, image_format: str, deep: bool) -> int:
    """Pillow's decode, or OpenCV's of 16-bit samples, and what follows."""
    return n_pixels * CAREFUL_OF_FORMAT.get(image_format, DEEP if deep else CAREFUL)
