"""One meaning for every kind of file: the product of formats, modes, depths, transparency and orientation.

Each file is compared with what its samples mean, by arithmetic of our own.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import encoded, picture, pillow_bytes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from test_decode import COLOR, GREY, H, W, luma, near, pixels, status, turned

from bigcluster.catalog import FileRecord, list_images
from bigcluster.kernels.decode import DecodeSpec, decode, prepare_codecs, read_header, read_workload
from bigcluster.runtime.events import Progress
from bigcluster.stages.loading.loader import Loader

RNG = np.random.default_rng(11)
ALPHA = np.where(picture(9, W, H) > 128, 255, np.where(picture(10, W, H) > 128, 100, 0)).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        prepare_codecs()
        yield


def over_white(colors: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    """By definition; alpha from 0 to 1."""
    share = alpha[..., None] if colors.ndim == 3 else alpha
    return np.asarray(colors * share + 255.0 * (1 - share))


def shows(data: bytes, wanted: NDArray[Any], orientation: int = 1, within: float = 1.01) -> None:
    """Whether a file is shown as `wanted`, (h, w) or (h, w, 3), turned; in grey and in colour, and its size is told."""
    seen = turned(wanted, orientation)
    height, width = seen.shape[:2]
    rgb = seen if seen.ndim == 3 else np.dstack([seen] * 3)
    found = decode(data, DecodeSpec(width, height, color=True))
    assert (found.status, found.reason) == ("ok", "")
    assert (found.width, found.height) == (width, height) == read_header(io.BytesIO(data))
    assert found.pixels is not None
    near(found.pixels.reshape(height, width, 3), rgb, within)
    grey = decode(data, DecodeSpec(width, height)).pixels
    assert grey is not None
    near(grey.reshape(height, width), luma(rgb), within + 1)


# -- PNG, chunk by chunk


def chunk(kind: bytes, data: bytes, flipped: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ flipped)


def png(samples: NDArray[Any], depth: int, color_type: int, *chunks: bytes, behind: bytes = b"") -> bytes:
    """(h, w, n) samples."""
    height, width, n = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = (samples.reshape(height, width * n, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", head, *chunks, chunk(b"IDAT", zlib.compress(raw)), behind, chunk(b"IEND", b""))
    )


def exif(orientation: int, kind: int = 3, order: str = "<") -> bytes:
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
    value = struct.pack(order + code, orientation).ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return start + struct.pack(order + "HHHI", 1, 274, kind, 1) + value + bytes(4)


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PNG_KINDS = [(depth, color_type) for color_type, depths in DEPTHS.items() for depth in depths]


@pytest.mark.parametrize(("depth", "color_type"), PNG_KINDS)
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("animated", [False, True])
def test_png(depth: int, color_type: int, keyed: bool, orientation: int, animated: bool) -> None:
    if keyed and color_type in (4, 6):
        return
    n = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    top = 2**depth - 1
    samples = RNG.integers(0, top + 1, (H, W, n))
    samples[0, 0], samples[0, 1] = 0, top  # white is there
    chunks = [chunk(b"eXIf", exif(orientation))]
    if animated:
        chunks.append(chunk(b"acTL", struct.pack(">II", 1, 0)))
    alpha = np.ones((H, W))
    if color_type == 3:
        palette = RNG.integers(0, 256, (top + 1, 3))
        chunks.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        colors = palette[samples[..., 0]].astype(float)
        if keyed:
            opacity = RNG.integers(0, 256, top + 1)
            chunks.append(chunk(b"tRNS", opacity.astype(np.uint8).tobytes()))
            alpha = opacity[samples[..., 0]] / 255
    else:
        colors = samples[..., : 3 if color_type in (2, 6) else 1] * 255 / top
        colors = colors if colors.shape[2] == 3 else colors[..., 0]
        if color_type in (4, 6):
            alpha = samples[..., -1] / top
        elif keyed:
            key = samples[H // 2, W // 2]
            chunks.append(chunk(b"tRNS", struct.pack(f">{n}H", *key)))
            alpha = np.where((samples == key).all(-1), 0.0, 1.0)
    data = png(samples, depth, color_type, *chunks)
    shows(data, over_white(colors, alpha), orientation, within=2.5 if depth == 16 else 1.01)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_what_is_wrong_with_the_metadata_of_a_png_leaves_its_picture(mode: str) -> None:
    array = GREY.astype(np.uint16) * 257 if mode == "I;16" else COLOR
    plain = pillow_bytes(Image.fromarray(array) if mode == "I;16" else Image.fromarray(array).convert(mode), "PNG")
    wanted = decode(plain, DecodeSpec(W, H, color=True))
    noise = RNG.bytes(2 << 20)
    for extra in (
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(noise)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"text\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"profile\0\0not compressed at all"),
        chunk(b"eXIf", b"II*\0 nothing of the kind"),
        chunk(b"gAMA", b"\0"),
    ):
        found = decode(plain[:33] + extra + plain[33:], DecodeSpec(W, H, color=True))
        assert (found.status, found.reason) == ("ok", "")
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
    for kind in (b"tEXt", b"iCCP", b"eXIf", b"pHYs"):
        found = decode(plain[:33] + chunk(kind, b"a\0b", flipped=1) + plain[33:], DecodeSpec(W, H, color=True))
        assert found.status == "ok"
        assert kind.decode() in found.reason
        np.testing.assert_array_equal(found.pixels, wanted.pixels)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_png_whose_picture_fails_its_checksum_is_damaged(kind: bytes) -> None:
    data = bytearray(pillow_bytes(Image.fromarray(COLOR).quantize(16), "PNG", transparency=3))
    at = data.find(kind)
    data[at + 4 + struct.unpack_from(">I", data, at - 4)[0]] ^= 1
    assert status(bytes(data)) in ("damaged", "truncated")


# -- other formats


def webp(image: Image.Image, **options: Any) -> bytes:
    return pillow_bytes(image, "WEBP", lossless=True, exact=True, **options)


WRITERS = {
    "WEBP": (webp, ("RGB", "RGBA"), True),
    "TIFF": (lambda image, **options: pillow_bytes(image, "TIFF", **options),
             ("1", "L", "LA", "P", "RGB", "RGBA"), False),
    "BMP": (lambda image: pillow_bytes(image, "BMP"), ("1", "L", "P", "RGB"), False),
    "GIF": (lambda image, **options: pillow_bytes(image, "GIF", **options), ("1", "L", "P"), False),
    "JPEG2000": (lambda image: pillow_bytes(image, "JPEG2000"), ("L", "LA", "RGB", "RGBA"), False),
    "PPM": (lambda image: pillow_bytes(image, "PPM"), ("1", "L", "RGB"), False),
    "AVIF": (lambda image, **options: pillow_bytes(image, "AVIF", quality=100, subsampling="4:4:4", **options),
             ("L", "RGB", "RGBA"), True),
}  # fmt: skip
"""Format -> (writer, modes, whether it has EXIF)."""


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, (_, modes, _) in WRITERS.items() for mode in modes])
def test_other_formats(kind: str, mode: str) -> None:
    write, _, has_exif = WRITERS[kind]
    smooth = cv2.GaussianBlur(COLOR, (0, 0), 3) if kind == "AVIF" else COLOR
    rgba = np.dstack([smooth, ALPHA])
    image = Image.fromarray(rgba).convert(mode) if mode in ("LA", "RGBA") else Image.fromarray(smooth).convert(mode)
    colors = np.asarray(image.convert("RGBA"))[..., :3].astype(float)
    wanted = over_white(colors, ALPHA / 255 if mode in ("LA", "RGBA") else np.ones((H, W)))
    shows(write(image), wanted, within=4 if kind == "AVIF" else 1.01)
    if has_exif:
        for orientation in range(2, 9):
            tagged = Image.Exif()
            tagged[274] = orientation
            shows(write(image, exif=tagged), wanted, orientation, within=4 if kind == "AVIF" else 1.01)
    if kind == "TIFF":
        for orientation in range(2, 9):
            shows(write(image, tiffinfo={274: orientation}), wanted, orientation)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_the_transparent_index_of_a_gif_shows_white(mode: str) -> None:
    image = Image.fromarray(GREY) if mode == "L" else Image.fromarray(COLOR).quantize(32)
    index = int(np.asarray(image)[H // 2, W // 2])
    wanted = np.where((np.asarray(image) == index)[..., None], 255, np.asarray(image.convert("RGB")))
    shows(pillow_bytes(image, "GIF", transparency=index), wanted)


@pytest.mark.parametrize("grey", [False, True])
def test_a_first_gif_frame_smaller_than_its_canvas_stands_on_white(grey: bool) -> None:
    image = Image.fromarray(GREY) if grey else Image.fromarray(COLOR).quantize(32)
    data = bytearray(pillow_bytes(image, "GIF", interlace=0))
    frame = data.find(b"\x2c\0\0\0\0" + struct.pack("<HH", W, H))
    assert frame > 0
    data[6:10] = struct.pack("<HH", W + 20, H + 30)
    data[frame + 1 : frame + 5] = struct.pack("<HH", 5, 7)
    wanted = np.full((H + 30, W + 20, 3), 255)
    wanted[7 : 7 + H, 5 : 5 + W] = np.asarray(image.convert("RGB"))
    shows(bytes(data), wanted)


def test_a_first_webp_frame_smaller_than_its_canvas_stands_on_white() -> None:
    frames = [Image.fromarray(COLOR), Image.fromarray(255 - COLOR)]
    data = bytearray(webp(frames[0], save_all=True, append_images=frames[1:], duration=100))
    assert data[12:16] == b"VP8X"
    data[20] &= ~0x10  # no alpha, it says
    data[24:30] = (W + 19).to_bytes(3, "little") + (H + 29).to_bytes(3, "little")  # the canvas, less one
    wanted = np.full((H + 30, W + 20, 3), 255)
    wanted[:H, :W] = COLOR
    shows(bytes(data), wanted)


def bmp(rgba: NDArray[np.uint8], masked: bool) -> bytes:
    """32 bits a pixel; `masked`: with a header that gives the upper 8 of them to alpha."""
    height, width = rgba.shape[:2]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"sRGB" + bytes(48) if masked else b""
    kind = 3 if masked else 0
    info = struct.pack("<IiiHHIIiiII", 40 + len(masks), width, height, 1, 32, kind, 0, 0, 0, 0, 0) + masks
    rows = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info)) + info + rows


def test_a_bmp_whose_alpha_channel_is_zero_everywhere_is_opaque() -> None:
    for masked in (False, True):
        shows(bmp(np.dstack([COLOR, np.zeros_like(GREY)]), masked), COLOR)
    some = np.zeros_like(GREY)
    some[:9] = 255
    wanted = np.where(some[..., None] == 0, 255, COLOR)
    shows(bmp(np.dstack([COLOR, some]), masked=True), wanted)
    shows(bmp(np.dstack([COLOR, some]), masked=False), COLOR)  # the format has no alpha there


@pytest.mark.parametrize("white", [1, 15, 100, 255, 256, 300, 1000, 4095, 65_535])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_white_of_a_pgm_is_what_it_says(white: int, plain: bool, channels: int) -> None:
    samples = RNG.integers(0, white + 1, (H, W, channels))
    samples[0, 0] = white
    number = {(1, False): 5, (1, True): 2, (3, False): 6, (3, True): 3}[channels, plain]
    head = f"P{number}\n# by hand\n{W} {H}\n{white}\n".encode()
    body = (
        " ".join(map(str, samples.flat)).encode() if plain else samples.astype(">u2" if white > 255 else "u1").tobytes()
    )
    shows(head + body, (samples * 255.0 / white).squeeze(), within=1.01)
    dark = np.minimum(samples, white // 16)
    body = " ".join(map(str, dark.flat)).encode() if plain else dark.astype(">u2" if white > 255 else "u1").tobytes()
    if white < 65_535:
        shows(head + body, (dark * 255.0 / white).squeeze(), within=1.01)


JP2 = {
    "grey": (
        "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAACAAAAAgAAQsHAAAAAAAPY29scgEAAAAA"
        "ABEAAADYanAyY/9P/1EAKQAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAQsBAf9SAAwAAAABAAAEBAAB/1wABEBg"
        "/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAAAZgAB/5Pf4VQSLEKnl5WxQw7WKD/e6CnFSLg0"
        "VhLheQ6YkYVPQ9GYfhKbzjvDeb1xScaFN4JiVhW3Oc516kpADMAoAAdEZdUjzFOGC1xn2uspq4TrgHDYbDYbDYbD/9k="
    ),
    "color": (
        "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAACAAAAAgAAwsHAAAAAAAPY29scgEAAAAA"
        "ABAAAAGManAyY/9P/1EALwAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAwsBAQsBAQsBAf9SAAwAAAABAAAEBAAB"
        "/1wABEBg/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAABFAAB/5Pf4VQSLEKnl5WxQw7WKD/e"
        "6CnFSLg0VhLheQ6YkYVPQ9GYfhKbzjvDeb1xScaFN4JiVhW3Oc516kpADMAoAAdEZdUjzFOGC1xn2uspq4TrgHDYbDYbDYbD3+FQ"
        "EitmSoAG4lvhVuLhO6IhRmxJ9fI6sgw03nMtneNzK2k4CBjA/gKEVdLf8ywwAx4lhb7JvnHu13K8jw4wVNS6hV8LvPX1hhFeFRTv"
        "LbPAAAAAAAA/3+FQPniSkimTKcFbRNCLAzvD4GVn2x1Z/uqJPnlFkNQ6zKB7E4fZFkRmeLaP4rUExLDkdv6bE9AAAKFB4AKuKPjb"
        "cGFriCTGurbtCuE64Bw2Gw2Gw2Gv/9k="
    ),
    "signed": (
        "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAACAAAAAgAAYcHAAAAAAAPY29scgEAAAAA"
        "ABEAAACqanAyY/9P/1EAKQAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAYcBAf9SAAwAAAABAAAEBAAB/1wABEBA"
        "/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAAAOAAB/5PH1E4SKwMLCxPkuS+FPzhQgqEU/1Zx"
        "w3N9JM4wvb1yYz7qxGrzTDo5fZ//2Q=="
    ),
}  # fmt: skip
"""8 x 8 samples by OpenJPEG, without loss: v = 65 * (0, 1, 2, ...) of 12 bits; v, its transpose, and it upside down;
8 bits with a sign. No library here writes them."""


def test_jpeg_2000_of_12_bits_is_shown_by_its_own_white() -> None:
    v = np.arange(64).reshape(8, 8) * 65
    shows(base64.b64decode(JP2["grey"]), v * 255 / 4095)
    shows(base64.b64decode(JP2["color"]), np.dstack([v, v.T, v[::-1]]) * 255 / 4095)
    assert status(base64.b64decode(JP2["signed"])) == "unsupported"


def test_jpeg_2000_of_five_components_is_unsupported() -> None:
    data = bytearray(pillow_bytes(Image.fromarray(COLOR), "JPEG2000"))
    size = data.find(b"\xff\x4f\xff\x51")
    data[size + 41] = 5  # Csiz
    data[size + 42 : size + 42] = data[size + 42 : size + 48]  # two components more
    assert status(bytes(data)) == "unsupported"


def test_jpeg_2000_in_an_unknown_color_space_is_unsupported() -> None:
    data = bytearray(pillow_bytes(Image.fromarray(COLOR), "JPEG2000"))
    at = data.find(b"colr") + 10
    assert data[at] == 16
    for space, wanted in ((16, "ok"), (18, "ok"), (14, "unsupported"), (12, "unsupported"), (17, "unsupported")):
        data[at] = space
        assert status(bytes(data)) == wanted, space


# -- JPEG, segment by segment


def with_segment(data: bytes, marker: int, content: bytes, at: int = 2) -> bytes:
    return data[:at] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[at:]


SMOOTH = cv2.GaussianBlur(COLOR, (0, 0), 3)
JPEG = pillow_bytes(Image.fromarray(SMOOTH), "JPEG", quality=95)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'  # noqa: E501


@given(
    st.integers(0, 20),
    st.sampled_from([1, 3, 4, 6, 8, 9]),
    st.sampled_from("<>"),
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
)
def test_exif_decides_by_any_integer_type(orientation: int, kind: int, order: str, container: str) -> None:
    content = exif(orientation, kind, order)
    if container == "JPEG":
        data, wanted = with_segment(JPEG, 0xE1, b"Exif\0\0" + content), SMOOTH
    elif container == "PNG":
        data, wanted = png(COLOR, 8, 2, chunk(b"eXIf", content)), COLOR
    else:
        data, wanted = webp(Image.fromarray(COLOR), exif=content), COLOR
    shows(data, wanted, orientation if 1 <= orientation <= 8 else 1, within=16 if container == "JPEG" else 1.01)


def test_xmp_turns_nothing() -> None:
    xmp_segment = with_segment(JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    shows(xmp_segment, SMOOTH, within=16)
    shows(with_segment(xmp_segment, 0xE1, b"Exif\0\0" + exif(8)), SMOOTH, 8, within=16)
    shows(pillow_bytes(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=95, xmp=XMP), COLOR, within=60)
    shows(png(COLOR, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), COLOR)
    shows(pillow_bytes(Image.fromarray(COLOR), "TIFF", tiffinfo={700: XMP}), COLOR)
    shows(pillow_bytes(Image.fromarray(COLOR), "TIFF", compression="tiff_lzw", tiffinfo={700: XMP}), COLOR)
    shows(webp(Image.fromarray(COLOR), xmp=XMP), COLOR)
    shows(pillow_bytes(Image.fromarray(SMOOTH), "AVIF", quality=100, subsampling="4:4:4", xmp=XMP), SMOOTH, within=4)


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    for content in (b"", b"II", b"II*\0\xff\xff\xff\xff", exif(6)[:12], b"MM\0+" + bytes(12), bytes(40)):
        shows(with_segment(JPEG, 0xE1, b"Exif\0\0" + content), SMOOTH, within=16)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("filling", [b"\0\0", b"\xab\xcd\xef", b"\xff\0", b"\xff\xff\xff"], ids=repr)
def test_bytes_between_the_segments_of_a_jpeg_are_passed_over(mode: str, filling: bytes) -> None:
    data = pillow_bytes(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=95)
    wanted = decode(data, DecodeSpec(W, H, color=True))
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"):
        found = decode(data.replace(marker, filling + marker, 1), DecodeSpec(W, H, color=True))
        assert found.status == "ok"
        assert (found.reason != "") == (filling != b"\xff\xff\xff")  # which T.81 permits
        np.testing.assert_array_equal(found.pixels, wanted.pixels)


def loaded(folder: Path, data: bytes, color: bool = True) -> tuple[FileRecord, NDArray[np.uint8]]:
    """As a run loads it, with what codecs say."""
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(data)
    listing, spec = list_images(str(folder), None), DecodeSpec(200, 150, color=color)
    held = np.zeros((1, spec.n_values), np.uint8)
    with Loader(listing, spec, threads=1, timeout_seconds=20, progress=Progress()) as loader:
        return loader.load([0], held, 0)[0], held[0]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("filling", [b"\0", b"\0\0", b"\0" * 20, b"\xff", b"\xff\xff\xff"], ids=repr)
def test_filling_before_restart_markers_leaves_the_picture(tmp_path: Path, progressive: bool, filling: bytes) -> None:
    noise = cv2.GaussianBlur(RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 2)
    plain = pillow_bytes(Image.fromarray(noise), "JPEG", quality=90, restart_marker_blocks=7, progressive=progressive)
    filled = re.sub(rb"\xff[\xd0-\xd7]", lambda marker: filling + marker[0], plain)
    wanted, held = loaded(tmp_path / "plain", plain)
    assert (wanted.status, wanted.reason) == ("ok", "")
    found, shown = loaded(tmp_path / "filled", filled)
    assert (found.status, found.n_bytes) == ("ok", len(filled))
    assert (found.reason != "") == (filling[0] == 0)
    np.testing.assert_array_equal(shown, held)
    half = len(filled) // 2
    broken, _ = loaded(tmp_path / "broken", filled[:half] + b"\x55\xaa" * 20 + filled[half + 40 :])
    assert broken.status == "damaged"


def test_jpegs_of_other_kinds_are_unsupported() -> None:
    frame = JPEG.find(b"\xff\xc0")
    twelve = bytearray(JPEG)
    twelve[frame + 4] = 12
    assert status(bytes(twelve)) == "unsupported"
    for code in (0xC3, 0xC5, 0xC7, 0xCB, 0xCF, 0xF7):
        other = bytearray(JPEG)
        other[frame + 1] = code
        assert status(bytes(other)) == "unsupported", hex(code)
    two = bytearray(JPEG)
    two[frame + 9] = 2
    assert status(bytes(two)) == "unsupported"


@pytest.mark.parametrize(
    "start",
    [b"RIFF\x24\0\0\0WAVEfmt ", b"BM, says the text", b"GIF8 is a number", b"P7\nWIDTH 1\n", b"P5x", b"PK\3\4"],
    ids=repr,
)
def test_what_only_begins_like_a_picture_is_unsupported(start: bytes) -> None:
    assert status(start + bytes(60)) == "unsupported"


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
def test_a_bmp_of_16_bits_with_alpha_is_unsupported(header_bytes: int) -> None:
    """Its decoder drops the alpha channel, and would show what is transparent."""
    for alpha, expected in ((0x8000, "unsupported"), (0, "ok")):
        masks = struct.pack("<4I", 0x7C00, 0x3E0, 0x1F, alpha)
        info = struct.pack("<IiiHHIIiiII", header_bytes, 8, 8, 1, 16, 3, 128, 0, 0, 0, 0) + masks
        start = 14 + header_bytes
        data = struct.pack("<2sIHHI", b"BM", start + 128, 0, 0, start) + info.ljust(header_bytes, b"\0")
        decoded = decode(data + struct.pack("<H", 0x3FF) * 64, DecodeSpec(8, 8))
        assert decoded.status == expected, decoded.reason


def bmp_of_runs(bits: int, runs: bytes) -> bytes:
    """8 x 8 pixels in runs (BI_RLE8, BI_RLE4), with a palette of greys."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(0, 256, 256 >> bits))
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, bits, 1 if bits == 8 else 2, len(runs), 0, 0, 1 << bits, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + info + palette + runs


