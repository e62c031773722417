"""Reads TIFF files by tags: decides which of them are decoded, by which library, and what their samples mean.

Both libraries decode more than they get right: OpenCV ignores the photometric interpretation and planes that are stored
apart, Pillow ignores the sign of samples. So only those kinds are admitted that were compared with files written sample
by sample; all others are `unsupported`. Source of names and numbers: TIFF 6.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigcluster.kernels.decode.ifd import ORIENTATION, Directory, directory_start, read_directory, valid_orientation
from bigcluster.kernels.decode.result import RejectedError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _TILE_OFFSETS, _TILE_BYTES = 273, 324, 325
_SAMPLES, _STRIP_BYTES, _PLANAR, _PALETTE, _INK_SET, _EXTRA, _FORMAT = 277, 279, 284, 320, 332, 338, 339
_YCBCR_MATRIX, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532
_WANTED = frozenset(
    (
        *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, ORIENTATION, _SAMPLES, _PLANAR),
        *(_STRIP_BYTES, _PALETTE, _INK_SET, _EXTRA, _FORMAT, _YCBCR_SUBSAMPLING),
        *(_YCBCR_MATRIX, _REFERENCE_BLACK_WHITE, _STRIP_OFFSETS, _TILE_OFFSETS, _TILE_BYTES),
    )
)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INDEXED, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_N_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _INDEXED: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
"""Photometric interpretation -> samples of a pixel that are colour."""
_MOST_EXTRA = {_WHITE_IS_ZERO: 0, _BLACK_IS_ZERO: 1, _RGB: 3, _INDEXED: 1, _CMYK: 2, _YCBCR: 0, _LAB: 0}
"""Photometric interpretation -> extra samples of 8 bits that Pillow knows how to pass over, or to take as alpha."""
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_COMPRESSIONS = {_NONE, 2, 3, 4, 5, _OLD_JPEG, _JPEG, 8, 32773, 32946}
"""None, CCITT (three), LZW, JPEG of both kinds, Deflate, PackBits, the older Deflate."""
_BT_601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
"""Matrix and range of YCbCr that Pillow takes for granted."""
_UNSPECIFIED, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2  # ExtraSamples
_TOGETHER, _APART = 1, 2  # PlanarConfiguration
_MEANINGS = {
    _WHITE_IS_ZERO: "grey whose white is 0",
    _BLACK_IS_ZERO: "grey",
    _RGB: "RGB",
    _INDEXED: "a palette",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    _LAB: "CIELAB",
}
_OTHER_MEANINGS = {
    4: "a mask of transparency",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "the mosaic of a camera's sensor",
    32844: "LogL, of high dynamic range",
    32845: "LogLuv, of high dynamic range",
    34892: "linear camera data",
}
_OTHER_COMPRESSIONS = {
    32766: "NeXT's method",
    32771: "CCITT with aligned words",
    32809: "ThunderScan",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Source: libtiff, tiff.h."""


@dataclass(frozen=True)
class TiffHead:
    """The header of a TIFF file: what its tags say of the picture."""

    width: int
    """Before orientation."""
    height: int
    orientation: int
    bits: int
    """Bits a sample."""
    deep: bool
    """Whether OpenCV reads it, with all of its bits."""
    white_is_zero: bool
    """Of samples of more than 8 bits: those of 8 and less come out of the decoder with black at 0."""
    alpha: str
    """'none', 'straight' or 'premultiplied': what the sample behind the colours is."""
    palette: tuple[int, ...] | None
    """Red of all indices, then green, then blue, 16 bits each."""
    orientation_entry: int | None
    """Where the tag of the orientation lies, in bytes."""
    directory: Directory

    def upright(self, data: bytes) -> bytes:
        """Set the orientation of a file to 1, because both libraries would apply it, each in its own way."""
        if self.orientation_entry is None or self.orientation == 1:
            return data
        order = "little" if self.directory.order == "<" else "big"
        count = (1).to_bytes(8 if self.directory.is_big else 4, order)  # type: ignore[arg-type]
        tag, short, one = (n.to_bytes(2, order) for n in (ORIENTATION, 3, 1))  # type: ignore[arg-type]
        entry = (tag + short + count + one).ljust(20 if self.directory.is_big else 12, b"\0")
        at = self.orientation_entry
        return data[:at] + entry + data[at + len(entry) :]

    def ends_early(self, n_bytes: int) -> bool:
        """Whether a part of the picture, a strip or a tile, lies beyond the end of a file of n_bytes."""
        parts = ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES))
        return any(
            start + length > n_bytes
            for starts, lengths in parts
            for start, length in zip(
                self.directory.values.get(starts, ()), self.directory.values.get(lengths, ()), strict=False
            )
        )


