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
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.decode.fit import fit_to, from_16_bit, normalize_each, orient, over_white
from bigcluster.kernels.decode.header import FORMATS, Header, parse_header
from bigcluster.kernels.decode.limits import check_limits, reduction_of
from bigcluster.kernels.decode.result import Decoded, DecodeSpec, RejectedError, one_line

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
        header = parse_header(io.BytesIO(data), data[:8], len(data))
        width, height = header.seen
        check_limits(header, spec, len(data))
        array = _decode_direct(data, header, spec) if header.direct else None
        if array is None:  # not OpenCV's to decode, or it refused: Pillow's opinion counts, and names the fault
            check_limits(replace(header, direct=False), spec, len(data))
            array = _decode_carefully(data, header, spec)
        array = fit_to(array, spec.width, spec.height, spec.fit)
        if spec.normalize == "image":
            array = normalize_each(array)
    except RejectedError as rejected:
        return Decoded(rejected.status, rejected.reason, width, height, needed_bytes=rejected.needed_bytes)
    return Decoded("ok", "", width, height, array.reshape(spec.n_values))


def _decode_direct(data: bytes, header: Header, spec: DecodeSpec) -> NDArray[np.uint8] | None:
    """OpenCV, straight to grey or colour; it applies the EXIF orientation itself. None where it refuses."""
    # libpng makes grey in linear light where a file says its gamma: grey of a colour PNG goes through colour.
    by_hand = header.format == "PNG" and header.mode == "RGB" and not spec.color
    flags = (_REDUCED_COLOR if spec.color or by_hand else _REDUCED_GREY)[reduction_of(header, spec)]
    array = _opencv(data, flags)
    if array is None:
        return None
    if by_hand:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2GRAY))
    return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if spec.color else array)


def _opencv(data: bytes, flags: int) -> Any:
    """What OpenCV makes of the bytes, or None where it refuses."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _decode_carefully(data: bytes, header: Header, spec: DecodeSpec) -> NDArray[np.uint8]:
    if header.is_jpeg and not header.direct:
        _opencv(data, _REDUCED_GREY[8])  # for what it says of damage: Pillow's decoder is silent
    array = _load_deep(data, header) if header.deep else _load_pillow(data)
    array = orient(array, header.orientation)
    if array.ndim == 2:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_GRAY2RGB) if spec.color else array)
    return cast("NDArray[np.uint8]", array if spec.color else cv2.cvtColor(array, cv2.COLOR_RGB2GRAY))


def _load_deep(data: bytes, header: Header) -> NDArray[np.uint8]:
    """16-bit samples: (h, w) or (h, w, 3) uint8."""
    array: NDArray[Any] | None = _opencv(data, cv2.IMREAD_UNCHANGED)
    if array is None:
        _load_pillow(data)  # names the fault where there is one
        raise RejectedError("damaged", "the 16-bit data cannot be decoded")
    if array.dtype != np.uint16:
        raise RejectedError("unsupported", f"samples of type {array.dtype}")
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return from_16_bit(array)


def _load_pillow(data: bytes) -> NDArray[np.uint8]:
    """(h, w) or (h, w, 3) uint8, transparency over white; a fault becomes a status."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        if image.mode in ("I", "F") or image.mode.startswith("I;32"):
            raise RejectedError("unsupported", f"samples of type {image.mode} have no agreed black and white")
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            return over_white(np.asarray(image.convert("RGBA")))
        return np.asarray(image.convert("RGB"))
    except RejectedError:
        raise
    except MemoryError:  # what it needs was granted: the system ran out, and the picture is not to blame
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        message = one_line(error)
        early = "truncated" in message.lower() or "end of" in message.lower() or isinstance(error, EOFError)
        raise RejectedError("truncated" if early else "damaged", message) from error
