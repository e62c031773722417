"""One decode for every kind of file. It returns a status and never raises for what is wrong with a file.

What happens to unusual pictures, decided once:

- EXIF orientation is applied.
- Grey of a JPEG is its own luma plane, of anything else BT.601 luma: the same formula.
- JPEG is decoded at 1/2, 1/4 or 1/8 scale where that is still at least the target size.
- 16-bit samples are shifted by the number of significant bits (8, 10, 12, 14 or 16) that the picture uses: 12-bit data
  in a 16-bit file does not come out nearly black.
- Transparent pixels show white, as on a page; hidden colours do not appear.
- Palette, 1-bit, CMYK, YCbCr and Lab pictures become RGB; of an animation or a multi-page file the first frame counts.
- Floating-point and 32-bit integer samples have no agreed black and white: status `unsupported`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
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

from bigcluster.kernels.decode.fit import fit_to, from_16_bit, normalize_each, orient, over_white
from bigcluster.kernels.decode.working import careful_bytes, direct_bytes
from bigcluster.units import show_bytes

STATUSES = {
    "ok": "decoded",
    "empty": "the file has no bytes",
    "truncated": "the file ends early",
    "damaged": "the data inside is broken",
    "unsupported": "not a picture, or of a kind that has no agreed grey",
    "too_large": "more pixels than image.max_pixels, or more memory to decode than the budget leaves",
    "unreadable": "the system would not let us read it",
    "missing": "listed in the manifest, but not there",
}

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
_REDUCED_GREY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_REDUCED_COLOR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class DecodeSpec:
    """What every picture is turned into."""

    width: int
    height: int
    color: bool = False
    fit: str = "stretch"
    normalize: str = "none"
    max_pixels: int = 250_000_000
    max_bytes: int | None = None
    """Working memory that one decode may take; larger ones are `too_large`."""

    @property
    def n_channels(self) -> int:
        return 3 if self.color else 1

    @property
    def n_values(self) -> int:
        """d: values per image."""
        return self.width * self.height * self.n_channels


@dataclass(frozen=True)
class Decoded:
    """`pixels` is uint8 of shape (d,): row by row, RGB interleaved where colour is asked; None unless ok."""

    status: str
    reason: str = ""
    width: int | None = None
    height: int | None = None
    pixels: NDArray[np.uint8] | None = None
    needed_bytes: int | None = None
    """Working memory that it takes, where `max_bytes` was less."""


@dataclass(frozen=True)
class _Header:
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
    def seen(self) -> tuple[int, int]:
        """(width, height) as a person sees them."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


