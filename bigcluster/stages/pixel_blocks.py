"""The row blocks of the stored pixels, and the marks that say which files each block holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.stage_names import INGEST
from bigcluster.stages.embedding import Embedding, n_row_values
from bigcluster.store import Mark, Store, fingerprint
from bigcluster.store.chunk_grid import block_chunks

BLOCK_ARRAYS = PIXELS, FEATURES, CLASSES = "pixels", "features", "classes"
"""The names of the arrays that hold the row blocks. `classes` has the numbers of the most probable classes of each
image in its first half of columns, and their probabilities in the second one."""


@dataclass(frozen=True)
class Block:
    """Rows start .. stop - 1 of the listing. They have one row of chunks and one mark."""

    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the mark of this block."""
        return f"{self.index:06d}"

    @property
    def rows(self) -> range:
        """The listed rows of this block."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class BlockArray:
    """One of the arrays that hold the row blocks. A row block is one row of its chunks."""

    name: str
    dtype: str
    n_columns: int
    chunks: tuple[int, int]


@dataclass(frozen=True)
class BlockLayout:
    """The arrays of a row block: the pixels and, where an embedding makes them, the features and the classes."""

    arrays: tuple[BlockArray, ...]
    n_features: int = 0
    n_row_values: int = 0
    """The number of values of a row that the embedding fills; 0 where the pixels are the features."""

    @property
    def block_rows(self) -> int:
        """The number of rows of a block."""
        return self.arrays[0].chunks[0]

    @classmethod
    def of(cls, spec: DecodeSpec, block_shape: tuple[int, int], embedding: Embedding | None) -> BlockLayout:
        """Return the layout of blocks with this shape of a chunk of pixels."""
        pixels = BlockArray(PIXELS, "uint8", spec.n_values, block_shape)
        if embedding is None:
            return cls((pixels,))

        def beside(name: str, dtype: str, n_columns: int) -> BlockArray:
            itemsize = np.dtype(dtype).itemsize
            return BlockArray(name, dtype, n_columns, block_chunks(block_shape[0], n_columns, itemsize))

        arrays = [pixels, beside(FEATURES, embedding.dtype, embedding.n_features)]
        if embedding.n_classes:
            arrays.append(beside(CLASSES, "float32", 2 * embedding.n_classes))
        return cls(tuple(arrays), embedding.n_features, n_row_values(embedding))


def block_fingerprint(recipe: str, start: int, names: list[str]) -> str:
    """Return a fingerprint of which file is in which row and how it was decoded. It does not cover the content of
    files."""
    return fingerprint(recipe=recipe, start=start, names=[os.fsencode(name).hex() for name in names])


def fingerprint_of(block: Block, listing: Listing, recipe: str) -> str:
    """Return the fingerprint that a block of this listing has when it is decoded by this recipe."""
    return block_fingerprint(recipe, block.start, [listing.names[row] for row in block.rows])


def names_in(mark: Mark, recipe: str) -> list[str]:
    """Return the names of the files of a block, row by row; an empty list where another recipe decoded it."""
    names: list[str] = mark.payload.get("names", [])
    return names if mark.fingerprint == block_fingerprint(recipe, mark.payload.get("start", 0), names) else []


def records_in(mark: Mark) -> list[FileRecord]:
    """Return the records in the mark of a block, row by row."""
    return [FileRecord.from_json(values) for values in mark.payload["records"]]


def payload_of(block: Block, listing: Listing, ledger: list[FileRecord], squares: int) -> dict[str, Any]:
    """Return what the mark of a block stores. squares : the sum of all squared values of the block."""
    return {
        "start": block.start,
        "names": [listing.names[row] for row in block.rows],
        "records": [record.to_json() for record in ledger],
        "square_sum": squares,
    }


def mark_of(store: Store, block: Block) -> Mark:
    """Read the mark of a block. Raises StoreError where it is missing or damaged."""
    mark = store.mark(INGEST, block.name)
    if mark is None:
        raise StoreError(f"the mark of pixel block {block.index} in {store.root} is damaged; run again")
    return mark