def parse_tiff(file: Any) -> TiffHead:
    """Read the header of an open TIFF file. Raises RejectedError where it is damaged, or cannot be decoded right."""
    tags = read_directory(file, _WANTED)
    if tags is None or not tags.places:
        if directory_start(file) >= file.seek(0, 2):
            raise RejectedError("truncated", "the file ends before the tags that say what its picture is")
        raise RejectedError("damaged", "it has no tags that say what its picture is")
    width, height = tags.one(_WIDTH), tags.one(_HEIGHT)
    if width is None or height is None or width < 1 or height < 1:
        raise RejectedError("damaged", "its tags say no width or height")
    compression = tags.one(_COMPRESSION, _NONE)
    if compression not in _COMPRESSIONS:
        raise _unknown(
            f"compressed with {_OTHER_COMPRESSIONS.get(compression or 0, 'a method')} (compression {compression})"
        )
    photometric = tags.one(_PHOTOMETRIC, _YCBCR if compression == _OLD_JPEG else None)
    if photometric not in _N_COLORS:
        raise _unknown(
            "it does not say what its samples mean (photometric interpretation)"
            if photometric is None
            else f"samples that are {_OTHER_MEANINGS.get(photometric, 'of an unknown meaning')} "
            f"(photometric interpretation {photometric})"
        )
    bits = _bits(tags)
    n_samples = tags.one(_SAMPLES, len(tags.values.get(_BITS, (1,)))) or 1
    extra = tags.values.get(_EXTRA, ())
    alpha = _alpha(photometric, n_samples, extra)
    layout = tags.one(_PLANAR, _TOGETHER)
    if layout not in (_TOGETHER, _APART):
        raise _unknown(f"an unknown layout of its colours (planar configuration {layout})")
    planar = layout == _APART and n_samples > 1
    fill_order = tags.one(_FILL_ORDER, 1)
    _check_reader(photometric, bits, n_samples, extra, planar=planar, flipped=fill_order == 2)
    _check_inks(tags, photometric, compression)
    deep = bits > 8 and photometric != _CMYK
    if tags.is_big and tags.order == ">" and not deep:
        raise _unknown("a BigTIFF whose numbers begin with their most significant byte")
    return TiffHead(
        width,
        height,
        valid_orientation(tags.one(ORIENTATION)),
        bits,
        deep,
        photometric == _WHITE_IS_ZERO and deep,
        alpha,
        tags.values.get(_PALETTE) if photometric == _INDEXED else None,
        tags.places.get(ORIENTATION),
        tags,
    )


def _bits(tags: Directory) -> int:
    """Read the bits of a sample. Raises RejectedError for signed and floating-point samples and for several depths."""
    bits = tags.values.get(_BITS, (1,))
    kinds = tags.values.get(_FORMAT, (1,))
    if set(kinds) != {1}:
        raise _unknown(f"{_FORMATS.get(max(kinds), 'undefined')} samples of {max(bits)} bits")
    if len(set(bits)) != 1:
        raise _unknown("samples of several depths")
    return bits[0]


def _alpha(photometric: int, n_samples: int, extra: tuple[int, ...]) -> str:
    """Read what the first sample behind the colours is; an undeclared fourth one of RGB is alpha, as in all readers."""
    n_extra = n_samples - _N_COLORS[photometric]
    if n_extra < 0 or (n_extra != len(extra) and not (photometric == _RGB and n_extra == 1 and not extra)):
        raise _unknown(
            f"{_MEANINGS[photometric]} in {n_samples} sample{'s' * (n_samples > 1)} a pixel, of which its tags call "
            f"{len(extra)} extra"
        )
    if n_extra == 0:
        return "none"
    if any(kind != _UNSPECIFIED for kind in extra[1:]):
        raise _unknown("several kinds of extra samples")
    kind = extra[0] if extra else _STRAIGHT
    if kind not in (_UNSPECIFIED, _PREMULTIPLIED, _STRAIGHT):
        raise _unknown(f"extra samples of the unknown kind {kind}")
    return {_UNSPECIFIED: "none", _PREMULTIPLIED: "premultiplied", _STRAIGHT: "straight"}[kind]


