"""dask-ml's KMeans as a solver, used so that its known faults do not reach a result.

- Its k-means|| draws 2 candidates a round in total where the paper means 2k: the factor is set.
- Its `tol` is absolute: it is scaled by the mean variance here.
- Its `n_init` restarts only the choice of candidates: whole fits are repeated here.
- An emptied cluster becomes the origin: where that happened, our Lloyd goes on from its centers, and reseeds.
- Its `inertia_` mixes squared and unsquared distances: inertia and labels come from our final pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from bigcluster.rows import RowSource
from bigcluster.runtime import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks, block_rows, survey
from bigcluster.solvers.kmeans.fit import finish, fit, open_rows
from bigcluster.solvers.kmeans.lloyd import Lloyd, Start
from bigcluster.solvers.kmeans.result import KMeansFit

INIT_ROUNDS = 5  # Bahmani et al. 2012, section 5: more rounds gain little
OVERSAMPLING = 2  # candidates a round, per cluster


def fit_dask_ml(
    rows: RowSource,
    n_clusters: int,
    *,
    seed: int,
    n_init: int,
    max_iter: int,
    tol: float,
    runtime: Runtime,
    workspace_bytes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> KMeansFit:
    """Cluster rows with dask-ml's KMeans; `on_progress(starts_done)`.

    Raises what `fit` raises. With fewer distinct rows than clusters the result has fewer clusters and says so.
    """
    from dask_ml.cluster import KMeans

    array = as_dask(rows)
    mean_variance = survey(Blocks(rows, runtime), None).mean_variance
    best: KMeansFit | None = None
    for start in range(n_init):
        solver = KMeans(
            n_clusters=min(n_clusters, rows.shape[0]),
            init="k-means||",
            oversampling_factor=OVERSAMPLING * n_clusters,
            init_max_iter=INIT_ROUNDS,
            max_iter=max_iter,
            tol=tol * mean_variance,
            random_state=seed + start,
        )
        with dask.config.set(scheduler="threads", num_workers=runtime.threads):
            solver.fit(array)
        found = _settle(rows, np.asarray(solver.cluster_centers_, np.float64), max_iter, tol, runtime, workspace_bytes)
        if best is None or found.inertia < best.inertia:
            best = replace(found, n_iter=int(solver.n_iter_) + found.n_iter)
        if on_progress is not None:
            on_progress(start + 1)
    assert best is not None, "n_init is at least 1"
    return replace(best, algorithm="dask-ml", asked=n_clusters)


def _settle(
    rows: RowSource, centers: NDArray[np.float64], max_iter: int, tol: float, runtime: Runtime, workspace: int | None
) -> KMeansFit:
    """Our final pass over dask-ml's centers; where one of them is dead, Lloyd from there."""
    blocks, found, _ = open_rows(rows, None, runtime, workspace, len(centers), 1)
    start = Start(centers, bounded=False)
    Lloyd(blocks, found, None).run([start], max_iter=0, tol=tol)
    settled = finish(blocks, found, start, asked=len(centers), algorithm="dask-ml", inertias=[start.inertia])
    if settled.n_clusters == len(centers):
        return settled
    return fit(rows, len(centers), init=centers, max_iter=max_iter, tol=tol, runtime=runtime, workspace_bytes=workspace)


def as_dask(rows: RowSource) -> da.Array:
    """A row source as a float32 dask array, chunked along rows."""
    n_rows, n_columns = rows.shape
    chunk = min(n_rows, block_rows(n_columns))
    return da.from_array(_Sliceable(rows), chunks=(chunk, n_columns), meta=np.empty((0, 0), np.float32))


class _Sliceable:
    """What dask asks of an array: shape, dtype and slicing."""

    def __init__(self, rows: RowSource) -> None:
        self._rows = rows
        self.shape = rows.shape
        self.dtype = np.dtype(np.float32)
        self.ndim = 2

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[Any]:
        start, stop, _ = key[0].indices(self.shape[0])
        return self._rows.read(start, stop, key[1]).astype(np.float32, copy=False)
