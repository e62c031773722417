"""Decodes every kind of file to pixels of one size; what is wrong with a file is a status and never an exception.

- EXIF orientation is applied, by ourselves, whoever decodes.
- Grey of a JPEG is its own luma plane, of anything else BT.601 luma: the same formula.
- JPEG is decoded at 1/2, 1/4 or 1/8 scale where that is still at least the target size.
- Palette, 1-bit, CMYK, YCbCr and Lab pictures become RGB; of an animation or a multi-page file the first frame counts.
- What samples mean (depth, white, transparency) is decided in samples.py.
- Floating-point, signed and 32-bit samples have no agreed black and white: status `unsupported`.

OpenCV decodes what it gets right, and Pillow all other kinds of pictures, to samples.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bigcluster.kernels.decode import bmp, webp
from bigcluster.kernels.decode.bounded_memory import HEAD_BYTES, header_may_lie
from bigcluster.kernels.decode.extras import decode_jxl
from bigcluster.kernels.decode.header import FORMATS, Header, parse_header
from bigcluster.kernels.decode.ifd import ORIENTATION
from bigcluster.kernels.decode.jpeg import END_OF_IMAGE, JpegHead, lacks_end, without_gaps
from bigcluster.kernels.decode.limits import check_limits, reduction_of, working_bytes
from bigcluster.kernels.decode.png import PngHead, fault_of_metadata, picture_only
from bigcluster.kernels.decode.resize import normalize_each, orient, resize_for_network, resize_to
from bigcluster.kernels.decode.result import Decoded, DecodeSpec, RejectedError, check_memory, verdict
from bigcluster.kernels.decode.samples import Samples, to_uint8, with_key
from bigcluster.kernels.decode.tiff import TiffHead

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
    """Set up the codecs of this process: one thread for each decode, our own size limits, no messages. Call it once."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    Image.MAX_IMAGE_PIXELS = None  # read_header has its own limit, as a status and not as a warning
    warnings.filterwarnings("ignore", module=r"PIL\.")  # every oddity of a file would warn; what matters is a status


def decode(data: bytes, spec: DecodeSpec) -> Decoded:
    """Decode the bytes of one file into the shape of `spec`.

    The result has status "ok" and (n_decoded_values,) uint8 pixels, or another status and the reason. Raises
    MemoryError where the system gives no memory.
    """
    width = height = None
    header: Header | None = None
    try:
        header = parse_header(io.BytesIO(data), len(data))
        width, height = header.display_size
        check_limits(header, spec, len(data))
        if header.preview is not None:
            data = header.preview
        if header.jpeg is not None:
            data = without_gaps(data, header.jpeg)
        if header.png is not None:
            header = replace(header, note=fault_of_metadata(data))
        array = _decode_direct(data, header, spec) if header.direct else None
        if array is None:  # not OpenCV's to decode, or it refused: Pillow's opinion counts, and names the fault
            check_limits(replace(header, direct=False), spec, len(data))
            if header.jpeg is not None and _lacks_its_end_alone(data, header.jpeg):
                data = data.removesuffix(END_OF_IMAGE[:1]) + END_OF_IMAGE
                header = replace(header, note="its end marker is missing; the picture is whole")
                array = _decode_direct(data, header, spec) if header.direct else None
            if array is None:
                array = _decode_samples(data, header, spec)
        pixels = _to_targets(orient(array, header.orientation), spec)
    except RejectedError as rejected:
        failed = Decoded(rejected.status, rejected.reason, width, height, needed_bytes=rejected.needed_bytes)
    else:
        return Decoded("ok", header.note, width, height, pixels)
    if header is not None and failed.status == "damaged" and header_may_lie(data[:HEAD_BYTES]):
        # Decoders of AVIF, WebP and JPEG 2000 report a lack of memory as damage. Allocating as much as the decode may
        # take raises MemoryError where that was the cause.
        np.empty(working_bytes(header, spec, 0), np.uint8)
    return failed


