"""One pass over the stored pixels: thumbnails, pictures as they are stored, and sums of pictures.

A part of the pass is a run of row blocks, which any worker of a cluster can read. In the process that asks, what is
drawn goes where it belongs at once; from other processes it comes back part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.report import PART_BYTES, PARTS_AT_ONCE
from bigcluster.report.thumbnails import Pixels, Thumbnails, shrink, shrunk_shape
from bigcluster.runtime.cluster import Cluster, Local, Part, Worker
from bigcluster.store import Store, read_whole
from bigcluster.store.refs import StoreRef
from bigcluster.store.row_source import spans


@dataclass(frozen=True)
class Block:
    """The good rows start .. stop - 1, which lie in one stored block."""

    start: int
    stop: int
    physical: NDArray[np.int64]
    """(stop - start,), the places of these rows in the stored array."""


def row_blocks(ok: NDArray[np.bool_], chunk_rows: int) -> Iterator[Block]:
    """Yield the good rows of every stored block that has any, in order. ok : (n_listed,). chunk_rows : of the store."""
    physical = np.flatnonzero(ok)
    edges = np.searchsorted(physical, np.arange(0, len(ok) + chunk_rows, chunk_rows))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if stop > start:
            yield Block(start, stop, physical[start:stop])


class Summing(Protocol):
    """How shrunk pictures are added up, block by block in row order."""

    @property
    def is_exact(self) -> bool:
        """Whether sums of parts may be added in any grouping. Otherwise those of blocks are added in their order."""

    def zeros(self) -> NDArray[Any]:
        """Return sums of nothing."""

    def add(self, store: Store, sums: NDArray[Any], block: Block, pictures: Pixels) -> None:
        """Add the pictures of all good rows of a block, (rows, h, w) or (rows, h, w, 3) uint8, to `sums`."""


@dataclass(frozen=True)
class Canvas:
    """What the pass fills."""

    thumbnails: Thumbnails
    originals: Pixels
    """(n, *shrunk_shape), the pictures of `DrawBlocks.original_rows`."""
    sums: NDArray[Any] | None
    """The sums of all pictures; None where nothing is summed."""
    advance: Callable[[], None]
    """A function that is called after each block."""

    def take(self, drawn: Drawn) -> None:
        """Put what was drawn of a block by another process where it belongs."""
        self.thumbnails.write(drawn.first, drawn.thumbnails)
        self.originals[drawn.first_original :][: len(drawn.originals)] = drawn.originals
        if drawn.sums is not None:
            assert self.sums is not None
            np.add(self.sums, drawn.sums, out=self.sums)
        self.advance()


@dataclass(frozen=True)
class Drawn:
    """What was drawn of one block."""

    first: int
    """The position of the first one of the thumbnails among those of the report."""
    thumbnails: Pixels
    first_original: int
    originals: Pixels
    sums: NDArray[Any] | None = None
    """The sums of the block; where they are exact, the last block has those of the whole part."""


@dataclass(frozen=True)
class DrawBlocks:
    """Draw the pictures of runs of row blocks. The units are positions among the blocks that have good rows."""

    store: StoreRef
    spec: DecodeSpec
    rows: NDArray[np.int64]
    """The good rows that have thumbnails, ascending."""
    thumbnail_factor: int
    original_rows: NDArray[np.int64]
    """Some of `rows`, ascending."""
    factor: int
    """Of the pictures of `original_rows`, and of those that are summed."""
    summing: Summing | None
    in_flight: int
    """Row blocks that are read at once in one process."""
    ok: Local[NDArray[np.bool_]] = field(default_factory=Local, compare=False, repr=False)
    """(n_listed,). Other processes load it from the store."""
    canvas: Local[Canvas] = field(default_factory=Local, compare=False, repr=False)

    def __call__(self, worker: Worker, part: Part) -> list[Drawn]:
        store, canvas, summing = self.store.open(worker), self.canvas.value, self.summing
        pixels = store.array("pixels")
        ok = np.asarray(store.load("ok"), bool) if self.ok.value is None else self.ok.value
        blocks = list(row_blocks(ok, pixels.chunks[0]))[part.start : part.stop]

        def load(block: Block) -> tuple[Drawn, Pixels | None]:
            drawn, every = self._draw(pixels, block)
            if canvas is None:
                return drawn, every
            canvas.thumbnails.write(drawn.first, drawn.thumbnails)
            return replace(drawn, thumbnails=drawn.thumbnails[:0]), every

        sums = canvas.sums if canvas is not None else None if summing is None else summing.zeros()
        found: list[Drawn] = []
        for block, (drawn, every) in zip(
            blocks, worker.runtime.map(load, blocks, in_flight=self.in_flight), strict=True
        ):
            if summing is not None and every is not None:
                assert sums is not None
                summing.add(store, sums, block, every)
            if canvas is not None:
                canvas.take(drawn)
            elif summing is None or (summing.is_exact and block is not blocks[-1]):
                found.append(drawn)
            else:
                found.append(replace(drawn, sums=sums))
                sums = summing.zeros()
        return found

    def _draw(self, pixels: Any, block: Block) -> tuple[Drawn, Pixels | None]:
        """Read a block; return what was drawn of it, and the pictures of all its good rows where they are summed.

        A block of which no row is needed is not read.
        """
        first, last = np.searchsorted(self.rows, [block.start, block.stop]).tolist()
        at, end = np.searchsorted(self.original_rows, [block.start, block.stop]).tolist()
        if first == last and self.summing is None:
            none = np.empty((0, *shrunk_shape(self.spec, self.factor)), np.uint8)
            return Drawn(first, none, at, none), None
        origin = int(block.physical[0])
        stored = read_whole(pixels, slice(origin, int(block.physical[-1]) + 1))
        places = block.physical - origin  # of the good rows
        tiles = shrink(stored, self.spec, self.thumbnail_factor, places[self.rows[first:last] - block.start])
        originals = shrink(stored, self.spec, self.factor, places[self.original_rows[at:end] - block.start])
        every = None if self.summing is None else shrink(stored, self.spec, self.factor, places)
        return Drawn(first, tiles, at, originals), every


def draw(job: DrawBlocks, canvas: Canvas, ok: NDArray[np.bool_], chunk_rows: int, cluster: Cluster) -> None:
    """Fill the canvas by one pass over the pixels. ok : (n_listed,). chunk_rows : of the stored pixels."""
    n_blocks = sum(1 for _ in row_blocks(ok, chunk_rows))
    n_bytes = len(job.rows) * int(np.prod(shrunk_shape(job.spec, job.thumbnail_factor)))
    per_worker = max(4, -(-n_bytes // (PART_BYTES * cluster.n_workers)))
    if job.summing is not None and not job.summing.is_exact:
        per_worker = n_blocks  # as the sums of each block are sent, a part is one block
    job = replace(job, ok=Local(ok), canvas=Local(canvas))
    parts = cluster.parts(n_blocks, per_worker)
    for first, last in spans(len(parts), PARTS_AT_ONCE):
        for found in cluster.spread(job, parts[first:last]):
            for drawn in found:
                canvas.take(drawn)
