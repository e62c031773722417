"""Files -> pixels in the store, one pass, every file accounted for.

One task fills one row block: its files are decoded by a pool of threads straight into a preallocated uint8 block, the
block is written as whole chunks, synced, and then marked. While it is hot, the exact sums of x and x^2 are taken, so
that mean and total variance never need a pass of their own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import ImageSizeError, OutError, StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.kernels.moments import column_sums, square_sum
from bigcluster.progress import Progress
from bigcluster.rows import spans
from bigcluster.runtime import Runtime
from bigcluster.stages.loading import Loader
from bigcluster.stages.sizing import check_native
from bigcluster.store import Mark, Store, StoredRows, fingerprint, read_whole

STAGE = "ingest"
RECIPE = "recipe"
"""The mark that remembers how the stored pixels were decoded."""


@dataclass(frozen=True)
class Ingested:
    """What the ingest left in the store."""

    fingerprint: str
    """Covers path, content and status of every file, and how they were decoded."""
    ok: NDArray[np.bool_]
    """(n_listed,) which rows hold a picture."""
    row_keys: NDArray[np.uint64]
    """(n_ok,) what randomness is keyed by: a hash of the path, so that neither order nor bad files matter."""
    column_sums: NDArray[np.int64]
    """(d,) exact sums over good rows."""
    square_sum: int
    """Exact sum of all squared values of good rows."""
    blocks_reused: int
    n_blocks: int

    @property
    def reused(self) -> bool:
        return self.blocks_reused == self.n_blocks


def ingest(
    listing: Listing,
    store: Store,
    spec: DecodeSpec,
    *,
    block_shape: tuple[int, int],
    in_flight: int,
    runtime: Runtime,
    progress: Progress,
    native: bool = False,
    timeout_seconds: float = 30.0,
    careful: Sequence[Sequence[int]] = (),
) -> Ingested:
    """Bring the store's pixels up to date with the listing; blocks whose marks still hold are not decoded again.

    native : every image must be of the target size itself. Raises ImageSizeError at the first block where one is not;
    the store then holds nothing that a run at another size would have to replace.
    """
    n_listed = len(listing)
    block_rows = block_shape[0]
    store.create("pixels", (n_listed, spec.n_values), np.uint8, block_shape)
    store.create("sums", (-(-n_listed // block_rows), spec.n_values), np.uint32, (1, spec.n_values))
    recipe = decode_recipe(spec)
    store.marks.write(RECIPE, Mark(recipe, payload=_recipe_values(spec)))
    blocks = [_Block(index, a, b) for index, (a, b) in enumerate(spans(n_listed, block_rows))]
    missing = [block for block in blocks if not _still_holds(block, listing, store, recipe, spec)]
    if not missing:
        progress.reused(STAGE)
        return _summarise(listing, store, recipe, blocks, len(blocks))
    loader = Loader(
        listing, spec, threads=runtime.threads, timeout_seconds=timeout_seconds, progress=progress, careful=careful
    )
    with progress.stage(STAGE, n_listed, "images"), loader:
        store.marks.remove(STAGE)  # nothing made of the old pixels may pass for current from here on
        progress.advance(n_listed - sum(block.stop - block.start for block in missing))

        def fill(block: _Block) -> None:
            pixels = np.zeros((block.stop - block.start, spec.n_values), np.uint8)
            ledger = loader.load(range(block.start, block.stop), pixels, block.start)
            if native:
                check_native(listing, block.start, ledger, (spec.width, spec.height))
            _write_block(block, pixels, ledger, store, _block_fingerprint(block, listing, recipe))

        try:
            for _ in runtime.map(fill, missing, in_flight=in_flight):
                pass
        except ImageSizeError:
            store.marks.remove(RECIPE)
            raise
    return _summarise(listing, store, recipe, blocks, len(blocks) - len(missing))


def pixel_rows(store: Store, ok: NDArray[np.bool_]) -> StoredRows:
    """The good rows of the pixels."""
    return StoredRows(store.array("pixels"), ok)


def records(store: Store, n_blocks: int) -> Iterator[FileRecord]:
    """The ledger in listing order, one block in memory at a time."""
    for index in range(n_blocks):
        mark = store.mark(STAGE, _name(index))
        if mark is None:
            raise StoreError(f"the mark of pixel block {index} in {store.root} is damaged; run again")
        yield from map(FileRecord.from_json, mark.payload["records"])


def decode_recipe(spec: DecodeSpec) -> str:
    """Fingerprint of how pictures become pixels: the budget has no part in it."""
    return fingerprint(stage=STAGE, **_recipe_values(spec))


def _recipe_values(spec: DecodeSpec) -> dict[str, Any]:
    return {name: value for name, value in asdict(spec).items() if name != "max_bytes"}


def stored_recipe(store: Store) -> DecodeSpec:
    """How the stored pixels were decoded. Raises StoreError where there are none."""
    mark = store.mark(RECIPE)
    if mark is None:
        raise StoreError(f"{store.root} holds no pixels; run the job to its end first")
    return DecodeSpec(**mark.payload)


def check_recipe(store: Store, spec: DecodeSpec, *, replace: bool) -> None:
    """Refuse to discard decoded pixels that were made in another way, unless that is permitted."""
    mark = store.mark(RECIPE)
    if mark is None or replace or mark.fingerprint == decode_recipe(spec):
        return
    wanted = _recipe_values(spec)
    differing = ", ".join(
        f"{name} {mark.payload.get(name)} -> {value}"
        for name, value in wanted.items()
        if mark.payload.get(name) != value
    )
    raise OutError(
        f"OUT holds pixels decoded in another way ({differing}); --replace discards them, or give another OUT"
    )


@dataclass(frozen=True)
class _Block:
    index: int
    start: int
    stop: int


def _name(index: int) -> str:
    return f"{index:06d}"


def _still_holds(block: _Block, listing: Listing, store: Store, recipe: str, spec: DecodeSpec) -> bool:
    """Whether the block's mark vouches for just these files: same names, sizes and times, nothing worth a retry."""
    mark = store.mark(STAGE, _name(block.index))
    if mark is None or mark.fingerprint != _block_fingerprint(block, listing, recipe):
        return False
    for row, values in enumerate(mark.payload["records"], start=block.start):
        if not _unchanged(listing, row, FileRecord.from_json(values), spec):
            return False
    return True


