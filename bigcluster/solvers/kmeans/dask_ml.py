"""dask-ml's KMeans on our rows, with its known faults worked around, and our own final pass."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from bigcluster.errors import UsageError
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.fit import check_arguments, finish, open_rows
from bigcluster.solvers.kmeans.lloyd import Lloyd, Restart
from bigcluster.solvers.kmeans.result import KMeansFit, RowSink
from bigcluster.store.row_source import RowSource

INIT_ROUNDS = 5  # Bahmani et al. 2012, section 5: more rounds gain little


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
) -> KMeansFit:
    """Centers by dask-ml; labels, distances and inertia by us. Not bit-equal between machines or chunkings.

    dask-ml draws 2 candidates in all unless told otherwise (we ask for 2 k a round), takes tol as absolute (we scale
    it), restarts only the choice of candidates (we repeat whole fits), turns an emptied cluster into the origin (our
    iteration afterwards reseeds it) and sums unsquared distances as inertia (ours replaces it). Raises UsageError for
    more clusters than rows.
    """
    check_arguments(rows, n_clusters, 1, max_iter, tol, "k-means||" if isinstance(init, str) else init)
    if n_clusters > rows.shape[0]:
        raise UsageError(f"dask-ml cannot make {n_clusters} clusters of {rows.shape[0]} rows; use algorithm lloyd")
    blocks, summary, _ = open_rows(rows, None, runtime, workspace_bytes, n_clusters, 1)
    lloyd = Lloyd(blocks, summary, None)
    restarts = []
    for turn in range(n_init if isinstance(init, str) else 1):
        centers, n_iter = _centers(blocks, n_clusters, init, max_iter, tol * summary.mean_variance, seed + turn)
        restart = Restart(centers, bounded=False)
        lloyd.step([restart])
        if (restart.counts == 0).any():  # dead centers: reseeded, and on from there
            restart = Restart(centers, bounded=False)
            lloyd.run([restart], max_iter=max_iter, tol=tol, finalize=False)
        lloyd.finalize([restart])
        restart.n_iter += n_iter
        restarts.append(restart)
    return finish(lloyd, restarts, n_requested=n_clusters, algorithm="dask-ml", sink=sink)


def _centers(
    blocks: Blocks, n_clusters: int, init: str | NDArray[Any], max_iter: int, tol: float, seed: int
) -> tuple[NDArray[np.float64], int]:
    """One fit of dask-ml's: (n_clusters, r) centers, some of them perhaps dead, and its iterations."""
    import dask
    from dask_ml.cluster import KMeans  # 140 MiB and a second: only where it was asked for

    model = KMeans(
        n_clusters,
        init="k-means||" if isinstance(init, str) else np.asarray(init, dtype=np.float32),
        oversampling_factor=2 * n_clusters,
        init_max_iter=INIT_ROUNDS,
        max_iter=max_iter,
        tol=tol,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings(), dask.config.set(scheduler="threads", num_workers=blocks.runtime.threads):
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # fewer distinct candidates than clusters
        model.fit(_as_dask(blocks))
    return np.asarray(model.cluster_centers_, dtype=np.float64), int(model.n_iter_)


def _as_dask(blocks: Blocks) -> Any:
    """(n_rows, r) float32 dask array; dask-ml would cast centers back to an integer dtype."""
    import dask
    import dask.array as da

    def part(number: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(blocks.read(number), dtype=np.float32)

    parts = []
    for number in range(blocks.count):
        span = blocks.row_slice(number)
        shape = (span.stop - span.start, blocks.n_columns)
        parts.append(da.from_delayed(dask.delayed(part, pure=False)(number), shape, np.float32))
    return da.concatenate(parts)
