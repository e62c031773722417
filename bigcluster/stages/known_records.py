"""The records of listed files, as far as this process has read or written them: no record is parsed a second time."""

from __future__ import annotations

import threading

from bigcluster.catalog.ledger import Ledger
from bigcluster.stages.pixel_blocks import Block


class KnownRecords:
    """The records of the row blocks of one listing, and the blocks whose records are known. Any thread may call it."""

    def __init__(self, n_listed: int) -> None:
        self._ledger = Ledger(n_listed)
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def put(self, block: Block, records: Ledger) -> None:
        """Take the records of a block, in place of those that were known before."""
        with self._lock:
            self._ledger.put(block.start, records)
            self._known.add(block.index)

    def of(self, block: Block) -> Ledger | None:
        """Return the records of a block; None where they are not known."""
        with self._lock:
            return self._ledger.part(block.start, block.stop) if block.index in self._known else None

    def all(self, n_blocks: int) -> Ledger | None:
        """Return the records of all files; None where those of a block are not known."""
        return self._ledger if len(self._known) == n_blocks else None