def _unchanged(listing: Listing, row: int, record: FileRecord, spec: DecodeSpec) -> bool:
    path = listing.path(row)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return record.n_bytes is None  # it was not there then either
    if (found.st_size, found.st_mtime_ns) != (record.n_bytes, record.mtime_ns):
        return False
    if record.status == "unreadable":
        return not (listing.is_readable_file(row) and os.access(path, os.R_OK))
    if not listing.may_read(row):
        return False  # permitted then, not now
    if record.status == "too_large" and record.needed_bytes is not None:
        return spec.max_bytes is not None and record.needed_bytes > spec.max_bytes
    return True


def _block_fingerprint(block: _Block, listing: Listing, recipe: str) -> str:
    names = [os.fsencode(listing.names[row]).hex() for row in range(block.start, block.stop)]
    return fingerprint(recipe=recipe, start=block.start, names=names)


def _write_block(
    block: _Block, pixels: NDArray[np.uint8], ledger: list[FileRecord], store: Store, vouched: str
) -> None:
    # Rows of failed files are zeros: they add nothing to either sum.
    store.marks.remove(STAGE, _name(block.index))
    files = store.write_rows("pixels", block.start, pixels)
    files += store.write_rows("sums", block.index, column_sums(pixels)[np.newaxis])
    payload = {"records": [record.to_json() for record in ledger], "square_sum": square_sum(pixels)}
    store.commit(STAGE, vouched, files, payload, _name(block.index))


def _summarise(listing: Listing, store: Store, recipe: str, blocks: list[_Block], blocks_reused: int) -> Ingested:
    """Read the marks back: they, not memory, say what there is; keep what later stages need without the files."""
    ok = np.zeros(blocks[-1].stop, bool)
    sums = np.zeros(store.array("sums").shape[1], np.int64)
    squares = 0
    chain = recipe
    for block in blocks:
        mark = store.mark(STAGE, _name(block.index))
        if mark is None:
            raise StoreError(f"the mark of pixel block {block.index} in {store.root} is damaged; run again")
        ledger = [FileRecord.from_json(values) for values in mark.payload["records"]]
        ok[block.start : block.stop] = [record.ok for record in ledger]
        squares += mark.payload["square_sum"]
        sums += read_whole(store.array("sums"), block.index).astype(np.int64)
        chain = fingerprint(before=chain, block=mark.fingerprint, files=[(r.digest, r.status) for r in ledger])
    done = store.mark(STAGE)
    if done is None or done.fingerprint != chain:
        store.marks.remove(STAGE)
        files = store.save("ok", ok) + store.save("row_keys", _row_keys(listing, ok)) + store.save("column_sums", sums)
        done = store.commit(STAGE, chain, files, {"square_sum": squares, "n_blocks": len(blocks)})
    return _from_mark(store, done, blocks_reused)


def load_ingested(store: Store) -> Ingested:
    """What the last ingest left, without looking at the files. Raises StoreError where it did not finish."""
    mark = store.mark(STAGE)
    if mark is None:
        raise StoreError(f"{store.root} holds no finished ingest; run the job to its end first")
    return _from_mark(store, mark, mark.payload["n_blocks"])


def _from_mark(store: Store, mark: Mark, blocks_reused: int) -> Ingested:
    return Ingested(
        fingerprint=mark.fingerprint,
        ok=store.load("ok"),
        row_keys=store.load("row_keys"),
        column_sums=store.load("column_sums"),
        square_sum=mark.payload["square_sum"],
        blocks_reused=blocks_reused,
        n_blocks=mark.payload["n_blocks"],
    )


def _row_keys(listing: Listing, ok: NDArray[np.bool_]) -> NDArray[np.uint64]:
    rows = np.flatnonzero(ok).tolist()
    digests = b"".join(hashlib.blake2b(os.fsencode(listing.names[row]), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)
