"""This stage computes the usual distances among the images of the model, by which the novelty of new images is
measured.

Only predict uses it, so a run does not wait for it. It takes one pass over the features and two over the scores. The
pass over the features computes |x - mean| of every image, which serves every clustering of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.kernels.novelty import Novelty, Traits, Usual, left_out, residual_of
from bigcluster.planning.stage_names import NORMS, NOVELTY
from bigcluster.runtime.cluster import Cluster
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.membership import load_labels
from bigcluster.stages.novelty_jobs import SCORE_ROWS, LeverageOfScores, NormsOfRows, SquaresOfScores
from bigcluster.stages.reduce import embedding_of
from bigcluster.store import Mark, StoredRows, fingerprint
from bigcluster.store.refs import RowsRef
from bigcluster.store.row_source import FirstColumns, RowSource


def novelty(context: Context, features: Features, clustered: Mark) -> Novelty:
    """Return the stored measure of novelty for the present clusters; it is computed first where it is missing.

    clustered : the mark of the present clusters, which belong to the present scores.
    Raises DamagedError where a stored array cannot be used.
    """
    store = context.store
    expected = fingerprint(before=clustered.fingerprint, stage=NOVELTY, layout=1)
    mark = store.mark(NOVELTY)
    if mark is None or mark.fingerprint != expected:
        measured = _measure(context, features, clustered)
        store.marks.remove(NOVELTY)
        tables = [
            np.column_stack([usual.middle, usual.reach, usual.precision.reshape(-1, 4)])
            for usual in (measured.own, measured.new)
        ]
        mark = store.commit(NOVELTY, expected, store.save("usual", np.stack(tables)), {"limit": measured.limit})
    own, new = (Usual(values[:, :2], values[:, 2], values[:, 3:].reshape(-1, 2, 2)) for values in store.load("usual"))
    return Novelty(own, new, mark.payload["limit"])


def _measure(context: Context, features: Features, clustered: Mark) -> Novelty:
    store, norm_sq = context.store, _norms(context, features)
    centers, distance = store.load("centers"), store.load("distance")
    labels = load_labels(store, len(centers))
    scores_sq = leverage = None
    residual = np.zeros(len(labels))
    embedded = embedding_of(store, clustered)
    if clustered.payload["reduction"] != "none":
        n_columns = centers.shape[1] if embedded is None else embedded.payload["n_columns"]
        scores_sq, leverage = _of_scores(context.cluster, FirstColumns(StoredRows(store.array("scores")), n_columns))
        residual = residual_of(norm_sq, scores_sq)
    own = Traits(labels, distance, residual, np.sqrt(norm_sq))
    counts = np.bincount(labels, minlength=len(centers))
    center_sq = np.einsum("ij,ij->i", centers, centers)
    left = left_out(
        own,
        scores_sq,
        leverage,
        center_sq,
        counts,
        store.load("runner_up_distance"),
        unit_length=features.unit_length,
        among_scores=embedded is None,
    )
    return Novelty.among(own, left, len(centers))


def _of_scores(cluster: Cluster, scores: RowSource) -> tuple[Float64Array, Float64Array]:
    """Return |scores|^2 and the leverage of every image, (n_ok,) float64 each.

    The leverage is 1 / n plus the sum over the components of score^2 divided by its sum over all images.
    """
    n_rows, n_columns = scores.shape
    rows, parts = RowsRef.of(scores), cluster.parts(-(-n_rows // SCORE_ROWS))
    sums = np.zeros(n_columns)
    for found in cluster.spread(SquaresOfScores(rows), parts):
        for of_run in found:
            sums += of_run
    shares = np.divide(1, sums, out=np.zeros(n_columns), where=sums > 0)
    lengths, leverage = np.concatenate(list(cluster.spread(LeverageOfScores(rows, shares), parts)), axis=1)
    return lengths, leverage


def _norms(context: Context, features: Features) -> NDArray[np.float64]:
    """Return |x - mean|^2 of every good image, (n_ok,): loaded where stored, otherwise computed in one pass over the
    features."""
    store, progress = context.store, context.progress
    expected = fingerprint(before=features.fingerprint, stage=NORMS)
    mark = store.mark(NORMS)
    if mark is None or mark.fingerprint != expected:
        rows, cluster = features.rows, context.cluster
        block_rows, slab_columns = rows.chunks
        job = NormsOfRows(RowsRef.of(rows), features.mean, block_rows, slab_columns)
        store.marks.remove(NORMS)
        with progress.stage(NORMS, rows.shape[0], "images"):
            found = cluster.spread(job, cluster.parts(-(-rows.shape[0] // block_rows)))
            all_norms = np.concatenate(list(found))
        store.commit(NORMS, expected, store.save(NORMS, all_norms), {})
    stored: NDArray[np.float64] = store.load(NORMS)
    return stored
