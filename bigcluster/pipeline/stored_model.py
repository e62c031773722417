"""The model that a run has stored, as it labels new rows: by the nearest center, or by the votes of their neighbors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import MANIFOLDS
from bigcluster.errors import StoreError
from bigcluster.kernels.kmeans.assign import two_nearest
from bigcluster.kernels.kmeans.centers import Centers, fit_scaler, prepare
from bigcluster.kernels.kmeans.sums import exact_sq
from bigcluster.kernels.linalg.moments import block_moments
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.kernels.novelty import LEAST_IMAGES, Novelty, Traits, residual_of, squared_norms
from bigcluster.outputs.tables import Predicted
from bigcluster.planning.stage_names import CLUSTER, REDUCE
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.communities import assign
from bigcluster.solvers.communities.footprint import neighbors_for
from bigcluster.solvers.manifold import Placer
from bigcluster.solvers.neighbors import nearest_to
from bigcluster.solvers.pca.projection import TRANSFORM_COLUMNS, transform
from bigcluster.stages import manifold, reduce
from bigcluster.stages.components import components
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.membership import LEIDEN, algorithm_of, load_labels
from bigcluster.stages.novelty import novelty
from bigcluster.store import Mark, StoredRows
from bigcluster.store.row_source import RowSource, spans


@dataclass(frozen=True)
class CommunityModel:
    """What assigns new rows to the communities of a model: its own rows, their labels, and how neighbors are found."""

    rows: RowSource
    """(n_ok, n_components) float32, those that were clustered."""
    labels: NDArray[np.int32]
    means: NDArray[np.float64]
    """(n_communities, n_components)"""
    n_neighbors: int
    metric: str
    runtime: Runtime
    workspace_bytes: int


@dataclass(frozen=True)
class StoredModel:
    """The arrays of a stored model."""

    centers: Centers | None
    """Prepared for the search of the two nearest ones; None for communities."""
    communities: CommunityModel | None
    """None for k-means."""
    novelty: Novelty | None
    """It is None where the model has fewer than LEAST_IMAGES images."""
    unit_length: bool
    """Whether scores are scaled to the length 1 before the nearest centers are looked for."""
    mean: NDArray[np.float64]
    """The mean of the features, (n_features,)."""
    components: RowSource | None
    """The components, (n_components, n_features). It is None where the features themselves were clustered."""
    n_components: int
    step: float
    placer: Placer | None = None
    """Gives scores their places, which are clustered. It is None without t-SNE and UMAP."""


def load_model(context: Context, features: Features, workspace_bytes: int) -> StoredModel:
    """Load the model. workspace_bytes : of its rows that may stay in memory.

    Raises StoreError where the stages in OUT do not belong to one finished run.
    """
    store = context.store
    clustered, fit = store.mark(CLUSTER), store.mark(REDUCE)
    unfinished = StoreError(f"{store.out} holds no finished run; run the job to its end first")
    if clustered is None or clustered.payload["features"] != features.fingerprint:
        raise unfinished
    exact = store.load("centers")
    n_components = exact.shape[1]
    centers = found = None
    if algorithm_of(clustered) == LEIDEN:
        found = _community_model(context, features, clustered, exact, workspace_bytes)
    else:
        centers = prepare(exact, fit_scaler(block_moments(exact)))

    def usual() -> Novelty | None:
        if features.rows.shape[0] < LEAST_IMAGES:
            return None
        return novelty(context, features, clustered)

    if clustered.payload["reduction"] == "none":
        return StoredModel(centers, found, usual(), False, features.mean, None, n_components, 0.0)
    if fit is None or not reduce.made_clusters(store, fit, clustered):
        raise unfinished
    placer = None
    if (embedded := reduce.embedding_of(store, clustered)) is not None:
        n_components = embedded.payload["n_columns"]
        scores = reduce.clustered_scores(store, n_components, unit_length=features.unit_length)
        placer = manifold.load_placer(store, embedded, scores, context.runtime)
    novelty_of_model = usual()
    vectors, step = StoredRows(components(context, features)), fit.payload["score_step"]
    unit_length = features.unit_length
    mean = store.load("mean")
    return StoredModel(centers, found, novelty_of_model, unit_length, mean, vectors, n_components, step, placer)


def _community_model(
    context: Context, features: Features, clustered: Mark, means: NDArray[np.float64], workspace_bytes: int
) -> CommunityModel:
    store = context.store
    rows: RowSource = features.rows
    if clustered.payload["reduction"] in MANIFOLDS:
        rows = manifold.places(store)
    elif clustered.payload["reduction"] != "none":
        rows = reduce.clustered_scores(store, means.shape[1], unit_length=features.unit_length)
    labels, facts = load_labels(store, len(means)), clustered.payload["facts"]
    n_neighbors = min(neighbors_for(rows.shape[0]), rows.shape[0])
    return CommunityModel(rows, labels, means, n_neighbors, facts["metric"], context.runtime, workspace_bytes)


def label(features: NDArray[Any], model: StoredModel) -> Iterator[Predicted]:
    """Yield the prediction of each row of features, (n, n_features)."""
    if len(features) == 0:
        return
    rows = features
    norm_sq = np.zeros(len(features))
    for start, stop in spans(features.shape[1], TRANSFORM_COLUMNS):
        norm_sq += squared_norms(features[:, start:stop], model.mean[start:stop])
    residual = np.zeros(len(features))
    if model.components is not None:
        rows = transform(features, model.mean, model.components, model.n_components, model.step)
        residual = residual_of(norm_sq, np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        if model.unit_length:
            rows = to_unit_length(rows)
        if model.placer is not None:
            rows = model.placer.place(rows)
    assigned = _nearest_centers(rows, model) if model.communities is None else _voted(rows, model.communities)
    labels, distance, runners_up, margin = assigned
    novelty = None if model.novelty is None else model.novelty.of(Traits(labels, distance, residual, np.sqrt(norm_sq)))
    for row in range(len(features)):
        runner_up = int(runners_up[row])
        yield Predicted(
            int(labels[row]),
            float(distance[row]),
            None if runner_up < 0 else runner_up,
            float(margin[row]) if np.isfinite(margin[row]) else None,
            None if novelty is None else float(novelty[row]),
        )


def is_close_call(row: Predicted, model: StoredModel) -> bool:
    """Return whether the runner-up is as near, or has as many neighbors of the image."""
    if row.runner_up is None or row.margin is None:
        return False
    return row.margin <= (0 if model.communities is not None else 1e-4 * row.distance)


_Assigned = tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]
"""Labels, distances, runners-up and margins of new rows, (n,) each; a runner-up of -1 or an infinite margin stands for
none."""


def _nearest_centers(rows: NDArray[Any], model: StoredModel) -> _Assigned:
    assert model.centers is not None
    two = two_nearest(rows, model.centers)
    distance = np.sqrt(two.sq)
    return two.labels, distance, two.runner_up, np.sqrt(two.runner_up_sq) - distance


SAME_WITHIN = 1e-4
"""Relative difference of two rows up to which they are taken for the same image, whose community the new row gets: what
is computed anew differs by some 1e-6 in float32, and a JPEG that was saved once more by more than 1e-2."""


def _voted(rows: NDArray[Any], known: CommunityModel) -> _Assigned:
    """Return what the neighbors of new rows among the known ones say."""
    ids, distances = nearest_to(
        rows,
        known.rows,
        known.n_neighbors,
        metric=known.metric,
        runtime=known.runtime,
        workspace_bytes=known.workspace_bytes,
    )
    # Of rows of the length 1, 1 - cosine is half of the squared distance.
    relative = SAME_WITHIN * np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    counted = assign(ids, distances, known.labels, SAME_WITHIN**2 / 2 if known.metric == "cosine" else relative)
    margin = counted.shares - counted.runner_up_shares
    if len(known.means) == 1:
        margin = np.full(len(rows), np.inf)
    return counted.labels, np.sqrt(exact_sq(rows, known.means, counted.labels)), counted.runner_up, margin
