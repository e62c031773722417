"""Many pictures in one WebP file. A page cuts its tiles out of it with a nested SVG: no style, no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLUMNS = 20
QUALITY = 60
_EFFORT = 0
"""The slower ones save 8 % of the bytes and take three times as long."""
STRIP_GAP = 3

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sprite:
    """A file of tiles of one size, row by row."""

    href: str
    """Relative to report/."""
    tile: tuple[int, int]
    """(width, height)"""
    width: int
    height: int

    def view_box(self, index: int) -> str:
        """Where tile `index` is, as SVG says it."""
        width, height = self.tile
        row, column = divmod(index, self.width // width)
        return f"{column * width} {row * height} {width} {height}"


def write_sprite(folder: Path, href: str, tiles: Pixels, columns: int = COLUMNS) -> Sprite:
    """tiles : (n, h, w) or (n, h, w, 3), n at least 1."""
    n_tiles, height, width = tiles.shape[:3]
    columns = min(columns, n_tiles)
    n_rows = -(-n_tiles // columns)
    sheet = np.zeros((n_rows * columns, *tiles.shape[1:]), np.uint8)
    sheet[:n_tiles] = tiles
    grid = sheet.reshape(n_rows, columns, *tiles.shape[1:]).swapaxes(1, 2)  # (rows, h, columns, w[, 3])
    whole = grid.reshape(n_rows * height, columns * width, *tiles.shape[3:])
    _save(Image.fromarray(whole), folder / href)
    return Sprite(href, (width, height), columns * width, n_rows * height)


def write_strip(folder: Path, href: str, tiles: Pixels) -> tuple[int, int]:
    """Tiles below each other with clear gaps; returns (width, height)."""
    n_tiles, height, width = tiles.shape[:3]
    strip = np.zeros((n_tiles, height + STRIP_GAP, width, 4), np.uint8)
    strip[:, :height, :, :3] = tiles if tiles.ndim == 4 else tiles[..., np.newaxis]
    strip[:, :height, :, 3] = 255
    whole = strip.reshape(-1, width, 4)[:-STRIP_GAP]
    _save(Image.fromarray(whole), folder / href)
    return width, len(whole)


def write_picture(folder: Path, href: str, picture: Pixels) -> None:
    """One picture of its own."""
    _save(Image.fromarray(picture), folder / href)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "WEBP", quality=QUALITY, method=_EFFORT)
