"""Projects the working memory of a decode from the header, and refuses pictures that take too many pixels or bytes.

The bounds are in bytes for each pixel and were measured for every kind of picture. Direct pictures (`Header.direct`) go
through OpenCV, at a reduced scale where a JPEG allows it. All others go through Pillow and conversions, where the
picture, its RGB or RGBA form and its array exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.header import Header, parse_header
from bigcluster.kernels.decode.result import DecodeSpec, RejectedError
from bigcluster.units import show_bytes


def check_limits(header: Header, spec: DecodeSpec, n_bytes: int) -> None:
    """Raise RejectedError ("too_large") where a file of n_bytes exceeds `spec.max_pixels` or `spec.max_bytes`."""
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
class Workload:
    """The work of decoding one file, as its header says."""

    width: int
    """In pixels, of the picture as it is shown; so is `height`."""
    height: int
    n_bytes: int
    is_jpeg: bool
    has_color: bool
    """Whether the file stores colours, which may all be grey. Known of JPEG; False for others."""
    reduction: int
    """Divisor of the scale at which a JPEG is decoded: 1, 2, 4 or 8."""
    working_bytes: int
    """Upper bound of the memory of the decode, in bytes."""

    @property
    def n_pixels(self) -> int:
        """The number of pixels of the picture."""
        return self.width * self.height


def read_workload(file: Any, n_bytes: int, spec: DecodeSpec) -> Workload | None:
    """Read the header of an open binary file of n_bytes; None where it cannot be read, or exceeds `spec.max_pixels`."""
    try:
        header = parse_header(file, n_bytes)
    except RejectedError:
        return None
    width, height = header.display_size
    if width * height > spec.max_pixels:
        return None
    return Workload(
        width=width,
        height=height,
        n_bytes=n_bytes,
        is_jpeg=header.is_jpeg,
        has_color=header.is_jpeg and header.mode != "L",
        reduction=reduction_of(header, spec),
        working_bytes=working_bytes(header, spec, n_bytes),
    )


def working_bytes(header: Header, spec: DecodeSpec, n_bytes: int) -> int:
    """Project the bytes that a decode holds at most: those of the file, the picture, and the result."""
    if header.direct:
        picture = direct_bytes(
            header.width,
            header.height,
            color=spec.color or (header.format == "PNG" and header.mode == "RGB"),
            reduction=reduction_of(header, spec),
            coefficients_of=header.mode if header.progressive else None,
        )
    else:
        picture = indirect_bytes(header.width * header.height, image_format=header.format, deep=header.deep)
    return n_bytes * header.n_copies + picture + 2 * spec.n_decoded_values


def reduction_of(header: Header, spec: DecodeSpec) -> int:
    """Choose the divisor of the scale of a JPEG: the largest at which it still has both target sizes. 1 for others."""
    if not header.is_jpeg:
        return 1
    width, height = header.display_size
    view_width, view_height = (0, 0) if spec.view is None else spec.view[:2]
    least_width, least_height = max(spec.width, view_width), max(spec.height, view_height)
    return next((by for by in (8, 4, 2) if width >= by * least_width and height >= by * least_height), 1)


# Measured bytes for each pixel of the picture.
DIRECT_GREY, DIRECT_COLOR = 3, 7
"""For the picture of OpenCV, the rows of the codec, and the copies of turning and resizing; in colour, also for its
grey."""
JPEG_COEFFICIENTS = {"L": 2, "RGB": 6}
"""By mode: a progressive JPEG keeps all coefficients, 2 bytes for each sample, until all of its scans are read."""
INDIRECT, DEEP = 17, 20
"""For samples of 8 bits, and of more than 8 bits, that Pillow decodes, and for the conversions after that."""
INDIRECT_OF_FORMAT = {"WEBP": 26, "AVIF": 21, "JPEG2000": 26, "HEIF": 26, "JXL": 40}
"""Formats whose codecs hold a picture of their own."""


def direct_bytes(
    width: int, height: int, *, color: bool, reduction: int = 1, coefficients_of: str | None = None
) -> int:
    """Project a decode by OpenCV, in bytes.

    color : whether the file or the result is in colour. coefficients_of : the mode of a progressive JPEG, else None.
    """
    coefficients = 0 if coefficients_of is None else JPEG_COEFFICIENTS[coefficients_of] * width * height
    reduced = -(-width // reduction) * -(-height // reduction)
    return coefficients + (DIRECT_COLOR if color else DIRECT_GREY) * reduced


def indirect_bytes(n_pixels: int, *, image_format: str, deep: bool) -> int:
    """Project a decode to samples and their conversion to pixels, in bytes."""
    return n_pixels * INDIRECT_OF_FORMAT.get(image_format, DEEP if deep else INDIRECT)
