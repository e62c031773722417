"""Reads the header of a picture before it is decoded: format, size, orientation, depth, what its samples mean.

JPEG, PNG, TIFF and EXIF are read by modules of this package, because a library would apply an orientation of XMP as
well, or refuse a file for its text. JPEG 2000 is read here, by its boxes: depth, sign and colours of its components
(source: ITU-T T.800, annexes A.5.1 and I). Pillow reads the headers of all other formats.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
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

from bigcluster.kernels.decode import bmp, extras, webp
from bigcluster.kernels.decode.bounded_memory import HEAD_BYTES
from bigcluster.kernels.decode.ifd import orientation_in
from bigcluster.kernels.decode.jpeg import JpegHead, parse_jpeg
from bigcluster.kernels.decode.png import SIGNATURE, PngHead, parse_png
from bigcluster.kernels.decode.result import MOST_METADATA_BYTES, MOST_PARTS, RejectedError, check_memory, verdict
from bigcluster.kernels.decode.samples import WHITE
from bigcluster.kernels.decode.tiff import TiffHead, parse_tiff

_PLUGINS = (
    *(AvifImagePlugin, BmpImagePlugin, GifImagePlugin, Jpeg2KImagePlugin, JpegImagePlugin),
    *(MpoImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
assert set(FORMATS) <= set(Image.OPEN), "a plugin is missing from _PLUGINS"  # MPO comes by way of JPEG
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_DEEP_PPM = 65_535
"""The largest sample that a PPM file may declare: it may as well mean fewer bits in 16."""


@dataclass(frozen=True)
class Header:
    """What the header of a file says of the picture. Sizes are in pixels."""

    format: str
    mode: str
    """Of a JPEG or PNG: L or RGB, as OpenCV would decode it."""
    width: int
    """Before orientation."""
    height: int
    orientation: int = 1
    direct: bool = False
    """OpenCV decodes it straight to what is asked, with nothing to decide."""
    deep: bool = False
    """More than 8 bits a sample, which OpenCV decodes."""
    white: int | None = None
    """The sample that is white in a deep picture; None where the file does not say."""
    progressive: bool = False
    """A JPEG in several scans."""
    note: str = ""
    """What is wrong with the file beside the picture, which is whole."""
    jpeg: JpegHead | None = None
    png: PngHead | None = None
    tiff: TiffHead | None = None
    preview: bytes | None = None
    """What is decoded in place of a camera's sensor data: the picture that the camera made of it."""

    @property
    def is_jpeg(self) -> bool:
        return self.jpeg is not None

    @property
    def n_copies(self) -> int:
        """Copies of the file in memory: some decoders get one without misleading parts, and LibRaw has its own."""
        if self.preview is not None:
            return 3
        ended = self.jpeg is not None and not self.direct  # with an end marker, where it lacks one
        turned = self.tiff is not None and self.orientation != 1
        filled = self.jpeg is not None and self.jpeg.filling != ()
        plain_numbers = self.format == "PPM" and self.deep
        return 2 if ended or turned or filled or plain_numbers or (self.png is not None and not self.direct) else 1

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(file: Any) -> tuple[int, int] | None:
    """Read (width, height), orientation applied, of an open binary file; None where the header cannot be read."""
    try:
        return parse_header(file, 1).display_size
    except RejectedError:
        return None


def parse_header(file: Any, n_bytes: int) -> Header:
    """Read the header of an open binary file of n_bytes. Raises RejectedError where it cannot be decoded."""
    if n_bytes == 0:
        raise RejectedError("empty", "the file has no bytes")
    file.seek(0)
    start: bytes = file.read(HEAD_BYTES)
    if start.startswith(b"\xff\xd8\xff"):
        return _of_jpeg(parse_jpeg(file))
    if start.startswith(SIGNATURE):
        return _of_png(parse_png(file))
    if extras.is_raw(file, start):
        return _of_raw(file)
    if start.startswith(_TIFF):
        return _of_tiff(parse_tiff(file))
    return _of_other(file, start)


def _of_jpeg(head: JpegHead) -> Header:
    return Header(
        "JPEG",
        {1: "L", 3: "RGB", 4: "CMYK"}[head.n_components],
        head.width,
        head.height,
        orientation_in(head.exif),
        direct=head.n_components != 4,
        progressive=head.progressive,
        note="bytes that belong to nothing stand in its header; the picture is whole" if head.filling else "",
        jpeg=head,
    )


def _of_png(head: PngHead) -> Header:
    deep = head.depth == 16
    plain = head.color_type in (0, 2) and head.transparency is None and not head.animated
    return Header(
        "PNG",
        "RGB" if head.is_color else "L",
        head.width,
        head.height,
        orientation_in(head.exif),
        direct=plain and not deep,
        deep=deep,
        png=head,
    )


def _of_tiff(head: TiffHead) -> Header:
    # OpenCV shifts samples of 10, 12 and 14 bits up to 16: their white is known.
    white = None if head.bits == 16 else (1 << 16) - 1
    return Header("TIFF", "", head.width, head.height, head.orientation, deep=head.deep, white=white, tiff=head)


