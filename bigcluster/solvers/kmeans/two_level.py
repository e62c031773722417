"""k-means in two levels, for tens of thousands of clusters: coarse clusters first, each split on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Scaler
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.fit import check_arguments, check_keys, fewer_than, finish, fit, keeps_bounds
from bigcluster.solvers.kmeans.opened import Spread, open_fit
from bigcluster.solvers.kmeans.restarts import Restart, SavedRestarts, load_restarts
from bigcluster.solvers.kmeans.result import KMeansFit, RowSink
from bigcluster.solvers.kmeans.seeding import Keys, fill_up, sample_rows, sample_size
from bigcluster.solvers.progress import OnProgress
from bigcluster.store.row_source import ArrayRows, RowSource

FLAT_ITERATIONS = 2
"""Iterations over all rows and centers after the split: two, so that the second one's gain says what the split cost."""
_COARSE_ITERATIONS = 20
"""Most iterations of the fits on the sample: its centers are only a start for the iterations over all rows."""


def fit_two_level(
    rows: RowSource,
    n_clusters: int,
    *,
    seed: int = 0,
    row_keys: NDArray[np.uint64] | None = None,
    max_iter: int = 300,
    tol: float = 1e-4,
    sample_weight: NDArray[Any] | None = None,
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    sink: RowSink | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
    spread: Spread | None = None,
) -> KMeansFit:
    """Cluster a sample into about sqrt(k) coarse clusters, split each of them, and iterate twice over all rows.

    Labels, distances and inertia are exact for the final centers, as in `fit`, whose arguments and errors these are.
    The `notes` of the result say by how much the last iteration still lowered the inertia, which a flat fit would
    continue.
    """
    check_arguments(rows, n_clusters, 1, max_iter, tol, "k-means||")
    opened = open_fit(rows, sample_weight, runtime, workspace_bytes, n_clusters, 1, spread)
    blocks = opened.blocks
    keys = check_keys(row_keys, blocks.n_rows)

    def bounded(k: int) -> bool:
        return keeps_bounds(blocks, k, 1, workspace_bytes)

    resumed = load_restarts(checkpoints, blocks, bounded, spread=opened.spread)
    if resumed is not None:
        (restart,), done, reason = resumed.restarts, resumed.iterations, resumed.state.facts["reason"]
    else:
        (centers,), short = opened.begin(begin_split, keys, n_clusters=n_clusters, seed=seed, tol=tol)
        restart, done = Restart(centers, bounded=bounded(len(centers))), 0
        reason = fewer_than(n_clusters, len(centers)) if short else ""
    lloyd = opened.lloyd()
    save = SavedRestarts(checkpoints, blocks, {"reason": reason}).save
    max_iter = min(FLAT_ITERATIONS, max_iter)
    lloyd.run([restart], max_iter=max_iter, tol=tol, on_progress=on_progress, done=done, save=save)
    gain = 1 - restart.inertia / restart.inertia_path[0] if restart.inertia_path[0] > 0 else 0.0
    note = f"the last flat iteration still lowered the inertia by {gain:.2%}; a flat fit would go on from there"
    return finish(
        lloyd, [restart], n_requested=n_clusters, algorithm="two-level", reason=reason, sink=sink, notes=(note,)
    )  # fmt: skip


def shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide `total` in proportion to `counts`, (n,) int64: each share is at least 1 and at most its count.

    (3, 1, 96), 10 -> (1, 1, 8). The shares add up to min(total, sum of counts), provided that total >= len(counts).
    """
    out = np.ones(len(counts), np.int64)
    while True:
        room = counts - out
        remaining = min(total - int(out.sum()), int(room.sum()))
        if remaining <= 0:
            return out
        weight = np.where(room > 0, counts, 0)
        exact = remaining * weight / weight.sum()
        whole = np.minimum(np.floor(exact).astype(np.int64), room)
        if not whole.any():
            # less than one each: the largest remainders, ties to the first
            whole[np.argsort(-np.where(room > 0, exact, -1), kind="stable")[:remaining]] = 1
            whole = np.minimum(whole, room)
        out += whole


def begin_split(
    blocks: Blocks,
    scaler: Scaler,
    keys: Keys,
    sample_weight: Floats | None,
    *,
    n_clusters: int,
    seed: int,
    tol: float,
) -> tuple[list[Floats], bool]:
    """Choose centers by splitting the coarse clusters of a sample; see `seeding.Begin`."""
    numbers = sample_rows(keys, sample_weight, sample_size(n_clusters, blocks.n_columns), seed)
    x = blocks.take(numbers)
    weights = None if sample_weight is None else sample_weight[numbers]
    centers = _split(x, n_clusters, seed, weights, blocks.runtime, tol)
    centers, short = fill_up(blocks, centers, n_clusters, scaler, sample_weight)
    return [centers], short


def _split(x: NDArray[Any], n_clusters: int, seed: int, weights: Floats | None, runtime: Runtime, tol: float) -> Floats:
    """Compute (at most n_clusters, r) float64 centers of a sample in memory, x : (n_sample, r)."""
    n_coarse = max(1, round(n_clusters**0.5))
    coarse = fit(
        ArrayRows(x),
        n_coarse,
        seed=seed,
        n_init=1,
        max_iter=_COARSE_ITERATIONS,
        tol=tol,
        sample_weight=weights,
        runtime=runtime,
    )
    assert coarse.rows is not None
    labels = coarse.rows.labels
    ks = shares(coarse.counts, n_clusters)

    def part(number: int) -> Floats:
        mine = np.flatnonzero(labels == number)
        own = None if weights is None else weights[mine]
        split = fit(
            ArrayRows(x[mine]), int(ks[number]), seed=seed, n_init=1, max_iter=_COARSE_ITERATIONS, tol=tol,
            sample_weight=own, runtime=EmbeddedRuntime(1),
        )  # fmt: skip
        return split.centers

    return np.concatenate(list(runtime.map(part, range(coarse.n_clusters))))
