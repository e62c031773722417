"""Row blocks of pixels, filled: rows come from where they are, from retired blocks, or from the files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.kernels.moments import column_sums, square_sum
from bigcluster.stages.freshness import Freshness
from bigcluster.stages.loading import Loader
from bigcluster.stages.pixel_blocks import STAGE, Block, fingerprint_of, mark_of, payload_of, records_in
from bigcluster.stages.salvage import Salvage
from bigcluster.stages.sizing import check_native
from bigcluster.store import Mark, Store


class Filling:
    """Looks at the blocks of one listing, and brings those up to date that are not."""

    def __init__(
        self,
        listing: Listing,
        store: Store,
        recipe: str,
        loader: Loader,
        freshness: Freshness,
        native_size: tuple[int, int] | None,
    ) -> None:
        self._listing, self._store, self._recipe = listing, store, recipe
        self._loader, self._freshness, self._native_size = loader, freshness, native_size
        self.salvage = Salvage(store, listing, recipe)

    def doubtful_rows(self, block: Block) -> list[int] | None:
        """Rows whose files may have changed since the block was filled; None where it holds other files, or nothing."""
        mark = self._store.mark(STAGE, block.name)
        if mark is None or mark.fingerprint != fingerprint_of(block, self._listing, self._recipe):
            return None
        ledger = zip(block.rows, records_in(mark), strict=True)
        return [row for row, record in ledger if not self._freshness.holds(row, record)]

    def confirm(self, block: Block, doubtful: list[int] | None) -> bool:
        """Whether the block's files have the content that they had; a new time of theirs is noted then."""
        if not doubtful:
            return doubtful is not None
        mark = mark_of(self._store, block)
        ledger = records_in(mark)
        known = {row: ledger[row - block.start] for row in doubtful}
        if not all(map(self._freshness.is_final, known.values())):
            return False
        now = self._loader.compare(known)
        if now is None:
            return False
        for row, record in now.items():
            ledger[row - block.start] = record
        payload = payload_of(block, self._listing, ledger, mark.payload["square_sum"])
        if payload != mark.payload:
            self._store.marks.write(STAGE, Mark(mark.fingerprint, mark.digests, payload), block.name)
        return True

    def fill(self, block: Block) -> int:
        """Bring one block up to date; returns how many files were decoded for it."""
        pixels = np.zeros((len(block.rows), self._store.array("pixels").shape[1]), np.uint8)
        ledger: dict[int, FileRecord] = {}
        known: dict[int, FileRecord] = {}
        for source in self.salvage.sources(block):
            final = [i for i, record in enumerate(source.records) if self._freshness.is_final(record)]
            for i in final:
                row, record = source.to[i], source.records[i]
                (ledger if self._freshness.holds(row, record) else known)[row] = record
            at = np.array(source.rows, np.int64)[final]
            self.salvage.copy(source.slot, at, pixels, np.array(source.to, np.int64)[final] - block.start)
        rest = [row for row in block.rows if row not in ledger]
        self._loader.skip(len(ledger))
        loaded = self._loader.load(rest, pixels, block.start, known)
        ledger |= zip(rest, loaded, strict=True)
        in_order = [ledger[row] for row in block.rows]
        if self._native_size is not None:
            check_native(self._listing, block.start, in_order, self._native_size)
        self._write(block, pixels, in_order)
        self.salvage.release(block)
        return sum(row not in known or known[row].digest != ledger[row].digest for row in rest)

    def _write(self, block: Block, pixels: NDArray[np.uint8], ledger: list[FileRecord]) -> None:
        # Rows of failed files are zeros: they add nothing to either sum.
        store = self._store
        store.marks.remove(STAGE, block.name)
        files = store.write_rows("pixels", block.start, pixels)
        files += store.write_rows("sums", block.index, column_sums(pixels)[np.newaxis])
        payload = payload_of(block, self._listing, ledger, square_sum(pixels))
        store.commit(STAGE, fingerprint_of(block, self._listing, self._recipe), files, payload, block.name)
