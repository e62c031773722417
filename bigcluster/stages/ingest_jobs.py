"""The jobs of the ingest: each works on a run of row blocks, in whatever process, and returns numbers alone.

Examine     which blocks are up to date, by the names, sizes and times of their files
Confirm     which of the others still hold the same contents
Fill        decode the rest; write, sync and mark each block
Summarize   the sums and fingerprints of all blocks, from their marks
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.errors import StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.footprint import COMMITS_IN_FLIGHT
from bigcluster.runtime.cluster import Local, Part, Worker
from bigcluster.stages.fill import Filling, Freshness, stale_rows
from bigcluster.stages.known_records import KnownRecords
from bigcluster.stages.listing_ref import EmbeddingRef, ListingRef, SentListing
from bigcluster.stages.loading.loader import Loader
from bigcluster.stages.pixel_blocks import Block, BlockLayout, mark_of, records_in
from bigcluster.stages.reuse import PreviousBlocks
from bigcluster.store import read_whole
from bigcluster.store.refs import StoreRef


@dataclass(frozen=True)
class Decoding:
    """How the files of a listing become row blocks of a store."""

    store: StoreRef
    listing: ListingRef | SentListing
    recipe: str
    """The fingerprint of how pictures are decoded and described."""
    spec: DecodeSpec
    layout: BlockLayout
    native: bool
    """Whether every image must have the target size itself."""
    timeout_seconds: float
    rehash: bool
    isolate_rows: tuple[tuple[int, int], ...]
    """Pairs (start, stop) of rows whose files may crash or hang the codec."""
    children: int
    """How many child processes may decode files whose headers cannot be trusted."""
    embedding: EmbeddingRef | None
    records: Local[KnownRecords] = field(default_factory=Local, compare=False, repr=False)
    """The records that are known in the process that asks."""

    def block(self, number: int, listing: Listing) -> Block:
        """Return the row block of this number."""
        start = number * self.layout.block_rows
        return Block(number, start, min(start + self.layout.block_rows, len(listing)))

    def freshness(self, listing: Listing) -> Freshness:
        """Return what decides whether records are still valid. It collects closed folders: one for each part."""
        return Freshness(listing, self.spec, self.timeout_seconds, self.rehash)

    @contextmanager
    def filling(
        self, worker: Worker, freshness: Freshness, previous: PreviousBlocks | None = None
    ) -> Iterator[Filling]:
        """Open the decoders of this process, and return what fills blocks with them.

        previous : the blocks of earlier runs, from which rows are copied; by default those that are set aside.
        """
        store, listing = self.store.open(worker), self.listing.open(worker)
        if previous is None:
            previous = PreviousBlocks(store, listing, self.recipe, [array.name for array in self.layout.arrays])
            previous.look_up()
        native_size = (self.spec.width, self.spec.height) if self.native else None
        with ExitStack() as stack:
            embedding = None
            if self.embedding is not None:
                embedding = stack.enter_context(self.embedding.opened(worker, listing))
            loader = Loader(
                listing,
                self.spec,
                threads=worker.runtime.threads,
                timeout_seconds=self.timeout_seconds,
                progress=worker.progress,
                isolate_rows=self.isolate_rows,
                children=self.children,
                row_features=embedding,
                in_children=worker.decodes_in_children,
            )
            stack.enter_context(loader)
            records = self.records.value
            yield Filling(listing, store, self.recipe, loader, freshness, native_size, self.layout, previous, records)


@dataclass(frozen=True)
class Examined:
    """What `Examine` says of the blocks of a part. The result of `Confirm` has the same form."""

    outdated: list[int]
    """Blocks that hold other files, or are not filled."""
    touched: list[int]
    """Blocks some of whose files have another size or time than when they were decoded."""
    closed: tuple[str, ...]
    """Folders, relative to the root, in which no file could be examined."""


@dataclass(frozen=True)
class Examine:
    """Look which row blocks are up to date. No file is read. The units are the numbers of all blocks."""

    decoding: Decoding

    def __call__(self, worker: Worker, part: Part) -> Examined:
        store, listing = self.decoding.store.open(worker), self.decoding.listing.open(worker)
        freshness = self.decoding.freshness(listing)
        outdated, touched = [], []
        for number in part.units:
            block = self.decoding.block(number, listing)
            found = stale_rows(block, store, listing, self.decoding.recipe, freshness)
            if found is None:
                outdated.append(number)
                continue
            if self.decoding.records.value is not None:
                self.decoding.records.value.put(block, found[0])
            if found[1]:
                touched.append(number)
        return Examined(outdated, touched, tuple(freshness.closed))


@dataclass(frozen=True)
class Confirm:
    """Read the touched files of row blocks, and find the blocks whose contents have changed: they are outdated.

    The units are positions in `numbers`, the numbers of the touched blocks.
    """

    decoding: Decoding
    numbers: tuple[int, ...]

    def __call__(self, worker: Worker, part: Part) -> Examined:
        listing = self.decoding.listing.open(worker)
        freshness = self.decoding.freshness(listing)
        numbers = [self.numbers[unit] for unit in part.units]
        with self.decoding.filling(worker, freshness) as filling:
            outdated = [number for number in numbers if not filling.confirm(self.decoding.block(number, listing))]
        return Examined(outdated, [], tuple(freshness.closed))


@dataclass(frozen=True)
class FilledPart:
    """What `Fill` has done."""

    numbers: list[int]
    """The blocks that now have a mark."""
    n_decoded: int
    """The number of files that were decoded, or that decoding was tried with."""
    closed: tuple[str, ...]
    """Folders, relative to the root, in which no file could be examined."""


@dataclass(frozen=True)
class Fill:
    """Bring row blocks up to date: decode their files, write their chunks, sync them, and write their marks.

    The units are positions in `numbers`, the numbers of the outdated blocks. A block that is up to date by now is left
    as it is: a part may be given to another worker after the first one has filled some of its blocks.
    """

    decoding: Decoding
    numbers: tuple[int, ...]
    in_flight: int
    """Blocks that are filled at the same time in one process."""
    previous: Local[PreviousBlocks] = field(default_factory=Local, compare=False, repr=False)

    def __call__(self, worker: Worker, part: Part) -> FilledPart:
        listing = self.decoding.listing.open(worker)
        freshness = self.decoding.freshness(listing)
        blocks = [self.decoding.block(self.numbers[unit], listing) for unit in part.units]
        store, recipe, n_filled = self.decoding.store.open(worker), self.decoding.recipe, 0

        def outdated() -> Iterator[Block]:
            nonlocal n_filled  # before, by another worker
            for block in blocks:
                found = stale_rows(block, store, listing, recipe, freshness)
                if found is None or found[1]:
                    yield block
                else:
                    n_filled += len(block.rows)
                    worker.progress.advance(len(block.rows))

        with self.decoding.filling(worker, freshness, self.previous.value) as filling:
            run = worker.runtime.map
            with closing(run(filling.fill, outdated(), in_flight=self.in_flight)) as filled:
                n_decoded = sum(run(filling.commit, filled, in_flight=COMMITS_IN_FLIGHT))
        return FilledPart([block.index for block in blocks], n_decoded + n_filled, tuple(freshness.closed))


@dataclass(frozen=True)
class PartSums:
    """What the marks of the blocks of a part say, block by block or in exact sums."""

    ok: NDArray[np.bool_]
    """The rows that hold a picture, (rows of the part,)."""
    square_sum: int
    """The sum of all squared values."""
    column_sums: NDArray[np.int64]
    """(d,)"""
    leaves: list[tuple[str, str]]
    """Of each block, the fingerprint of its mark and the digest of the contents of its files."""


@dataclass(frozen=True)
class Summarize:
    """Read the marks of row blocks back from the store. The units are the numbers of all blocks."""

    store: StoreRef
    block_rows: int
    n_listed: int
    records: Local[KnownRecords] = field(default_factory=Local, compare=False, repr=False)
    """As in `Decoding`."""

    def __call__(self, worker: Worker, part: Part) -> PartSums:
        store, known = self.store.open(worker), self.records.value
        array = store.array("sums")
        column_sums = np.zeros(array.shape[1], np.int64)
        ok, square_sum, leaves = [], 0, []
        for number in part.units:
            start = number * self.block_rows
            block = Block(number, start, min(start + self.block_rows, self.n_listed))
            mark = mark_of(store, block)
            records = None if known is None else known.of(block)
            if records is None:
                records = records_in(store, mark, len(block.rows))
            if records is None:
                raise StoreError(f"the records of pixel block {number} in {store.out} are damaged; run again")
            ok.append(records.ok)
            square_sum += mark.payload["square_sum"]
            column_sums += read_whole(array, number).astype(np.int64)
            leaves.append((mark.fingerprint, mark.payload["contents"]))
        return PartSums(np.concatenate(ok), square_sum, column_sums, leaves)
