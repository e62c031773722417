"""This stage gives every image a place by t-SNE or UMAP of its scores; the places are clustered in place of the scores.

A sample of the images is fitted, and the others are placed among it. Stored are the places and which images were
fitted. With the stored scores of these, new images can be placed too, without a fitted object of the library: such an
object could only be kept as a pickle, which runs code when it is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import Settings
from bigcluster.errors import DamagedError, StoreError
from bigcluster.planning.stage_names import MANIFOLD
from bigcluster.runtime.cluster import Local
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.seeding import sample_rows
from bigcluster.solvers.manifold import NAMES, Placer, effective_neighbors, n_dimensions
from bigcluster.solvers.unit_length import ref_of
from bigcluster.stages.context import Context
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.manifold_jobs import FITTED, PLACES, EmbedRows, taken
from bigcluster.stages.reduce import Reduced
from bigcluster.store import Mark, StageCheckpoints, Store, StoredRows, fingerprint
from bigcluster.store.refs import CheckpointsRef, StoreRef
from bigcluster.store.row_source import RowSource
from bigcluster.units import show_count


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
    return StoredRows(store.array(PLACES))


def load_placer(store: Store, mark: Mark, scores: RowSource, runtime: Runtime) -> Placer:
    """Return what places new images among the fitted ones.

    mark : of this stage. scores : those from which the places were made, (n_ok, n_columns) float32. Raises ConfigError
    where the library is missing, DamagedError where a stored array cannot be used.
    """
    fitted = store.load(FITTED)
    if not are_rows(fitted, scores.shape[0]):
        raise DamagedError(f"{store.root / FITTED} names rows that there are not")
    sample = taken(scores, fitted, runtime)
    return Placer(mark.payload["method"], sample, taken(places(store), fitted, runtime), runtime)


def are_rows(numbers: NDArray[np.int64], n_rows: int) -> bool:
    """Return whether numbers are those of rows, each of them once and ascending."""
    return bool(len(numbers) and numbers[0] >= 0 and numbers[-1] < n_rows and (np.diff(numbers) > 0).all())


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
        job = EmbedRows(
            store=StoreRef.of(store),
            rows=ref_of(rows),
            method=method,
            fitted=fitted,
            neighbors=neighbors,
            seed=settings.seed,
            checkpoints=CheckpointsRef.of(checkpoints),
            on_progress=Local(progress.at),
        )
        digests = checkpoints.resume_or_restart(lambda: context.cluster.once(job), progress.warn)
        store.refresh()
    payload: dict[str, Any] = {
        "solver": NAMES[method],
        "method": method,
        "images": ingested.fingerprint,
        "rows": reduced.fingerprint,
        "n_columns": n_columns,
        "neighbors": neighbors,
        "n_fitted": len(fitted),
        "n_dimensions": n_dimensions(method, n_columns),
    }
    return store.commit(MANIFOLD, expected, digests, payload)
