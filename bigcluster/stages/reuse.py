"""This module finds rows that earlier runs decoded, by name, and copies them to their place in the present listing.

    stored     a b d e | f g h .     blocks of 4 rows
    listing    a b c d | e f g h     c is new, so that neither block is valid any more
    previous   0: a b d e   1: f g h .
    filled     a b - d from 0; then e from 0, f g h from 1; c is decoded

Before anything is overwritten, the blocks that are no longer valid but have rows that are needed are set aside: their
chunk files are renamed into the array `retired`, under a mark of their own. Such a previous block is deleted when the
last block that copies from it is done, so that little is on the disk twice. A block has one folder of files in each of
several arrays, and these are renamed one after the other: a run that is killed in between leaves two marks, neither of
which holds. The next run finishes the moves first. At every other moment each row is covered by one mark that holds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing, StringArray
from bigcluster.catalog.keys import name_keys
from bigcluster.catalog.ledger import Ledger
from bigcluster.files.layout import ARRAYS
from bigcluster.planning.stage_names import INGEST
from bigcluster.stages.pixel_blocks import BLOCK_ARRAYS, PIXELS, Block, Table
from bigcluster.store import Digests, Mark, Marks, Store, read_whole, table_of
from bigcluster.store.row_source import spans

PREVIOUS = "retired"
"""The stored name of the marks of previous blocks, and of the array of their pixels. It is part of the format of the
store."""
_TABLES = 4
"""Tables of previous blocks that are in memory at the same time, at most. Chosen, not measured."""


def previous_of(name: str) -> str:
    """Return the name of the array that holds the previous blocks of another array."""
    return PREVIOUS if name == PIXELS else f"{PREVIOUS}_{name}"


@dataclass(frozen=True)
class Source:
    """The rows of one block that are copied from one previous block."""

    slot: int
    to: list[int]
    """The listed rows that are filled."""
    rows: list[int]
    """The row within the previous block for each of them."""
    records: list[FileRecord]
    """The record of the file for each of them."""


def listed_before(out: Path) -> Iterator[str]:
    """Yield every name of which the store has a record, whether its pixels are valid or not.

    After a run was killed, some names come twice.
    """
    marks = Marks(out)
    for stage in (INGEST, PREVIOUS):
        for block in marks.blocks(stage):
            table = Table.of(out, marks.read(stage, block))
            names = None if table is None else table.names()
            if names is not None:
                yield from names


class PreviousBlocks:
    """The previous blocks of a store, and an index of which of their rows are copied to which rows of the listing."""

    def __init__(self, store: Store, listing: Listing, recipe: str, arrays: Sequence[str] = (PIXELS,)) -> None:
        """arrays : the names of the arrays that hold the row blocks."""
        self._arrays = arrays
        self._store, self._listing, self._recipe = store, listing, recipe
        self._lock = threading.Lock()
        self._users: Counter[int] = Counter()
        """For each slot, how many missing blocks have yet to copy from it."""
        self._released: set[int] = set()
        """The indices of the blocks that are done."""
        self._keys = np.empty(0, np.uint64)  # (n,) the keys of all rows of previous blocks, ascending
        self._places = np.empty((0, 2), np.int32)  # (n, 2) the slot of each of these rows, and the row within it
        self._tables: dict[int, tuple[StringArray, Ledger]] = {}
        """Names and records of the slots that were used last: two blocks copy from most of them."""

    def prepare(self, blocks: Sequence[Block], missing: Sequence[Block]) -> None:
        """Set aside the outdated blocks with rows that the missing blocks need, and index these rows.

        It must be called before the pixel array is resized. After a run was killed, it continues from where it stopped.
        """
        slots = [int(name) for name in self._store.marks.numbers(PREVIOUS)]
        for slot in slots:
            self._finish_moves(slot)
        replaced = self._replaced(blocks, missing)
        if not slots and not replaced:
            return
        missing_keys = np.sort(np.concatenate([self._keys_of(block) for block in missing]))
        useful: dict[int, NDArray[np.uint64]] = {}
        for slot in slots:
            self._add_if_useful(useful, slot, self._store.mark(PREVIOUS, _name(slot)), missing_keys)
            if slot not in useful:
                self._drop(slot)
        slot = max(slots, default=-1) + 1
        self._make_room(slot + len(replaced))
        for index in replaced:  # one mark in memory at a time: it lists every file of its block
            mark = self._store.mark(INGEST, _name(index))
            self._add_if_useful(useful, slot, mark, missing_keys)
            if mark is not None and slot in useful:
                self._set_aside(index, mark, slot)
                slot += 1
        self._build_index(useful)
        for block in missing:
            self._users.update(self._slots_of(block))

    def look_up(self) -> None:
        """Index the rows that another process has set aside with `prepare`. Only that process deletes them."""
        useful: dict[int, NDArray[np.uint64]] = {}
        for name in self._store.marks.numbers(PREVIOUS):
            table = Table.of(self._store.out, self._store.mark(PREVIOUS, name))
            names = None if table is None else table.names(self._recipe)
            if names is not None:
                useful[int(name)] = name_keys(names)
        if useful:
            self._build_index(useful)

    def sources(self, block: Block) -> list[Source]:
        """Return the rows of a block that were decoded before, one `Source` for each previous block that holds some."""
        sources = []
        at, places = self._find(block)
        for slot in np.unique(places[:, 0]).tolist():
            table = self._table_of(slot)
            if table is None:
                continue  # a file of it is missing or damaged: the rows are decoded again
            names, ledger = table
            here = places[:, 0] == slot
            pairs = [
                (block.start + to, row)
                for to, row in zip(at[here].tolist(), places[here, 1].tolist(), strict=True)
                if names[row] == self._listing.names[block.start + to]  # and not merely of the same hash
            ]
            rows = [row for _, row in pairs]
            sources.append(Source(slot, [to for to, _ in pairs], rows, ledger.at(rows)))
        return sources

    def _table_of(self, slot: int) -> tuple[StringArray, Ledger] | None:
        """Return the names and records of a slot, row by row; None where they are not there any more."""
        with self._lock:
            if slot not in self._tables:
                table = Table.of(self._store.out, self._store.mark(PREVIOUS, _name(slot)))
                names, ledger = (None, None) if table is None else (table.names(self._recipe), table.records())
                if names is None or ledger is None or len(names) != len(ledger):
                    return None
                if len(self._tables) >= _TABLES:
                    del self._tables[min(self._tables)]  # most listings take slots in ascending order
                self._tables[slot] = names, ledger
            return self._tables[slot]

    def copy(self, name: str, slot: int, rows: NDArray[np.int64], values: NDArray[Any], to: NDArray[np.int64]) -> None:
        """Copy rows of a previous block of an array into values[to], one column of chunks at a time.

        name : of the array. rows, to : (m,) row numbers within the previous block and within `values`. values :
        (block rows, n_columns).
        """
        if len(rows) == 0:
            return
        array = self._store.array(previous_of(name))
        block_rows, width = array.chunks
        low, high = int(rows.min()), int(rows.max()) + 1
        here = slice(slot * block_rows + low, slot * block_rows + high)
        for columns in spans(array.shape[1], width):
            values[to, slice(*columns)] = read_whole(array, (here, slice(*columns)))[rows - low]

    def release(self, block: Block) -> None:
        """Note that a block is done, and delete the previous blocks that no other block needs.

        Only a process that called `prepare` knows which blocks need them, and deletes any.
        """
        with self._lock:
            if block.index in self._released:
                return
            self._released.add(block.index)
            for slot in self._slots_of(block):
                self._users[slot] -= 1
                if self._users[slot] == 0:
                    self._drop(slot)

    def clear(self) -> None:
        """Delete all previous blocks."""
        for name in self._store.marks.numbers(PREVIOUS):
            self._store.marks.remove(PREVIOUS, name)
        for name in map(previous_of, BLOCK_ARRAYS):
            if self._store.has(name):
                self._store.remove(name)

    def _replaced(self, blocks: Sequence[Block], missing: Sequence[Block]) -> list[int]:
        """Return the indices of the stored blocks that will be overwritten or lie beyond the end of the listing."""
        missing_indices = {block.index for block in missing}
        stored = map(int, self._store.marks.numbers(INGEST))
        return [index for index in stored if index in missing_indices or index >= len(blocks)]

    def _add_if_useful(
        self, useful: dict[int, NDArray[np.uint64]], slot: int, mark: Mark | None, missing_keys: NDArray[np.uint64]
    ) -> None:
        """Add the keys of a block to `useful` where it holds one of `missing_keys`, which are ascending."""
        table = Table.of(self._store.out, mark)
        names = None if table is None else table.names(self._recipe)
        if names is not None:
            keys = name_keys(names)
            at = np.minimum(np.searchsorted(missing_keys, keys), len(missing_keys) - 1)
            if (missing_keys[at] == keys).any():
                useful[slot] = keys

    def _make_room(self, n_slots: int) -> None:
        for name in self._arrays:
            array = self._store.array(name)
            shape = (n_slots * array.chunks[0], array.shape[1])
            self._store.create(previous_of(name), shape, array.dtype, array.chunks)

    def _set_aside(self, index: int, mark: Mark, slot: int) -> None:
        """Move the files of a block into a slot of the previous blocks.

        The new mark is written first: it is not valid before its files are in place. Then the files move, array by
        array, then the old mark is deleted: until then `_finish_moves` knows from both marks what belongs where.
        """
        digests: Digests = {}
        for name in self._arrays:
            before, after = f"{ARRAYS}/{name}/c/{index}/", f"{ARRAYS}/{previous_of(name)}/c/{slot}/"
            files = (file for file in mark.digests if file.startswith(before))
            digests |= {after + file.removeprefix(before): mark.digests[file] for file in files}
        digests |= table_of(mark)  # whose name does not change
        self._store.marks.write(PREVIOUS, Mark(mark.fingerprint, digests, mark.payload), _name(slot))
        for name in self._arrays:
            self._store.move_rows(name, index, previous_of(name), slot)
        self._store.marks.remove(INGEST, _name(index))

    def _finish_moves(self, slot: int) -> None:
        """Move what is left of the files of a block that a killed run was moving into a slot."""
        marks = self._store.marks
        moving = marks.read(PREVIOUS, _name(slot))
        if moving is None or self._store.mark(PREVIOUS, _name(slot)) is not None:
            return
        index = moving.payload["start"] // self._store.array(PIXELS).chunks[0]
        stored = marks.read(INGEST, _name(index))
        if stored is None or (stored.fingerprint, stored.payload) != (moving.fingerprint, moving.payload):
            return
        if self._store.mark(INGEST, _name(index)) is None:  # else nothing was moved: the block is whole in its place
            for name in self._arrays:
                self._store.move_rows(name, index, previous_of(name), slot, begun=True)
            marks.remove(INGEST, _name(index))

    def _build_index(self, useful: dict[int, NDArray[np.uint64]]) -> None:
        keys = np.concatenate([self._keys, *useful.values()])
        order = np.argsort(keys, kind="stable")
        slots = np.repeat(np.array(list(useful), np.int32), [len(rows) for rows in useful.values()])
        rows = np.concatenate([self._places[:, 1], *(np.arange(len(rows), dtype=np.int32) for rows in useful.values())])
        self._keys, self._places = keys[order], np.column_stack([slots, rows])[order]

    def _find(self, block: Block) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the positions within the block whose files were decoded before, (m,), and their places, (m, 2)."""
        if len(self._keys) == 0:
            return np.empty(0, np.int64), np.empty((0, 2), np.int32)
        keys = self._keys_of(block)
        # Of several previous blocks with one file the latest counts: it comes last among equal keys.
        at = np.maximum(np.searchsorted(self._keys, keys, side="right") - 1, 0)
        matches = np.flatnonzero(self._keys[at] == keys)
        return matches, self._places[at[matches]]

    def _slots_of(self, block: Block) -> list[int]:
        slots: list[int] = np.unique(self._find(block)[1][:, 0]).tolist()
        return slots

    def _keys_of(self, block: Block) -> NDArray[np.uint64]:
        return name_keys(self._listing.names.between(block.start, block.stop))

    def _drop(self, slot: int) -> None:
        """Delete a slot. Its table may be that of a block as well: `tidy` removes it where no mark vouches for it."""
        self._tables.pop(slot, None)
        self._store.marks.remove(PREVIOUS, _name(slot))
        for name in self._arrays:
            self._store.drop_rows(previous_of(name), slot)


def _name(index: int) -> str:
    """Return the name of the mark of a block or of a slot."""
    return Block(index, 0, 0).name
