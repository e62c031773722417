"""This stage gives every image a place by t-SNE or UMAP of its scores; the places are clustered in place of the scores.

A sample of the images is fitted, and the others are placed among it. Stored are the places and which images were
fitted. With the stored scores of these, new images can be placed too, without a fitted object of the library: such an
object could only be kept as a pickle, which runs code when it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import Settings
from bigcluster.errors import DamagedError, StoreError
from bigcluster.kernels.linalg.types import Float32Array
from bigcluster.planning.stage_names import MANIFOLD
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.seeding import sample_rows
from bigcluster.solvers.manifold import NAMES, PLACED_ROWS, Placer, effective_neighbors, fit_manifold, n_dimensions
from bigcluster.stages.context import Context
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.reduce import Reduced
from bigcluster.store import Mark, RowWriter, StageCheckpoints, Store, StoredRows, fingerprint
from bigcluster.store.row_source import RowSource, spans
from bigcluster.units import show_count

_PLACES, _FITTED = "embedding", "embedding_rows"


def embed(context: Context, reduced: Reduced, ingested: Ingested) -> Reduced:
    """Bring the places of the images up to date with the scores and the settings; return them as rows to cluster.

    reduced : the scores. Raises ConfigError where the library is missing, and TooFewSamplesError where there are too
    few images.
    """
    store, settings = context.store, context.settings
    expected = _fingerprint(settings, reduced)
    mark = store.mark(MANIFOLD)
    reused = mark is not None and _is_of(mark, expected, ingested)
    checkpoints = StageCheckpoints(store, MANIFOLD, expected)
    if mark is None or not reused:
        mark = _fit(context, reduced, ingested, expected, checkpoints)
    else:
        context.progress.reused(MANIFOLD)
    checkpoints.clear()
    return _from_mark(store, reduced, mark, reused=reused)


def load_embedded(context: Context, reduced: Reduced, ingested: Ingested) -> Reduced:
    """Load the places of the last fit, without fitting. Raises StoreError where other settings made them."""
    mark = context.store.mark(MANIFOLD)
    if mark is None or not _is_of(mark, _fingerprint(context.settings, reduced), ingested):
        raise StoreError(
            f"{context.store.root} holds no {NAMES[context.settings.reduce]} by these settings; run the job to its end "
            "first"
        )
    return _from_mark(context.store, reduced, mark, reused=True)


def places(store: Store) -> RowSource:
    """Return the places of the good images, (n_ok, n_dimensions) float32."""
    return StoredRows(store.array(_PLACES))


def load_placer(store: Store, mark: Mark, scores: RowSource, runtime: Runtime) -> Placer:
    """Return what places new images among the fitted ones.

    mark : of this stage. scores : those from which the places were made, (n_ok, n_columns) float32. Raises ConfigError
    where the library is missing, DamagedError where a stored array cannot be used.
    """
    fitted = store.load(_FITTED)
    if not are_rows(fitted, scores.shape[0]):
        raise DamagedError(f"{store.root / _FITTED} names rows that there are not")
    sample = Blocks(scores, runtime).take(fitted)
    return Placer(mark.payload["method"], sample, _taken(places(store), fitted, runtime), runtime)


def are_rows(numbers: NDArray[np.int64], n_rows: int) -> bool:
    """Return whether numbers are those of rows, each of them once and ascending."""
    return bool(len(numbers) and numbers[0] >= 0 and numbers[-1] < n_rows and (np.diff(numbers) > 0).all())


def _taken(rows: RowSource, numbers: NDArray[np.int64], runtime: Runtime) -> Float32Array:
    taken: Float32Array = Blocks(rows, runtime).take(numbers)
    return taken


def _fingerprint(settings: Settings, reduced: Reduced) -> str:
    return fingerprint(
        before=reduced.fingerprint,
        stage=MANIFOLD,
        method=settings.reduce,
        seed=settings.seed,
        neighbors=settings.manifold.neighbors,
        sample=min(settings.manifold.sample, reduced.rows.shape[0]),
    )


def _is_of(mark: Mark, expected: str, ingested: Ingested) -> bool:
    return mark.fingerprint == expected and bool(mark.payload["images"] == ingested.fingerprint)


def _from_mark(store: Store, reduced: Reduced, mark: Mark, *, reused: bool) -> Reduced:
    facts = {name: mark.payload[name] for name in ("solver", "neighbors", "n_fitted", "n_dimensions")}
    return replace(
        reduced, fingerprint=mark.fingerprint, rows=places(store), reused=reduced.reused and reused, facts=facts
    )


def _fit(context: Context, reduced: Reduced, ingested: Ingested, expected: str, checkpoints: StageCheckpoints) -> Mark:
    store, settings, progress = context.store, context.settings, context.progress
    rows, method = reduced.rows, settings.reduce
    n_rows, n_columns = rows.shape
    fitted = np.sort(sample_rows(ingested.row_keys, None, settings.manifold.sample, settings.seed))
    neighbors = effective_neighbors(method, len(fitted), settings.manifold.neighbors)
    if neighbors < settings.manifold.neighbors:
        progress.note(
            f"manifold.neighbors = {settings.manifold.neighbors} is more than {show_count(len(fitted))} images allow: "
            f"{neighbors} is used"
        )
    store.marks.remove(MANIFOLD)
    with progress.stage(MANIFOLD, n_rows, "images"):
        found = checkpoints.resume_or_restart(
            lambda: _Embedding(context, rows, fitted, neighbors, checkpoints).make(), progress.warn
        )
        writer = RowWriter(store, _PLACES, n_rows, found.shape[1], np.float32)
        writer.write(0, found)
        digests = writer.close() | store.save(_FITTED, fitted)
    payload: dict[str, Any] = {
        "solver": NAMES[method],
        "method": method,
        "images": ingested.fingerprint,
        "rows": reduced.fingerprint,
        "n_columns": n_columns,
        "neighbors": neighbors,
        "n_fitted": len(fitted),
        "n_dimensions": found.shape[1],
    }
    return store.commit(MANIFOLD, expected, digests, payload)


_OF_FITTED = "fitted"
"""Name of the places of the fitted rows in a saved state."""


def _of_rows(start: int) -> str:
    """Return the name of the places from row `start` on, in a saved state."""
    return f"rows/{start}"


class _Embedding:
    """Makes the places of all rows. A killed run goes on after the fit, and after the rows that were placed."""

    def __init__(
        self,
        context: Context,
        rows: RowSource,
        fitted: NDArray[np.int64],
        neighbors: int,
        checkpoints: StageCheckpoints,
    ) -> None:
        """rows : the scores, (n_rows, n_columns) float32. fitted : the numbers of the fitted rows, ascending."""
        self._context, self._rows, self._fitted, self._neighbors = context, rows, fitted, neighbors
        self._checkpoints, self._ends, self._has_state = checkpoints, [0], False
        self._method = context.settings.reduce
        self._places = np.empty((rows.shape[0], n_dimensions(self._method, rows.shape[1])), np.float32)

    def make(self) -> Float32Array:
        """Return the places of all rows, (n_rows, n_dimensions) float32."""
        runtime, progress = self._context.runtime, self._context.progress
        n_rows, n_fitted = len(self._places), len(self._fitted)
        sample = _taken(self._rows, self._fitted, runtime)
        if not self._load():
            self._places[self._fitted] = fit_manifold(
                self._method,
                sample,
                neighbors=self._neighbors,
                seed=self._context.settings.seed,
                runtime=runtime,
                on_progress=lambda share: progress.at(int(share * n_fitted)),
            )
        progress.at(n_fitted)
        if n_fitted == n_rows:
            return self._places
        self._save(0)
        placer = Placer(self._method, sample, self._places[self._fitted], runtime)
        others = np.ones(n_rows, np.bool_)
        others[self._fitted] = False
        first = self._ends[-1]
        for begin, end in spans(n_rows - first, PLACED_ROWS):
            start, stop = first + begin, first + end
            chosen = others[start:stop]
            self._places[start:stop][chosen] = placer.place(self._rows.read(start, stop)[chosen])
            progress.at(n_fitted + int(others[:stop].sum()))
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