def _of_raw(file: Any) -> Header:
    """Read the header of the preview, which has the orientation of the sensor where it has none of its own."""
    file.seek(0)
    preview, orientation = extras.raw_preview(file.read())
    header = parse_header(io.BytesIO(preview), len(preview))
    if header.preview is not None:
        raise RejectedError("unsupported", "camera RAW within camera RAW")
    return replace(header, orientation=orientation if header.orientation == 1 else header.orientation, preview=preview)


def _of_jxl(file: Any) -> Header:
    file.seek(0)
    return Header("JXL", "", *extras.probe_jxl(file.read()))


def _of_other(file: Any, start: bytes) -> Header:
    """Read the header of a JPEG XL or JPEG 2000 file here, of all other formats by Pillow."""
    if extras.is_jxl(start):
        return _of_jxl(file)
    # Before Pillow, which takes a file of a kind that it does not decode for a broken one.
    is_jp2 = start.startswith((CONTAINER, CODESTREAM))
    jp2_white = (1 << jp2_bits(file)) - 1 if is_jp2 else None
    if start.startswith(b"BM"):
        bmp.check_masks(file)
    formats: tuple[str, ...] = FORMATS
    if extras.is_heif(start):
        formats = _with_heif(file)
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
        orientation = orientation_in(image.info.get("exif") or b"")
        white = _white(image) if jp2_white is None else jp2_white
    except (RejectedError, MemoryError):  # the system's limit is not to be taken for damage
        raise
    except Exception as error:  # codecs raise nearly anything on broken headers: SyntaxError, struct.error, ...
        if not _looks_known(start):
            raise RejectedError("unsupported", "not a picture of a known format") from None
        if isinstance(error, UnidentifiedImageError):
            raise _cut(file, start) or RejectedError("damaged", "its header cannot be read") from None
        cut = _cut(file, start)
        if cut is None:
            check_memory(error)
            webp.check_memory(start, error)
        raise cut or verdict(error) from error
    deep = white > WHITE
    known = None if white == _DEEP_PPM else white
    return Header(
        str(image.format), image.mode, image.width, image.height, orientation, deep=deep, white=known if deep else None
    )


def _cut(file: Any, start: bytes) -> RejectedError | None:
    """The error for a WebP file that is shorter than its first chunk says, or None."""
    if start[:4] == b"RIFF" and file.seek(0, 2) < int.from_bytes(start[4:8], "little") + 8:
        return RejectedError("truncated", "the file ends before the last pixels")
    return None


def _with_heif(file: Any) -> tuple[str, ...]:
    """The formats among which HEIF is looked for; AVIF may begin in the same way, and needs no extra."""
    try:
        return (*FORMATS, *extras.heif_formats())
    except RejectedError as missing:
        file.seek(0)
        try:
            Image.open(file, formats=("AVIF",))
        except Exception:  # Pillow raises nearly anything; it is not AVIF, and what would read it is told
            raise missing from None
        return FORMATS


def _white(image: Image.Image) -> int:
    """The sample that is white, as far as the format says: 65535 may as well mean fewer bits in 16."""
    if image.format == "PPM":
        told = image.tile[0].args  # type: ignore[attr-defined]
        if isinstance(told, tuple) and isinstance(told[-1], int):
            return max(told[-1], WHITE)  # less than 255 is scaled by Pillow
        return _DEEP_PPM if image.mode == "I" else WHITE
    return WHITE


def _looks_known(start: bytes) -> bool:
    """Whether a file begins as one of the formats: then it is a broken one, and not something else."""
    if start.startswith((b"GIF87a", b"GIF89a", CONTAINER, CODESTREAM, SIGNATURE[:4])):
        return True
    if start[:1] == b"P" and start[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6"):
        return start[2:3] in (b" ", b"\t", b"\n", b"\r")
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[4:8] == b"ftyp":
        return start[8:12] in (b"avif", b"avis") or extras.is_heif(start)
    return start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)


CODESTREAM = b"\xff\x4f\xff\x51"
CONTAINER = b"\0\0\0\x0cjP  "
_COLORS = {12: (4,), 16: (3, 4), 17: (1, 2), 18: (3,)}
"""Enumerated colour space -> numbers of components: CMYK, sRGB, grey, sYCC."""
_CMYK, _SYCC = 12, 18
_FARTHEST = 1 << 61
"""Bytes from where on nothing is looked for: no file is that long, and none can be asked for what lies beyond 2^63."""


def jp2_bits(file: Any) -> int:
    """Read the bits of a sample of an open JPEG 2000 file.

    Raises RejectedError for samples that no library decodes right.
    """
    file.seek(0)
    colors, has_palette, start = None, False, 0
    if file.read(len(CONTAINER)) == CONTAINER:
        for kind, at, n_bytes in _boxes(file, 0, None):
            if kind == b"jp2h":
                for inner, inner_at, inner_bytes in _boxes(file, at, at + min(n_bytes, MOST_METADATA_BYTES)):
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
    """Yield (kind, offset of the content, its bytes) of the boxes from `at`; the last one may reach to the end."""
    for _ in range(MOST_PARTS):
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