RUN, END_OF_ROW, END, JUMP = bytes([8, 5]), bytes(2), bytes([0, 1]), bytes([0, 2, 2, 1])
ONE_BY_ONE = {8: bytes([0, 3, 1, 2, 3, 0]), 4: bytes([0, 3, 0x12, 0x30])}


@pytest.mark.parametrize("bits", [8, 4])
def test_a_bmp_of_runs_is_whole_cut_or_leaves_out_pixels(bits: int) -> None:
    rows = RUN + END_OF_ROW
    whole = rows * 7 + ONE_BY_ONE[bits] + bytes([5, 5]) + END
    for runs, expected in (
        (whole, "ok"),
        (whole.removesuffix(END), "ok"),  # all pixels are there
        (rows * 3 + END, "unsupported"),  # the others have no colour
        (rows * 3 + JUMP + ONE_BY_ONE[bits] + END, "unsupported"),
        *((rows * 3 + (RUN + ONE_BY_ONE[bits] + JUMP)[:n], "truncated") for n in range(12 if bits == 8 else 10)),
    ):
        decoded = decode(bmp_of_runs(bits, runs), DecodeSpec(8, 8))
        assert decoded.status == expected, (runs, decoded.reason)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "TIFF", "PPM"])
def test_a_known_format_with_a_broken_header_is_not_taken_for_another(kind: str) -> None:
    data = bytearray(pillow_bytes(Image.fromarray(COLOR), kind))
    data[16 : 16 + 12] = bytes(12)
    assert status(bytes(data)) != "ok" or kind in ("AVIF", "GIF", "PPM")
    assert status(bytes(data[:20])) in ("damaged", "truncated")