def _to_targets(array: NDArray[np.uint8], spec: DecodeSpec) -> NDArray[np.uint8]:
    """Make the values of the picture, and of the view where there is one, from an upright (h, w[, 3]) picture."""
    picture = resize_to(array, spec.width, spec.height, spec.fit)
    if spec.normalize == "image":
        picture = normalize_each(picture)
    if spec.view is None:
        return picture.reshape(spec.n_values)
    view = resize_for_network(array, *spec.view)
    return np.concatenate([picture.reshape(-1), view.reshape(-1)])


_TAILS = (b"\x00", b"\xa5", b"\x5a")
"""Bytes that stand for the missing end of a file: each bit is 0 in one of them and 1 in another."""
_RESTART_INTERVAL = b"\xff\xdd"
"""The marker of a file with restart markers (DRI). Source: T.81, B.2.4.4."""
_RESTARTS = tuple(b"\xff" + bytes([0xD0 + number]) for number in range(8))
"""All restart markers. Any of them may be the next one in a file."""
_TAIL_BYTES = 256
"""More than a block of 64 coefficients takes: each has at most 16 bits of code and 10 of value. Source: T.81, F.1.2."""


def _lacks_its_end_alone(data: bytes, head: JpegHead) -> bool:
    """Whether a JPEG lacks nothing but its end marker: no pixel depends on the bytes that may have stood before it.

    libjpeg does not tell a file that ends behind its last pixel from one that ends before: it fills up with grey.
    """
    if not lacks_end(data, head):
        return False
    first = None
    # Where the next restart marker is missing, too, libjpeg skips all bytes before it finds one: every one is tried.
    restarts = (b"", *_RESTARTS) if _RESTART_INTERVAL in data else (b"",)
    tails = [restart + tail * _TAIL_BYTES for restart in restarts for tail in _TAILS]
    for tail in tails:
        try:
            samples = load_pillow(data.removesuffix(END_OF_IMAGE[:1]) + tail + END_OF_IMAGE)
        except RejectedError:
            return False
        digest = hashlib.blake2b(np.ascontiguousarray(samples.array).data).digest()
        if first not in (None, digest):
            return False
        first = digest
    return True


def _decode_direct(data: bytes, header: Header, spec: DecodeSpec) -> NDArray[np.uint8] | None:
    """Decode by OpenCV, straight to grey (h, w) or RGB (h, w, 3); None where OpenCV refuses."""
    # libpng makes grey in linear light where a file says its gamma: grey of a colour PNG goes through colour.
    from_color = header.format == "PNG" and header.mode == "RGB" and not spec.color
    flags = (_REDUCED_COLOR if spec.color or from_color else _REDUCED_GREY)[reduction_of(header, spec)]
    array = _opencv(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None:
        return None
    if from_color:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2GRAY))
    return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if spec.color else array)