def _check_reader(
    photometric: int, bits: int, n_samples: int, extra: tuple[int, ...], *, planar: bool, flipped: bool
) -> None:
    """Raise RejectedError for samples that neither library decodes right."""
    of_a_kind = f"{_MEANINGS[photometric]} in {n_samples} sample{'s' * (n_samples > 1)} of {bits} bits"
    of_a_kind += ", whose colours are stored apart (planar)" if planar else ""
    of_a_kind += ", whose bits are in reverse order" if flipped else ""
    of_a_kind += f", with extra samples of the kinds {', '.join(map(str, extra))}" if extra else ""
    if bits in (10, 12, 14, 16):
        grey = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and n_samples == 1
        rgb = photometric == _RGB and (n_samples == 3 or (n_samples == 4 and bits == 16)) and not planar
        # Pillow keeps the upper 8 bits of CMYK.
        cmyk = photometric == _CMYK and (n_samples, bits) == (4, 16) and not (planar or flipped)
        if not (grey or rgb or cmyk):
            raise _unknown(of_a_kind)
    elif bits in (1, 2, 4):
        if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _INDEXED) or n_samples != 1:
            raise _unknown(of_a_kind)
    elif bits != 8:
        raise _unknown(of_a_kind)
    elif planar:
        plain = (photometric, n_samples, extra) in ((_RGB, 3, ()), (_RGB, 4, (_STRAIGHT,)), (_CMYK, 4, ()))
        if not plain or flipped:
            raise _unknown(of_a_kind)
    else:
        turned = flipped and n_samples > 1 and (photometric, n_samples) != (_RGB, 3)
        too_many = n_samples - _N_COLORS[photometric] > _MOST_EXTRA[photometric]
        if turned or too_many or not _has_known_alpha(photometric, extra):
            raise _unknown(of_a_kind)


def _has_known_alpha(photometric: int, extra: tuple[int, ...]) -> bool:
    if photometric == _CMYK:
        return set(extra) <= {_UNSPECIFIED}
    return photometric != _INDEXED or _PREMULTIPLIED not in extra


def _check_inks(tags: Directory, photometric: int, compression: int | None) -> None:
    if photometric == _CMYK and tags.one(_INK_SET, 1) != 1:
        raise _unknown("inks other than CMYK")
    if photometric == _INDEXED and _PALETTE not in tags.values:
        raise RejectedError("damaged", "it has no palette")
    if photometric == _YCBCR and compression == _NONE:
        whole = sum(tags.values.get(_STRIP_BYTES, ())) == 3 * (tags.one(_WIDTH) or 0) * (tags.one(_HEIGHT) or 0)
        # Without the tag it is 2 x 2, says the standard; some programs leave it out and write every sample.
        subsampling = tags.values.get(_YCBCR_SUBSAMPLING, (1, 1) if whole else (2, 2))
        usual = _says(tags, _YCBCR_MATRIX, _BT_601) and _says(tags, _REFERENCE_BLACK_WHITE, _FULL_RANGE)
        if subsampling != (1, 1) or not usual:
            raise _unknown("YCbCr of another matrix, or with fewer samples of chroma, without compression")


def _says(tags: Directory, tag: int, usual: tuple[float, ...]) -> bool:
    """Whether a tag of fractions is missing, or has the usual values."""
    parts = tags.values.get(tag, ())
    said = [n / d for n, d in zip(parts[::2], parts[1::2], strict=True) if d]
    return tag not in tags.places or (
        len(said) == len(usual) and max(abs(a - b) for a, b in zip(said, usual, strict=True)) < 0.01
    )


def _unknown(what: str) -> RejectedError:
    return RejectedError("unsupported", f"TIFF: {what}")