def test_a_header_that_ends_or_lies_anywhere_is_no_error() -> None:
    image = Image.fromarray(COLOR)
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")
    files = [pillow_bytes(image, kind) for kind in kinds]
    files += [*map(base64.b64decode, JP2.values()), encoded(GREY.astype(np.uint16) * 9, ".tiff")]
    files += [with_segment(JPEG, 0xE1, b"Exif\0\0" + exif(6)), png(COLOR, 8, 2, chunk(b"eXIf", exif(6)))]
    for data in files:
        for at in range(min(len(data), 400)):
            for changed in (data[:at], data[:at] + b"\xff" * 8 + data[at + 8 :], data[:at] + bytes(8) + data[at + 8 :]):
                read_header(io.BytesIO(changed))


def test_a_look_at_a_file_agrees_with_its_decode() -> None:
    for data in (JPEG, encoded(COLOR), pillow_bytes(Image.fromarray(COLOR), "TIFF", tiffinfo={274: 6})):
        seen = read_workload(io.BytesIO(data), len(data), DecodeSpec(W, H))
        assert seen is not None
        need = seen.working_bytes
        assert status(data, max_bytes=need) == "ok"
        assert status(data, max_bytes=need - 1) == "too_large"
    assert pixels(JPEG).shape == (H, W)
