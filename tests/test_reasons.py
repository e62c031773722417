"""What is wrong with a file, in words that who took the picture understands; and files whose picture is whole."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from conftest import pillow_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiffs import tiff

from bigcluster.kernels.decode import Decoded, DecodeSpec, decode, prepare_codecs

W, H = 48, 64
NOISE = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (H, W, 3), dtype=np.uint8), (0, 0), 1.5)
WORDS_OF_LIBRARIES = re.compile(
    r"decoder error|not processed|object|data stream|\bframe \d|Traceback|plugin|Pillow|None"
)
MISSING_END = "its end marker is missing; the picture is whole"


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> Iterator[None]:
    with warnings.catch_warnings():
        prepare_codecs()
        yield


def decoded(data: bytes) -> Decoded:
    return decode(data, DecodeSpec(W, H, color=True))


def chunk(kind: bytes, data: bytes, flipped: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ flipped)


PNG = pillow_bytes(Image.fromarray(NOISE), "PNG")
HEAD, TAIL = PNG[:33], PNG[33:-12]


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "end", "says"),
    [
        (b"", chunk(b"tEXt", b"a\0b", 1), chunk(b"IEND", b""), "the checksum of the tEXt chunk is wrong"),
        (b"", chunk(b"eXIf", b"MM", 1), chunk(b"IEND", b""), "the checksum of the eXIf chunk is wrong"),
        (b"", b"", chunk(b"IEND", b"", 1), "the checksum of the IEND chunk is wrong"),
        (chunk(b"tEXt", b"a\0b", 1), b"", chunk(b"IEND", b""), "the checksum of the tEXt chunk is wrong"),
        (
            chunk(b"ABCD", b"x"),
            b"",
            chunk(b"IEND", b""),
            "the chunk ABCD, which it calls critical, is of no known kind",
        ),
        (
            b"",
            chunk(b"ABCD", b"x"),
            chunk(b"IEND", b""),
            "the chunk ABCD, which it calls critical, is of no known kind",
        ),
        (b"", chunk(b"tEXt", b"a\0b") + chunk(b"zzZz", b"x"), chunk(b"IEND", b""), ""),
    ],
)
def test_a_png_with_faults_beside_its_picture_has_a_note(
    before: bytes, after: bytes, end: bytes, says: str, palette: bool
) -> None:
    whole = pillow_bytes(Image.fromarray(NOISE).quantize(16), "PNG") if palette else PNG
    found, wanted = decoded(whole[:33] + before + whole[33:-12] + after + end), decoded(whole)
    assert found.status == "ok"
    assert found.reason.startswith(says)
    assert (found.reason == "") == (says == "")
    np.testing.assert_array_equal(found.pixels, wanted.pixels)


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_rows": 1},
    "optimized": {"optimize": True},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_ok(kind: str, mode: str, missing: int) -> None:
    data = pillow_bytes(Image.fromarray(NOISE).convert(mode), "JPEG", **JPEGS[kind])
    found, wanted = decoded(data[:-missing]), decoded(data)
    assert (found.status, found.reason) == ("ok", MISSING_END)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(JPEGS)), st.sampled_from(["RGB", "L"]), st.one_of(st.integers(3, 12), st.integers(3, 2000))
)
def test_a_jpeg_that_lacks_more_is_not_ok_unless_no_pixel_is_missing(kind: str, mode: str, missing: int) -> None:
    data = pillow_bytes(Image.fromarray(NOISE).convert(mode), "JPEG", **JPEGS[kind])
    found, wanted = decoded(data[:-missing]), decoded(data)
    if found.status == "ok":
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
    else:
        assert found.status in ("truncated", "empty", "unsupported", "damaged")


def test_a_progressive_jpeg_without_its_last_scans_is_truncated() -> None:
    data = pillow_bytes(Image.fromarray(NOISE), "JPEG", progressive=True)
    ends = [at.start() for at in re.finditer(rb"\xff[\xc4\xda]", data)][3:]
    assert len(ends) > 8
    for end in ends:  # where a scan, or the table before it, would begin
        assert decoded(data[:end]).status == "truncated", end


def test_a_jpeg_whose_end_is_zeros_is_not_ok() -> None:
    data = pillow_bytes(Image.fromarray(NOISE), "JPEG")
    assert decoded(data[: len(data) // 2] + bytes(5000)).status == "truncated"


def test_a_tiff_says_what_it_holds_that_is_not_read() -> None:
    def reason(data: bytes) -> str:
        found = decoded(data)
        assert found.status == "unsupported"
        return found.reason

    samples = np.full((H, W, 3), 9)
    of_16_bits = "TIFF: RGB in 3 samples of 16 bits, whose colours are stored apart (planar)"
    assert reason(tiff(samples, bits=16, photometric=2, planar=2)) == of_16_bits
    layout = tiff(samples, bits=8, photometric=2, tags=[(284, 3, [7])])
    entry = struct.pack("<HHI", 284, 3, 1)
    plain = tiff(samples, bits=8, photometric=2)
    assert plain.count(entry) <= 1
    if plain.count(entry):
        at = plain.find(entry) + 8
        layout = plain[:at] + b"\x07\0" + plain[at + 2 :]
    assert reason(layout) == "TIFF: an unknown layout of its colours (planar configuration 7)"
    grey = np.full((H, W, 1), 9)
    assert "compressed with Zstandard (compression 50000)" in reason(
        tiff(grey, bits=8, photometric=1, compression=50000)
    )
    assert "compressed with a method (compression 4711)" in reason(tiff(grey, bits=8, photometric=1, compression=4711))
    assert "the mosaic of a camera's sensor" in reason(tiff(grey, bits=8, photometric=32803))
    assert "does not say what its samples mean" in reason(tiff(grey, bits=8, photometric=None))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_that_ends_within_a_strip_is_truncated(compression: str, deep: bool) -> None:
    grey = NOISE[..., 0].astype(np.uint16) * 257 if deep else NOISE[..., 0]
    data = pillow_bytes(Image.fromarray(grey), "TIFF", compression=compression)
    # Pillow writes the tags at the end: here they stand in front, as most programs write them.
    buffer = io.BytesIO()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        strips = [data[at : at + n] for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        entries = [
            (256, W), (257, H), (258, 16 if deep else 8), (259, int(page.compression)), (262, 1), (277, 1),
            (278, page.rowsperstrip), (279, len(strips[0])), (317, int(page.predictor)),
        ]  # fmt: skip
    assert len(strips) == 1
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    table = sorted([*entries, (273, start)])
    buffer.write(b"II*\0" + struct.pack("<IH", 8, len(table)))
    buffer.write(b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in table) + bytes(4) + strips[0])
    whole = buffer.getvalue()
    assert decoded(whole).status == "ok"
    for share in (0.3, 0.6, 0.9):
        found = decoded(whole[: int(start + share * len(strips[0]))])
        assert (found.status, found.reason) == ("truncated", "the file ends before the last pixels")


def test_a_tiff_that_ends_before_its_tags_is_truncated() -> None:
    data = pillow_bytes(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw")
    found = decoded(data[: len(data) // 2])
    assert (found.status, found.reason) == ("truncated", "the file ends before the tags that say what its picture is")
    assert decoded(data[:6]).status == "truncated"


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "AVIF", "JPEG2000")},
    **{f"TIFF {name}": ("TIFF", {"compression": name}) for name in ("raw", "packbits", "tiff_lzw", "jpeg")},
    "WEBP lossless": ("WEBP", {"lossless": True}),
    "JPEG progressive": ("JPEG", {"progressive": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_reasons_are_sentences_and_no_words_of_libraries(kind: str) -> None:
    name, options = KINDS[kind]
    data = pillow_bytes(Image.fromarray(NOISE), name, **options)
    rng = np.random.default_rng(3)
    seen = set()
    for number in range(60):
        broken = bytearray(data)
        at = int(rng.integers(4, len(data)))
        if number % 3 == 0:
            broken = broken[:at]
        else:
            broken[at : at + 16] = rng.bytes(min(16, len(broken) - at))
        found = decoded(bytes(broken))
        if found.status != "ok":
            seen.add(found.reason)
            assert found.reason
            assert not WORDS_OF_LIBRARIES.search(found.reason), found.reason
    assert seen
