"""This stage finds the nearest neighbors of every image among the scores, and stores them.

The graph serves whatever compares an image with those around it. It depends on the scores alone: other settings of what
stands on it do not compute it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.errors import DamagedError
from bigcluster.kernels.linalg.types import Int32Array
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import NEIGHBORS
from bigcluster.solvers.neighbors import NeighborGraph, neighbor_graph
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.reduce import Reduced
from bigcluster.store import Mark, RowWriter, StageCheckpoints, Store, fingerprint
from bigcluster.store.row_source import spans

IDS, DISTANCES = "neighbor_ids", "neighbor_distances"
"""The stored arrays of the graph, (n_ok, n_neighbors) int32 and float32: row numbers of good images, nearest first."""
_WRITTEN_ROWS = 65_536
"""Number of rows of the graph that are handed to the writer at a time. Chosen, not measured."""


@dataclass(frozen=True)
class Neighbors:
    """The stored graph of the nearest neighbors."""

    fingerprint: str
    metric: str
    n_neighbors: int
    reused: bool
    facts: dict[str, Any]


def metric_for(context: Context, features: Features) -> str:
    """Return the distance by which neighbors are near: the angle of features, the Euclidean distance of pixels and of
    places by t-SNE or UMAP."""
    return "euclidean" if features.are_pixels or context.settings.has_manifold else "cosine"


def neighbors(
    context: Context, reduced: Reduced, features: Features, ingested: Ingested, n_neighbors: int, plan: StagePlan
) -> Neighbors:
    """Bring the stored graph up to date with the scores, and return it.

    n_neighbors : how many of each image; where there are not so many others, all of them. plan : of this stage.
    Raises UsageError for rows that are not float32.
    """
    store, progress, metric = context.store, context.progress, metric_for(context, features)
    n_rows = reduced.rows.shape[0]
    expected = neighbors_fingerprint(reduced, metric, n_neighbors)
    mark, checkpoints = store.mark(NEIGHBORS), StageCheckpoints(store, NEIGHBORS, expected)
    reused = mark is not None and _is_of(mark, expected, ingested) and _names_rows(store, mark)
    if mark is None or not reused:
        store.marks.remove(NEIGHBORS)

        def search() -> NeighborGraph:
            return neighbor_graph(
                reduced.rows,
                n_neighbors,
                metric=metric,
                runtime=context.runtime,
                workspace_bytes=plan.choices["workspace_bytes"],
                on_progress=lambda fit: progress.at(fit.done),
                checkpoints=checkpoints,
                cluster=context.cluster,
            )

        with progress.stage(NEIGHBORS, n_rows, "images"):
            graph = checkpoints.resume_or_restart(search, progress.warn)
            digests = _write(store, graph)
        payload = {
            "images": ingested.fingerprint,
            "rows": reduced.fingerprint,
            "metric": metric,
            "n_neighbors": graph.ids.shape[1],
            "facts": {"solver": "exact", "passes": graph.passes, "bytes_read": graph.bytes_read, "metric": metric},
        }
        mark = store.commit(NEIGHBORS, expected, digests, payload)
    else:
        progress.reused(NEIGHBORS)
    checkpoints.clear()
    return _from_mark(mark, reused=reused)


def neighbors_fingerprint(reduced: Reduced, metric: str, n_neighbors: int) -> str:
    """Return the fingerprint of the graph of these scores."""
    n_neighbors = min(n_neighbors, reduced.rows.shape[0] - 1)
    return fingerprint(before=reduced.fingerprint, stage=NEIGHBORS, metric=metric, n_neighbors=n_neighbors)


def load_ids(store: Store, n_neighbors: int) -> Int32Array:
    """Load the numbers of the neighbors of every good row, (n_ok, n_neighbors) int32. n_neighbors : as its mark says.

    Raises DamagedError where one of them is no row.
    """
    if n_neighbors == 0:
        return np.empty((store.array("row_keys").shape[0], 0), np.int32)
    ids: Int32Array = store.load(IDS)
    if not _are_rows(ids):
        raise DamagedError(f"{store.root / IDS} names images that there are not")
    return ids


def _are_rows(ids: Int32Array) -> bool:
    return ids.size == 0 or bool(0 <= ids.min() <= ids.max() < len(ids))


def _names_rows(store: Store, mark: Mark) -> bool:
    """Return whether all stored neighbors are rows: what groups them uses them as indices."""
    return mark.payload["n_neighbors"] == 0 or _are_rows(store.load(IDS))


def _is_of(mark: Mark, expected: str, ingested: Ingested) -> bool:
    return mark.fingerprint == expected and mark.payload["images"] == ingested.fingerprint


def _from_mark(mark: Mark, *, reused: bool) -> Neighbors:
    payload = mark.payload
    return Neighbors(mark.fingerprint, payload["metric"], payload["n_neighbors"], reused, payload["facts"])


def _write(store: Store, graph: NeighborGraph) -> dict[str, str]:
    n_rows, n_neighbors = graph.ids.shape
    digests: dict[str, str] = {}
    if n_neighbors == 0:  # a single image: there is nothing to store
        return digests
    for name, values, dtype in ((IDS, graph.ids, np.int32), (DISTANCES, graph.distances, np.float32)):
        writer = RowWriter(store, name, n_rows, n_neighbors, dtype)
        for start, stop in spans(n_rows, _WRITTEN_ROWS):
            writer.write(start, values[start:stop])
        digests |= writer.close()
    return digests
