"""Decodes the formats whose libraries come with an extra of this package: HEIC, JPEG XL, previews in camera RAW.

Each library is imported when the first file of its kind is read, because it takes memory.
"""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.decode.ifd import read_directory
from bigcluster.kernels.decode.result import RejectedError, check_memory, one_line

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
"""Of these the last two may be AVIF as well, which Pillow reads. Source: ISO/IEC 23008-12, annex B."""
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
"""Fujifilm; Olympus, three times; Panasonic; Sigma; Minolta."""
_RAW_CAMERA, _RAW_SUBFILES, _RAW_KIND, _COMPRESSION, _DNG = 271, 330, 254, 259, 50706
_RAW_COMPRESSIONS = (32767, 34713, 34892, 65000, 65535)
"""Of Sony, Nikon, lossy DNG, Kodak and Pentax."""
_FLIPS = {0: 1, 3: 3, 5: 8, 6: 6}
"""LibRaw's turn -> orientation of EXIF. Source: LibRaw, data structures, `sizes.flip`."""


def is_heif(start: bytes) -> bool:
    """Whether a file begins as HEIF."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def is_jxl(start: bytes) -> bool:
    """Whether a file begins as JPEG XL."""
    return start.startswith(_JXL)


def is_raw(file: Any, start: bytes) -> bool:
    """Whether an open file holds the sensor data of a camera (RAW). Many of those look like TIFF files."""
    if start.startswith(_RAW_STARTS) or start[4:12] == b"ftypcrx " or start[:10] == b"II*\0\x10\0\0\0CR":
        return True
    if not start.startswith((b"II*\0", b"MM\0*")):
        return False
    tags = read_directory(file, (_RAW_KIND, _COMPRESSION))
    if tags is None or _RAW_CAMERA not in tags.places:
        return tags is not None and _DNG in tags.places
    reduced = tags.one(_RAW_KIND) == 1 and _RAW_SUBFILES in tags.places
    return reduced or _DNG in tags.places or tags.one(_COMPRESSION) in _RAW_COMPRESSIONS


def needs_extra(reason: str) -> str | None:
    """The extra that was missing where a file was `unsupported` for this reason, and is installed now; else None."""
    for extra, (module, what) in _LIBRARIES.items():
        if reason == _missing(extra, what) and find_spec(module) is not None:
            return extra
        if reason.startswith(_broken(module, what)) and _imports(module):
            return extra
    return None


def heif_formats() -> tuple[str, ...]:
    """Register HEIF with Pillow, and return its name there. Raises RejectedError where the library is missing."""
    library = _library("heif")
    if "HEIF" not in Image.OPEN:
        library.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",)


def probe_jxl(data: bytes) -> tuple[int, int]:
    """Read (width, height) of a JPEG XL file, orientation applied. Raises RejectedError."""
    library = _library("jxl")
    try:
        found = library.probe(data)
    except Exception as error:  # the library names no errors of its own
        check_memory(error)
        raise RejectedError("damaged", f"the header cannot be read: {one_line(error)}") from error
    if found["exponent_bits_per_sample"]:
        raise RejectedError("unsupported", "JPEG XL: floating-point samples")
    return found["width"], found["height"]


def decode_jxl(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG XL file to (h, w[, 2, 3 or 4]) uint8. Raises RejectedError."""
    try:
        array: NDArray[np.uint8] = _library("jxl").decode(data)
    except Exception as error:
        check_memory(error)
        raise RejectedError("damaged", one_line(error)) from error
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def raw_preview(data: bytes) -> tuple[bytes, int]:
    """Extract the largest preview of a RAW file, as the bytes of a JPEG or PPM file, and its orientation.

    Raises RejectedError where there is none.
    """
    library = _library("raw")
    try:
        with library.imread(io.BytesIO(data)) as raw:
            preview, turn = raw.extract_thumb(), raw.sizes.flip
    except (library.LibRawNoThumbnailError, library.LibRawUnsupportedThumbnailError) as error:
        raise RejectedError("unsupported", "camera RAW without a preview that can be read") from error
    except library.LibRawFileUnsupportedError as error:
        raise RejectedError("unsupported", "camera RAW of an unknown kind") from error
    except Exception as error:
        check_memory(error)
        raise RejectedError("damaged", f"camera RAW: {one_line(error)}") from error
    orientation = _FLIPS.get(turn, 1)
    if preview.format == library.ThumbFormat.JPEG:
        return bytes(preview.data), orientation
    height, width = preview.data.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + np.ascontiguousarray(preview.data[..., :3]).tobytes(), orientation


_LIBRARIES = {"heif": ("pi_heif", "HEIC"), "raw": ("rawpy", "camera RAW"), "jxl": ("pylibjxl", "JPEG XL")}
"""Extra -> the module that it brings, and what that reads."""


def _library(extra: str) -> Any:
    module, what = _LIBRARIES[extra]
    if find_spec(module) is None:
        raise RejectedError("unsupported", _missing(extra, what))
    try:
        return import_module(module)
    except Exception as error:  # whatever a library does as it is imported
        check_memory(error)
        raise RejectedError("unsupported", f"{_broken(module, what)}: {one_line(error)}") from error


def _imports(module: str) -> bool:
    """Asked only where it was installed and could not be imported before."""
    try:
        import_module(module)
    except Exception:  # decoding says why
        return False
    return True


def _broken(module: str, what: str) -> str:
    return f"{what}: {module} is installed and cannot be imported"


def _missing(extra: str, what: str) -> str:
    return f"{what}: pip install 'bigcluster[{extra}]' reads it"
