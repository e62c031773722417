"""The jobs of the sweep and of the clustering: a whole fit on one worker, or its passes on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from bigcluster.runtime.cluster import Cluster, Local, Worker
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.kmeans import KMeansFit, fit, fit_given, fit_minibatch, fit_two_level
from bigcluster.solvers.kmeans import sweep as sweep_rows
from bigcluster.solvers.kmeans.opened import Spread
from bigcluster.solvers.kmeans.spread import SPREAD_FROM
from bigcluster.solvers.kmeans.spread_labels import Labeling
from bigcluster.solvers.kmeans.sweep import Sweep
from bigcluster.solvers.progress import OnProgress, advancing
from bigcluster.solvers.unit_length import ref_of
from bigcluster.store import StageCheckpoints
from bigcluster.store.refs import ArrayRef, CheckpointsRef, RowSourceRef, StoreRef
from bigcluster.store.row_source import RowSource

Fit = TypeVar("Fit")
ROW_KEYS = "row_keys"
"""The name of the stored array of the keys of random numbers, (n_ok,) uint64."""
_SOLVERS: dict[str, Callable[..., KMeansFit]] = {
    "lloyd": fit,
    "minibatch": fit_minibatch,
    "two-level": fit_two_level,
}


@dataclass(frozen=True)
class Saving:
    """Where a fit saves its state and reports, and its keys of random numbers: for a job in any process."""

    store: StoreRef
    row_keys: Local[NDArray[np.uint64]]
    """The keys of random numbers, (n_ok,). Other processes load them from the store."""
    checkpoints: CheckpointsRef
    here: Local[CheckpointStore]
    """The same checkpoints, for passes that this process directs."""
    on_progress: Local[OnProgress]

    @classmethod
    def of(cls, row_keys: NDArray[np.uint64], checkpoints: StageCheckpoints, on_progress: OnProgress) -> Saving:
        """Return what a job of the stage of these checkpoints needs."""
        ref = CheckpointsRef.of(checkpoints)
        return cls(ref.store, Local(row_keys), ref, Local(checkpoints), Local(on_progress))

    def fit(self, worker: Worker, fit: Callable[..., Fit]) -> Fit:
        """Return what `fit` finds with the arguments of this process."""
        keys = self.store.open(worker).load(ROW_KEYS) if self.row_keys.value is None else self.row_keys.value
        on_progress = self.on_progress.value or advancing(worker.progress)

        def fitted(checkpoints: StageCheckpoints) -> Fit:
            return fit(runtime=worker.runtime, row_keys=keys, checkpoints=checkpoints, on_progress=on_progress)

        return self.checkpoints.fit(worker, fitted)


def _labels_here(fitted: KMeansFit, rows: RowSourceRef, shape: tuple[int, int]) -> KMeansFit:
    """Return a fit of this process whose labels stay here: other processes make them again from the centers."""
    assert fitted.rows is not None
    labeling = Labeling.of(rows, shape, uuid4().hex, fitted.centers, fitted.rows)
    return replace(fitted, rows=None, labeling=labeling)


@dataclass(frozen=True)
class FitClusters:
    """Fit k-means to all rows. The labels are in the `labeling` of the result, as are those of `LabelRows`."""

    rows: RowSourceRef
    solver: str
    n_clusters: int
    options: dict[str, Any]
    """The arguments of the fit that are numbers."""
    saving: Saving

    def __call__(self, worker: Worker) -> KMeansFit:
        rows = self.rows.open(worker)
        if self.solver == "dask-ml":
            from bigcluster.solvers.kmeans.dask_ml import fit_dask_ml  # imports scikit-learn

            fitted = fit_dask_ml(
                rows,
                self.n_clusters,
                runtime=worker.runtime,
                computing=worker.computing_by_dask,
                **self.options,
            )
        else:
            solve = partial(_SOLVERS[self.solver], rows, self.n_clusters, **self.options)
            fitted = self.saving.fit(worker, solve)
        return _labels_here(fitted, self.rows, rows.shape)


@dataclass(frozen=True)
class LabelRows:
    """Label all rows by given centers: the final pass of a fit."""

    rows: RowSourceRef
    centers: NDArray[np.float64]
    n_iter: int
    workspace_bytes: int

    def __call__(self, worker: Worker) -> KMeansFit:
        rows = self.rows.open(worker)
        fitted = fit_given(
            rows,
            self.centers,
            n_iter=self.n_iter,
            runtime=worker.runtime,
            workspace_bytes=self.workspace_bytes,
        )
        return _labels_here(fitted, self.rows, rows.shape)


@dataclass(frozen=True)
class SweepRows:
    """Fit every k of a range to all rows."""

    rows: RowSourceRef
    ks: tuple[int, ...]
    options: dict[str, Any]
    saving: Saving

    def __call__(self, worker: Worker) -> Sweep:
        return self.saving.fit(worker, partial(sweep_rows, self.rows.open(worker), self.ks, **self.options))


def label_on_cluster(
    cluster: Cluster, runtime: Runtime, rows: RowSource, job: LabelRows, row_keys: ArrayRef, *, exact: bool
) -> KMeansFit:
    """Label all rows by given centers, on one worker or on all, as `fit_on_cluster` does."""
    if not exact or rows.shape[0] * job.centers.size < SPREAD_FROM:
        return cluster.once(job)
    return fit_given(
        rows,
        job.centers,
        n_iter=job.n_iter,
        runtime=runtime,
        workspace_bytes=job.workspace_bytes,
        spread=Spread(cluster, job.rows, row_keys),
    )


def sweep_on_cluster(
    cluster: Cluster,
    runtime: Runtime,
    rows: RowSource,
    ks: tuple[int, ...],
    options: dict[str, Any],
    saving: Saving,
    *,
    exact: bool,
) -> Sweep:
    """Fit every k of a range to all rows, on one worker or on all, as `fit_on_cluster` does."""
    if not exact or rows.shape[0] * rows.shape[1] * sum(ks) * options["n_init"] < SPREAD_FROM:
        return cluster.once(SweepRows(ref_of(rows), ks, options, saving))
    return sweep_rows(rows, ks, **options, **_on_all(cluster, runtime, rows, saving))


def _on_all(cluster: Cluster, runtime: Runtime, rows: RowSource, saving: Saving) -> dict[str, Any]:
    """Return the arguments of a fit whose passes are made by all workers."""
    keys = saving.row_keys.value
    return {
        "runtime": runtime,
        "row_keys": keys,
        "checkpoints": saving.here.value,
        "on_progress": saving.on_progress.value,
        "spread": Spread(cluster, ref_of(rows), ArrayRef(saving.store, ROW_KEYS, keys)),
    }


def fit_on_cluster(
    cluster: Cluster,
    runtime: Runtime,
    rows: RowSource,
    solver: str,
    n_clusters: int,
    options: dict[str, Any],
    saving: Saving,
    *,
    exact: bool,
) -> KMeansFit:
    """Fit k-means to all rows: whole on one worker where it is small, else pass by pass on all of them.

    runtime : the threads of this process. options : the arguments of the fit that are numbers. exact : whether sums of
    rows have no rounding, so that those of parts may be added in any order.
    """
    work = rows.shape[0] * rows.shape[1] * n_clusters * options.get("n_init", 1)
    if not exact or work < SPREAD_FROM or solver == "dask-ml":
        return cluster.once(FitClusters(ref_of(rows), solver, n_clusters, options, saving))
    return _SOLVERS[solver](rows, n_clusters, **options, **_on_all(cluster, runtime, rows, saving))
