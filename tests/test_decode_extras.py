"""Pictures that need an extra: HEIC, JPEG XL, previews of camera RAW; and what is said where the extra is missing."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from conftest import pillow_bytes
from numpy.typing import NDArray
from PIL import Image
from test_decode import COLOR, GREY, H, W, near, turned

from bigcluster.catalog import FileRecord, image_suffixes, left_out, list_images
from bigcluster.catalog.file_filter import EXTRAS, IMAGE_SUFFIXES
from bigcluster.kernels.decode import DecodeSpec, decode, extras, needs_extra, prepare_codecs, read_header
from bigcluster.kernels.decode.ifd import read_directory
from bigcluster.stages.fill import Freshness


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        prepare_codecs()
        yield


HEIC = {
    "plain": (
        "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAX5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
        "AAAAAERAAAEAAQAAAAABogABAAAAAAAAALcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/mlw"
        "cnAAAADeaXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA/P/4+AAADwNgAAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAA"
        "AwCeOAAAAwAAHpAEECCy3VXTXNwENBgQAAADAZAAAAMAEIBiAAEACEQBwXMYMBiQAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAA"
        "AEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABgAAAAB////0AAAAAL////YAAAAAgAAABBwaXhpAAAAAAMICAgAAAAYaXBtYQAAAAAAAAABAAEF"
        "gQIDBYQAAAC/bWRhdAAAALMoAa8GsgiSBwaA8iZGCF80kH+g827fU2PVLa1reHr/keh5f/g4T8ACCL5TvlPSzFf3/9SUzfVDvvDef24XovL+"
        "L4Ho4PjqlG6nvF1egAAmHJsdYLvg/VYYkVpbcIOfKGmHCR//RDeH+M/pR7/fNfRpfw88ZtvRoBD3SddlLELEzV8JJ8c6LbKJXFByY+OIX1V9"
        "XD+SmDXZRPGEFXj9YXvjc3Vn6DRJZET7ASMaRI30qwh5wA=="
    ),
    "turned": (
        "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAcltZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
        "AAAAAERAAAIAAQAAAAAB7QABAAAAAAAAALcAAgAAAAACpAABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
        "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABCGlwcnAAAADnaXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA/P/4+AAADwNg"
        "AAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAAAwCeOAAAAwAAHpAEECCy3VXTXNwENBgQAAADAZAAAAMAEIBiAAEACEQB"
        "wXMYMBiQAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABgAAAAB////0AAAAAL////Y"
        "AAAAAgAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAZaXBtYQAAAAAAAAABAAEGgQIDBYSGAAAAGmlyZWYAAAAAAAAADmNkc2MAAgABAAEA"
        "AADjbWRhdAAAALMoAa8GsgiSBwaA8iZGCF80kH+g827fU2PVLa1reHr/keh5f/g4T8ACCL5TvlPSzFf3/9SUzfVDvvDef24XovL+L4Ho4Pjq"
        "lG6nvF1egAAmHJsdYLvg/VYYkVpbcIOfKGmHCR//RDeH+M/pR7/fNfRpfw88ZtvRoBD3SddlLELEzV8JJ8c6LbKJXFByY+OIX1V9XD+SmDXZ"
        "RPGEFXj9YXvjc3Vn6DRJZET7ASMaRI30qwh5wAAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
    ),
    "alpha": (
        "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAm1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
        "AAAAAERAAAIAAQAAAAACkQABAAAAAAAAALcAAgAAAAADSAABAAAAAAAAAMMAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
        "ABVpbmZlAgAAAAACAABodmMxAAAAAA5waXRtAAAAAAABAAABrGlwcnAAAAGEaXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA/P/4+AAADwNg"
        "AAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAAAwCeOAAAAwAAHpAEECCy3VXTXNwENBgQAAADAZAAAAMAEIBiAAEACEQB"
        "wXMYMBiQAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABgAAAAB////0AAAAAL////Y"
        "AAAAAgAAABBwaXhpAAAAAAMICAgAAABxaHZjQwEECAAAAJ/4AAAAAB7wAPz8+PgAAA8DYAABABdAAQwB//8ECAAAAwCf+AAAAwAAHroCQGEA"
        "AQAmQgEBBAgAAAMAn/gAAAMAAB7AggQWW6q6a5sCAAADADIAAAMAAhBiAAEABkQBwXPBiQAAAA5waXhpAAAAAAEIAAAAJ2F1eEMAAAAAdXJu"
        "Om1wZWc6aGV2YzoyMDE1OmF1eGlkOjEAAAAAIGlwbWEAAAAAAAAAAgABBYECAwWEAAIFhgMHiIQAAAAaaXJlZgAAAAAAAAAOYXV4bAACAAEA"
        "AQAAAYJtZGF0AAAAsygBrwayCJIHBoDyJkYIXzSQf6Dzbt9TY9UtrWt4ev+R6Hl/+DhPwAIIvlO+U9LMV/f/1JTN9UO+8N5/bhei8v4vgejg"
        "+OqUbqe8XV6AACYcmx1gu+D9VhiRWltwg58oaYcJH/9EN4f4z+lHv9819Gl/Dzxm29GgEPdJ12UsQsTNXwknxzotsolcUHJj44hfVX1cP5KY"
        "NdlE8YQVeP1he+NzdWfoNElkRPsBIxpEjfSrCHnAAAAAvygBrg1kNDphfW5ySvr7+cBftQR6YRgAf+LNwJCXSQN4EHSId699vXX+Cp9fKnDk"
        "oRtnbcfP6t67fqRFGPugCBp9ROC3DIRFWvwIRhymh53SNn5J9rsYwin//6QHXZAg3J6GA/Uvy2fm0+d+W+NS6ehscFZcNFqfnlgVV4NjDNr7"
        "8LW4v7u5gNuJRH9uGF5ugLUhIkTrywrpDW8yKFp5S2BCZdNqkfvStVGGtVh4YbLj+/ntP+4Ie/suWutFa1pg"
    ),
}
"""By libheif and x265: grey 60 with a red and a blue corner, 16 x 24; to be turned as orientation 6 says; with a right
half that is transparent. No library here writes them."""

DRAWN = np.full((24, 16, 3), 60)
DRAWN[:12, :8] = (200, 40, 40)
DRAWN[:6, :4] = (30, 30, 220)


def seen(data: bytes) -> NDArray[np.int64]:
    size = read_header(io.BytesIO(data))
    assert size is not None
    found = decode(data, DecodeSpec(*size, color=True))
    assert (found.status, found.reason) == ("ok", "")
    assert (found.width, found.height) == size
    assert found.pixels is not None
    return found.pixels.reshape(size[1], size[0], 3).astype(np.int64)


def test_heic_is_read_and_turned_once() -> None:
    near(seen(base64.b64decode(HEIC["plain"])), DRAWN, 4)
    near(seen(base64.b64decode(HEIC["turned"])), turned(DRAWN.astype(np.uint8), 6), 4)
    half = seen(base64.b64decode(HEIC["alpha"]))
    near(half[:, :7], DRAWN[:, :7], 4)
    assert half[:, 9:].min() >= 250  # alpha is not without loss


@pytest.mark.parametrize("length", [20, 100, 400, 600])
def test_heic_that_ends_early_is_not_ok(length: int) -> None:
    assert decode(base64.b64decode(HEIC["alpha"])[:length], DecodeSpec(8, 8)).status in ("damaged", "truncated")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_xl_is_read(channels: int) -> None:
    import pylibjxl

    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    array = {1: GREY[..., None], 3: COLOR, 4: np.dstack([COLOR, alpha])}[channels]
    data = pylibjxl.encode(np.ascontiguousarray(array), lossless=True)
    colors = np.broadcast_to(array[..., : 3 if channels > 2 else 1], (H, W, 3))
    wanted = colors if channels < 4 else np.where(alpha[..., None] == 0, 255, colors)
    near(seen(data), wanted, 0)
    for length in range(2, len(data) - 4, len(data) // 9):
        assert decode(data[:length], DecodeSpec(8, 8)).status in ("damaged", "truncated")


def raw(orientation: int = 1, jpeg: bytes | None = None) -> bytes:
    """A digital negative: a mosaic, and the preview that a camera made."""
    tags = [
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Camera", True),
        (50708, 2, 0, "Maker Camera", True),
        (274, 3, 1, orientation, True),
    ]
    options: dict[str, Any] = {
        "photometric": "rgb",
        "subfiletype": 1,
        "extratags": tags,
        "subifds": 1,
        "metadata": None,
    }
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(COLOR, **options)
        pattern = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True)]
        mosaic = np.random.default_rng(0).integers(0, 4096, (128, 192), dtype=np.uint16)
        file.write(mosaic, photometric=32803, subfiletype=0, extratags=pattern, metadata=None)
    data = bytearray(buffer.getvalue())
    if jpeg is not None:  # no library here writes it: in the place of the samples, by its tags
        at = data.find(COLOR.tobytes())
        data[at : at + len(jpeg)] = jpeg
        found = read_directory(io.BytesIO(data), ())
        assert found is not None
        for tag, kind, value in ((259, "H", 7), (262, "H", 6), (279, "I", len(jpeg))):
            struct.pack_into("<HHI" + kind, data, found.places[tag], tag, {"H": 3, "I": 4}[kind], 1, value)
    return bytes(data)


@pytest.mark.parametrize(("orientation", "shown"), [(1, 1), (3, 3), (6, 6), (8, 8)])
def test_the_preview_of_a_camera_raw_is_shown_upright(orientation: int, shown: int) -> None:
    near(seen(raw(orientation)), turned(COLOR, shown), 0)


def test_the_preview_of_a_camera_raw_may_be_a_jpeg() -> None:
    smooth = cv2.GaussianBlur(COLOR, (0, 0), 4)
    jpeg = pillow_bytes(Image.fromarray(smooth), "JPEG", quality=95)
    near(seen(raw(6, jpeg)), turned(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), 6), 4)


def test_a_camera_raw_that_ends_early_is_not_ok() -> None:
    data = raw()
    for length in (200, 1000, 2000):  # within the preview
        assert decode(data[:length], DecodeSpec(8, 8)).status != "ok"


FILES = {
    "heif": [base64.b64decode(HEIC["plain"])],
    "jxl": [b"\xff\x0a" + bytes(40), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)],
    "raw": [raw(), b"FUJIFILMCCD-RAW 0201" + bytes(99), b"IIU\0" + bytes(99), b"\0\0\0\x18ftypcrx " + bytes(99)],
}


@pytest.mark.parametrize("extra", FILES)
def test_without_its_extra_a_file_is_unsupported_and_says_what_reads_it(
    extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    (tmp_path / "a.png").write_bytes(b"x")
    for data in FILES[extra]:
        found = decode(data, DecodeSpec(8, 8))
        assert found.status == "unsupported"
        assert f"bigcluster[{extra}]" in found.reason
        assert needs_extra(found.reason) is None
        record = FileRecord(1, 1, None, None, "", found.status, found.reason)
        freshness = Freshness(list_images(str(tmp_path), None), DecodeSpec(8, 8), 30)
        assert freshness.is_final(record)
        with monkeypatch.context() as installed:
            installed.setattr(extras, "find_spec", lambda module: module)
            assert needs_extra(found.reason) == extra
            assert not freshness.is_final(record)  # it is read now


@pytest.mark.parametrize("extra", FILES)
def test_an_extra_that_cannot_be_imported_makes_its_files_unsupported(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: str) -> None:
        raise ImportError("libx.so.1: no such file")

    monkeypatch.setattr(extras, "find_spec", lambda module: module)
    monkeypatch.setattr(extras, "import_module", broken)
    for data in FILES[extra]:
        found = decode(data, DecodeSpec(8, 8))
        assert found.status == "unsupported"
        assert "is installed and cannot be imported: libx.so.1" in found.reason
        assert needs_extra(found.reason) is None
        with monkeypatch.context() as mended:
            mended.setattr(extras, "import_module", lambda module: module)
            assert needs_extra(found.reason) == extra


def test_avif_in_a_common_container_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pillow_bytes(Image.fromarray(COLOR), "AVIF")
    common = data[:8] + b"mif1" + data[12:]
    wanted = decode(data, DecodeSpec(W, H)).pixels
    for module in (None, "pi_heif"):
        monkeypatch.setattr(extras, "find_spec", lambda name, module=module: module)
        np.testing.assert_array_equal(decode(common, DecodeSpec(W, H)).pixels, wanted)


def test_files_are_listed_where_their_extra_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bigcluster.catalog import file_filter

    for name in ("a.jpg", "b.HEIC", "c.nef", "d.jxl", "e.txt", "f.heic"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(file_filter, "is_installed", lambda extra: False)
    listing = list_images(str(tmp_path), None)
    assert list(listing.names) == ["a.jpg"]
    assert left_out(listing.ignored) == (
        "left out: 2 .heic (pip install 'bigcluster[heif]' reads them), "
        "1 .jxl (pip install 'bigcluster[jxl]' reads them), "
        "1 .nef (pip install 'bigcluster[raw]' reads them), 1 .txt"
    )
    assert image_suffixes() == IMAGE_SUFFIXES
    monkeypatch.setattr(file_filter, "is_installed", lambda extra: extra == "heif")
    assert list(list_images(str(tmp_path), None).names) == ["a.jpg", "b.HEIC", "f.heic"]
    assert {module for module, _ in EXTRAS.values()} == {module for module, _ in extras._LIBRARIES.values()}