def _opencv(data: bytes, flags: int) -> Any:
    """Decode by OpenCV; None where it refuses. Raises MemoryError where the system gives no memory."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem or "bad_alloc" in str(error):
            raise MemoryError(str(error)) from error
        return None


def _decode_samples(data: bytes, header: Header, spec: DecodeSpec) -> NDArray[np.uint8]:
    """Decode by way of samples to grey (h, w) or RGB (h, w, 3). Raises RejectedError."""
    samples = _load_samples(data, header)
    if samples.array.shape[:2] != (header.height, header.width):
        size = f"{samples.array.shape[1]} x {samples.array.shape[0]}"
        raise RejectedError("damaged", f"its header says {header.width} x {header.height} pixels, its data {size}")
    array = to_uint8(samples)
    if array.ndim == 2:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, cv2.COLOR_GRAY2RGB) if spec.color else array)
    return cast("NDArray[np.uint8]", array if spec.color else cv2.cvtColor(array, cv2.COLOR_RGB2GRAY))


def _load_samples(data: bytes, header: Header) -> Samples:
    """Decode to samples, by the library that gets this kind of picture right. Raises RejectedError."""
    if header.png is not None:
        return _load_png(picture_only(data), header, header.png)
    if header.tiff is not None:
        try:
            return _load_tiff(header.tiff.upright(data), header, header.tiff)
        except RejectedError as rejected:
            if rejected.status == "damaged" and header.tiff.ends_early(len(data)):
                raise RejectedError("truncated", "the file ends before the last pixels") from rejected
            raise
    if header.is_jpeg and not header.direct:
        _opencv(data, _REDUCED_GREY[8])  # for what it says of damage: Pillow's decoder is silent
    if header.format == "JXL":
        return Samples(decode_jxl(data))
    if header.deep:
        return Samples(_load_deep(data), header.white)
    samples = load_pillow(data)
    if header.format in ("BMP", "DIB") and samples.has_alpha and not samples.array[..., -1].any():
        return (
            samples.without_alpha()
        )  # as in browsers: many programs leave zeros where the format has an alpha channel
    return samples


def _load_png(data: bytes, header: Header, head: PngHead) -> Samples:
    array = None if header.direct else _in_rgb_order(_opencv(data, cv2.IMREAD_UNCHANGED))
    if array is None:
        samples = load_pillow(data)
        if header.deep:
            raise RejectedError("damaged", "the 16-bit data cannot be decoded")
        array = samples.array
    if head.key is not None and array.ndim == 2:
        array = with_key(array, head.key if header.deep else head.key * 255 // ((1 << head.depth) - 1))
    return Samples(array)


def _load_tiff(data: bytes, header: Header, head: TiffHead) -> Samples:
    if not head.deep:
        return load_pillow(data, turned_by_tag=ORIENTATION in head.directory.places, palette=head.palette)
    array = _load_deep(data)
    if head.alpha == "none" and array.ndim == 3:
        array = array[..., :3]
    return Samples(array, header.white, head.white_is_zero, head.alpha == "premultiplied")


def _load_deep(data: bytes) -> NDArray[np.uint16]:
    """Decode samples of more than 8 bits by OpenCV: (h, w[, 3 or 4]) uint16. Raises RejectedError."""
    if data[:2] in (b"P2", b"P3"):
        return plain_samples(data)
    array = _in_rgb_order(_opencv(data, cv2.IMREAD_UNCHANGED))
    if array is None:
        load_pillow(data)  # names the fault where there is one
        raise RejectedError("damaged", "the 16-bit data cannot be decoded")
    if array.dtype != np.uint16:
        raise RejectedError("unsupported", f"samples of the type {array.dtype}, which have no agreed black and white")
    return cast("NDArray[np.uint16]", array)


def _in_rgb_order(array: NDArray[Any] | None) -> Any:
    if array is None or array.ndim == 2:
        return array
    return cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)


_ANIMATED_WEBP, _WEBP_WITH_ALPHA = 0x02, 0x10
"""Flags of VP8X. Source: WebP container specification."""


def load_pillow(data: bytes, *, turned_by_tag: bool = True, palette: tuple[int, ...] | None = None) -> Samples:
    """Decode by Pillow, without applying an orientation. Raises RejectedError for what is wrong with the file.

    turned_by_tag : whether a TIFF file has the tag of the orientation; where it has none, Pillow would take that of
    XMP.
    palette : the palette of a TIFF file.
    """
    heif = ("HEIF",) if "HEIF" in Image.OPEN else ()  # since a header asked for it
    try:
        image = Image.open(io.BytesIO(_with_canvas(data)), formats=(*FORMATS, *heif))
        if not turned_by_tag:
            image.getexif().pop(ORIENTATION, None)
        first_frame = image.tile[0].extents if image.format == "GIF" and image.tile else None
        image.load()
        if image.mode in ("I", "F") or image.mode.startswith("I;32"):
            raise RejectedError(
                "unsupported", f"samples of the type {image.mode}, which have no agreed black and white"
            )
        if palette is not None and image.mode in ("P", "PA"):
            return Samples(_by_palette(np.asarray(image), palette))
        samples = _of_mode(image)
        return samples if first_frame is None else _on_canvas(samples, first_frame)
    except RejectedError:
        raise
    except UnidentifiedImageError:  # a header that we read, and Pillow does not
        is_tiff = data[:2] in (b"II", b"MM")
        raise RejectedError("unsupported" if is_tiff else "damaged", "its header cannot be read") from None
    except MemoryError:  # what it needs was granted: the system ran out, and the picture is not to blame
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything
        check_memory(error)
        webp.check_memory(data[:HEAD_BYTES], error)
        if "not enough image data" in str(error):
            bmp.check_runs(data)
        raise verdict(error) from error


def plain_samples(data: bytes) -> NDArray[np.uint16]:
    """Read a PGM or PPM file in its plain (text) form: (h, w[, 3]) uint16. Raises RejectedError.

    Neither library reads that form with more than 8 bits.
    """
    image = Image.open(io.BytesIO(data), formats=("PPM",))
    n_values = image.width * image.height * (3 if image.mode == "RGB" else 1)
    numbers = re.sub(rb"#[^\r\n]*", b"", data[image.tile[0].offset :])
    try:
        values = np.fromstring(numbers, np.uint16, n_values, sep=" ")
    except (ValueError, DeprecationWarning):  # something else stands among the numbers
        raise RejectedError("damaged", "what should be numbers is not") from None
    if len(values) < n_values:
        raise RejectedError("truncated", f"{len(values)} of {n_values} samples are there")
    return values.reshape((image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width))


def _of_mode(image: Image.Image) -> Samples:
    """The samples of a picture that Pillow has loaded, in one of the layouts of `Samples`."""
    transparent = "transparency" in image.info
    if image.mode in ("1", "L"):
        return Samples(np.asarray(image.convert("LA" if transparent else "L")))
    if image.mode in ("LA", "La"):
        return Samples(np.asarray(image), premultiplied=image.mode == "La")
    if image.mode in ("PA", "RGBA") or (image.mode in ("P", "RGB") and transparent):
        return Samples(np.asarray(image.convert("RGBA")))
    if image.mode.startswith("I;16"):
        return Samples(np.asarray(image).astype(np.uint16))
    return Samples(np.asarray(image.convert("RGB")))


def _by_palette(indices: NDArray[np.uint8], palette: tuple[int, ...]) -> NDArray[np.uint8]:
    """(h, w) indices, or (h, w, 2) with alpha -> RGB, or RGB and alpha.

    Some programs wrote 8-bit values where the format wants 16 bits: a palette without a larger one is of that kind.
    """
    wide = np.array(palette, np.uint16).reshape(3, -1).T
    table = np.zeros((256, 3), np.uint8)  # indices beyond the palette are black, as in Pillow
    table[: len(wide)] = wide if wide.max() < 256 else wide >> 8
    if indices.ndim == 2:
        return table[indices]
    return np.dstack([table[indices[..., 0]], indices[..., 1]])


def _on_canvas(samples: Samples, frame: tuple[int, int, int, int]) -> Samples:
    """Put a first frame that is smaller than its canvas onto it; the canvas around it is transparent."""
    array: NDArray[Any] = samples.array
    left, top, right, bottom = frame
    if (left, top, right, bottom) == (0, 0, array.shape[1], array.shape[0]):
        return samples
    alpha = np.zeros(array.shape[:2], np.uint8)
    drawn = (slice(top, bottom), slice(left, right))
    alpha[drawn] = array[drawn][..., -1] if samples.has_alpha else 255
    return Samples(np.dstack([samples.colors, alpha]))


def _with_canvas(data: bytes) -> bytes:
    """Mark an animated WebP as one with an alpha channel, so that the canvas around a smaller frame is transparent."""
    animated = data[:4] == b"RIFF" and data[12:16] == b"VP8X" and len(data) > 20 and data[20] & _ANIMATED_WEBP
    return data[:20] + bytes([data[20] | _WEBP_WITH_ALPHA]) + data[21:] if animated else data
