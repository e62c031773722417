"""This stage decodes the listed files into the pixel array of the store, in one pass, and records every file.

One task fills one row block: a pool of threads decodes its files directly into a preallocated uint8 block, and the
block is written as whole chunks. The exact sums of x and x^2 are taken while the block is in the cache, so that the
mean and the total variance need no pass of their own. Blocks are synced and marked while the next ones are decoded.
The jobs that do all this are in ingest_jobs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing, StringArray
from bigcluster.catalog.keys import name_keys
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import ImageSizeError, OutError, StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.stage_names import INGEST
from bigcluster.runtime.cluster import Local
from bigcluster.stages.context import Context
from bigcluster.stages.embedding import Embedding, description_of, names_digest
from bigcluster.stages.ingest_jobs import Confirm, Decoding, Examine, Fill, Summarize
from bigcluster.stages.known_records import KnownRecords
from bigcluster.stages.listing_ref import EmbeddingRef, ListingRef
from bigcluster.stages.loading.sample import NATIVE
from bigcluster.stages.pixel_blocks import BLOCK_ARRAYS, Block, BlockLayout, Table, mark_of
from bigcluster.stages.reuse import PreviousBlocks
from bigcluster.stages.vectors import KIND_OF_VECTORS
from bigcluster.store import Digests, Mark, Store, StoredRows, fingerprint, read_table, write_table
from bigcluster.store.refs import StoreRef
from bigcluster.store.row_source import spans

_SHOWN_DIGITS = 8
"""Hex digits of a fingerprint in a message: enough to see that two differ."""
Found = TypeVar("Found")

MASK = "ok"
"""The name of the stored array that says which rows hold a picture."""
RECIPE = "recipe"
"""The name of the mark that stores how the pixels were decoded. It has the digest of the table of class names."""
PARTS_PER_WORKER = 2
"""Parts of the decoding for each worker: a part starts decoding processes, which takes half a second."""
_CLASS_NAMES = "classes"
"""The first part of the name of the file of that table."""


@dataclass(frozen=True)
class Ingested:
    """The results of the ingest in the store."""

    fingerprint: str
    """It covers the path, content and status of every file, and how the files were decoded."""
    ok: NDArray[np.bool_]
    """The rows that hold a picture, (n_listed,)."""
    row_keys: NDArray[np.uint64]
    """The keys of random numbers, (n_ok,): a hash of each path, so that neither the order nor unreadable files
    matter."""
    column_sums: NDArray[np.int64]
    """The exact column sums over good rows, (d,)."""
    square_sum: int
    """The exact sum of all squared values of good rows."""
    blocks_reused: int
    n_blocks: int
    n_decoded: int = 0
    """The number of files that this run decoded or tried to decode. An earlier run decoded the others."""
    read_ledger: Callable[[], Ledger] = field(kw_only=True, repr=False)
    """Returns the records of all files, in listing order; they are in memory after an ingest. See `load_ledger`."""
    closed: tuple[str, ...] = ()
    """Folders, relative to the root, in which no file could be examined. The pixels decoded from them stay."""

    @property
    def reused(self) -> bool:
        """Whether every block was reused."""
        return self.blocks_reused == self.n_blocks


def ingest(
    context: Context,
    listing: Listing,
    spec: DecodeSpec,
    *,
    block_shape: tuple[int, int],
    in_flight: int,
    embedding: Embedding | None = None,
    isolate_rows: Sequence[Sequence[int]] = (),
    children: int = 1,
    rehash: bool = False,
) -> Ingested:
    """Bring the stored pixels up to date with the listing. Files that an earlier run decoded are not decoded again.

    block_shape : rows and columns of a chunk. in_flight : blocks that are filled at the same time.
    embedding : what makes the features of each picture; None where the pixels are the features.
    isolate_rows : pairs (start, stop) of rows whose files may crash or hang the codec.
    children : how many child processes may decode files whose headers cannot be trusted.
    rehash : read every file again and compare its content, whatever its size and time are.

    Where size = native, every image must have the target size itself. Raises ImageSizeError at the first block with
    an image of another size; the store then holds nothing that a run at another size would have to replace.
    """
    store, progress, cluster = context.store, context.progress, context.cluster
    layout = BlockLayout.of(spec, block_shape, embedding)
    for array in layout.arrays:
        if not store.fits(array.name, (array.n_columns,), array.dtype, array.chunks):
            # An array of another shape is deleted.
            store.create(array.name, (len(listing), array.n_columns), array.dtype, array.chunks)
    names = ListingRef(listing, store.out)
    decoding = Decoding(
        StoreRef.of(store),
        names,
        decode_recipe(spec, embedding),
        spec,
        layout,
        native=context.settings.size == NATIVE,
        timeout_seconds=context.settings.image.timeout,
        rehash=rehash,
        isolate_rows=tuple((start, stop) for start, stop in isolate_rows),
        children=children,
        embedding=EmbeddingRef.of(embedding, context.settings),
        records=Local(KnownRecords(len(listing))),
    )
    previous = PreviousBlocks(store, listing, decoding.recipe, [array.name for array in layout.arrays])
    n_blocks = -(-len(listing) // layout.block_rows)
    try:
        examined = list(cluster.spread(Examine(decoding), cluster.parts(n_blocks)))
        outdated = [number for one in examined for number in one.outdated]
        touched = [number for one in examined for number in one.touched]
        closed = dict.fromkeys(folder for one in examined for folder in one.closed)
        n_decoded = 0
        if not outdated and not touched:
            _make_arrays(store, len(listing), spec, layout, embedding)
            progress.reused(INGEST)
        else:
            with progress.stage(INGEST, len(listing), "images"):
                for one in cluster.spread(Confirm(decoding, tuple(touched)), cluster.parts(len(touched))):
                    outdated += one.outdated
                    closed |= dict.fromkeys(one.closed)
                missing = [decoding.block(number, listing) for number in sorted(outdated)]
                if missing:
                    store.marks.remove(INGEST)  # from here on no result of the old pixels may count as current
                    previous.prepare([decoding.block(number, listing) for number in range(n_blocks)], missing)
                _make_arrays(store, len(listing), spec, layout, embedding)
                progress.advance(len(listing) - sum(len(block.rows) for block in missing))
                decoding = replace(decoding, store=StoreRef.of(store))  # its arrays have the new length
                fill = Fill(decoding, tuple(block.index for block in missing), in_flight, Local(previous))
                try:
                    for part in cluster.spread(fill, cluster.parts(len(missing), PARTS_PER_WORKER)):
                        n_decoded += part.n_decoded
                        closed |= dict.fromkeys(part.closed)
                        for number in part.numbers:
                            previous.release(decoding.block(number, listing))
                except ImageSizeError:
                    store.marks.remove(RECIPE)
                    raise
            if n_decoded < len(listing):
                progress.note(f"{n_decoded} decoded, {len(listing) - n_decoded} reused from earlier runs")
        done = _summarise(context, listing, decoding, n_blocks, n_blocks - len(outdated), n_decoded)
    finally:
        names.remove()
    previous.clear()
    return replace(done, closed=tuple(closed))


def _make_arrays(
    store: Store, n_listed: int, spec: DecodeSpec, layout: BlockLayout, embedding: Embedding | None
) -> None:
    """Give the arrays the length of the listing and delete the blocks beyond it."""
    n_blocks = -(-n_listed // layout.block_rows)
    for name in store.marks.numbers(INGEST):
        if int(name) >= n_blocks:
            store.marks.remove(INGEST, name)
    for array in layout.arrays:
        store.create(array.name, (n_listed, array.n_columns), array.dtype, array.chunks)
    for name in set(BLOCK_ARRAYS) - {array.name for array in layout.arrays}:
        store.discard(name)
    store.create("sums", (n_blocks, spec.n_values), np.uint32, (1, spec.n_values))
    values = _recipe_values(spec, embedding)
    digests: Digests = {}
    if embedding is not None and embedding.n_classes:
        ends, text = StringArray(embedding.class_names).to_columns()
        digests = write_table(store.out, _CLASS_NAMES, {"name_ends": ends, "names": text})
    store.commit(RECIPE, fingerprint(stage=INGEST, **values), digests, values)


def pixel_rows(store: Store, ok: NDArray[np.bool_]) -> StoredRows:
    """Return the good rows of the pixels as a row source, (n_ok, d) uint8. ok : (n_listed,) bool."""
    return StoredRows(store.array("pixels"), ok, mask=MASK)


def load_ledger(store: Store) -> Ledger:
    """Read the records of all listed files, in the order of the listing.

    Raises StoreError where the mark or the table of a block is missing or damaged.
    """
    ledger = Ledger(store.array("pixels").shape[0])
    for block, _, table in tables(store):
        ledger.put(block.start, _whole(table.records(), block, store))
    return ledger


def load_listed(store: Store) -> tuple[StringArray, Ledger]:
    """Read the names and the records of all listed files; see `load_ledger`."""
    names, ledger = StringArray(), Ledger(store.array("pixels").shape[0])
    for block, _, table in tables(store):
        ledger.put(block.start, _whole(table.records(), block, store))
        for name in _whole(table.names(), block, store):
            names.append(name)
    return names, ledger


def tables(store: Store) -> Iterator[tuple[Block, Mark, Table]]:
    """Yield every row block with its mark and its table; see `load_ledger`."""
    pixels = store.array("pixels")
    for index, (start, stop) in enumerate(spans(pixels.shape[0], pixels.chunks[0])):
        block = Block(index, start, stop)
        mark = mark_of(store, block)
        yield block, mark, _whole(Table.of(store.out, mark), block, store)


def _whole(found: Found | None, block: Block, store: Store) -> Found:
    if found is None or (isinstance(found, Sized) and len(found) != len(block.rows)):
        raise StoreError(f"the records of pixel block {block.index} in {store.out} are damaged; run again")
    return found


def decode_recipe(spec: DecodeSpec, embedding: Embedding | None = None) -> str:
    """Return the fingerprint of how pictures are decoded and described. The memory budget is no part of it."""
    return fingerprint(stage=INGEST, **_recipe_values(spec, embedding))


def _recipe_values(spec: DecodeSpec, embedding: Embedding | None = None) -> dict[str, Any]:
    values = {name: value for name, value in asdict(spec).items() if name not in ("max_bytes", "view")}
    if spec.view is not None:
        values["view"] = list(spec.view)
    return values if embedding is None else values | {"embedding": description_of(embedding)}


def stored_recipe(store: Store) -> DecodeSpec:
    """Return how the stored pixels were decoded. Raises StoreError where the store holds no pixels."""
    mark = _recipe_mark(store)
    if not is_recipe_of_blocks(store, mark.fingerprint):
        raise StoreError(
            f"the recipe in {store.root} is not that of its pixels, or the records of the first block are damaged; run "
            "the job again"
        )
    return DecodeSpec(**{name: value for name, value in mark.payload.items() if name != "embedding"})


def stored_embedding(store: Store) -> dict[str, Any] | None:
    """Return what is stored about the embedding that made the features (`description_of`); None for pixels.

    Raises StoreError where the store does not say it: that there is no embedding is never concluded from silence.
    """
    embedding: dict[str, Any] | None = _recipe_mark(store).payload.get("embedding")
    return embedding


def stored_class_names(store: Store) -> tuple[str, ...]:
    """Return the names of the classes of the network. Raises StoreError where they are missing or damaged."""
    mark = _recipe_mark(store)
    columns, embedding = read_table(store.out, mark), mark.payload["embedding"]
    try:
        if columns is not None:
            names = tuple(StringArray.from_columns(columns["name_ends"], columns["names"]))
            if (len(names), names_digest(names)) == (embedding["n_names"], embedding["names"]):
                return names
    except (KeyError, ValueError):
        pass  # the error below is that of any damage
    raise StoreError(f"the names of the classes in {store.root} are missing or damaged; run the job again")


def _recipe_mark(store: Store) -> Mark:
    mark = store.mark(RECIPE)
    if mark is None:
        raise StoreError(f"{store.root} does not say how its pixels were decoded; run the job to its end first")
    return mark


def is_recipe_of_blocks(store: Store, recipe: str) -> bool:
    """Return whether the first block of pixels was decoded by the recipe of this fingerprint.

    Anybody can write a sealed mark of another recipe; but the fingerprint of each block covers the recipe too.
    """
    table = Table.of(store.out, store.mark(INGEST, Block(0, 0, 0).name))
    return table is not None and table.names(recipe) is not None


def check_recipe(store: Store, spec: DecodeSpec, embedding: Embedding | None, *, replace: bool) -> None:
    """Check that the stored pixels were decoded as `spec` says, and described by the same embedding.

    replace : permit that pixels decoded in another way are discarded. Raises OutError where they would be discarded
    without that permission.
    """
    mark = store.mark(RECIPE)
    recipe = decode_recipe(spec, embedding)
    if mark is None or replace or mark.fingerprint == recipe or is_recipe_of_blocks(store, recipe):
        return
    if _are_changed_vectors(mark.payload.get("embedding"), embedding):
        return  # a file was changed, as images are: no setting
    before, now = _as_settings(mark.payload), _as_settings(_recipe_values(spec, embedding))
    differing = ", ".join(
        f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value
    )
    raise OutError(
        f"OUT holds pixels decoded in another way ({differing}); --replace discards them, or give another OUT"
    )


def _are_changed_vectors(stored: dict[str, Any] | None, embedding: Embedding | None) -> bool:
    """Return whether the features are of the same file of vectors as before, whose content has changed."""
    if stored is None or embedding is None or embedding.kind != KIND_OF_VECTORS:
        return False
    now = description_of(embedding)
    return all(stored[name] == now[name] for name in ("kind", "name", "unit_length"))


def _as_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe under the names of the settings."""
    embedding = recipe.get("embedding")
    others = ("width", "height", "color", "view", "embedding")
    of_image = {f"image.{name}": value for name, value in recipe.items() if name not in others}
    size = f"{recipe.get('width')}x{recipe.get('height')}"
    if embedding is None:
        return {"features": "color" if recipe.get("color") else "gray", "size": size, **of_image}
    of_features = {"features": embedding["name"], "features.*": embedding["fingerprint"][:_SHOWN_DIGITS]}
    return {**of_features, "size": size, **of_image}


