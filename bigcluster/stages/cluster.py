"""This stage turns scores into clusters.

It stores the centers and, for every good row, the label, the distance and the runner-up. All of them come from one
final pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.errors import DamagedError
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import CLUSTER
from bigcluster.solvers.kmeans import KMeansFit
from bigcluster.solvers.unit_length import ref_of
from bigcluster.stages.cluster_jobs import FitClusters, LabelRows, Saving
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.reduce import Reduced
from bigcluster.stages.sweep import Swept, centers_of
from bigcluster.store import Mark, StageCheckpoints, Store, fingerprint

_ARRAYS = ("centers", "labels", "distance", "runner_up", "runner_up_distance")
_KEYS = "label_keys"
"""The array of the row keys of the labels, (n_ok,) uint64. The next fit finds the same images by these keys, also after
images were added or removed."""


@dataclass(frozen=True)
class Membership:
    """The cluster of every good row. All arrays have the shape (n_ok,) and come from the same final pass."""

    labels: NDArray[np.int32]
    distance: NDArray[np.float64]
    """The Euclidean distance to the assigned center, in units of the scores."""
    runner_up: NDArray[np.int32] | None
    """The second nearest cluster. It is None where there is only one cluster."""
    margin: NDArray[np.float64] | None
    """The distance to the center of the runner-up minus `distance`. It is None where there is only one cluster."""


@dataclass(frozen=True)
class Clustered:
    """The stored clusters. They are numbered by size, the largest first; clusters of one size are in the order of their
    smallest path."""

    fingerprint: str
    membership: Membership
    n_clusters: int
    inertia: float
    nearest_previous: list[int | None] | None
    """For each cluster, the cluster of the previous fit with which it shares most images, or None where it shares none.
    The whole list is None where there is no previous fit to compare with."""
    reused: bool
    facts: dict[str, Any]


def cluster(
    context: Context,
    reduced: Reduced,
    plan: StagePlan,
    listing: Listing,
    features: Features,
    ingested: Ingested,
    *,
    swept: Swept | None = None,
) -> Clustered:
    """Bring the stored clusters up to date with the scores and the settings, and return them.

    plan : the plan of this stage. swept : a sweep whose chosen k is taken; None where the settings name one k.
    Raises DamagedError where a stored array cannot be used.
    """
    store, settings = context.store, context.settings
    n_clusters = settings.ks[0] if swept is None else swept.chosen_k
    expected = fingerprint(
        before=reduced.fingerprint if swept is None else swept.fingerprint,
        stage=CLUSTER,
        k=n_clusters,
        seed=settings.seed,
        kmeans=asdict(settings.kmeans),
        **({} if swept is None else {"of": "the swept centers as they are"}),
    )
    mark, checkpoints = store.mark(CLUSTER), StageCheckpoints(store, CLUSTER, expected)
    origin = {
        "images": ingested.fingerprint,
        "features": features.fingerprint,
        "reduction": settings.reduce,
        "rows": reduced.fingerprint,
    }
    reused = mark is not None and mark.fingerprint == expected and origin.items() <= mark.payload.items()
    reused = reused and _are_numbers(store.load("labels"), n_clusters)
    if mark is None or not reused:
        previous = _previous(store, mark, ingested, n_clusters)
        if swept is not None and settings.kmeans.algorithm in ("auto", "lloyd"):
            fitted = _from_sweep(context, reduced, swept, plan)
        else:
            fitted = _fit(context, reduced, n_clusters, plan, ingested, checkpoints)
        fitted, order = _by_size(fitted, listing, ingested.ok)
        store.marks.remove(CLUSTER)
        values = (fitted.centers, *_columns(fitted, order))
        digests: dict[str, str] = {}
        for name, value in zip(_ARRAYS, values, strict=True):
            digests |= store.save(name, value)
        digests |= store.save(_KEYS, ingested.row_keys)
        mark_payload = {
            **origin,
            "n_clusters": fitted.n_clusters,
            "n_columns": fitted.centers.shape[1],
            "inertia": fitted.inertia,
            "nearest_previous": None
            if previous is None
            else _nearest_previous(values[1], ingested.row_keys, previous, fitted.n_clusters),
            "facts": _facts(fitted),
        }
        mark = store.commit(CLUSTER, expected, digests, mark_payload)
    else:
        context.progress.reused(CLUSTER)
    checkpoints.clear()
    payload: dict[str, Any] = mark.payload
    return Clustered(
        expected,
        load_membership(store, payload["n_clusters"]),
        payload["n_clusters"],
        payload["inertia"],
        payload["nearest_previous"],
        reused,
        payload["facts"],
    )


def _from_sweep(context: Context, reduced: Reduced, swept: Swept, plan: StagePlan) -> KMeansFit:
    """Return the clusters of the chosen row of the sweep, exactly as the table of the sweep shows them."""
    with context.progress.stage(CLUSTER, 1, "passes"):
        centers, n_iter = centers_of(context.store, swept, swept.chosen_k), swept.chosen["n_iter"]
        label = LabelRows(ref_of(reduced.rows), centers, n_iter, plan.choices["workspace_bytes"])
        fitted = context.cluster.once(label)
        context.progress.at(1)
    return fitted


def _fit(
    context: Context,
    reduced: Reduced,
    n_clusters: int,
    plan: StagePlan,
    ingested: Ingested,
    checkpoints: StageCheckpoints,
) -> KMeansFit:
    settings, progress = context.settings, context.progress
    options = settings.kmeans
    common: dict[str, Any] = {
        "seed": settings.seed,
        "max_iter": options.max_iter,
        "tol": options.tol,
        "workspace_bytes": plan.choices["workspace_bytes"],
    }
    if plan.solver in ("dask-ml", "lloyd"):
        common |= {"n_init": options.n_init}
    with progress.stage(CLUSTER, options.max_iter, "iterations"):
        saving = Saving.of(context.store, CLUSTER, ingested.row_keys, checkpoints, lambda fit: progress.at(fit.done))
        fit = FitClusters(ref_of(reduced.rows), plan.solver, n_clusters, common, saving)
        fitted = checkpoints.resume_or_restart(lambda: context.cluster.once(fit), progress.warn)
    if fitted.reason:
        progress.warn(fitted.reason)
    for note in fitted.notes:
        progress.note(note)
    return fitted


def _by_size(fitted: KMeansFit, listing: Listing, ok: NDArray[np.bool_]) -> tuple[KMeansFit, NDArray[np.int64]]:
    """Renumber the clusters by size.

    Returns the fit with its centers and counts in the new order, and that order: (n_clusters,) int64, from new number
    to old number.
    """
    counts = fitted.counts
    tied = {size for size, times in zip(*np.unique(counts, return_counts=True), strict=True) if times > 1}
    smallest = dict.fromkeys(range(fitted.n_clusters), "")
    if tied:
        assert fitted.rows is not None
        in_tie = np.isin(counts, list(tied))[fitted.rows.labels]
        physical = np.flatnonzero(ok)
        for row in np.flatnonzero(in_tie).tolist():
            old, name = int(fitted.rows.labels[row]), listing.names[int(physical[row])]
            if not smallest[old] or name < smallest[old]:
                smallest[old] = name
    order = np.array(sorted(smallest, key=lambda old: (-int(counts[old]), smallest[old])))
    return replace(fitted, centers=fitted.centers[order], counts=counts[order]), order


def _columns(fitted: KMeansFit, order: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Return labels, distance, runner_up and runner_up_distance, (n_ok,) each, in the new numbering.

    A runner-up of -1 means that there is none; it stays -1.
    """
    assert fitted.rows is not None
    new_number = np.empty(len(order) + 1, np.int32)
    new_number[order] = np.arange(len(order), dtype=np.int32)
    new_number[-1] = -1  # the index -1 selects this last place
    rows = fitted.rows
    return new_number[rows.labels], rows.distance, new_number[rows.runner_up], rows.runner_up_distance


