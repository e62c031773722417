"""k-means by dask-ml on the dask array of a row source, with its known faults worked around, and the final pass of
`fit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from bigcluster.errors import UsageError
from bigcluster.runtime.threads import Runtime, dask_on_threads
from bigcluster.solvers.kmeans.blocks import Blocks, block_rows
from bigcluster.solvers.kmeans.fit import check_arguments, finish
from bigcluster.solvers.kmeans.opened import open_fit
from bigcluster.solvers.kmeans.restarts import Restart
from bigcluster.solvers.kmeans.result import KMeansFit, RowSink
from bigcluster.store.row_source import RowSource

Computing = Callable[[], AbstractContextManager[None]]
INIT_ROUNDS = 5
"""Rounds of k-means||. Source: Bahmani et al. 2012, section 5: more rounds gain little."""


def fit_dask_ml(
    rows: RowSource,
    n_clusters: int,
    *,
    seed: int = 0,
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    init: str | NDArray[Any] = "k-means||",
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    sink: RowSink | None = None,
    computing: Computing | None = None,
) -> KMeansFit:
    """Compute centers by dask-ml, and exact labels, distances and inertia as `fit` does, whose arguments these are.

    computing : returns a context within which dask computes, see `Worker.computing_by_dask`; by default on the threads
    of `runtime`.

    The centers are not bit-equal between machines or chunkings. dask-ml draws 2 candidates in all by default (here: 2 k
    in each round), takes `tol` as absolute (here it is scaled), restarts only the choice of candidates (here whole
    fits), puts an emptied cluster at the origin (here further iterations relocate it), and sums distances that are not
    squared as inertia (here it is computed again). Raises UsageError for more clusters than rows, and what `fit`
    raises.
    """
    check_arguments(rows, n_clusters, 1, max_iter, tol, "k-means||" if isinstance(init, str) else init)
    if n_clusters > rows.shape[0]:
        raise UsageError(f"dask-ml cannot make {n_clusters} clusters of {rows.shape[0]} rows; use algorithm lloyd")
    opened = open_fit(rows, None, runtime, workspace_bytes, n_clusters, 1)
    blocks, summary, lloyd = opened.blocks, opened.summary, opened.lloyd()
    restarts = []
    for number in range(n_init if isinstance(init, str) else 1):
        with computing() if computing is not None else dask_on_threads(blocks.runtime.threads):
            centers, n_iter = _centers(blocks, n_clusters, init, max_iter, tol * summary.mean_variance, seed + number)
        restart = Restart(centers, bounded=False)
        lloyd.step([restart])
        if (restart.counts == 0).any():  # empty clusters: iterations from these centers relocate them
            restart = Restart(centers, bounded=False)
            lloyd.run([restart], max_iter=max_iter, tol=tol, finalize=False)
        lloyd.finalize([restart])
        restart.n_iter += n_iter
        restarts.append(restart)
    return finish(lloyd, restarts, n_requested=n_clusters, algorithm="dask-ml", sink=sink)


def _centers(
    blocks: Blocks, n_clusters: int, init: str | NDArray[Any], max_iter: int, tol: float, seed: int
) -> tuple[NDArray[np.float64], int]:
    """Run one fit of dask-ml: (n_clusters, r) float64 centers, some of which may have no rows, and its iterations."""
    from dask_ml.cluster import KMeans  # takes 140 MiB and a second: only where it was requested

    model = KMeans(
        n_clusters,
        init="k-means||" if isinstance(init, str) else np.asarray(init, dtype=np.float32),
        oversampling_factor=2 * n_clusters,
        init_max_iter=INIT_ROUNDS,
        max_iter=max_iter,
        tol=tol,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # fewer distinct candidates than clusters
        model.fit(lazy_rows(blocks.rows))
    return np.asarray(model.cluster_centers_, dtype=np.float64), int(model.n_iter_)


def lazy_rows(rows: RowSource) -> Any:
    """Return the dask array of the rows, (n_rows, r) float32: dask-ml casts centers to the dtype of the rows.

    Stored rows keep the chunks of the store where these have whole rows and no more rows than a block of k-means, whose
    memory is in the plan. Otherwise the array is rechunked.
    """
    lazy, most = rows.dask(), block_rows(rows.shape[1])
    if lazy.numblocks[1] > 1 or max(lazy.chunks[0]) > most:
        lazy = lazy.rechunk({0: most, 1: -1})
    return lazy.astype(np.float32)
