"""Row blocks of the stored pixels, and the marks that say which files they hold."""

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
    """Rows start .. stop - 1 of the listing: one row of chunks, one mark."""

    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its mark."""
        return f"{self.index:06d}"

    @property
    def rows(self) -> range:
        return range(self.start, self.stop)


def block_fingerprint(recipe: str, start: int, names: list[str]) -> str:
    """Covers which file is in which row, and how it was decoded; not what was in the files."""
    return fingerprint(recipe=recipe, start=start, names=[os.fsencode(name).hex() for name in names])


def fingerprint_of(block: Block, listing: Listing, recipe: str) -> str:
    return block_fingerprint(recipe, block.start, [listing.names[row] for row in block.rows])


def names_in(mark: Mark, recipe: str) -> list[str]:
    """The files of a block that was decoded by this recipe, row by row; none where it was another one."""
    names: list[str] = mark.payload.get("names", [])
    return names if mark.fingerprint == block_fingerprint(recipe, mark.payload.get("start", 0), names) else []


def records_in(mark: Mark) -> list[FileRecord]:
    return [FileRecord.from_json(values) for values in mark.payload["records"]]


def payload_of(block: Block, listing: Listing, ledger: list[FileRecord], squares: int) -> dict[str, Any]:
    """What the mark of a block remembers."""
    return {
        "start": block.start,
        "names": [listing.names[row] for row in block.rows],
        "records": [record.to_json() for record in ledger],
        "square_sum": squares,
    }


def mark_of(store: Store, block: Block) -> Mark:
    """Raises StoreError where it is gone or damaged."""
    mark = store.mark(INGEST, block.name)
    if mark is None:
        raise StoreError(f"the mark of pixel block {block.index} in {store.root} is damaged; run again")
    return mark
