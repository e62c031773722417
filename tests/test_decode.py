"""Bytes -> pixels or a status: every quiet conversion as documented, and no exception whatever the bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import encoded, picture, pillow_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.decode import STATUSES, Decoded, DecodeSpec, decode, prepare_codecs, read_header
from bigcluster.kernels.decode.resize import normalize_each, resize_to

W, H = 36, 48
GREY = picture(1, W, H)
COLOR = np.dstack([picture(2, W, H), picture(3, W, H), picture(4, W, H)])


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        prepare_codecs()
        yield


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601."""
    return np.asarray(rgb.astype(np.float64) @ [0.299, 0.587, 0.114])


def pixels(data: bytes, color: bool = False, width: int = W, height: int = H, **spec: Any) -> NDArray[np.int64]:
    """As (h, w) or (h, w, 3) integers; fails unless ok."""
    found = decode(data, DecodeSpec(width, height, color=color, **spec))
    assert (found.status, found.reason) == ("ok", "")
    assert found.pixels is not None
    assert found.pixels.dtype == np.uint8
    return found.pixels.reshape((height, width, 3) if color else (height, width)).astype(np.int64)


def near(found: NDArray[Any], wanted: NDArray[Any], within: float) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.astype(float) - wanted).max() <= within


def status(data: bytes, **spec: Any) -> str:
    found = decode(data, DecodeSpec(W, H, **spec))
    assert found.status in STATUSES
    assert (found.pixels is None) == (found.status != "ok")
    assert (found.reason != "") or (found.status == "ok")
    return found.status


# -- every kind of file, grey and colour


LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_pictures_come_out_as_they_are(kind: str) -> None:
    data = pillow_bytes(Image.fromarray(COLOR), kind, **LOSSLESS[kind])
    near(pixels(data, color=True), COLOR, 0)
    near(pixels(data), luma(COLOR), 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_files_come_out_as_they_are(kind: str) -> None:
    data = pillow_bytes(Image.fromarray(GREY), kind)
    near(pixels(data), GREY, 0)
    near(pixels(data, color=True), np.dstack([GREY] * 3), 0)


def test_grey_of_a_jpeg_is_its_own_luma_plane() -> None:
    data = pillow_bytes(Image.fromarray(COLOR), "JPEG", quality=90)
    plane = Image.open(io.BytesIO(data))
    plane.draft("L", plane.size)
    near(pixels(data), np.asarray(plane), 1)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000", "AVIF", "GIF"])
def test_other_kinds_are_read(kind: str) -> None:
    smooth = cv2.GaussianBlur(COLOR, (0, 0), 3)
    try:
        data = pillow_bytes(Image.fromarray(smooth), kind)
    except (OSError, KeyError) as error:
        pytest.skip(f"Pillow was built without {kind}: {error}")
    near(pixels(data, color=True), smooth, 30)


def with_png_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """Inserted after the header."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("gamma", [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))], ids=["srgb", "gamma"])
def test_a_png_that_says_its_gamma_has_the_same_grey(gamma: tuple[bytes, bytes]) -> None:
    data = with_png_chunk(encoded(COLOR), *gamma)
    near(pixels(data), luma(COLOR), 1)
    near(pixels(data, color=True), COLOR, 0)


# -- orientation


def turned(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """As EXIF 2.32 says it: where row 0 and column 0 of the stored picture are seen."""
    mirrored = array[:, ::-1] if orientation in (2, 4, 5, 7) else array
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.rot90(mirrored, quarter_turns)


def oriented(kind: str, array: NDArray[Any], orientation: int) -> bytes:
    image = Image.fromarray(array)
    if kind == "TIFF":
        return pillow_bytes(image, kind, tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return pillow_bytes(image, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("color", [False, True], ids=["gray", "color"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, color: bool, orientation: int) -> None:
    corner = np.zeros((H, W, 3), np.uint8)  # asymmetric in every way
    corner[: H // 2, : W // 2] = 200
    corner[: H // 4, : W // 4] = 90
    data = oriented(kind, corner, orientation)
    wanted = turned(corner, orientation)
    height, width = wanted.shape[:2]
    found = pixels(data, color=color, width=width, height=height)
    near(found, wanted if color else wanted[..., 0], 12 if kind == "JPEG" else 1)
    decoded = decode(data, DecodeSpec(8, 8))
    assert (decoded.width, decoded.height) == (width, height) == read_header(io.BytesIO(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_deep_and_transparent_pictures(orientation: int) -> None:
    deep = np.arange(W * H, dtype=np.uint16).reshape(H, W) * 80
    wanted = turned((deep >> 8).astype(np.uint8), orientation)
    height, width = wanted.shape
    near(pixels(oriented("TIFF", deep, orientation), width=width, height=height), wanted, 0)
    near(pixels(oriented("PNG", deep, orientation), width=width, height=height), wanted, 0)
    shown = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    near(pixels(oriented("PNG", shown, orientation), width=width, height=height), turned(GREY, orientation), 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_counts_as_none(orientation: int) -> None:
    near(pixels(oriented("WEBP", COLOR, orientation), color=True), COLOR, 0)


# -- depth


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm", ".jp2"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_grey_is_shifted_by_its_significant_bits(suffix: str, bits: int) -> None:
    deep = np.linspace(0, 2**bits - 1, W * H).astype(np.uint16).reshape(H, W)
    near(pixels(encoded(deep, suffix)), deep >> (bits - 8), 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm", ".jp2"])
def test_deep_color_is_shifted_by_its_significant_bits(suffix: str) -> None:
    deep = np.dstack([np.linspace(0, top, W * H).reshape(H, W) for top in (4095, 2000, 300)]).astype(np.uint16)
    near(pixels(encoded(deep, suffix), color=True), deep >> 4, 0)
    near(pixels(encoded(deep, suffix)), luma((deep >> 4).astype(np.uint8)), 1)


def test_twelve_bits_in_sixteen_are_not_nearly_black() -> None:
    near(pixels(encoded(GREY.astype(np.uint16) * 16 + 8)), GREY, 0)


def test_one_bit_is_black_and_white() -> None:
    two_tones = np.where(GREY > 127, 255, 0).astype(np.uint8)
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        near(pixels(pillow_bytes(Image.fromarray(two_tones).convert("1"), kind)), two_tones, 0)


def test_floating_point_and_32_bit_samples_have_no_agreed_grey() -> None:
    for array in (GREY.astype(np.float32) / 255, GREY.astype(np.int32) * 1000):
        assert status(pillow_bytes(Image.fromarray(array), "TIFF")) == "unsupported"


# -- transparency, palettes, inks, frames


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_transparent_pixels_show_white(tone: int, alpha: int, hidden: int) -> None:
    rgba = np.full((H, W, 4), (tone, tone, tone, alpha), np.uint8)
    rgba[: H // 2] = (hidden, hidden, hidden, 0)
    found = pixels(pillow_bytes(Image.fromarray(rgba), "PNG"))
    assert (found[: H // 2] == 255).all()
    near(found[H // 2 :], np.full((H - H // 2, W), (tone * alpha + 255 * (255 - alpha)) / 255), 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_of_every_kind(kind: str) -> None:
    rgba = np.dstack([COLOR, np.full((H, W), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(pillow_bytes(Image.fromarray(rgba), kind, **options), color=True)
    assert (found[:5] == 255).all()
    near(found[5:], COLOR[5:], 0)


def test_transparency_of_deep_grey_alpha_and_palette_pictures() -> None:
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8))])
    near(pixels(pillow_bytes(la, "PNG")), np.where(GREY > 100, GREY, 255), 0)
    palette = Image.fromarray(GREY).convert("P")
    index = int(np.asarray(palette)[0, 0])
    data = pillow_bytes(palette, "PNG", transparency=index)
    found = pixels(data)
    assert (found[np.asarray(palette) == index] == 255).all()
    grey_key = pillow_bytes(Image.fromarray(GREY), "PNG", transparency=int(GREY[0, 0]))
    assert (pixels(grey_key)[GREY[0, 0] == GREY] == 255).all()
    deep = np.dstack([np.full((H, W), 40_000, np.uint16)] * 3 + [np.zeros((H, W), np.uint16)])
    assert (pixels(encoded(deep)) == 255).all()


def test_palette_pictures_become_rgb() -> None:
    image = Image.fromarray(COLOR).quantize(64)
    wanted = np.asarray(image.convert("RGB"))
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        near(pixels(pillow_bytes(image, kind), color=True), wanted, 0)
        near(pixels(pillow_bytes(image, kind)), luma(wanted), 1)


def test_cmyk_ycbcr_and_lab_become_rgb() -> None:
    smooth = cv2.GaussianBlur(COLOR, (0, 0), 4)
    cmyk = pillow_bytes(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=98)
    near(pixels(cmyk, color=True), smooth, 16)
    near(pixels(cmyk), luma(smooth), 10)
    lab = Image.merge("LAB", [Image.fromarray(GREY), *[Image.new("L", (W, H), 128)] * 2])
    assert status(pillow_bytes(lab, "TIFF")) in ("ok", "unsupported", "damaged")
    ycbcr = pillow_bytes(Image.fromarray(smooth).convert("YCbCr"), "TIFF")
    near(pixels(ycbcr, color=True), smooth, 4)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    frames = [Image.fromarray(picture(seed, W, H)).convert("RGB") for seed in (1, 2, 3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind != "TIFF":
        options |= {"duration": 100}
    data = pillow_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    near(pixels(data), GREY, 1)


# -- size


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_every_fit_gives_the_target_and_keeps_flat_tones(w: int, h: int, width: int, height: int, color: bool) -> None:
    array = np.full((h, w, 3) if color else (h, w), 77, np.uint8)
    for fit in ("stretch", "crop"):
        found = resize_to(array, width, height, fit)
        assert found.shape == (height, width, *array.shape[2:])
        assert (found == 77).all()
    padded = resize_to(array, width, height, "pad")
    assert padded.shape == (height, width, *array.shape[2:])
    inside = padded == 77
    assert (inside | (padded == 255)).all()
    # What is shown touches two opposite sides, and stands in the middle.
    rows, columns = (
        np.flatnonzero(inside.reshape(height, -1).any(1)),
        np.flatnonzero(inside.any(0).reshape(width, -1).any(1)),
    )
    assert len(rows) == height or len(columns) == width
    assert abs(rows[0] - (height - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (width - 1 - columns[-1])) <= 1


def test_crop_shows_the_middle_and_pad_the_whole() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert (resize_to(wide, 20, 20, "crop") == 200).all()
    padded = resize_to(wide, 30, 30, "pad")
    assert (padded[10:20] == wide).all()
    assert (padded[:10] == 255).all()
    assert (padded[20:] == 255).all()
    stretched = resize_to(wide, 3, 10, "stretch")
    assert (stretched == [0, 200, 0]).all()


def test_a_thin_strip_is_cropped_without_growing_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    resize = cv2.resize

    def watched(array: Any, size: tuple[int, int], **options: Any) -> Any:
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return resize(array, size, **options)

    monkeypatch.setattr(cv2, "resize", watched)
    assert pixels(encoded(np.full((20_000, 1), 9, np.uint8)), width=64, height=64, fit="crop").max() == 9
    assert largest <= 64 * 64


@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("color", [False, True], ids=["gray", "color"])
def test_reduced_jpeg_decode_is_near_a_full_one(by: int, color: bool) -> None:
    large = cv2.GaussianBlur(cv2.resize(COLOR, (W * by + by // 2, H * by + by // 2)), (0, 0), 5 * by)
    data = pillow_bytes(Image.fromarray(large), "JPEG", quality=97, subsampling=0)
    wanted = cv2.resize(large, (W, H), interpolation=cv2.INTER_AREA)
    near(pixels(data, color=color), wanted if color else luma(wanted), 10)
    assert decode(data, DecodeSpec(W, H)).width == W * by + by // 2


@given(st.integers(0, 2**32 - 1), st.integers(0, 80), st.integers(1, 3))
def test_normalizing_removes_mean_and_scale(seed: int, shift: int, scale: int) -> None:
    base = np.random.default_rng(seed).integers(0, 58, (12, 9)).astype(np.uint8)
    other = (base * scale + shift).astype(np.uint8)
    near(normalize_each(other), normalize_each(base), 1)
    assert abs(normalize_each(base).mean() - 128) < 6


def test_a_flat_picture_normalizes_to_the_middle() -> None:
    assert (pixels(encoded(np.zeros((H, W), np.uint8)), normalize="image") == 128).all()


# -- what is wrong with a file is a status


PNG, JPEG = encoded(GREY), encoded(COLOR, ".jpg")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "empty"),
        (b"hello, this is text", "unsupported"),
        (b"%PDF-1.7 " + bytes(100), "unsupported"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "damaged"),
        (PNG[:8] + bytes(50), "damaged"),
        (PNG, "ok"),
        (JPEG, "ok"),
    ],
)
def test_statuses(data: bytes, wanted: str) -> None:
    assert status(data) == wanted


def test_a_picture_with_a_flipped_bit_in_its_data_is_not_ok() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H, W), dtype=np.uint8)
    data = bytearray(encoded(noise))
    data[len(data) // 2] ^= 0x10  # the checksum of its chunk no longer fits
    assert status(bytes(data)) in ("damaged", "truncated")


def test_too_large_by_pixels_and_by_memory() -> None:
    assert status(PNG, max_pixels=W * H - 1) == "too_large"
    assert status(PNG, max_pixels=W * H) == "ok"
    found = decode(PNG, DecodeSpec(W, H, max_bytes=10))
    assert found.status == "too_large"
    assert found.needed_bytes is not None
    assert status(PNG, max_bytes=found.needed_bytes) == "ok"
    assert status(PNG, max_bytes=found.needed_bytes - 1) == "too_large"


def test_a_huge_header_is_refused_before_its_decode() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert status(PNG[:8] + chunk + PNG[33:]) == "too_large"


def _samples() -> list[bytes]:
    rgba = np.dstack([COLOR, GREY])
    return [
        JPEG,
        PNG,
        encoded(COLOR),
        encoded(GREY.astype(np.uint16) * 16),
        pillow_bytes(Image.fromarray(rgba), "PNG"),
        pillow_bytes(Image.fromarray(COLOR).quantize(16), "PNG"),
        pillow_bytes(Image.fromarray(GREY).convert("1"), "PNG"),
        pillow_bytes(Image.fromarray(COLOR).convert("CMYK"), "JPEG"),
        oriented("JPEG", COLOR, 6),
        oriented("TIFF", GREY, 8),
        encoded(GREY.astype(np.uint16) * 16, ".tiff"),
        encoded(COLOR.astype(np.uint16) * 16, ".jp2"),
        encoded(COLOR.astype(np.uint16) * 16, ".ppm"),
        *(pillow_bytes(Image.fromarray(COLOR), kind) for kind in ("GIF", "WEBP", "BMP", "TIFF", "PPM")),
    ]


SAMPLES = _samples()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with some bytes changed, cut out, doubled, or cut off."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.one_of(st.integers(0, min(80, len(data))), st.integers(0, len(data))))
        match draw(st.sampled_from(["set", "insert", "delete", "cut"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "delete":
                del data[at : at + draw(st.integers(1, 16))]
            case _ if draw(st.integers(0, 3)) == 0:
                del data[at:]
    return bytes(data)


@settings(max_examples=400)
@given(mutated() | st.binary(max_size=200), st.booleans(), st.sampled_from(["stretch", "pad", "crop"]))
@example(b"\xff\xd8\xff", False, "stretch")
@example(b"P5 1 0 255\n", True, "crop")
def test_arbitrary_bytes_give_a_status_and_never_raise(data: bytes, color: bool, fit: str) -> None:
    spec = DecodeSpec(8, 6, color=color, fit=fit, max_pixels=1_000_000, max_bytes=20_000_000)
    found = decode(data, spec)
    assert isinstance(found, Decoded)
    assert found.status in STATUSES
    assert (found.status == "ok") == (found.pixels is not None)
    if found.pixels is not None:
        assert found.pixels.shape == (spec.n_values,)
        assert found.pixels.dtype == np.uint8
        assert found.width
        assert found.height
    assert "\n" not in found.reason
    size = read_header(io.BytesIO(data))
    if found.status == "ok":
        assert size == (found.width, found.height)
    assert decode(data, spec).status == found.status


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_file_cut_anywhere_is_not_ok(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
    data = pillow_bytes(Image.fromarray(noise), kind)
    last = len(data) - (20 if kind in ("PNG", "GIF", "JPEG", "TIFF") else 1)  # the end marker alone says nothing
    for length in range(1, last, max(1, len(data) // 60)):
        assert status(data[:length]) in ("truncated", "damaged", "unsupported"), length
