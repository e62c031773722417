"""Small pictures from the stored pixels: one pass in row order, every stored block read once.

The pixels in the store are what was clustered, and they are there when the files are gone. Pictures are shrunk by whole
factors: a block average, and so linear, which `pictures` relies on.

Many pictures in one WebP file. A page cuts its tiles out of it with a nested SVG: no style, no script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.decode import DecodeSpec
from bigcluster.runtime.threads import Runtime
from bigcluster.store import read_whole

THUMBNAIL_PIXELS = 112
"""Neither side of a thumbnail is longer: sharp at its usual size on screens of high density."""


def factor_for(spec: DecodeSpec, most_pixels: int) -> int:
    """The whole factor by which a picture is shrunk so that neither side is longer than `most_pixels`."""
    return -(-max(spec.width, spec.height) // most_pixels)


def shrunk_shape(spec: DecodeSpec, factor: int) -> tuple[int, ...]:
    """(height, width) or (height, width, 3) of a picture shrunk by that factor."""
    size = (max(1, spec.height // factor), max(1, spec.width // factor))
    return (*size, 3) if spec.color else size


def shrink(pixels: NDArray[Any], spec: DecodeSpec, factor: int, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """(n, d) uint8 or float32 -> (n, *shrunk_shape): averages of factor x factor pixels, the odd rest at the far edges
    left out. rows : which of the rows, ascending; all of them by default."""
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
    """The small pictures of chosen rows, in a scratch file: pages of it belong to the system, not to the budget."""

    def __init__(self, path: Path, rows: NDArray[np.int64], spec: DecodeSpec) -> None:
        """rows : ascending."""
        self.rows = rows
        self.factor = factor_for(spec, THUMBNAIL_PIXELS)
        self.shape = shrunk_shape(spec, self.factor)
        self._bytes = int(np.prod(self.shape))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        path.unlink()  # it lasts as long as it is open: a kill leaves nothing

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.shape[1], self.shape[0]

    def write(self, first: int, pictures: NDArray[np.uint8]) -> None:
        """Pictures of rows[first], rows[first + 1], ..."""
        data = memoryview(pictures.tobytes())
        at = first * self._bytes
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, *shape) of some of the rows, in any order."""
        slots = np.searchsorted(self.rows, rows)
        if not np.array_equal(self.rows[slots], rows):
            raise ValueError("a picture was not selected")
        data = b"".join(os.pread(self._file, self._bytes, slot * self._bytes) for slot in slots.tolist())
        return np.frombuffer(data, np.uint8).reshape(-1, *self.shape)

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True)
class Block:
    """One stored block of rows: good rows start .. stop - 1."""

    start: int
    stop: int
    physical: NDArray[np.int64]
    """Where these rows are in the stored array."""


def row_blocks(ok: NDArray[np.bool_], chunk_rows: int) -> Iterator[Block]:
    """The good rows of every stored block, in order."""
    physical = np.flatnonzero(ok)
    edges = np.searchsorted(physical, np.arange(0, len(ok) + chunk_rows, chunk_rows))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if stop > start:
            yield Block(start, stop, physical[start:stop])


TakeAll = Callable[[Block, NDArray[Any]], None]
"""Takes a block's pictures of all good rows, shrunk by the factor that was asked for; called in row order."""


def draw_thumbnails(
    pixels: Any,
    ok: NDArray[np.bool_],
    spec: DecodeSpec,
    thumbnails: Thumbnails,
    keep: NDArray[np.int64],
    factor: int,
    runtime: Runtime,
    in_flight: int,
    advance: Callable[[], None],
    take_all: TakeAll | None = None,
) -> NDArray[np.uint8]:
    """Fill the thumbnails from the stored array; with `take_all`, hand over all rows on the way.

    keep : some of the thumbnails' rows, ascending, that are returned shrunk by `factor` only. Blocks of which nothing
    is wanted are not read. `advance` counts blocks.
    """
    kept = np.empty((len(keep), *shrunk_shape(spec, factor)), np.uint8)

    def load(block: Block) -> tuple[Block, NDArray[np.uint8] | None]:
        first, last = np.searchsorted(thumbnails.rows, [block.start, block.stop]).tolist()
        if first == last and take_all is None:
            return block, None
        origin = int(block.physical[0])
        stored = read_whole(pixels, slice(origin, int(block.physical[-1]) + 1))
        places = block.physical - origin  # of the good rows
        thumbnails.write(
            first, shrink(stored, spec, thumbnails.factor, places[thumbnails.rows[first:last] - block.start])
        )
        a, b = np.searchsorted(keep, [block.start, block.stop]).tolist()
        kept[a:b] = shrink(stored, spec, factor, places[keep[a:b] - block.start])
        return block, None if take_all is None else shrink(stored, spec, factor, places)

    for block, every in runtime.map(load, row_blocks(ok, pixels.chunks[0]), in_flight=in_flight):
        if take_all is not None and every is not None:
            take_all(block, every)
        advance()
    return kept


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