_COMPARED_BYTES = 64
"""Bytes for each row of the previous fit: its label, its key, and the sorting that np.intersect1d does. Chosen,
not measured."""


@dataclass(frozen=True)
class _Previous:
    """The labels of the previous fit, (n_before,), and the keys of their rows, (n_before,)."""

    labels: NDArray[np.int32]
    keys: NDArray[np.uint64]


def _previous(store: Store, mark: Mark | None, ingested: Ingested, n_clusters: int) -> _Previous | None:
    """Return the previous fit, or None.

    It is None where there is no previous fit, where one of its labels is not the number of a cluster, and where the
    comparison does not fit the budget.
    """
    if mark is None:
        return None
    of_its_own = f"{_KEYS}/" in "".join(mark.digests)
    if not of_its_own and mark.payload["images"] != ingested.fingerprint:  # earlier versions kept no keys of their own
        return None
    n_before, (n_rows,) = mark.payload["n_clusters"], store.array("labels").shape
    compared_bytes = _COMPARED_BYTES * n_rows + 8 * n_clusters * n_before
    if store.most_bytes is not None and 2 * compared_bytes > store.most_bytes:
        return None
    labels, keys = store.load("labels"), store.load(_KEYS) if of_its_own else ingested.row_keys
    return _Previous(labels, keys) if _are_numbers(labels, n_before) and len(keys) == len(labels) else None


def _nearest_previous(
    labels: NDArray[np.int32], keys: NDArray[np.uint64], previous: _Previous, n_clusters: int
) -> list[int | None]:
    """For each cluster, return the cluster of the previous fit that shares most images with it, or None."""
    _, now, before = np.intersect1d(keys, previous.keys, return_indices=True)
    shared = np.zeros((n_clusters, int(previous.labels.max()) + 1), np.int64)
    np.add.at(shared, (labels[now], previous.labels[before]), 1)
    return [int(row.argmax()) if row.any() else None for row in shared]


def _facts(fitted: KMeansFit) -> dict[str, Any]:
    return {
        "solver": fitted.algorithm,
        "n_iter": fitted.n_iter,
        "converged": fitted.converged,
        "passes": fitted.passes,
        "bytes_read": fitted.bytes_read,
        "asked": fitted.n_requested,
        "reason": fitted.reason,
        "inertias": list(fitted.inertias),
    }


def load_labels(store: Store, n_clusters: int) -> NDArray[np.int32]:
    """Load the cluster number of every good row, (n_ok,) int32.

    Raises DamagedError where a stored label is not in 0 .. n_clusters - 1.
    """
    labels: NDArray[np.int32] = store.load("labels")
    if not _are_numbers(labels, n_clusters):
        raise DamagedError(f"{store.root / 'labels'} names clusters that there are not")
    return labels


def _are_numbers(labels: NDArray[np.int32], n_clusters: int) -> bool:
    """Return whether all labels are in 0 .. n_clusters - 1: np.bincount allocates memory up to the largest label."""
    return len(labels) == 0 or bool(-1 < labels.min() <= labels.max() < n_clusters)


def load_membership(store: Store, n_clusters: int) -> Membership:
    """Load the cluster, the distance and the runner-up of every good row.

    Raises DamagedError where a stored label is not in 0 .. n_clusters - 1.
    """
    distance = store.load("distance")
    if n_clusters == 1:
        return Membership(load_labels(store, n_clusters), distance, None, None)
    margin = store.load("runner_up_distance") - distance
    return Membership(load_labels(store, n_clusters), distance, store.load("runner_up"), margin)
