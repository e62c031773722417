"""The state that an unfinished stage saves, so that a resumed run redoes its current pass at most.

    store.zarr/state/<stage>/<digest>.npy       the arrays of a state: a large one, or many small ones in a row
    store.zarr/marks/state/<stage>.json         the mark that vouches for them, and holds the other values

New files are written beside those of the state before; the mark, replaced at once, decides which of them count. A file
is named by the digest of its content: so one that no mark vouches for, after a kill, is still known for ours.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import BigclusterError, DamagedError
from bigcluster.files.durable import Unfinished, digest_of, open_folder, remove_if_empty, unfinished, unlink_below
from bigcluster.store.arrays import Store
from bigcluster.store.inventory import STATE
from bigcluster.store.marks import Mark
from bigcluster.units import MIB

MOST_SECONDS = 60.0
"""A state is never older than this and the pass in which it grew old."""
COST_FACTOR = 50
"""Saving takes at most a fiftieth of the time: after one of 20 ms, the next comes a second later at the earliest."""
_LARGE_BYTES = 1 * MIB
"""An array from here on has a file of its own; the others share one, since a file costs two syncs."""
_HELD_TWICE = 2
"""A file of a state and an array out of it."""
_BYTES_PER_SECOND = 200 * MIB
_LEAST_COST_SECONDS = 0.02


Fit = TypeVar("Fit")
Place = tuple[str, int]
"""File, relative to the store, and the byte at which an array begins."""


@dataclass
class StoredState:
    """A solvers.checkpoint.Checkpoint."""

    root: Path
    digests: dict[str, str]
    places: dict[str, Place]
    facts: dict[str, Any]
    _last: tuple[str, bytes] = ("", b"")

    def get(self, name: str) -> NDArray[Any]:
        file, start = self.places[name]
        known, data = self._last  # taken once: another thread may be at another file
        if file != known:
            data = (self.root / file).read_bytes()
            if digest_of(data) != self.digests[file]:
                raise DamagedError(f"the saved state {file} is damaged")
            self._last = file, data
        stream = io.BytesIO(data)
        stream.seek(start)
        array: NDArray[Any] = np.load(stream, allow_pickle=False)
        return array


class StageCheckpoints:
    """Saves and finds the state of one stage: a solvers.checkpoint.CheckpointStore."""

    def __init__(self, store: Store, stage: str, fingerprint: str) -> None:
        """fingerprint : of the stage's settings and input; a state of another one counts as none."""
        self._store, self._stage, self._fingerprint = store, stage, fingerprint
        self._folder = store.root / STATE / stage
        self._saved_at = time.monotonic()
        self._cost_seconds: float | None = None
        self._resumed = False

    def load(self) -> StoredState | None:
        mark = self._mark()
        if mark is None or not self._fits(mark):
            return None
        self._resumed = True
        return StoredState(self._store.root, mark.digests, mark.payload["places"], mark.payload["facts"])

    def _fits(self, mark: Mark) -> bool:
        """Whether every file of a state may be held: its stage had planned for what it saved."""
        most_bytes = self._store.most_bytes
        sizes = ((self._store.root / file).lstat().st_size for file in mark.digests)
        return most_bytes is None or all(_HELD_TWICE * size <= most_bytes for size in sizes)

    def resume_or_restart(self, fit: Callable[[], Fit], tell: Callable[[str], None]) -> Fit:
        """What `fit` returns, which goes on from what was saved; where that cannot be of this fit, from the beginning.

        Anybody can write a state with a right seal: what the solver makes of a wrong one shows only as it goes on.
        tell : takes a line where that happened.
        """
        try:
            return fit()
        except (BigclusterError, OSError, MemoryError):
            raise
        except Exception as error:
            if not self._resumed:
                raise
            tell(f"the saved state of {self._stage} is not of this fit ({type(error).__name__}): it begins anew")
        self.clear()
        self._resumed = False
        return fit()

    def should_save(self, n_bytes: int) -> bool:
        cost = self._cost_seconds or max(_LEAST_COST_SECONDS, n_bytes / _BYTES_PER_SECOND)
        return time.monotonic() - self._saved_at >= min(MOST_SECONDS, COST_FACTOR * cost)

    def save(
        self, facts: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], keep: Collection[str] = ()
    ) -> None:
        began = time.monotonic()
        before, last = self._mark(), self._store.marks.read(STATE, self._stage)
        places, digests = dict[str, Place](), dict[str, str]()
        if before is not None:
            places = {name: before.payload["places"][name] for name in keep}
            digests = {file: before.digests[file] for file, _ in places.values()}
        for names, file, digest in self._write(arrays):
            places |= {name: (file, start) for name, start in names}
            digests[file] = digest
        payload = {"places": places, "facts": facts}
        self._store.marks.write(STATE, Mark(self._fingerprint, digests, payload), self._stage)
        if last is not None:
            self._remove(last.digests.keys() - digests.keys())
        self._saved_at = time.monotonic()
        self._cost_seconds = max(_LEAST_COST_SECONDS, self._saved_at - began)

    def _write(self, arrays: Iterable[tuple[str, NDArray[Any]]]) -> Iterator[tuple[list[tuple[str, int]], str, str]]:
        """For every file: the arrays in it with where they begin, its path in the store, its digest."""
        out = self._store.root.parent
        with open_folder(self._folder, out, create=True) as folder, unfinished(folder) as small:
            in_small: list[tuple[str, int]] = []
            for name, array in arrays:
                if array.nbytes < _LARGE_BYTES:
                    in_small.append((name, small.file.tell()))
                    np.save(small.file, array, allow_pickle=False)
                else:
                    with unfinished(folder) as large:
                        np.save(large.file, array, allow_pickle=False)
                        yield [(name, 0)], *self._place(large)
            if in_small:
                yield in_small, *self._place(small)
            os.fsync(folder)

    def _place(self, new: Unfinished) -> tuple[str, str]:
        """Put a file in place under the name that its content gives it; its path in the store, and its digest."""
        os.fsync(new.file.fileno())
        digest = new.digest()
        new.place(f"{digest}.npy")
        return f"{STATE}/{self._stage}/{digest}.npy", digest

    def _remove(self, files: Iterable[str]) -> None:
        for file in files:
            if file.startswith(f"{STATE}/{self._stage}/"):
                unlink_below(self._store.root / file, self._store.root.parent)

    def clear(self) -> None:
        """The stage is done: its state is of no use any more."""
        mark = self._store.marks.read(STATE, self._stage)
        self._store.marks.remove(STATE, self._stage)
        if mark is not None:
            self._remove(mark.digests)
        remove_if_empty(self._folder)

    def _mark(self) -> Mark | None:
        mark = self._store.mark(STATE, self._stage)
        if mark is None or mark.fingerprint != self._fingerprint:
            return None
        return mark if all(file in mark.digests for file, _ in mark.payload["places"].values()) else None
