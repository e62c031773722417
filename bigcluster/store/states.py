"""The state that an unfinished stage saves, so that a resumed run redoes its current pass at most.

    store.zarr/state/<stage>/<turn>-<name>.npy      the arrays of a state
    store.zarr/marks/state/<stage>.json             the mark that vouches for them, and holds the other values

New arrays are written beside those of the state before; the mark, replaced at once, decides which of them count.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.durable import digest_of, sync_all
from bigcluster.errors import DamagedError
from bigcluster.store.arrays import Store
from bigcluster.store.inventory import STATE
from bigcluster.store.marks import Mark
from bigcluster.units import MIB

MOST_SECONDS = 60.0
"""A state is never older than this and the pass in which it grew old."""
COST_FACTOR = 50
"""Saving takes at most a fiftieth of the time: after one of 20 ms, the next comes a second later at the earliest."""
_BYTES_PER_SECOND = 200 * MIB
_LEAST_COST_SECONDS = 0.02


@dataclass(frozen=True)
class StoredState:
    """As solvers.saving.SavedState."""

    root: Path
    digests: dict[str, str]
    files: dict[str, str]
    """Array -> file."""
    facts: dict[str, Any]

    def get(self, name: str) -> NDArray[Any]:
        file = self.files[name]
        data = (self.root / file).read_bytes()
        if digest_of(data) != self.digests[file]:
            raise DamagedError(f"the saved state {file} is damaged")
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array


class StageState:
    """Saves and finds the state of one stage; as solvers.saving.Saving."""

    def __init__(self, store: Store, stage: str, fingerprint: str) -> None:
        """fingerprint : of the stage's settings and input; a state of another one counts as none."""
        self._store, self._stage, self._fingerprint = store, stage, fingerprint
        self._folder = store.root / STATE / stage
        self._saved_at = time.monotonic()
        self._cost_seconds: float | None = None

    def load(self) -> StoredState | None:
        mark = self._mark()
        if mark is None:
            return None
        return StoredState(self._store.root, mark.digests, mark.payload["files"], mark.payload["facts"])

    def due(self, n_bytes: int) -> bool:
        cost = self._cost_seconds or max(_LEAST_COST_SECONDS, n_bytes / _BYTES_PER_SECOND)
        return time.monotonic() - self._saved_at >= min(MOST_SECONDS, COST_FACTOR * cost)

    def save(self, facts: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], keep: Collection[str] = ()) -> None:
        began = time.monotonic()
        before = self._mark()
        turn = 0 if before is None else before.payload["turn"] + 1
        files = {name: before.payload["files"][name] for name in keep} if before is not None else {}
        digests = {file: before.digests[file] for file in files.values()} if before is not None else {}
        self._folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, array in arrays:
            path = self._folder / f"{turn}-{name.replace('/', '-')}.npy"
            np.save(path, array, allow_pickle=False)
            files[name] = path.relative_to(self._store.root).as_posix()
            digests[files[name]] = digest_of(path.read_bytes())
            written.append(path)
        sync_all(written)
        payload = {"turn": turn, "files": files, "facts": facts}
        self._store.marks.write(STATE, Mark(self._fingerprint, digests, payload), self._stage)
        for path in self._folder.iterdir():
            if path.relative_to(self._store.root).as_posix() not in digests:
                path.unlink()
        self._saved_at = time.monotonic()
        self._cost_seconds = max(_LEAST_COST_SECONDS, self._saved_at - began)

    def clear(self) -> None:
        """The stage is done: its state is of no use any more."""
        self._store.marks.remove(STATE, self._stage)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mark(self) -> Mark | None:
        mark = self._store.mark(STATE, self._stage)
        return mark if mark is not None and mark.fingerprint == self._fingerprint else None
