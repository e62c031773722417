"""k-means from rows to labels: summary, restarts, Lloyd, the best restart, the final pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ConfigError, UsageError
from bigcluster.kernels.kmeans.centers import Scaler, fit_scaler, prepare
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.kernels.linalg.moments import block_moments
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans.blocks import Blocks, Summary
from bigcluster.solvers.kmeans.final_pass import write_rows
from bigcluster.solvers.kmeans.footprint import share_workspace
from bigcluster.solvers.kmeans.lloyd import Lloyd
from bigcluster.solvers.kmeans.opened import Spread, open_fit
from bigcluster.solvers.kmeans.restarts import Restart, SavedRestarts, load_restarts
from bigcluster.solvers.kmeans.result import ArraySink, KMeansFit, RowSink
from bigcluster.solvers.kmeans.seeding import PARALLEL_FROM, Keys, begin_sampled
from bigcluster.solvers.progress import OnProgress
from bigcluster.store.row_source import RowSource

N_INIT = 4
"""Default number of restarts. They share passes over the data: four of them read it as often as the slowest one."""
SEED_STEP = 7919
"""Difference between the seeds of two restarts: a prime, so that the restarts of neighbouring seeds are other ones."""
INITS = ("auto", "k-means++", "k-means||", "random")


def fit(
    rows: RowSource,
    n_clusters: int,
    *,
    seed: int = 0,
    row_keys: NDArray[np.uint64] | None = None,
    n_init: int = N_INIT,
    max_iter: int = 300,
    tol: float = 1e-4,
    init: str | NDArray[Any] = "auto",
    sample_weight: NDArray[Any] | None = None,
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    sink: RowSink | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
    spread: Spread | None = None,
) -> KMeansFit:
    """Cluster rows by Lloyd's algorithm, and label them by the best of `n_init` restarts.

    rows : (n_rows, n_columns) of any real dtype.
    row_keys : (n_rows,) uint64, the keys of randomness, such as a hash of the path; by default the row number.
    init : "k-means++", "k-means||", "random" (rows), "auto" (by n_clusters), or centers: (n_clusters, n_columns) for
    one restart, (n_restarts, n_clusters, n_columns) for several.
    max_iter : most iterations. tol : the sum of squared center shifts at which a restart has converged, relative to the
    mean variance of the columns.
    sample_weight : (n_rows,), none negative; None for equal weights.
    workspace_bytes : bytes that cached rows, bounds and labels may take between passes, None for no limit. It decides
    speed, never a result.
    sink : takes the final pass; by default the result holds its arrays.
    checkpoints : where the fit saves its state, so that a killed fit goes on from there.
    spread : the cluster that makes the passes; by default this process.

    Raises UsageError for arguments out of range, ConfigError for an unknown init, InvalidDataError for NaN or infinity,
    TooFewSamplesError where there are no rows.
    """
    n_restarts = check_arguments(rows, n_clusters, n_init, max_iter, tol, init)
    opened = open_fit(rows, sample_weight, runtime, workspace_bytes, n_clusters, n_restarts, spread)
    blocks = opened.blocks
    reason, done = "", 0

    def bounded(k: int) -> bool:
        return keeps_bounds(blocks, k, n_restarts, workspace_bytes)

    resumed = load_restarts(checkpoints, blocks, bounded, spread=opened.spread)
    if resumed is not None:
        restarts, done, reason = resumed.restarts, resumed.iterations, resumed.state.facts["reason"]
    elif isinstance(init, str):
        method = init if init != "auto" else ("k-means||" if n_clusters >= PARALLEL_FROM else "k-means++")
        keys = check_keys(row_keys, blocks.n_rows)
        seeds = [seed + SEED_STEP * number for number in range(n_restarts)]
        centers, short = opened.begin(begin_sampled, keys, method=method, n_clusters=n_clusters, seeds=seeds)
        if short:
            distinct = min(len(c) for c in centers)
            reason = fewer_than(n_clusters, distinct)
        restarts = [Restart(c, bounded=bounded(len(c))) for c in centers]
    else:
        init_centers = np.array(init, dtype=np.float64).reshape(n_restarts, n_clusters, rows.shape[1])
        restarts = [Restart(centers, bounded=bounded(n_clusters)) for centers in init_centers]
    lloyd = opened.lloyd()
    save = SavedRestarts(checkpoints, blocks, {"reason": reason}).save
    # A single restart needs no finalizing to be the best one: the final pass computes the same.
    finalize = len(restarts) > 1
    lloyd.run(restarts, max_iter=max_iter, tol=tol, on_progress=on_progress, finalize=finalize, done=done, save=save)
    return finish(lloyd, restarts, n_requested=n_clusters, algorithm="lloyd", reason=reason, sink=sink)


def fit_given(
    rows: RowSource,
    centers: Floats,
    *,
    n_iter: int,
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    spread: Spread | None = None,
) -> KMeansFit:
    """Label rows by the centers that another fit of the same rows ended with: the final pass alone.

    rows : (n_rows, n_columns) of any real dtype. centers : (k, n_columns) float64. n_iter : the iterations that led to
    them, for the result. spread : as for `fit`, whose errors are raised too.
    """
    opened = open_fit(rows, None, runtime, workspace_bytes, len(centers), 1, spread)
    restart = Restart(np.array(centers, dtype=np.float64), bounded=False)
    restart.n_iter, restart.converged = n_iter, True
    return finish(opened.lloyd(), [restart], n_requested=len(centers), algorithm="lloyd")


def fewer_than(n_clusters: int, distinct: int) -> str:
    """Say why there are fewer clusters than requested."""
    return f"the rows hold only {distinct} distinct values, {n_clusters} clusters were asked for"


def keeps_bounds(blocks: Blocks, n_clusters: int, n_restarts: int, workspace_bytes: int | None) -> bool:
    """Whether the restarts keep distance bounds in this workspace."""
    return share_workspace(workspace_bytes, blocks.n_rows, blocks.n_columns, n_clusters, n_restarts)[0]


def check_arguments(
    rows: RowSource, n_clusters: int, n_init: int, max_iter: int, tol: float, init: str | NDArray[Any]
) -> int:
    """Check the arguments of a fit, and return the number of its restarts. Raises UsageError or ConfigError."""
    if n_clusters < 1:
        raise UsageError(f"n_clusters must be at least 1, not {n_clusters}")
    if n_init < 1 or max_iter < 1 or tol < 0:
        raise UsageError(f"n_init and max_iter must be at least 1, tol not negative; got {n_init}, {max_iter}, {tol}")
    if isinstance(init, str):
        if init not in INITS:
            raise ConfigError(f"init must be one of {', '.join(INITS)} or an array of centers, not {init!r}")
        return n_init
    shape = (n_clusters, rows.shape[1])
    if np.ndim(init) not in (2, 3) or np.shape(init)[-2:] != shape:
        raise UsageError(f"init has shape {np.shape(init)}, n_clusters and the columns of the rows need {shape}")
    if not np.isfinite(np.asarray(init, dtype=np.float64)).all():
        raise UsageError("init holds NaN or infinity")
    return len(init) if np.ndim(init) == 3 else 1


def check_keys(row_keys: NDArray[np.uint64] | None, n_rows: int) -> Keys:
    """Return row_keys, (n_rows,) uint64, or the row numbers for None. Raises UsageError for another shape or dtype."""
    if row_keys is None:
        return np.arange(n_rows, dtype=np.uint64)
    if row_keys.shape != (n_rows,) or row_keys.dtype != np.uint64:
        raise UsageError(f"row_keys must be ({n_rows},) uint64, not {row_keys.shape} {row_keys.dtype}")
    return row_keys


def finish(
    lloyd: Lloyd,
    restarts: Sequence[Restart],
    *,
    n_requested: int,
    algorithm: str,
    reason: str = "",
    sink: RowSink | None = None,
    notes: tuple[str, ...] = (),
) -> KMeansFit:
    """Make the final pass, which labels every row by the centers of the best restart, and return the result of the fit.

    restarts : a single one, or several that are finalized. n_requested : clusters that the caller requested; `reason`
    says why there are fewer. Centers that are nearest to no row are left out, which needs another pass.
    """
    blocks = lloyd.blocks
    best = min(restarts, key=lambda restart: restart.inertia)
    arrays = lloyd.new_sink() if sink is None else None
    sink = sink or arrays
    if not best.finalized:
        written = lloyd.write_rows(best.centers, sink)
        best.inertia = written.inertia
        if not written.filled:
            lloyd.finalize([best])
    if best.finalized:
        best.centers = best.centers[best.counts > 0]
        written = lloyd.write_rows(best.centers, sink)
    missing = n_requested - len(best.centers)
    if missing and not reason:
        reason = f"no row is nearest to {missing} of the {n_requested} centers; they were left out"
    return KMeansFit(
        centers=best.centers, counts=written.counts, inertia=best.inertia, n_iter=best.n_iter, converged=best.converged,
        n_requested=n_requested, algorithm=algorithm, passes=blocks.passes, bytes_read=blocks.bytes_read, reason=reason,
        inertias=tuple(restart.inertia for restart in restarts), inertia_path=tuple(best.inertia_path), notes=notes,
        rows=arrays, labeling=lloyd.labeling(best.centers),
    )  # fmt: skip


def predict(
    rows: RowSource, centers: Floats, *, sink: RowSink | None = None, runtime: Runtime | None = None
) -> ArraySink | None:
    """Label rows by centers, as the final pass of `fit` does: the rows of a fit get the labels of that fit.

    rows : (n_rows, r) of any real dtype. centers : (k, r) float64. Returns the labels and distances, or None where a
    sink takes them. Raises UsageError where the numbers of columns differ, InvalidDataError for NaN or infinity.
    """
    if centers.ndim != 2 or centers.shape[1] != rows.shape[1]:
        raise UsageError(f"the centers have shape {centers.shape}, the rows {rows.shape}: their columns differ")
    opened = open_fit(rows, None, runtime, 0, len(centers), 1)
    blocks, summary = opened.blocks, opened.summary
    arrays = ArraySink(blocks.n_rows) if sink is None else None
    prepared = prepare(np.asarray(centers, dtype=np.float64), _scaler_for(summary, centers))
    target = sink if sink is not None else arrays
    assert target is not None
    write_rows(blocks, prepared, target)
    return arrays


def _scaler_for(summary: Summary, centers: Floats) -> Scaler:
    """Choose a scaler for rows and centers together: new rows may lie far from the centers of a fit."""
    return fit_scaler(summary.moments.merge(block_moments(centers)))
