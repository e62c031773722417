"""A run on the pixels of photographs says once what would group them by what they show; other images bring no hint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, picture
from PIL import Image

from bigcluster.models.registry import find
from bigcluster.pipeline.run import PHOTOS_HINT


def draw(folder: Path, kind: str) -> Path:
    """20 pictures: photos are JPEGs in colour, portrait and landscape; the others differ from them in one thing."""
    folder.mkdir()
    for number in range(20):
        sides = (60, 40) if kind == "of one size" or number % 2 else (40, 60)
        drawn = Image.fromarray(np.stack([picture(3 * number + band, *sides) for band in range(3)], axis=-1))
        grey = kind == "grey" or (kind == "mixed" and number % 4 == 0)
        suffix = "png" if kind == "png" else "jpg"
        (drawn.convert("L") if grey else drawn).save(folder / f"{number}.{suffix}")
    return folder


@pytest.mark.parametrize("kind", ["photos", "of one size", "grey", "mixed", "png"])
def test_photographs_bring_a_hint_once(cli: Cli, tmp_path: Path, kind: str) -> None:
    args = ("run", draw(tmp_path / "in", kind), "-k", 2, "--out")
    ran = cli(*args, tmp_path / "out")
    assert ran.code == 0, ran.err
    assert ran.err.splitlines().count(PHOTOS_HINT) == (kind == "photos")
    if kind == "photos":
        again = cli(*args, tmp_path / "out", "--seed", 1)
        assert again.code == 0, again.err
        assert "--features" not in again.err
        assert "--features" not in cli(*args, tmp_path / "quiet", "--quiet").err


def test_the_hint_names_a_network_of_that_size() -> None:
    (name,) = [word for word in PHOTOS_HINT.split() if word.startswith("mobilenet")]
    assert f"({round((find(name).files[0].n_bytes or 0) / 1e6)} MB are fetched once)" in PHOTOS_HINT


@pytest.mark.slow
def test_the_hint_comes_for_photos_and_not_for_drawings(cli: Cli, shared: Path, tmp_path: Path) -> None:
    assert cli("demo", tmp_path / "demo", "--images", 60, "--quiet").code == 0
    letters = sorted((shared / "images" / "omniglot" / "images_background_small1").iterdir())[0]
    for images, expected in ((shared / "images" / "clothing" / "hat", 1), (letters, 0), (tmp_path / "demo", 0)):
        ran = cli("run", images, "--out", tmp_path / f"out {images.name}", "-k", 3, "--set", "report.write=false")
        assert ran.code == 0, ran.err
        assert ran.err.splitlines().count(PHOTOS_HINT) == expected, images