class _RejectedError(Exception):
    def __init__(self, status: str, reason: str, needed_bytes: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.needed_bytes = needed_bytes


def prepare_codecs() -> None:
    """Settings of the whole process: one thread per decode, our own size limits, no codec chatter. Call it once."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    Image.MAX_IMAGE_PIXELS = None  # read_header has its own limit, as a status and not as a warning
    warnings.filterwarnings("ignore", module=r"PIL\.")  # every oddity of a file would warn; what matters is a status


def decode(data: bytes, spec: DecodeSpec) -> Decoded:
    """Decode one file's bytes into `spec`'s shape."""
    width = height = None
    try:
        header = _parse_header(io.BytesIO(data), data[:8], len(data))
        width, height = header.seen
        _check_limits(header, spec, len(data))
        array = _decode_direct(data, header, spec) if header.direct else None
        if array is None:  # not OpenCV's to decode, or it refused: Pillow's opinion counts, and names the fault
            _check_limits(replace(header, direct=False), spec, len(data))
            array = _decode_carefully(data, header, spec)
        array = fit_to(array, spec.width, spec.height, spec.fit)
        if spec.normalize == "image":
            array = normalize_each(array)
    except _RejectedError as rejected:
        return Decoded(rejected.status, rejected.reason, width, height, needed_bytes=rejected.needed_bytes)
    return Decoded("ok", "", width, height, array.reshape(spec.n_values))


def read_header(file: Any) -> tuple[int, int] | None:
    """(width, height) as seen, of an open binary file; None where there is no readable header."""
    try:
        return _parse_header(file, b"", 1).seen
    except _RejectedError:
        return None


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
        header = _parse_header(file, b"", n_bytes)
    except _RejectedError:
        return None
    n_pixels = header.width * header.height
    if n_pixels > spec.max_pixels:
        return None
    is_jpeg = header.format in ("JPEG", "MPO")
    return Look(n_pixels, n_bytes, is_jpeg, _reduction(header, spec), _working_bytes(header, spec, n_bytes))


def _parse_header(file: Any, magic: bytes, n_bytes: int) -> _Header:
    if n_bytes == 0:
        raise _RejectedError("empty", "the file has no bytes")
    try:
        image = Image.open(file, formats=FORMATS)
        orientation = _orientation(image)
        deep = _bit_depth(image, file) == 16
    except UnidentifiedImageError:
        if magic.startswith(_MAGIC):
            raise _RejectedError("damaged", "the header cannot be read") from None
        raise _RejectedError("unsupported", "not a picture of a known format") from None
    except Exception as error:  # codecs raise nearly anything on broken headers: SyntaxError, struct.error, ...
        raise _RejectedError("damaged", f"the header cannot be read: {_one_line(error)}") from error
    direct = (
        image.format in _DIRECT_FORMATS
        and image.mode in _DIRECT_MODES
        and not deep
        and "transparency" not in image.info
        and not (image.format == "PNG" and getattr(image, "is_animated", False))
    )
    valid = orientation if 1 <= orientation <= 8 else 1
    progressive = "progressive" in image.info
    return _Header(str(image.format), image.mode, image.width, image.height, valid, direct, deep, progressive)


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


def _check_limits(header: _Header, spec: DecodeSpec, n_bytes: int) -> None:
    n_pixels = header.width * header.height
    if n_pixels > spec.max_pixels:
        raise _RejectedError(
            "too_large",
            f"{header.width} x {header.height} pixels, image.max_pixels is {spec.max_pixels}",
        )
    need = _working_bytes(header, spec, n_bytes)
    if spec.max_bytes is not None and need > spec.max_bytes:
        raise _RejectedError(
            "too_large",
            f"decoding needs {show_bytes(need)}, the memory budget leaves {show_bytes(spec.max_bytes)}",
            need,
        )


def _working_bytes(header: _Header, spec: DecodeSpec, n_bytes: int) -> int:
    """Upper bound of what the decode holds: the file's bytes, the picture, and the result before it is handed over."""
    if header.direct:
        picture = direct_bytes(
            header.width,
            header.height,
            color=spec.color or (header.format == "PNG" and header.mode == "RGB"),
            reduction=_reduction(header, spec),
            coefficients_of=header.mode if header.progressive else None,
        )
    else:
        picture = careful_bytes(header.width * header.height, image_format=header.format, deep=header.deep)
    return n_bytes + picture + 2 * spec.n_values


def _reduction(header: _Header, spec: DecodeSpec) -> int:
    if header.format not in ("JPEG", "MPO"):
        return 1
    width, height = header.seen
    return next((by for by in (8, 4, 2) if width >= by * spec.width and height >= by * spec.height), 1)


def _decode_direct(data: bytes, header: _Header, spec: DecodeSpec) -> NDArray[np.uint8] | None:
    """OpenCV, straight to grey or colour; it applies the EXIF orientation itself. None where it refuses."""
    # libpng makes grey in linear light where a file says its gamma: grey of a colour PNG goes through colour.
    by_hand = header.format == "PNG" and header.mode == "RGB" and not spec.color
    flags = (_REDUCED_COLOR if spec.color or by_hand else _REDUCED_GREY)[_reduction(header, spec)]
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if array is None:
        return None
    if by_hand:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2GRAY))
    return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if spec.color else array)


def _decode_carefully(data: bytes, header: _Header, spec: DecodeSpec) -> NDArray[np.uint8]:
    array = _load_deep(data, header) if header.deep else _load_pillow(data)
    array = orient(array, header.orientation)
    if array.ndim == 2:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_GRAY2RGB) if spec.color else array)
    return cast("NDArray[np.uint8]", array if spec.color else cv2.cvtColor(array, cv2.COLOR_RGB2GRAY))


def _load_deep(data: bytes, header: _Header) -> NDArray[np.uint8]:
    """16-bit samples: (h, w) or (h, w, 3) uint8."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    if array is None:
        _load_pillow(data)  # names the fault where there is one
        raise _RejectedError("damaged", "the 16-bit data cannot be decoded")
    if array.dtype != np.uint16:
        raise _RejectedError("unsupported", f"samples of type {array.dtype}")
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return from_16_bit(array)


def _load_pillow(data: bytes) -> NDArray[np.uint8]:
    """(h, w) or (h, w, 3) uint8, transparency over white; a fault becomes a status."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        if image.mode in ("I", "F") or image.mode.startswith("I;32"):
            raise _RejectedError("unsupported", f"samples of type {image.mode} have no agreed black and white")
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            return over_white(np.asarray(image.convert("RGBA")))
        return np.asarray(image.convert("RGB"))
    except _RejectedError:
        raise
    except MemoryError:  # what it needs was granted: the system ran out, and the picture is not to blame
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        message = _one_line(error)
        early = "truncated" in message.lower() or "end of" in message.lower() or isinstance(error, EOFError)
        raise _RejectedError("truncated" if early else "damaged", message) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
