"""This module plans the search for groups without a given number: the graph of neighbors, and its communities."""

from __future__ import annotations

import math

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import CLUSTER, NEIGHBORS
from bigcluster.planning.stages import clustering_baseline_bytes
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.communities.footprint import neighbors_for, project_leiden_bytes
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.footprint import project_lloyd_bytes
from bigcluster.solvers.neighbors.footprint import project_graph_bytes, project_neighbors_bytes
from bigcluster.solvers.neighbors.graph import group_rows
from bigcluster.store.chunk_grid import row_chunks, stored_bytes

LIBRARY_BYTES = 4 << 20
"""Bytes of graspologic-native when it is loaded: its library has 1.4 MiB. Chosen, not measured."""
COLUMN_BYTES = 4 * 8 + 2 * 4
"""Bytes of a row of what is stored of communities: distances, margin and key of 8 bytes, label and runner-up of 4."""


def likely_communities(n_images: int) -> int:
    """Return the number of communities with which a plan counts until they are known: the root of the number of
    images, and at least 64. Of six sets of images, none had more."""
    return min(n_images, max(64, math.isqrt(n_images)))


def plan_neighbors(settings: Settings, n_images: int, n_columns: int, resources: Resources) -> StagePlan:
    """Return the plan of the graph of neighbors of rows of n_columns scores. The budget decides how many rows stay in
    memory while it is searched."""
    n_neighbors = neighbors_for(n_images)
    least = clustering_baseline_bytes(settings, resources) + footprint.project_memberships_bytes(n_images)
    least += project_neighbors_bytes(n_images, n_columns, n_neighbors, threads=resources.threads)
    workspace = int(max(0, resources.budget_bytes - least) * footprint.WORKSPACE_SHARE)
    rows_bytes = n_images * n_columns * footprint.FLOAT32
    n_groups = -(-n_images // group_rows(n_images, max(1, n_columns)))
    chunks = row_chunks(n_neighbors, footprint.FLOAT32)
    return StagePlan(
        stage=NEIGHBORS,
        solver="exact",
        why=f"the {n_neighbors} nearest neighbors of each image, compared with all",
        block_shape=(min(n_images, block_rows(n_columns)), n_columns),
        passes=f"{n_groups:,}, one for each group of rows",
        bytes_read=rows_bytes,
        bytes_written=2 * stored_bytes((n_images, n_neighbors), chunks, footprint.FLOAT32),
        projected_bytes=least + int(min(workspace, rows_bytes) / footprint.WORKSPACE_SHARE),
        choices={"workspace_bytes": workspace, "n_neighbors": n_neighbors},
        n_busy=min(resources.workers, n_groups),
        scratch_bytes=project_graph_bytes(n_images, n_neighbors),  # checkpoints
    )


def plan_communities(settings: Settings, n_images: int, n_columns: int, resources: Resources) -> StagePlan:
    """Return the plan of Leiden's algorithm, which knows no budget, and of the means of the communities.

    The graph and what the library makes of it are in memory together; after that, the rows are read twice.
    """
    n_neighbors, n_communities = neighbors_for(n_images), likely_communities(n_images)
    ids_bytes = project_graph_bytes(n_images, n_neighbors) // 2  # without distances
    base = clustering_baseline_bytes(settings, resources) + footprint.project_memberships_bytes(n_images) + ids_bytes
    finding = LIBRARY_BYTES + project_leiden_bytes(n_images, n_neighbors)
    reading = project_lloyd_bytes(n_images, n_columns, n_communities, n_restarts=1, threads=resources.threads)
    reading += ids_bytes + COLUMN_BYTES * n_images  # the communities of the neighbors, and what is stored
    workspace = int(max(0, resources.budget_bytes - base - reading) * footprint.WORKSPACE_SHARE)
    rows_bytes = int(min(workspace, n_images * n_columns * footprint.FLOAT32) / footprint.WORKSPACE_SHARE)
    return StagePlan(
        stage=CLUSTER,
        solver="leiden",
        why=f"communities of the neighbors, resolution {settings.resolution:g}",
        block_shape=(min(n_images, block_rows(n_columns)), n_columns),
        passes="2 over the scores",
        bytes_read=n_images * (2 * n_columns + n_neighbors) * footprint.FLOAT32,
        bytes_written=n_images * COLUMN_BYTES + n_communities * n_columns * footprint.FLOAT64,
        projected_bytes=base + max(finding, reading + rows_bytes),
        choices={"workspace_bytes": workspace},
    )
