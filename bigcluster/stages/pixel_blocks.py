"""The row blocks of the stored pixels: their marks, and the tables with the names and records of their files.

.bigcluster/marks/ingest/000007.json          vouches for the chunks of the block, and for its table
.bigcluster/ledger/000007-<digest>.columns    names and records, row by row, as columns
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing, StringArray
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import StoreError
from bigcluster.files.durable import digest_of, unlink_below
from bigcluster.files.shared_disk import comes_to_light
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.stage_names import INGEST
from bigcluster.stages.embedding import Embedding, n_row_values
from bigcluster.store import Columns, Digests, Mark, Store, fingerprint, read_table, table_of, write_table
from bigcluster.store.chunk_grid import block_chunks

BLOCK_ARRAYS = PIXELS, FEATURES, CLASSES = "pixels", "features", "classes"
"""The names of the arrays that hold the row blocks. `classes` has the numbers of the most probable classes of each
image in its first half of columns, and their probabilities in the second one."""
_ENDS, _NAMES = "name_ends", "names"
"""The columns of the names in a table."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Block:
    """Rows start .. stop - 1 of the listing. They have one row of chunks, one mark and one table."""

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


def _fingerprint(recipe: str, start: int, ends: NDArray[np.int64], names: NDArray[np.uint8]) -> str:
    """Return a fingerprint of which file is in which row and how it was decoded. It does not cover the content of
    files."""
    return fingerprint(recipe=recipe, start=start, ends=digest_of(ends.tobytes()), names=digest_of(names.tobytes()))


def fingerprint_of(block: Block, listing: Listing, recipe: str) -> str:
    """Return the fingerprint that a block of this listing has when it is decoded by this recipe."""
    return _fingerprint(recipe, block.start, *listing.names.to_columns(block.start, block.stop))


def write_block(
    store: Store, block: Block, listing: Listing, ledger: Ledger, square_sum: int
) -> tuple[Digests, dict[str, Any]]:
    """Write the table of a block, which is not yet synced. Return its digest, and what the mark of the block stores.

    ledger : the records of the rows of the block. square_sum : the sum of all squared values of the block.
    """
    digests = write_table(store.out, block.name, _columns_of(block, listing, ledger))
    return digests, {"start": block.start, "square_sum": square_sum, "contents": digest_of(ledger.contents())}


def _columns_of(block: Block, listing: Listing, ledger: Ledger) -> Columns:
    ends, names = listing.names.to_columns(block.start, block.stop)
    return {**ledger.to_columns(), _ENDS: ends, _NAMES: names}


def renew_records(store: Store, block: Block, mark: Mark, listing: Listing, ledger: Ledger) -> None:
    """Write new records of files whose contents are the same as before.

    Columns of the table and values of the mark that this version does not know stay: they depend on contents alone.
    mark : the mark of the block. ledger : the records of the rows of the block.
    """
    table = Table.of(store.out, mark)
    columns = ({} if table is None else table.columns) | _columns_of(block, listing, ledger)
    replace_table(store, block, mark, columns, {"contents": digest_of(ledger.contents())})


def replace_table(
    store: Store, block: Block, mark: Mark, columns: Columns, payload: Mapping[str, Any] = _NOTHING
) -> Mark:
    """Put another table in place of that for which the mark of a block vouches, and return the new mark.

    payload : the values of the mark that change. Killed at any point, the block has the one table or the other.
    """
    before = table_of(mark)
    table = write_table(store.out, block.name, columns)
    if table == before and payload.items() <= mark.payload.items():
        return mark
    others = {file: digest for file, digest in mark.digests.items() if file not in before}
    new = store.commit(INGEST, mark.fingerprint, others | table, {**mark.payload, **payload}, block.name)
    for file in before.keys() - table.keys():
        unlink_below(store.out / file, store.out)
    return new


class Table:
    """The table of a block as it was read. Names and records are made from its columns on each call."""

    def __init__(self, mark: Mark, columns: Columns) -> None:
        self._mark, self.columns = mark, columns

    @classmethod
    def of(cls, out: Path, mark: Mark | None) -> Table | None:
        """Return the table for which a mark vouches; None where there is none, or where it is damaged."""
        columns = None if mark is None else read_table(out, mark)
        return None if mark is None or columns is None else cls(mark, columns)

    def names(self, recipe: str | None = None) -> StringArray | None:
        """Return the names of the files, row by row; None where the table does not hold them.

        recipe : how pictures are decoded. The result is None where the block was decoded in another way.
        """
        try:
            ends, text = self.columns[_ENDS], self.columns[_NAMES]
            names = StringArray.from_columns(ends, text)
        except (KeyError, ValueError):
            return None
        start = self._mark.payload["start"]
        is_current = recipe is None or self._mark.fingerprint == _fingerprint(recipe, start, ends, text)
        return names if is_current else None

    def records(self) -> Ledger | None:
        """Return the records of the files, row by row; None where the table does not hold them."""
        try:
            return Ledger.from_columns(self.columns)
        except ValueError:
            return None


def records_in(store: Store, mark: Mark | None, n_rows: int) -> Ledger | None:
    """Return the records of a block of so many rows; None where they are missing or damaged."""
    table = Table.of(store.out, mark)
    ledger = None if table is None else table.records()
    return ledger if ledger is not None and len(ledger) == n_rows else None


def mark_of(store: Store, block: Block) -> Mark:
    """Read the mark of a block. Raises StoreError where it is missing or damaged."""
    comes_to_light(store.marks.path(INGEST, block.name))
    mark = store.mark(INGEST, block.name)
    if mark is None:
        raise StoreError(f"the mark of pixel block {block.index} in {store.root} is damaged; run again")
    return mark
