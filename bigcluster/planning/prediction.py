"""This module plans predict: the labels of new images by a stored model."""

from __future__ import annotations

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import PREDICT
from bigcluster.planning.stages import (
    DECODE_FLOOR_BYTES,
    SMALL_DECODE_BYTES,
    baseline_bytes,
    decoding_children,
    manifest_bytes,
)
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.communities.footprint import neighbors_for
from bigcluster.solvers.neighbors.footprint import project_neighbors_bytes
from bigcluster.store.chunk_grid import pixel_chunks

ROWS_PER_PART = 4096
"""New images whose records and labels are in memory before they are written, unless a block of pixels has more. Chosen,
not measured."""
_ROW_BYTES = 1024
"""Bytes of the record and the label of a new image. Chosen, not measured."""
_PARTS_WAITING = 4
"""Results for each worker of a cluster that may wait to be written (`DaskCluster`)."""


def waiting_bytes(n_images: int, n_workers: int) -> int:
    """Return the bytes of results of workers that wait in the process that writes them."""
    return _ROW_BYTES * min(n_images, n_workers * _PARTS_WAITING * ROWS_PER_PART)


def plan_predict(
    settings: Settings,
    n_images: int,
    n_own: int,
    n_values: int,
    shape: FeatureShape,
    n_columns: int,
    n_clusters: int,
    resources: Resources,
    *,
    placer_bytes: int = 0,
    of_communities: bool = False,
) -> StagePlan:
    """Return the plan of predict. The budget decides the rows of a block, up to a row block of the store.

    settings : its images are the new ones. n_images : the number of new images. n_own : the number of images of the
    model, from which the usual distances are measured. n_values : of the pixels of an image. placer_bytes : what
    placing scores by t-SNE or UMAP adds. of_communities : whether new images are compared with all images of the model.
    """
    baseline = baseline_bytes(settings, resources) + shape.shared_bytes + resources.threads * shape.thread_bytes
    baseline += placer_bytes
    threads = resources.threads
    if of_communities:
        baseline += project_neighbors_bytes(n_own, n_columns, neighbors_for(n_own), threads=threads) + 4 * n_own

    def projected(rows: int) -> int:
        return (
            baseline
            + manifest_bytes(settings, resources)
            + footprint.project_novelty_bytes(n_own)
            + footprint.project_predict_bytes(
                rows=rows,
                pixel_bytes=n_values,
                feature_bytes=shape.stored_bytes,
                n_features=shape.n_features,
                n_columns=n_columns,
                n_clusters=n_clusters,
            )
            + threads * DECODE_FLOOR_BYTES
            + _ROW_BYTES * min(n_images, ROWS_PER_PART)
        )

    rows = min(n_images, pixel_chunks(n_values)[0])
    while rows > 1 and projected(rows) > resources.budget_bytes:
        rows //= 2
    spare = max(0, resources.budget_bytes - projected(rows)) + threads * DECODE_FLOOR_BYTES
    # Half of what is left may keep rows of the model in memory, the rest is for large pictures.
    workspace = min(spare // 2, footprint.FLOAT32 * n_own * n_columns) if of_communities else 0
    spare -= workspace
    children = decoding_children(spare, threads, SMALL_DECODE_BYTES, isolated=False)
    held_by_children = children * footprint.DECODING_CHILD_BYTES
    return StagePlan(
        stage=PREDICT,
        solver="stored model",
        why="nothing is fitted",
        block_shape=(rows, n_values),
        passes="1 over the files",
        bytes_read=0,
        bytes_written=0,
        projected_bytes=projected(rows) + workspace,
        choices={
            "decode_bytes": (spare - held_by_children) // threads,
            "children": children,
            "workspace_bytes": workspace,
        },
    )
