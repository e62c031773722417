"""Pillow's decode of the kinds of pictures that OpenCV does not read, or not as they are meant: to samples."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bigcluster.kernels.decode.header import FORMATS
from bigcluster.kernels.decode.ifd import ORIENTATION
from bigcluster.kernels.decode.result import RejectedError, one_line, status_of
from bigcluster.kernels.decode.samples import Samples

_ANIMATED_WEBP = 0x02
_WEBP_WITH_ALPHA = 0x10
"""Flags of VP8X. Source: WebP container specification."""


def load_pillow(data: bytes, *, turned_by_tag: bool = True, palette: tuple[int, ...] | None = None) -> Samples:
    """Decode, without applying an orientation; a fault becomes a status.

    turned_by_tag : whether a TIFF file has the tag of the orientation; where it has none Pillow would take XMP's.
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
            raise RejectedError("unsupported", f"samples of type {image.mode} have no agreed black and white")
        if palette is not None and image.mode in ("P", "PA"):
            return Samples(_by_palette(np.asarray(image), palette))
        samples = _of_mode(image)
        return samples if first_frame is None else _on_canvas(samples, first_frame)
    except RejectedError:
        raise
    except UnidentifiedImageError:  # a header that we read, and Pillow does not
        is_tiff = data[:2] in (b"II", b"MM")
        raise RejectedError("unsupported" if is_tiff else "damaged", "Pillow cannot read its header") from None
    except MemoryError:  # what it needs was granted: the system ran out, and the picture is not to blame
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything
        if "out of memory" in str(error).lower():  # as some codecs put it
            raise MemoryError(str(error)) from error
        raise RejectedError(status_of(error), one_line(error)) from error


def plain_samples(data: bytes) -> NDArray[np.uint16]:
    """(h, w[, 3]) of a PGM or PPM file in plain numbers, which neither library reads with more than 8 bits."""
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
    see_through = "transparency" in image.info
    if image.mode in ("1", "L"):
        return Samples(np.asarray(image.convert("LA" if see_through else "L")))
    if image.mode in ("LA", "La"):
        return Samples(np.asarray(image), premultiplied=image.mode == "La")
    if image.mode in ("PA", "RGBA") or (image.mode in ("P", "RGB") and see_through):
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
    """A first frame that is smaller than its canvas: nothing was drawn around it."""
    array: NDArray[Any] = samples.array
    left, top, right, bottom = frame
    if (left, top, right, bottom) == (0, 0, array.shape[1], array.shape[0]):
        return samples
    alpha = np.zeros(array.shape[:2], np.uint8)
    drawn = (slice(top, bottom), slice(left, right))
    alpha[drawn] = array[drawn][..., -1] if samples.has_alpha else 255
    return Samples(np.dstack([samples.colors, alpha]))


def _with_canvas(data: bytes) -> bytes:
    """An animated WebP said to have an alpha channel: around a first frame that is smaller nothing is drawn."""
    animated = data[:4] == b"RIFF" and data[12:16] == b"VP8X" and len(data) > 20 and data[20] & _ANIMATED_WEBP
    return data[:20] + bytes([data[20] | _WEBP_WITH_ALPHA]) + data[21:] if animated else data
