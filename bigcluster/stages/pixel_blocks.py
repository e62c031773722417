"""The row blocks of the stored pixels, and the marks that say which files each block holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import StoreError
from bigcluster.planning.stage_names import INGEST
from bigcluster.store import Mark, Store, fingerprint


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
