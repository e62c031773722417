"""Files -> pixels in the store, one pass, every file accounted for.

One task fills one row block: its files are decoded by a pool of threads straight into a preallocated uint8 block, and
the block is written as whole chunks. While it is hot, the exact sums of x and x^2 are taken, so that mean and total
variance never need a pass of their own. Blocks are synced and marked while the next ones are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing
from bigcluster.errors import ImageSizeError, OutError, StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.footprint import COMMITS_IN_FLIGHT
from bigcluster.planning.stage_names import INGEST
from bigcluster.stages.context import Context
from bigcluster.stages.fill import Filling, Freshness
from bigcluster.stages.loading import Loader
from bigcluster.stages.loading.sample import NATIVE
from bigcluster.stages.pixel_blocks import Block, mark_of, records_in
from bigcluster.stages.reuse import name_keys
from bigcluster.store import Mark, Store, StoredRows, fingerprint, read_whole
from bigcluster.store.row_source import spans

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
    n_decoded: int = 0
    """Files that this run decoded, or tried to; the others were decoded by an earlier one."""
    closed: tuple[str, ...] = ()
    """Folders, relative to the root, in which no file could be looked at: what was decoded of them is kept."""

    @property
    def reused(self) -> bool:
        return self.blocks_reused == self.n_blocks


def ingest(
    context: Context,
    listing: Listing,
    spec: DecodeSpec,
    *,
    block_shape: tuple[int, int],
    in_flight: int,
    isolate_rows: Sequence[Sequence[int]] = (),
    children: int = 1,
    rehash: bool = False,
) -> Ingested:
    """Bring the store's pixels up to date with the listing; what an earlier run decoded is not decoded again.

    Where the settings say size = native, every image must be of the target size itself. Raises ImageSizeError at the
    first block where one is not; the store then holds nothing that a run at another size would have to replace.
    isolate_rows : (start, stop) of rows whose files may crash or hang the codec.
    children : how many may decode files whose headers may lie.
    rehash : read every file again and compare its content, whatever its size and time say.
    """
    store, runtime, progress = context.store, context.runtime, context.progress
    native, timeout_seconds = context.settings.size == NATIVE, context.settings.image.timeout
    recipe = decode_recipe(spec)
    blocks = [Block(index, a, b) for index, (a, b) in enumerate(spans(len(listing), block_shape[0]))]
    loader = Loader(
        listing,
        spec,
        threads=runtime.threads,
        timeout_seconds=timeout_seconds,
        progress=progress,
        isolate_rows=isolate_rows,
        children=children,
    )
    freshness = Freshness(listing, spec, timeout_seconds, rehash)
    filling = Filling(listing, store, recipe, loader, freshness, (spec.width, spec.height) if native else None)
    if not store.fits("pixels", (spec.n_values,), np.uint8, block_shape):
        store.create("pixels", (len(listing), spec.n_values), np.uint8, block_shape)  # whatever was there goes
    stale = {block: filling.stale_rows(block) for block in blocks}
    if not any(rows is None or rows for rows in stale.values()):
        _make_arrays(store, len(listing), spec, block_shape, recipe)
        filling.previous.clear()
        progress.reused(INGEST)
        done = _summarise(listing, store, recipe, blocks, len(blocks), 0)
        return replace(done, closed=tuple(freshness.closed))
    with progress.stage(INGEST, len(listing), "images"), loader:
        missing = [block for block, rows in stale.items() if not filling.confirm(block, rows)]
        if missing:
            store.marks.remove(INGEST)  # nothing made of the old pixels may pass for current from here on
            filling.previous.prepare(blocks, missing)
        _make_arrays(store, len(listing), spec, block_shape, recipe)
        progress.advance(len(listing) - sum(len(block.rows) for block in missing))
        try:
            with closing(runtime.map(filling.fill, missing, in_flight=in_flight)) as filled:
                n_decoded = sum(runtime.map(filling.commit, filled, in_flight=COMMITS_IN_FLIGHT))
        except ImageSizeError:
            store.marks.remove(RECIPE)
            raise
    if n_decoded < len(listing):
        progress.note(f"{n_decoded} decoded, {len(listing) - n_decoded} reused from earlier runs")
    done = _summarise(listing, store, recipe, blocks, len(blocks) - len(missing), n_decoded)
    filling.previous.clear()
    return replace(done, closed=tuple(freshness.closed))


def _make_arrays(store: Store, n_listed: int, spec: DecodeSpec, block_shape: tuple[int, int], recipe: str) -> None:
    """Arrays of the listing's length; what lies beyond goes."""
    n_blocks = -(-n_listed // block_shape[0])
    for name in store.marks.numbers(INGEST):
        if int(name) >= n_blocks:
            store.marks.remove(INGEST, name)
    store.create("pixels", (n_listed, spec.n_values), np.uint8, block_shape)
    store.create("sums", (n_blocks, spec.n_values), np.uint32, (1, spec.n_values))
    store.marks.write(RECIPE, Mark(recipe, payload=_recipe_values(spec)))


def pixel_rows(store: Store, ok: NDArray[np.bool_]) -> StoredRows:
    """The good rows of the pixels."""
    return StoredRows(store.array("pixels"), ok)


def records(store: Store, n_blocks: int) -> Iterator[FileRecord]:
    """The ledger in listing order, one block in memory at a time."""
    for index in range(n_blocks):
        yield from map(FileRecord.from_json, mark_of(store, Block(index, 0, 0)).payload["records"])


def decode_recipe(spec: DecodeSpec) -> str:
    """Fingerprint of how pictures become pixels: the budget has no part in it."""
    return fingerprint(stage=INGEST, **_recipe_values(spec))


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
    before, now = _as_settings(mark.payload), _as_settings(_recipe_values(spec))
    differing = ", ".join(
        f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value
    )
    raise OutError(
        f"OUT holds pixels decoded in another way ({differing}); --replace discards them, or give another OUT"
    )


def _as_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe by the names of the settings."""
    of_image = {f"image.{name}": value for name, value in recipe.items() if name not in ("width", "height", "color")}
    size = f"{recipe.get('width')}x{recipe.get('height')}"
    return {"features": "color" if recipe.get("color") else "gray", "size": size, **of_image}


def _summarise(
    listing: Listing, store: Store, recipe: str, blocks: list[Block], blocks_reused: int, n_decoded: int
) -> Ingested:
    """Read the marks back: they, not memory, say what there is; keep what later stages need without the files."""
    ok = np.zeros(blocks[-1].stop, bool)
    sums = np.zeros(store.array("sums").shape[1], np.int64)
    squares = 0
    chain = recipe
    for block in blocks:
        mark = mark_of(store, block)
        ledger = records_in(mark)
        ok[block.start : block.stop] = [record.ok for record in ledger]
        squares += mark.payload["square_sum"]
        sums += read_whole(store.array("sums"), block.index).astype(np.int64)
        chain = fingerprint(before=chain, block=mark.fingerprint, files=[(r.digest, r.status) for r in ledger])
    done, payload = store.mark(INGEST), {"square_sum": squares, "n_blocks": len(blocks)}
    if done is None or done.fingerprint != chain or done.payload != payload:
        store.marks.remove(INGEST)
        digests = store.save("ok", ok) | store.save("row_keys", _row_keys(listing, ok))
        digests |= store.save("column_sums", sums)
        done = store.commit(INGEST, chain, digests, payload)
    return replace(_from_mark(store, done), blocks_reused=blocks_reused, n_decoded=n_decoded)


def load_ingested(store: Store) -> Ingested:
    """What the last ingest left, without looking at the files. Raises StoreError where it did not finish."""
    mark = store.mark(INGEST)
    if mark is None:
        raise StoreError(f"{store.root} holds no finished ingest; run the job to its end first")
    return _from_mark(store, mark)


def _from_mark(store: Store, mark: Mark) -> Ingested:
    return Ingested(
        fingerprint=mark.fingerprint,
        ok=store.load("ok"),
        row_keys=store.load("row_keys"),
        column_sums=store.load("column_sums"),
        square_sum=mark.payload["square_sum"],
        blocks_reused=mark.payload["n_blocks"],
        n_blocks=mark.payload["n_blocks"],
    )


def _row_keys(listing: Listing, ok: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return name_keys(listing.names[row] for row in np.flatnonzero(ok).tolist())
