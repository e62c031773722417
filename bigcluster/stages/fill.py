"""This module fills row blocks of pixels. Rows are copied from blocks of an earlier run, or decoded from the files.

`Freshness` decides without reading a file whether the record of that file is still valid.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.catalog.ledger import Ledger
from bigcluster.kernels.decode import DecodeSpec, needs_extra
from bigcluster.kernels.linalg.loops import pixel_sums
from bigcluster.planning.stage_names import INGEST
from bigcluster.stages.known_records import KnownRecords
from bigcluster.stages.loading.files import is_out_of_reach, stat_of
from bigcluster.stages.loading.loader import Loader
from bigcluster.stages.loading.sample import check_native
from bigcluster.stages.pixel_blocks import (
    Block,
    BlockLayout,
    fingerprint_of,
    mark_of,
    records_in,
    renew_records,
    write_block,
)
from bigcluster.stages.reuse import PreviousBlocks
from bigcluster.store import Digests, Store


@dataclass(frozen=True)
class Freshness:
    """Decides whether the records of earlier runs are still valid for this listing and for the limits of this run."""

    listing: Listing
    spec: DecodeSpec
    timeout_seconds: float
    rehash: bool = False
    """Whether every file is read again, whatever its size and time are."""
    closed: dict[str, None] = field(default_factory=dict)
    """Folders, relative to the root, with files that could not be examined. `holds` adds to it, from any thread."""

    def holds(self, row: int, record: FileRecord) -> bool:
        """Return whether the record of the row's file is still valid, so that the file need not be decoded again.

        A file that cannot be examined counts as unchanged: its decoded pixels are not discarded.
        """
        path = self.listing.path(row)
        size_and_time = stat_of(path)
        if size_and_time == (None, None) and record.digest and is_out_of_reach(path):
            self.closed[os.path.dirname(self.listing.names[row])] = None
            return self.is_final(record)
        if self.rehash or size_and_time != (record.n_bytes, record.mtime_ns):
            return False
        if record.status == "missing":
            return True
        if record.status == "unreadable":
            return not (self.listing.is_readable_file(row) and os.access(path, os.R_OK))
        return self.listing.may_read(row) and self.is_final(record)

    def is_final(self, record: FileRecord) -> bool:
        """Return whether decoding the same content again would give the same record in this run."""
        if record.status == "too_large" and record.needed_bytes is not None:
            return self.spec.max_bytes is not None and record.needed_bytes > self.spec.max_bytes
        if record.status == "unsupported" and needs_extra(record.reason) is not None:
            return False
        if record.tried_seconds is not None:
            return record.tried_seconds >= self.timeout_seconds
        return record.status not in ("changed_during_run", "missing", "unreadable")


@dataclass(frozen=True)
class Filled:
    """A block that is written but has no mark yet."""

    block: Block
    digests: Digests
    payload: dict[str, Any]
    n_decoded: int


@dataclass(frozen=True)
class _Buffers:
    """The memory of one row block."""

    pixels: NDArray[np.uint8]
    """(n_rows, d)"""
    features: NDArray[Any] | None
    """(n_rows, n_row_values): features and then classes. It is None where the pixels are the features."""

    def first_rows(self, n_rows: int) -> _Buffers:
        return _Buffers(self.pixels[:n_rows], None if self.features is None else self.features[:n_rows])

    def by_name(self, layout: BlockLayout) -> dict[str, NDArray[Any]]:
        """Return views of the values of each array of the layout, by its name."""
        if self.features is None:
            return {layout.arrays[0].name: self.pixels}
        parts = (self.pixels, self.features[:, : layout.n_features], self.features[:, layout.n_features :])
        return {array.name: part for array, part in zip(layout.arrays, parts, strict=False)}


def stale_rows(
    block: Block, store: Store, listing: Listing, recipe: str, freshness: Freshness
) -> tuple[Ledger, list[int]] | None:
    """Return the records of a block, and the rows whose files may have changed since it was filled.

    The result is None where the block holds other files or is not filled.
    """
    mark = store.mark(INGEST, block.name)
    if mark is None or mark.fingerprint != fingerprint_of(block, listing, recipe):
        return None
    records = records_in(store, mark, len(block.rows))
    if records is None:
        return None
    return records, [row for row, record in zip(block.rows, records, strict=True) if not freshness.holds(row, record)]


class Filling:
    """Brings row blocks of one listing up to date."""

    def __init__(
        self,
        listing: Listing,
        store: Store,
        recipe: str,
        loader: Loader,
        freshness: Freshness,
        native_size: tuple[int, int] | None,
        layout: BlockLayout,
        previous: PreviousBlocks,
        records: KnownRecords | None = None,
    ) -> None:
        """records : takes the records of blocks that are brought up to date."""
        self._listing, self._store, self._recipe = listing, store, recipe
        self._loader, self._freshness, self._native_size = loader, freshness, native_size
        self._layout, self._previous, self._records = layout, previous, records
        self._spare: list[_Buffers] = []

    def confirm(self, block: Block) -> bool:
        """Return whether the stale files of a block have the same content as before. Their new times are stored."""
        found = stale_rows(block, self._store, self._listing, self._recipe, self._freshness)
        if found is None:
            return False
        ledger, stale = found
        known = dict(zip(stale, ledger.at([row - block.start for row in stale]), strict=True))
        if not all(map(self._freshness.is_final, known.values())):
            return False
        now = self._loader.compare(known)
        if now is None:
            return False
        if now:
            for row, record in now.items():
                ledger.set(row - block.start, record)
            renew_records(self._store, block, mark_of(self._store, block), self._listing, ledger)
        if self._records is not None:
            self._records.put(block, ledger)
        return True

    def fill(self, block: Block) -> Filled:
        """Decode one block and write it. `commit` makes it permanent."""
        buffers = self._take_buffers()
        # Every row is filled below: copied, decoded, or zeros where that failed.
        values = buffers.first_rows(len(block.rows))
        ledger: dict[int, FileRecord] = {}
        known: dict[int, FileRecord] = {}
        for source in self._previous.sources(block):
            final = [i for i, record in enumerate(source.records) if self._freshness.is_final(record)]
            for i in final:
                row, record = source.to[i], source.records[i]
                (ledger if self._freshness.holds(row, record) else known)[row] = record
            at = np.array(source.rows, np.int64)[final]
            to = np.array(source.to, np.int64)[final] - block.start
            for name, array in values.by_name(self._layout).items():
                self._previous.copy(name, source.slot, at, array, to)
        rest = [row for row in block.rows if row not in ledger]
        self._loader.skip(len(ledger))
        loaded = self._loader.load(rest, values.pixels, block.start, known, values.features)
        ledger |= zip(rest, loaded, strict=True)
        in_order = [ledger[row] for row in block.rows]
        if self._native_size is not None:
            check_native(self._listing, block.start, in_order, self._native_size)
        n_decoded = sum(row not in known or known[row].digest != ledger[row].digest for row in rest)
        filled = self._write(block, values, Ledger.of(in_order), n_decoded)
        self._spare.append(buffers)
        return filled

    def _take_buffers(self) -> _Buffers:
        """Return memory for one block, from a finished block where possible: the system takes as long to hand out new
        memory as a copy takes."""
        try:
            return self._spare.pop()
        except IndexError:
            pixels = self._layout.arrays[0]
            n_rows = min(self._layout.block_rows, len(self._listing))
            features = None
            if self._layout.n_row_values:
                features = np.empty((n_rows, self._layout.n_row_values), self._layout.arrays[1].dtype)
            return _Buffers(np.empty((n_rows, pixels.n_columns), np.uint8), features)

    def _write(self, block: Block, values: _Buffers, ledger: Ledger, n_decoded: int) -> Filled:
        # Rows of failed files are zeros: they add nothing to either sum.
        store = self._store
        store.marks.remove(INGEST, block.name)
        digests: Digests = {}
        for name, array in values.by_name(self._layout).items():
            digests |= store.write_rows(name, block.start, array)
        sums, square_sum = pixel_sums(values.pixels)
        digests |= store.write_rows("sums", block.index, sums[np.newaxis])
        table, payload = write_block(store, block, self._listing, ledger, square_sum)
        if self._records is not None:
            self._records.put(block, ledger)
        return Filled(block, digests | table, payload, n_decoded)

    def commit(self, filled: Filled) -> int:
        """Sync a filled block to the disk and write its mark; return how many files were decoded for it."""
        block = filled.block
        print_ = fingerprint_of(block, self._listing, self._recipe)
        self._store.commit(INGEST, print_, filled.digests, filled.payload, block.name)
        self._previous.release(block)
        return filled.n_decoded
