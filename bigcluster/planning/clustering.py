"""This module plans k-means, and the sweep over several numbers of clusters."""

from __future__ import annotations

import numpy as np

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import CLUSTER, SWEEP
from bigcluster.planning.stages import charts_bytes, clustering_baseline_bytes, share_of
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.footprint import (
    project_bounds_bytes,
    project_centers_bytes,
    project_labels_bytes,
    project_lloyd_bytes,
    project_seeding_bytes,
)
from bigcluster.solvers.kmeans.lloyd import PRUNE_FROM
from bigcluster.solvers.kmeans.result import choose as choose_kmeans
from bigcluster.solvers.kmeans.spread import SPREAD_FROM


def plan_cluster(settings: Settings, n_images: int, n_columns: int, dtype: str, resources: Resources) -> StagePlan:
    """Return the plan of k-means on rows of n_columns values, which are scores or the features themselves.

    dtype : of the features.
    """
    n_clusters = max(settings.ks, default=1)
    solver, why = settings.kmeans.algorithm, "asked for by kmeans.algorithm"
    if solver == "auto":
        solver, why = choose_kmeans(n_images, n_columns, n_clusters)
    extra = charts_bytes(settings, resources)
    if solver == "dask-ml":
        extra += footprint.project_dask_kmeans_bytes(
            n_columns=n_columns, n_clusters=n_clusters, block_rows=block_rows(n_columns), threads=resources.threads
        )
    return _plan_lloyd(settings, CLUSTER, solver, why, (n_images, n_columns), dtype, settings.ks, extra, resources)


def plan_sweep(
    settings: Settings, ks: tuple[int, ...], n_images: int, n_columns: int, dtype: str, resources: Resources
) -> StagePlan:
    """Return the plan of a sweep. All k are fitted at once: labels, bounds and centers of every k are in memory.

    dtype : of the features.
    """
    n_restarts = max(2, settings.kmeans.n_init)
    others = sum(
        project_labels_bytes(n_images, k, n_restarts)
        + project_centers_bytes(n_columns, k, n_restarts)
        + (project_bounds_bytes(n_images, k) * n_restarts if k >= PRUNE_FROM else 0)
        for k in ks
    )
    # A block returns new labels for every restart, and they are copied once.
    block_labels = resources.threads * min(n_images, block_rows(n_columns)) * 6 * n_restarts * len(ks)
    why = f"{len(ks)} values of k share passes"
    extra = (0 if resources.joined else footprint.CHARTS_BYTES) + others + block_labels
    return _plan_lloyd(settings, SWEEP, "lloyd", why, (n_images, n_columns), dtype, ks, extra, resources)


def _plan_lloyd(
    settings: Settings,
    stage: str,
    solver: str,
    why: str,
    shape: tuple[int, int],
    dtype: str,
    ks: tuple[int, ...],
    extra_bytes: int,
    resources: Resources,
) -> StagePlan:
    n_images, n_columns = shape
    itemsize = footprint.FLOAT32 if settings.has_pca else np.dtype(dtype).itemsize
    n_clusters, n_restarts = max(ks, default=1), settings.kmeans.n_init
    n_rows, n_busy = n_images, resources.workers if solver == "dask-ml" else 1  # which dask spreads by itself
    if resources.joined and solver != "dask-ml" and _has_exact_sums(settings):
        # Below this number of rows, which depends on the good images, one worker does the whole fit.
        of_sweep = stage == CLUSTER and len(ks) > 1  # the centers are known, and one of these k is taken
        whole = SPREAD_FROM // max(1, n_columns * (min(ks) if of_sweep else sum(ks) * n_restarts))
        n_rows = max(share_of(n_images, resources), min(n_images, whole))
        n_busy = resources.workers if whole < n_images else 1
    least = clustering_baseline_bytes(settings, resources)
    least += footprint.project_memberships_bytes(n_rows) + extra_bytes
    least += max(
        project_lloyd_bytes(
            n_rows, n_columns, n_clusters, itemsize=itemsize, n_restarts=n_restarts, threads=resources.threads
        ),
        # One worker chooses the first centers, with the keys of all rows.
        project_seeding_bytes(n_images, n_columns, n_clusters, itemsize, n_restarts) if n_rows < n_images else 0,
    )
    workspace = int(max(0, resources.budget_bytes - least) * footprint.WORKSPACE_SHARE)
    rows_bytes = n_rows * n_columns * itemsize
    row_bytes_in_memory = int(min(workspace, rows_bytes) / footprint.WORKSPACE_SHARE)
    return StagePlan(
        stage=stage,
        solver=solver,
        why=why,
        block_shape=(min(n_images, block_rows(n_columns)), n_columns),
        passes="until the centers rest",
        bytes_read=n_images * n_columns * itemsize,
        bytes_written=n_images * 24 + n_clusters * n_columns * footprint.FLOAT64,
        projected_bytes=least + row_bytes_in_memory,
        choices={"workspace_bytes": workspace},
        n_busy=n_busy,
    )


def _has_exact_sums(settings: Settings) -> bool:
    """Return whether sums of the rows that are clustered have no rounding, so that all workers may share a fit."""
    if settings.has_manifold or not settings.has_pixel_features:  # their scores are scaled to length 1
        return False
    return not (settings.has_pca and settings.pca.solver == "incremental")
