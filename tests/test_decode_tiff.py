"""TIFF against files written sample by sample, over the product of what its tags may say.

A file is either shown as its tags mean, or `unsupported`: never `ok` and something else.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from conftest import picture, pillow_bytes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from test_decode import H, W, luma, near, status, turned
from tiffs import tiff

from bigcluster.kernels.decode import DecodeSpec, decode, prepare_codecs

RNG = np.random.default_rng(4)
PALETTE = RNG.integers(0, 65_536, (3, 256))
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, INDEXED, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
N_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        prepare_codecs()
        yield


def meant(samples: NDArray[Any], bits: int, photometric: int, extra: tuple[int, ...]) -> NDArray[np.float64] | None:
    """(h, w, 3) as TIFF 6.0 means the samples, over white; None where that takes more than arithmetic (Lab)."""
    top = 2.0**bits - 1
    n = N_COLORS[photometric]
    colors = samples[..., :n].astype(float)
    if photometric == INDEXED:
        rgb = np.stack([PALETTE[c][samples[..., 0]] for c in range(3)], -1) // 256 / 255
    elif photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        grey = (colors if photometric == BLACK_IS_ZERO else top - colors) / top
        rgb = np.repeat(grey, 3, axis=-1)
    elif photometric == RGB:
        rgb = colors / top
    elif photometric == CMYK:
        rgb = (1 - colors[..., :3] / top) * (1 - colors[..., 3:] / top)
    elif photometric == YCBCR:
        y, cb, cr = (colors[..., i] for i in range(3))
        rgb = (
            np.stack(
                [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1
            )
            / top
        )
        rgb = rgb.clip(0, 1)
    else:
        return None
    if (extra and extra[0] in (1, 2)) or (photometric == RGB and samples.shape[2] == 4 and not extra):
        alpha = samples[..., n : n + 1] / top
        rgb = rgb + 1 - alpha if extra[:1] == (1,) else rgb * alpha + 1 - alpha
    return rgb * 255


CASES = [
    *((bits, photometric, ()) for bits in (1, 2, 4, 8, 10, 12, 14, 16) for photometric in (0, 1)),
    *((bits, INDEXED, ()) for bits in (1, 2, 4, 8)),
    *((bits, BLACK_IS_ZERO, (kind,)) for bits in (8, 16) for kind in (0, 1, 2)),
    *((bits, RGB, extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,), (2, 0), (0, 2), (3,))),
    (8, RGB, (0, 0)), (4, RGB, ()), (12, RGB, ()), (14, RGB, ()), (12, RGB, (2,)), (8, WHITE_IS_ZERO, (2,)),
    (8, INDEXED, (0,)), (8, INDEXED, (2,)), (8, INDEXED, (1,)), (8, MASK, ()), (1, MASK, ()),
    *((bits, CMYK, extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,))),
    (8, YCBCR, ()), (16, YCBCR, ()),
]  # fmt: skip
ALWAYS_OK = {
    *((bits, photometric, ()) for bits in (1, 2, 4, 8, 10, 12, 14, 16) for photometric in (0, 1)),
    *((bits, RGB, extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,))),
    *((bits, INDEXED, ()) for bits in (1, 2, 4, 8)),
    (12, RGB, ()), (14, RGB, ()), (8, BLACK_IS_ZERO, (1,)), (8, BLACK_IS_ZERO, (2,)),
    (8, CMYK, ()), (16, CMYK, ()), (8, YCBCR, ()),
}  # fmt: skip
"""Read in either byte order, planes together, bits in their usual order."""


@pytest.mark.parametrize(("bits", "photometric", "extra"), CASES, ids=str)
def test_samples_are_shown_as_the_tags_mean_or_unsupported(bits: int, photometric: int, extra: tuple[int, ...]) -> None:
    n = N_COLORS[photometric] + len(extra)
    samples = RNG.integers(0, 2**bits, (H, W, n))
    samples[0, 0], samples[0, 1] = 0, 2**bits - 1
    if extra[:1] == (1,):
        samples[..., :-1] = samples[..., :-1] * samples[..., -1:] // (2**bits - 1)
    tags: list[tuple[int, int, list[int]]] = []
    if photometric == INDEXED:
        tags.append((320, 3, PALETTE[:, : 2**bits].reshape(-1).tolist()))
    if photometric == YCBCR:
        tags.append((530, 3, [1, 1]))
    wanted = None if photometric == MASK else meant(samples, bits, photometric, extra)
    for planar, order, fill_order, big, deflate in itertools.product(
        (1, 2), "<>", (1, 2), (False, True), (False, True)
    ):
        if planar == 2 and n == 1:
            continue
        how = {"planar": planar, "order": order, "fill_order": fill_order, "big": big, "deflate": deflate}
        data = tiff(samples, bits=bits, photometric=photometric, extra=extra, tags=tags, **how)
        found = decode(data, DecodeSpec(W, H, color=True))
        usual = (planar, fill_order) == (1, 1) and not (big and order == ">")
        if usual and (bits, photometric, extra) in ALWAYS_OK:
            assert found.status == "ok", (how, found.reason)
        assert found.status in ("ok", "unsupported"), (how, found.reason)
        if found.pixels is not None:
            assert wanted is not None, how
            off = np.abs(found.pixels.reshape(H, W, 3) - wanted).max()
            assert off <= (2.5 if photometric in (CMYK, YCBCR) or extra else 1.01), (how, off)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "int16", "int32", "uint32", "uint64"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_samples_without_an_agreed_white_are_unsupported(kind: str, channels: int, white_is_zero: bool) -> None:
    array = np.repeat(picture(1, W, H)[..., None], channels, axis=-1).astype(kind)
    buffer = io.BytesIO()
    photometric = "rgb" if channels == 3 else "miniswhite" if white_is_zero else "minisblack"
    tifffile.imwrite(buffer, array.squeeze(), photometric=photometric)
    assert status(buffer.getvalue()) == "unsupported"


@pytest.mark.parametrize(
    "options", [{"tile": (16, 16)}, {"rowsperstrip": 5}, {"predictor": True, "compression": "zlib"}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", "<>")
def test_files_of_tifffile_are_read_as_it_reads_them(
    options: dict[str, Any], dtype: type, planar: str, byteorder: str
) -> None:
    rgb = RNG.integers(0, np.iinfo(dtype).max, (H, W, 3)).astype(dtype)
    for array in (rgb, rgb[..., 0]):
        for white_is_zero in (False, True) if array.ndim == 2 else (False,):
            stored = np.moveaxis(array, -1, 0) if array.ndim == 3 and planar == "separate" else array
            photometric = "rgb" if array.ndim == 3 else "miniswhite" if white_is_zero else "minisblack"
            config = {"planarconfig": planar} if array.ndim == 3 else {}
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, stored, photometric=photometric, byteorder=byteorder, **config, **options)
            found = decode(buffer.getvalue(), DecodeSpec(W, H, color=True))
            if found.pixels is None:
                assert (found.status, planar, array.ndim) == ("unsupported", "separate", 3), found.reason
                continue
            wanted = array.astype(float) * 255 / np.iinfo(dtype).max
            wanted = 255 - wanted if white_is_zero else wanted
            near(found.pixels.reshape(H, W, 3), np.broadcast_to(wanted.reshape(H, W, -1), (H, W, 3)), 1.01)


@given(
    st.integers(1, 8),
    st.sampled_from([1, 3, 4, 6, 8, 9]),
    st.sampled_from([("<", False), ("<", True), (">", False)]),
    st.sampled_from([8, 16]),
)
def test_the_orientation_may_be_of_any_integer_type(
    orientation: int, kind: int, layout: tuple[str, bool], bits: int
) -> None:
    grey = picture(7, W, H)
    samples = (grey.astype(np.int64) * (257 if bits == 16 else 1))[..., None]
    data = tiff(samples, bits=bits, photometric=1, order=layout[0], big=layout[1], tags=[(274, kind, [orientation])])
    wanted = turned(grey, orientation)
    height, width = wanted.shape
    found = decode(data, DecodeSpec(width, height))
    assert (found.status, found.width, found.height) == ("ok", width, height)
    assert found.pixels is not None
    near(found.pixels.reshape(height, width), wanted, 0)


def test_twelve_bits_in_sixteen_are_turned_over_within_their_bits() -> None:
    grey = picture(3, W, H).astype(np.int64)
    data = tiff((4095 - grey * 4095 // 255)[..., None], bits=16, photometric=WHITE_IS_ZERO)
    found = decode(data, DecodeSpec(W, H))
    assert found.pixels is not None
    near(found.pixels.reshape(H, W), grey, 1)


def test_a_palette_of_8_bit_values_is_not_black() -> None:
    indices = RNG.integers(0, 256, (H, W, 1))
    narrow = PALETTE // 256
    found = decode(
        tiff(indices, bits=8, photometric=INDEXED, tags=[(320, 3, narrow.reshape(-1).tolist())]),
        DecodeSpec(W, H, color=True),
    )
    assert found.pixels is not None
    near(found.pixels.reshape(H, W, 3), np.stack([narrow[c][indices[..., 0]] for c in range(3)], -1), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"photometric": None},
        {"photometric": 32803},  # a camera's mosaic
        {"photometric": 34892},
        {"tags": [(332, 3, [2])], "photometric": CMYK},  # inks that are not CMYK
        {"compression": 34887},  # LERC
        {"tags": [(339, 3, [4])]},
        {"photometric": YCBCR, "tags": [(530, 3, [2, 2])]},
        {"photometric": YCBCR, "tags": [(530, 3, [1, 1]), (532, 5, [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])]},
    ],
    ids=str,
)
def test_what_tags_mean_otherwise_is_unsupported(change: dict[str, Any]) -> None:
    photometric = change.get("photometric", 1)
    n = {CMYK: 4, YCBCR: 3}.get(photometric, 1)
    data = tiff(np.full((H, W, n), 9), **{"bits": 8, "photometric": 1} | change)
    assert status(data) == "unsupported"


def test_grey_of_a_deep_color_file_is_luma() -> None:
    samples = RNG.integers(0, 65_536, (H, W, 3))
    found = decode(tiff(samples, bits=16, photometric=RGB), DecodeSpec(W, H))
    assert found.pixels is not None
    near(found.pixels.reshape(H, W), luma((samples >> 8).astype(np.uint8)), 1)


@pytest.mark.parametrize(
    "compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "group3", "group4", "jpeg"]
)
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_compression(compression: str, mode: str, orientation: int) -> None:
    if (compression in ("group3", "group4")) != (mode == "1") and compression != "raw":
        return
    image = Image.fromarray(np.dstack([cv2.GaussianBlur(picture(i, W, H), (0, 0), 4) for i in range(3)])).convert(mode)
    data = pillow_bytes(image, "TIFF", compression=compression, tiffinfo={274: orientation})
    wanted = turned(np.asarray(image.convert("RGB")), orientation)
    height, width = wanted.shape[:2]
    found = decode(data, DecodeSpec(width, height, color=True))
    assert found.pixels is not None, found.reason
    near(found.pixels.reshape(height, width, 3), wanted, 12 if compression == "jpeg" else 0)
