"""The job of t-SNE and UMAP: their libraries work in one process, so that one worker makes the places of all images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float32Array
from bigcluster.runtime.cluster import Local, Worker
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.manifold import PLACED_ROWS, Placer, fit_manifold, n_dimensions
from bigcluster.solvers.progress import counting
from bigcluster.store import Digests, RowWriter, StageCheckpoints
from bigcluster.store.refs import CheckpointsRef, RowSourceRef, StoreRef
from bigcluster.store.row_source import RowSource, spans

PLACES, FITTED = "embedding", "embedding_rows"
"""The stored places, (n_ok, n_dimensions) float32, and the numbers of the fitted rows, (n_fitted,) int64, ascending."""


def taken(rows: RowSource, numbers: NDArray[np.int64], runtime: Runtime) -> Float32Array:
    """Return the rows of these numbers, (n, n_columns) float32."""
    found: Float32Array = Blocks(rows, runtime).take(numbers)
    return found


@dataclass(frozen=True)
class EmbedRows:
    """Make the places of all rows and write them into the store. It returns the digests of what was written."""

    store: StoreRef
    rows: RowSourceRef
    method: str
    fitted: NDArray[np.int64]
    """The numbers of the rows that are fitted, ascending."""
    neighbors: int
    seed: int
    checkpoints: CheckpointsRef
    on_progress: Local[Callable[[int], None]] = field(default_factory=Local, compare=False, repr=False)
    """Is called with the number of rows that are done, in the process that asks."""

    def __call__(self, worker: Worker) -> Digests:
        store, rows = self.store.open(worker), self.rows.open(worker)
        made = self.checkpoints.fit(worker, lambda saved: _Embedding(self, rows, worker, saved).make())
        writer = RowWriter(store, PLACES, len(made), made.shape[1], np.float32)
        writer.write(0, made)
        digests = writer.close() | store.save(FITTED, self.fitted)
        store.sync(digests)
        return digests


_OF_FITTED = "fitted"
"""Name of the places of the fitted rows in a saved state."""


def _of_rows(start: int) -> str:
    """Return the name of the places from row `start` on, in a saved state."""
    return f"rows/{start}"


class _Embedding:
    """Makes the places of all rows. A killed run goes on after the fit, and after the rows that were placed."""

    def __init__(self, job: EmbedRows, rows: RowSource, worker: Worker, checkpoints: StageCheckpoints) -> None:
        """rows : the scores, (n_rows, n_columns) float32."""
        self._job, self._rows, self._fitted, self._runtime = job, rows, job.fitted, worker.runtime
        self._checkpoints, self._ends, self._has_state = checkpoints, [0], False
        self._places = np.empty((rows.shape[0], n_dimensions(job.method, rows.shape[1])), np.float32)
        self._at = job.on_progress.value or counting(worker.progress)

    def make(self) -> Float32Array:
        """Return the places of all rows, (n_rows, n_dimensions) float32."""
        job, runtime, at = self._job, self._runtime, self._at
        n_rows, n_fitted = len(self._places), len(self._fitted)
        sample = taken(self._rows, self._fitted, runtime)
        if not self._load():
            self._places[self._fitted] = fit_manifold(
                job.method,
                sample,
                neighbors=job.neighbors,
                seed=job.seed,
                runtime=runtime,
                on_progress=lambda share: at(int(share * n_fitted)),
            )
        at(n_fitted)
        if n_fitted == n_rows:
            return self._places
        self._save(0)
        placer = Placer(job.method, sample, self._places[self._fitted], runtime)
        others = np.ones(n_rows, np.bool_)
        others[self._fitted] = False
        first = self._ends[-1]
        for begin, end in spans(n_rows - first, PLACED_ROWS):
            start, stop = first + begin, first + end
            chosen = others[start:stop]
            self._places[start:stop][chosen] = placer.place(self._rows.read(start, stop)[chosen])
            at(n_fitted + int(others[:stop].sum()))
            self._save(stop)
        return self._places

    def _load(self) -> bool:
        """Fill in the saved places; return whether there were any. Raises ValueError where they do not fit."""
        state = self._checkpoints.load()
        if state is None:
            return False
        parts = {_OF_FITTED: self._fitted}
        ends = [0, *state.facts["ends"]]
        for start, stop in pairwise(ends):
            parts[_of_rows(start)] = np.arange(start, stop)
        for name, numbers in parts.items():
            part = state.get(name)
            if part.shape != (len(numbers), self._places.shape[1]) or part.dtype != np.float32:
                raise ValueError(f"the places of {name} are {part.dtype} {part.shape}")
            if not np.isfinite(part).all():
                raise ValueError(f"the places of {name} are not finite")
            self._places[numbers] = part
        self._ends, self._has_state = ends, True
        return True

    def _save(self, stop: int) -> None:
        """Save the places of the fitted rows, and of the rows up to `stop`, where a save is due."""
        start, has_state = self._ends[-1], self._has_state
        new = {} if has_state else {_OF_FITTED: self._places[self._fitted]}
        if stop > start:
            new[_of_rows(start)] = self._places[start:stop]
        if not new or not self._checkpoints.should_save(sum(part.nbytes for part in new.values())):
            return
        keep = [_OF_FITTED, *map(_of_rows, self._ends[:-1])] if has_state else []
        if stop > start:
            self._ends.append(stop)
        self._checkpoints.save({"ends": self._ends[1:]}, new.items(), keep)
        self._has_state = True