def _summarise(
    context: Context, listing: Listing, decoding: Decoding, n_blocks: int, blocks_reused: int, n_decoded: int
) -> Ingested:
    """Read the marks of all blocks back from the store, and store what later stages need without the files."""
    store, cluster = context.store, context.cluster
    summarize = Summarize(StoreRef.of(store), decoding.layout.block_rows, len(listing), decoding.records)
    sums = np.zeros(store.array("sums").shape[1], np.int64)
    squares, chain, ok = 0, decoding.recipe, []
    for part in cluster.spread(summarize, cluster.parts(n_blocks)):
        squares += part.square_sum
        sums += part.column_sums
        ok.append(part.ok)
        for block, contents in part.leaves:
            chain = fingerprint(before=chain, block=block, files=contents)
    done, payload = store.mark(INGEST), {"square_sum": squares, "n_blocks": n_blocks}
    if done is None or done.fingerprint != chain or done.payload != payload:
        store.marks.remove(INGEST)
        good = np.concatenate(ok)
        digests = store.save(MASK, good) | store.save("row_keys", _row_keys(listing, good))
        digests |= store.save("column_sums", sums)
        done = store.commit(INGEST, chain, digests, payload)
    ingested = replace(_from_mark(store, done), blocks_reused=blocks_reused, n_decoded=n_decoded)
    known = None if decoding.records.value is None else decoding.records.value.all(n_blocks)
    return ingested if known is None else replace(ingested, read_ledger=lambda: known)


def load_ingested(store: Store) -> Ingested:
    """Load the results of the last ingest without examining the files.

    Raises StoreError where it did not finish, or where the stored recipe is not that of the pixels.
    """
    mark = store.mark(INGEST)
    if mark is None:
        raise StoreError(f"{store.root} holds no finished ingest; run the job to its end first")
    stored_recipe(store)
    return _from_mark(store, mark)


def _from_mark(store: Store, mark: Mark) -> Ingested:
    return Ingested(
        fingerprint=mark.fingerprint,
        ok=store.load(MASK),
        row_keys=store.load("row_keys"),
        column_sums=store.load("column_sums"),
        square_sum=mark.payload["square_sum"],
        blocks_reused=mark.payload["n_blocks"],
        n_blocks=mark.payload["n_blocks"],
        read_ledger=cache(partial(load_ledger, store)),
    )


def _row_keys(listing: Listing, ok: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return name_keys(listing.names[row] for row in np.flatnonzero(ok).tolist())
