"""References to what is stored, for jobs that run in other processes: the path of OUT and names, and no open file.

In the process that made it, a reference leads to the same object. Elsewhere it opens the store and keeps it open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.store.arrays import Store
from bigcluster.store.checkpoints import StageCheckpoints
from bigcluster.store.row_io import StoredRows
from bigcluster.store.row_source import FirstColumns, RowSource

if TYPE_CHECKING:
    from bigcluster.runtime.cluster import Worker

Fit = TypeVar("Fit")


@dataclass(frozen=True)
class StoreRef:
    """A store that other processes can open."""

    out: Path
    edition: str
    """See `Store.edition`: a store that was opened in an earlier edition is opened again."""
    _here: Store | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, store: Store) -> StoreRef:
        """Return the reference to an open store as it is now."""
        return cls(store.out, store.edition, store)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreRef, (self.out, self.edition)

    def open(self, worker: Worker) -> Store:
        """Return the store. Raises StoreError where this process finds none."""
        if self._here is not None:
            return self._here

        def opened() -> Store:
            return Store(self.out, create=False, most_bytes=worker.memory_bytes)

        return worker.cached(f"the store of {self.out}", self.edition, opened)


@dataclass(frozen=True)
class ArrayRef:
    """A whole small array of a store."""

    store: StoreRef
    name: str
    _here: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayRef, (self.store, self.name)

    def open(self, worker: Worker) -> NDArray[Any]:
        """Return the array."""
        return self.store.open(worker).load(self.name) if self._here is None else self._here


@dataclass(frozen=True)
class CheckpointsRef:
    """Where a stage saves its state, for a job in any process."""

    store: StoreRef
    stage: str
    fingerprint: str
    _here: StageCheckpoints | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, checkpoints: StageCheckpoints) -> CheckpointsRef:
        """Return the reference to the checkpoints of a stage."""
        return cls(StoreRef.of(checkpoints.store), checkpoints.stage, checkpoints.fingerprint, checkpoints)

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckpointsRef, (self.store, self.stage, self.fingerprint)

    def open(self, worker: Worker) -> StageCheckpoints:
        """Return the checkpoints in this process."""
        return self._here or StageCheckpoints(self.store.open(worker), self.stage, self.fingerprint)

    def fit(self, worker: Worker, fit: Callable[[StageCheckpoints], Fit]) -> Fit:
        """Return fit(checkpoints), which goes on from the saved state.

        A state that turns out not to belong to the fit is removed, and `fit` is called again; in the process that asks,
        the stage itself does so.
        """
        checkpoints = self.open(worker)
        if checkpoints is self._here:
            return fit(checkpoints)
        return checkpoints.resume_or_restart(lambda: fit(checkpoints), worker.progress.warn)


class RowSourceRef(Protocol):
    """A reference to a row source."""

    def open(self, worker: Worker) -> RowSource:
        """Return the rows in this process."""


@dataclass(frozen=True)
class RowsRef:
    """The rows of a stored matrix, or rows in the memory of this process, which cannot go elsewhere."""

    store: StoreRef | None
    """None for rows that are not stored."""
    array: str
    mask: str
    """The name of the stored array that says which rows are good, (n,) bool; "" for all."""
    shape: tuple[int, int]
    _here: RowSource | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, rows: RowSource) -> RowsRef:
        """Return the reference to a row source."""
        stored = rows.rows if isinstance(rows, FirstColumns) else rows
        place = stored.place if isinstance(stored, StoredRows) else None
        if place is None:
            return cls(None, "", "", rows.shape, rows)
        out, edition, array, mask = place
        return cls(StoreRef(out, edition), array, mask, rows.shape, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.store is None:
            raise TypeError("rows that are not stored cannot go to another process")
        return RowsRef, (self.store, self.array, self.mask, self.shape)

    def open(self, worker: Worker) -> RowSource:
        """Return the rows. Raises StoreError where this process finds others."""
        if self._here is not None:
            return self._here
        assert self.store is not None
        return worker.cached(f"the rows {self.array} of {self.store.out}", self, lambda: self._read(worker))

    def _read(self, worker: Worker) -> RowSource:
        assert self.store is not None
        store = self.store.open(worker)
        ok = np.asarray(store.load(self.mask), bool) if self.mask else None
        stored = StoredRows(store.array(self.array), ok, mask=self.mask)
        rows = stored if stored.shape[1] == self.shape[1] else FirstColumns(stored, self.shape[1])
        if rows.shape != self.shape:
            raise StoreError(
                f"{store.root / self.array} has {stored.shape[0]} good rows here, where {self.shape[0]} are expected"
            )
        return rows
