"""dask-ml's IncrementalPCA as a solver, used so that its known faults do not reach a result.

With svd_solver="randomized" its transform fails under scikit-learn 1.9 and with no power iterations its components are
inaccurate (worst principal-angle cosine .873, .9997 with two): "auto" with `iterated_power` is used. The default batch
of 5 x n_features rows would be all rows at once: the batch comes from the plan.

Source: Ross, Lim, Lin and Yang 2008, Incremental Learning for Robust Visual Tracking, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from bigcluster.kernels.pca import choose_rank
from bigcluster.runtime.threads import Runtime, dask_on_threads
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.moments import center_of
from bigcluster.solvers.pca.projection import Projection
from bigcluster.solvers.pca.result import (
    ExactSums,
    PCAFit,
    Target,
    Variance,
    check_target,
    within_total,
)
from bigcluster.solvers.progress import OnProgress, StepCounter
from bigcluster.store.row_source import RowSource


def batches(n_rows: int, batch_rows: int, rank: int) -> list[tuple[int, int]]:
    """Batches of `batch_rows`; a last one smaller than `rank` joins the one before (scikit-learn issue 12234)."""
    starts = list(range(0, n_rows, batch_rows))
    if len(starts) > 1 and n_rows - starts[-1] < rank:
        starts.pop()
    return list(zip(starts, [*starts[1:], n_rows], strict=True))


def _resume(solver: Any, checkpoints: CheckpointStore, batch_rows: int) -> int:
    """Restore the attributes of the solver from a checkpoint, and return how many batches it has seen; 0 without
    one."""
    checkpoint = checkpoints.load()
    if checkpoint is None or checkpoint.facts["batch_rows"] != batch_rows:
        return 0
    for name in checkpoint.facts["names"]:
        value = checkpoint.get(name)
        setattr(solver, name, value if value.ndim else value.item())
    batches_seen: int = checkpoint.facts["batches"]
    return batches_seen


def fit_incremental(
    rows: RowSource,
    *,
    target: Target,
    rank: int,
    batch_rows: int,
    iterated_power: int,
    moments: ExactSums | None,
    runtime: Runtime,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
    computing: Callable[[], AbstractContextManager[None]] | None = None,
) -> PCAFit:
    """Fit uint8 or float rows in one pass at `rank`, in float64 inside; a share of the variance is cut from its
    spectrum.

    The solver takes the dask array of the rows batch by batch; stored rows are read from the store then.

    rank : components that the solver computes; batch_rows : rows of one batch, of which about seven copies are in
    memory; iterated_power : power iterations of its randomized SVD; moments : exact sums of the rows, which save a
    pass; computing : returns a context within which dask computes, see `Worker.computing_by_dask`, by default on the
    threads of `runtime`. Where the rank does not reach the target, all of it is returned: `cumulative_shares` says how
    far it came.
    Raises TooFewSamplesError, and InvalidDataError for NaN and infinity.
    """
    from dask_ml.decomposition import IncrementalPCA

    check_target(target, rows.shape)
    n_rows, lazy = rows.shape[0], rows.dask()
    solver = IncrementalPCA(n_components=rank, svd_solver="auto", iterated_power=iterated_power, random_state=seed)
    center = center_of(rows, moments, runtime)
    steps = batches(n_rows, batch_rows, rank)
    progress = StepCounter(len(steps) + 1, on_progress)
    done = _resume(solver, checkpoints, batch_rows)
    with computing() if computing is not None else dask_on_threads(runtime.threads):
        for number, (start, stop) in enumerate(steps[done:], start=done + 1):
            # Whole rows, because its SVD of several chunks takes them along one axis only.
            batch = lazy[start:stop].rechunk({1: -1}).astype(np.float64)
            with warnings.catch_warnings():
                # The solver divides by the number of rows before the first batch, which is zero.
                warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
                solver.partial_fit(batch)
            progress.step()
            if checkpoints.should_save(2 * solver.components_.nbytes):
                state = {name: np.asarray(value) for name, value in vars(solver).items() if name.endswith("_")}
                checkpoints.save({"batches": number, "batch_rows": batch_rows, "names": list(state)}, state.items())
    eigenvalues = np.asarray(solver.explained_variance_, dtype=np.float64)
    total, mean = center.total_variance, center.mean
    reached = choose_rank(eigenvalues, total, target.share) if isinstance(target, Variance) else len(eigenvalues)
    n_components = reached or len(eigenvalues)
    projection = Projection(rows, mean, np.ascontiguousarray(solver.components_.T, np.float32), 0.0, runtime)
    progress.finish()
    return PCAFit(
        solver="incremental",
        shape=rows.shape,
        mean=mean,
        total_variance=total,
        eigenvalues=within_total(eigenvalues, n_components, total),
        n_components=n_components,
        score_step=projection.step,
        passes=2 + (moments is None),
        _write_scores=projection.write_scores,
        _write_components=projection.write_components,
        _close=lambda: None,
    )
