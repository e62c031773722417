"""Features are made of the decode that makes the pixels: a second view of the picture, filled row by row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bigcluster.catalog import FileRecord, list_images
from bigcluster.kernels.decode import Decoded, DecodeSpec, View, decode, prepare_codecs
from bigcluster.kernels.decode.resize import resize_for_network
from bigcluster.runtime.events import Progress
from bigcluster.stages.loading.loader import Loader

RNG = np.random.default_rng(5)
PIXELS = DecodeSpec(8, 6, color=True)
VIEW = View(32, 32, "crop")
BOTH = DecodeSpec(8, 6, color=True, view=VIEW)


def picture(width: int, height: int, form: str, **options: int | bool) -> bytes:
    levels = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC).save(file, form, **options)
    return file.getvalue()


def pixels_of(decoded: Decoded) -> NDArray[np.uint8]:
    assert decoded.status == "ok"
    assert decoded.pixels is not None
    return decoded.pixels


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_a_view_is_the_picture_at_another_size(form: str, fit: str) -> None:
    data = picture(70, 50, form)
    both = pixels_of(decode(data, DecodeSpec(8, 6, color=True, view=View(20, 30, fit))))
    np.testing.assert_array_equal(both[: 8 * 6 * 3], pixels_of(decode(data, PIXELS)))
    whole = pixels_of(decode(data, DecodeSpec(70, 50, color=True))).reshape(50, 70, 3)
    np.testing.assert_array_equal(both[8 * 6 * 3 :], resize_for_network(whole, 20, 30, fit).reshape(-1))


def test_normalizing_the_pixels_leaves_the_view() -> None:
    data = picture(40, 40, "PNG")
    both = pixels_of(decode(data, DecodeSpec(8, 6, color=True, normalize="image", view=VIEW)))
    np.testing.assert_array_equal(both[144:], pixels_of(decode(data, DecodeSpec(8, 6, color=True, view=VIEW)))[144:])


def test_a_jpeg_is_decoded_at_a_scale_that_suffices_for_both() -> None:
    data = picture(640, 480, "JPEG", quality=90)
    view = pixels_of(decode(data, BOTH))[144:]
    eighth = pixels_of(decode(data, DecodeSpec(80, 60, color=True))).reshape(60, 80, 3)
    np.testing.assert_array_equal(view, resize_for_network(eighth, 32, 32, "crop").reshape(-1))
    small = pixels_of(decode(data, PIXELS)).astype(int)  # decoded at an eighth, and so is the view
    assert np.abs(pixels_of(decode(data, BOTH))[:144] - small).max() <= 2


class Means:
    """The mean of each channel of the view; no features for a view that is black."""

    n_features = 3

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[np.float32]) -> str:
        assert view is not None
        assert view.shape == (32, 32, 3)
        out[:] = view.mean(axis=(0, 1))
        return "" if view.any() else "the picture is black"


def load(folder: Path, isolate_rows: tuple[tuple[int, int], ...] = ()) -> tuple[list[FileRecord], NDArray[np.float32]]:
    listing = list_images(str(folder), None)
    pixels = np.full((len(listing), 144), 7, np.uint8)
    features = np.full((len(listing), 3), 7, np.float32)
    with Loader(
        listing,
        BOTH,
        threads=2,
        timeout_seconds=20,
        progress=Progress(),
        isolate_rows=isolate_rows,
        row_features=Means(),
    ) as loader:
        records = loader.load(range(len(listing)), pixels, 0, features=features)
        again = loader.load(range(len(listing)), pixels, 0, dict(enumerate(records)), features)
        assert again == records
    for row, record in enumerate(records):
        decoded = decode(Path(listing.path(row)).read_bytes(), BOTH).pixels
        if record.ok:
            assert decoded is not None
            np.testing.assert_array_equal(pixels[row], decoded[:144])
            view = decoded[144:].reshape(32, 32, 3)
            np.testing.assert_array_equal(features[row], view.mean(axis=(0, 1)).astype(np.float32))
        else:
            assert not pixels[row].any()
            assert not features[row].any()
    return records, features


@pytest.mark.parametrize("isolate_rows", [(), ((0, 9),)], ids=["together", "isolated"])
def test_the_loader_fills_features_beside_pixels(tmp_path: Path, isolate_rows: tuple[tuple[int, int], ...]) -> None:
    prepare_codecs()
    for name, form in {"a.png": "PNG", "b.jpg": "JPEG", "c.webp": "WEBP", "d.tif": "TIFF"}.items():
        (tmp_path / name).write_bytes(picture(90, 60, form))
    Image.new("RGB", (40, 40)).save(tmp_path / "e.png")
    (tmp_path / "f.png").write_bytes(picture(90, 60, "PNG")[:200])
    records, _ = load(tmp_path, isolate_rows)
    assert [record.status for record in records[:5]] == ["ok", "ok", "ok", "ok", "no_features"]
    assert records[4].reason == "the picture is black"
    assert records[4].digest
    assert records[5].status in ("truncated", "damaged")


def test_a_picture_that_is_looked_at_again_has_its_features(tmp_path: Path) -> None:
    prepare_codecs()
    data = picture(160, 120, "JPEG", quality=90)
    middle = len(data) // 2
    (tmp_path / "a.jpg").write_bytes(data[:middle] + b"\x55\xaa" * 20 + data[middle + 40 :])
    (tmp_path / "b.jpg").write_bytes(data)
    records, features = load(tmp_path)
    assert [record.status for record in records] == ["damaged", "ok"]
    assert features[1].all()
