"""Thumbnails, drawn from the stored pixels, and the WebP files (sprites) that hold many of them.

The stored pixels are what was clustered, and they remain when the files are gone. `drawing` reads every stored block
once. Pictures are shrunk by whole factors, by averages of blocks: this is linear, on which `pictures` relies. A page
shows one picture of a sprite by a nested SVG, without style or script.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.decode import DecodeSpec

THUMBNAIL_PIXELS = 112
"""Neither side of a thumbnail is longer, in pixels: it is sharp at its usual size on screens of high density."""
COLUMNS = 20
"""Pictures in one row of a sprite. Chosen, not measured."""
WEBP = {"quality": 60, "method": 0}
"""Options of Pillow. The quality, of 100, is chosen, not measured. Slower methods, up to 6, save 8 % of the bytes, and
take three times as long."""
STRIP_GAP = 3
"""Transparent pixels between two pictures of a strip. Chosen, not measured."""

Pixels = NDArray[np.uint8]


def factor_for(spec: DecodeSpec, most_pixels: int) -> int:
    """Return the least whole factor by which a picture must be shrunk so that no side is longer than `most_pixels`."""
    return -(-max(spec.width, spec.height) // most_pixels)


def shrunk_shape(spec: DecodeSpec, factor: int) -> tuple[int, ...]:
    """Return the shape of a picture that is shrunk by a factor: (height, width) or (height, width, 3)."""
    size = (max(1, spec.height // factor), max(1, spec.width // factor))
    return (*size, 3) if spec.color else size


def shrink(pixels: NDArray[Any], spec: DecodeSpec, factor: int, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Shrink pictures: every pixel becomes the average of factor x factor pixels.

    pixels : (n, d) uint8 or float32. rows : the rows to shrink, ascending; by default all of them. Returns
    (len(rows), *shrunk_shape) of the same dtype. Pixels at the right and lower edges that fill no whole square are left
    out.
    """
    chosen = range(len(pixels)) if rows is None else rows
    shape = shrunk_shape(spec, factor)
    full = (spec.height, spec.width, 3) if spec.color else (spec.height, spec.width)
    if factor == 1:
        return (pixels if rows is None else pixels[rows]).reshape(-1, *full)
    height, width = min(spec.height, shape[0] * factor), min(spec.width, shape[1] * factor)
    small = np.empty((len(chosen), *shape), pixels.dtype)
    for row, into in zip(chosen, small, strict=True):
        into[...] = cv2.resize(
            pixels[row].reshape(full)[:height, :width], (shape[1], shape[0]), interpolation=cv2.INTER_AREA
        )
    return small


class Thumbnails:
    """The thumbnails of chosen rows, in a scratch file. Its pages in memory belong to the system, not to the budget."""

    def __init__(self, path: Path, rows: NDArray[np.int64], spec: DecodeSpec) -> None:
        """Create the scratch file. rows : (n,), ascending good rows."""
        self.rows = rows
        self.factor = factor_for(spec, THUMBNAIL_PIXELS)
        self.shape = shrunk_shape(spec, self.factor)
        self._bytes = int(np.prod(self.shape))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        path.unlink()  # the file exists as long as it is open: a killed process leaves nothing behind

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return self.shape[1], self.shape[0]

    def write(self, first: int, pictures: NDArray[np.uint8]) -> None:
        """Write the pictures of rows[first], rows[first + 1], ... pictures : (n, *shape)."""
        data = memoryview(pictures.tobytes())
        at = first * self._bytes
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pictures of some of the rows, in any order: (n, *shape). Raises ValueError for any other row."""
        slots = np.searchsorted(self.rows, rows)
        if not np.array_equal(self.rows[slots], rows):
            raise ValueError("a picture was not selected")
        data = b"".join(os.pread(self._file, self._bytes, slot * self._bytes) for slot in slots.tolist())
        return np.frombuffer(data, np.uint8).reshape(-1, *self.shape)

    def close(self) -> None:
        """Close the scratch file, which removes it."""
        os.close(self._file)


@dataclass(frozen=True)
class Sprite:
    """A WebP file of pictures (tiles) of one size, row by row."""

    href: str
    """URL relative to report/."""
    tile: tuple[int, int]
    """(width, height) of one picture in pixels"""
    width: int
    """Of the whole file in pixels; so is `height`."""
    height: int

    def view_box(self, index: int) -> str:
        """Return the viewBox attribute of SVG that shows the tile `index`."""
        width, height = self.tile
        row, column = divmod(index, self.width // width)
        return f"{column * width} {row * height} {width} {height}"


def write_sprite(folder: Path, href: str, tiles: Pixels, columns: int = COLUMNS) -> Sprite:
    """Write pictures into one WebP file, `columns` of them in a row.

    tiles : (n, h, w) or (n, h, w, 3), n at least 1. href : the path below `folder`.
    """
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
    """Write pictures below each other with transparent gaps into one WebP file; return its (width, height).

    tiles : (n, h, w) or (n, h, w, 3), n at least 1. href : the path below `folder`.
    """
    n_tiles, height, width = tiles.shape[:3]
    strip = np.zeros((n_tiles, height + STRIP_GAP, width, 4), np.uint8)
    strip[:, :height, :, :3] = tiles if tiles.ndim == 4 else tiles[..., np.newaxis]
    strip[:, :height, :, 3] = 255
    whole = strip.reshape(-1, width, 4)[:-STRIP_GAP]
    _save(Image.fromarray(whole), folder / href)
    return width, len(whole)


def write_picture(folder: Path, href: str, picture: Pixels) -> None:
    """Write one picture, (h, w) or (h, w, 3), as a WebP file. href : the path below `folder`."""
    _save(Image.fromarray(picture), folder / href)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "WEBP", **WEBP)
