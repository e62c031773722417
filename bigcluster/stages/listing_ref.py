"""The listing and the embedding of an ingest, for jobs that run in other processes.

In the process that made it, a reference leads to the same object. Other processes read the names from tables in OUT,
which are written where a reference first leaves its process, and removed when the ingest is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.catalog import Listing, StringArray
from bigcluster.config import Settings
from bigcluster.errors import InputChangedError, StoreError
from bigcluster.files.durable import unlink_below
from bigcluster.runtime.cluster import Local, Worker
from bigcluster.stages.embedding import Embedding, open_embedding
from bigcluster.store import Digests, Mark, read_table, write_table
from bigcluster.store.row_source import spans

_NAMES_PER_TABLE = 1 << 15
"""Names in one table: at 1 KiB for each, it stays below the most bytes of a table (`store.columns.LIMIT_BYTES`)."""


class ListingRef:
    """The root and the names of a listing. Manifest and ignored files stay in the process that listed them."""

    def __init__(self, listing: Listing, out: Path) -> None:
        self._listing, self._out = listing, out
        self._tables: Digests = {}

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._tables:
            for number, (start, stop) in enumerate(spans(len(self._listing), _NAMES_PER_TABLE)):
                ends, text = self._listing.names.to_columns(start, stop)
                self._tables |= write_table(self._out, f"names-{number:06d}", {"name_ends": ends, "names": text})
        return SentListing, (self._listing.root, self._listing.confined, self._out, self._tables)

    def open(self, worker: Worker) -> Listing:
        """Return the listing."""
        del worker
        return self._listing

    def remove(self) -> None:
        """Remove the tables, where there are any: no process will read them any more."""
        for file in self._tables:
            unlink_below(self._out / file, self._out)
        self._tables = {}


@dataclass(frozen=True)
class SentListing:
    """What another process gets of a `ListingRef`."""

    root: Path
    confined: bool
    out: Path
    tables: Digests

    def open(self, worker: Worker) -> Listing:
        """Return the listing. Raises StoreError where its names cannot be read."""
        return worker.cached(f"the names for {self.out}", tuple(self.tables), self._read)

    def _read(self) -> Listing:
        names = StringArray()
        for file, digest in self.tables.items():
            columns = read_table(self.out, Mark("", {file: digest}, {}))
            if columns is None:
                raise StoreError(f"{self.out / file}: the names of the images cannot be read in this process")
            for name in StringArray.from_columns(columns["name_ends"], columns["names"]):
                names.append(name)
        return Listing(self.root, names, confined=self.confined)


@dataclass(frozen=True)
class EmbeddingRef:
    """The embedding of the features. Other processes open it again by the settings."""

    settings: Settings
    fingerprint: str
    local: Local[Embedding] = field(default_factory=Local, compare=False, repr=False)

    @classmethod
    def of(cls, embedding: Embedding | None, settings: Settings) -> EmbeddingRef | None:
        """Return the reference; None where the features are the pixels."""
        return None if embedding is None else cls(settings, embedding.fingerprint, Local(embedding))

    @contextmanager
    def opened(self, worker: Worker, listing: Listing) -> Iterator[Embedding]:
        """Open the embedding for this block, in another process, and free its memory afterwards.

        Raises InputChangedError where this process finds another one.
        """
        if self.local.value is not None:
            yield self.local.value
            return
        settings = self.settings
        embedding = open_embedding(settings, images=settings.images, most_bytes=worker.memory_bytes)
        assert embedding is not None
        try:
            embedding.listed(listing)
            if embedding.fingerprint != self.fingerprint:
                raise InputChangedError(f"{settings.features} is not the same here as where the run was started")
            yield embedding
        finally:
            embedding.release()
