"""The state that an unfinished stage saves, so that a resumed run redoes its current pass at most.

    .bigcluster/state/<stage>/<digest>.npy      the arrays of a state: a large one, or many small ones in a row
    .bigcluster/marks/state/<stage>.json        the mark that vouches for them, and holds the other values

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
from bigcluster.files.kept import clear_way
from bigcluster.files.layout import STATES
from bigcluster.files.shared_disk import comes_to_light
from bigcluster.store.arrays import Store
from bigcluster.store.inventory import STATE
from bigcluster.store.marks import Mark
from bigcluster.units import MIB

MOST_SECONDS = 60.0
"""Seconds between two states, at most, to which the pass that is under way is added. Chosen, not measured."""
COST_FACTOR = 50
"""The next save comes after this many times the seconds that the last one took, so that saving takes at most 2 % of the
time."""
_LARGE_BYTES = 1 * MIB
"""Bytes from which an array has a file of its own. Smaller ones share one file, since every file costs two syncs.
Chosen, not measured."""
_HELD_TWICE = 2
"""Copies in memory while a state is read: the bytes of its file, and the array that is made of them."""
_BYTES_PER_SECOND = 200 * MIB
"""Rate of writing that is assumed before the first save has been timed. Chosen, not measured."""
_LEAST_COST_SECONDS = 0.02
"""Seconds that a save is taken to cost at least, for its syncs. Chosen, not measured."""


Fit = TypeVar("Fit")
Place = tuple[str, int]
"""File, relative to OUT, and the byte at which an array begins."""


@dataclass
class StoredState:
    """What a solver saved, as a solvers.checkpoint.Checkpoint: its values, and its arrays, which are read on demand."""

    out: Path
    digests: dict[str, str]
    places: dict[str, Place]
    facts: dict[str, Any]
    _last: tuple[str, bytes] = ("", b"")

    def get(self, name: str) -> NDArray[Any]:
        """The saved array of that name. Raises DamagedError where its file is not what was saved."""
        file, start = self.places[name]
        known, data = self._last  # taken once: another thread may be at another file
        if file != known:
            data = (self.out / file).read_bytes()
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
        self.store, self.stage, self.fingerprint = store, stage, fingerprint
        self._folder = store.out / STATES / stage
        self._saved_at = time.monotonic()
        self._cost_seconds: float | None = None
        self._resumed = False

    def load(self) -> StoredState | None:
        """The saved state; None where there is none of this fingerprint, where files of it are lost, or where memory
        does not hold it."""
        mark = self._mark()
        if mark is None or not self._fits(mark):
            return None
        self._resumed = True
        return StoredState(self.store.out, mark.digests, mark.payload["places"], mark.payload["facts"])

    def _fits(self, mark: Mark) -> bool:
        """Whether every file of a state is there, and the memory limit of the store permits to read it.

        A job that a frozen worker goes on with may replace the mark by that of an earlier state.
        """
        most_bytes, files = self.store.most_bytes, [self.store.out / file for file in mark.digests]
        if not all(map(comes_to_light, files)):
            return False
        return most_bytes is None or all(_HELD_TWICE * file.lstat().st_size <= most_bytes for file in files)

    def resume_or_restart(self, fit: Callable[[], Fit], tell: Callable[[str], None]) -> Fit:
        """Call `fit`, which resumes from the saved state, and return its result.

        Where the state turns out not to belong to this fit, it is removed and `fit` is called again.

        Anybody can write a state with a right seal: that it is wrong shows only while the solver uses it.
        tell : is called with one line of text in that case.
        """
        try:
            return fit()
        except (BigclusterError, OSError, MemoryError):
            raise
        except Exception as error:
            if not self._resumed:
                raise
            tell(f"the saved state of {self.stage} is not of this fit ({type(error).__name__}): it begins anew")
        self.clear()
        self._resumed = False
        return fit()

    def should_save(self, n_bytes: int) -> bool:
        """Whether enough time has passed since the last save for a state of `n_bytes` bytes."""
        cost = self._cost_seconds or max(_LEAST_COST_SECONDS, n_bytes / _BYTES_PER_SECOND)
        return time.monotonic() - self._saved_at >= min(MOST_SECONDS, COST_FACTOR * cost)

    def save(
        self, facts: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], keep: Collection[str] = ()
    ) -> None:
        """Save a state in place of the one before; it is on disk when this returns.

        facts : values that JSON can hold. arrays : (name, array) pairs, written one at a time.
        keep : names of arrays that are taken over from the state before, unchanged.
        """
        began = time.monotonic()
        before, last = self._mark(), self.store.marks.read(STATE, self.stage)
        places, digests = dict[str, Place](), dict[str, str]()
        if before is not None:
            places = {name: before.payload["places"][name] for name in keep}
            digests = {file: before.digests[file] for file, _ in places.values()}
        for names, file, digest in self._write(arrays):
            places |= {name: (file, start) for name, start in names}
            digests[file] = digest
        payload = {"places": places, "facts": facts}
        self.store.marks.write(STATE, Mark(self.fingerprint, digests, payload), self.stage)
        if last is not None:
            self._remove(last.digests.keys() - digests.keys())
        self._saved_at = time.monotonic()
        self._cost_seconds = max(_LEAST_COST_SECONDS, self._saved_at - began)

    def _write(self, arrays: Iterable[tuple[str, NDArray[Any]]]) -> Iterator[tuple[list[tuple[str, int]], str, str]]:
        """For every file: the arrays in it with where they begin, its path in OUT, its digest."""
        clear_way(self._folder, self.store.out)
        with open_folder(self._folder, self.store.out, create=True) as folder, unfinished(folder) as small:
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
        """Name a file by the digest of its content and put it in place; returns (path in OUT, digest)."""
        os.fsync(new.file.fileno())
        digest = new.digest()
        new.place(f"{digest}.npy")
        return f"{STATES}/{self.stage}/{digest}.npy", digest

    def _remove(self, files: Iterable[str]) -> None:
        for file in files:
            if file.startswith(f"{STATES}/{self.stage}/"):
                unlink_below(self.store.out / file, self.store.out)

    def clear(self) -> None:
        """Remove the state: the stage has ended, so that nothing resumes from it any more."""
        mark = self.store.marks.read(STATE, self.stage)
        self.store.marks.remove(STATE, self.stage)
        if mark is not None:
            self._remove(mark.digests)
            remove_if_empty(self._folder)

    def _mark(self) -> Mark | None:
        mark = self.store.mark(STATE, self.stage)
        if mark is None or mark.fingerprint != self.fingerprint:
            return None
        return mark if all(file in mark.digests for file, _ in mark.payload["places"].values()) else None
