"""Headers of pictures, read before anything is decoded: format, size, orientation, depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import (  # each plugin registers its format on import; Image.init() would load forty more
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from bigcluster.kernels.decode.result import RejectedError, one_line

_PLUGINS = (
    *(AvifImagePlugin, BmpImagePlugin, GifImagePlugin, Jpeg2KImagePlugin, JpegImagePlugin),
    *(MpoImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
assert set(FORMATS) <= set(Image.OPEN), "a plugin is missing from _PLUGINS"  # MPO comes by way of JPEG
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS = 258  # BitsPerSample
_JP2_PRECISION = 42
"""Bytes from the start-of-codestream marker to the first component's precision (ITU-T T.800, A.5.1)."""
_DIRECT_FORMATS = ("JPEG", "PNG")
_DIRECT_MODES = ("1", "L", "RGB")


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say of the picture."""

    format: str
    mode: str
    width: int
    """Before orientation."""
    height: int
    orientation: int
    direct: bool
    """OpenCV decodes it straight to what is asked, with nothing to decide."""
    deep: bool
    """16 bits a sample."""
    progressive: bool
    """A JPEG in several scans."""

    @property
    def is_jpeg(self) -> bool:
        return self.format in ("JPEG", "MPO")

    @property
    def seen(self) -> tuple[int, int]:
        """(width, height) as a person sees them."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(file: Any) -> tuple[int, int] | None:
    """(width, height) as seen, of an open binary file; None where there is no readable header."""
    try:
        return parse_header(file, b"", 1).seen
    except RejectedError:
        return None


def parse_header(file: Any, magic: bytes, n_bytes: int) -> Header:
    if n_bytes == 0:
        raise RejectedError("empty", "the file has no bytes")
    try:
        image = Image.open(file, formats=FORMATS)
        orientation = _orientation(image)
        deep = _bit_depth(image, file) == 16
    except UnidentifiedImageError:
        if magic.startswith(_MAGIC):
            raise RejectedError("damaged", "the header cannot be read") from None
        raise RejectedError("unsupported", "not a picture of a known format") from None
    except Exception as error:  # codecs raise nearly anything on broken headers: SyntaxError, struct.error, ...
        raise RejectedError("damaged", f"the header cannot be read: {one_line(error)}") from error
    direct = (
        image.format in _DIRECT_FORMATS
        and image.mode in _DIRECT_MODES
        and not deep
        and "transparency" not in image.info
        and not (image.format == "PNG" and getattr(image, "is_animated", False))
    )
    valid = orientation if 1 <= orientation <= 8 else 1
    progressive = "progressive" in image.info
    return Header(str(image.format), image.mode, image.width, image.height, valid, direct, deep, progressive)


def _orientation(image: Image.Image) -> int:
    """The orientation that is still to be applied: TIFF is turned by both of its readers, and its size says so."""
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    return int(image.getexif().get(_EXIF_ORIENTATION, 1))


def _bit_depth(image: Image.Image, file: Any) -> int:
    """16, or 8 for everything else: Pillow's mode tells the two apart for grey pictures of some formats only."""
    if image.mode.startswith("I;16"):
        return 16
    if image.format == "PPM":
        tile = getattr(image, "tile", None)
        maximum = tile[0][3][-1] if tile and isinstance(tile[0][3], tuple) else 0
        return 16 if image.mode == "I" or (isinstance(maximum, int) and maximum > 255) else 8
    if image.format == "PNG":
        return 16 if _bytes_at(file, 24, 1) == b"\x10" else 8
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        return 16 if max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))) == 16 else 8
    if image.format == "JPEG2000" and image.mode in ("RGB", "RGBA"):
        start = _bytes_at(file, 0, 4096)
        size_marker = start.find(b"\xff\x4f\xff\x51")
        precision = start[size_marker + _JP2_PRECISION : size_marker + _JP2_PRECISION + 1] if size_marker >= 0 else b""
        return 16 if precision and precision[0] & 0x7F > 7 else 8
    return 8


def _bytes_at(file: Any, start: int, n_bytes: int) -> bytes:
    at = file.tell()
    file.seek(start)
    found: bytes = file.read(n_bytes)
    file.seek(at)
    return found
