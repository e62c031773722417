"""The stored clusters: who belongs to which, how they are numbered, and how they compare with those of the fit before.

K-means (stages/cluster.py) and communities (stages/communities.py) both end here, so that what reads clusters need not
know which of them found them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.errors import DamagedError
from bigcluster.planning.stage_names import CLUSTER
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.reduce import Reduced
from bigcluster.store import Digests, Mark, Store
from bigcluster.store.chunk_grid import column_chunks

KMEANS, LEIDEN = "kmeans", "leiden"
"""What found the clusters, as the setting `algorithm` and the mark of the stage name it. Marks of earlier versions name
nothing: they are of k-means."""
_KEYS = "label_keys"
"""The array of the row keys of the labels, (n_ok,) uint64. The next fit finds the same images by these keys, also after
images were added or removed."""


@dataclass(frozen=True)
class Membership:
    """The cluster of every good row. All arrays have the shape (n_ok,)."""

    labels: NDArray[np.int32]
    distance: NDArray[np.float64]
    """The Euclidean distance to the assigned center, in units of the scores; of a community, to its mean."""
    runner_up: NDArray[np.int32] | None
    """The second nearest cluster; of communities, the one with the second most votes of the neighbors, and -1 where all
    neighbors are of one community. It is None where there is only one cluster."""
    margin: NDArray[np.float64] | None
    """The distance to the center of the runner-up minus `distance`; of communities, the share of the neighbors in the
    own community minus their share in the runner-up, from -1 to 1. It is None where there is only one cluster."""


@dataclass(frozen=True)
class Clustered:
    """The stored clusters. They are numbered by size, the largest first; clusters of one size are in the order of their
    smallest path."""

    fingerprint: str
    membership: Membership
    n_clusters: int
    inertia: float | None
    """The sum of squared distances to the nearest center; None for communities, which have none."""
    algorithm: str
    """KMEANS or LEIDEN."""
    nearest_previous: list[int | None] | None
    """For each cluster, the cluster of the previous fit with which it shares most images, or None where it shares none.
    The whole list is None where there is no previous fit to compare with."""
    reused: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a solver found, in the final numbering. Rows are those of the scores."""

    centers: NDArray[np.float64]
    """(n_clusters, n_columns)"""
    write: Callable[[Store], Digests]
    """Writes the columns of (n_ok,), among them `labels`, and returns the digests of their chunks."""
    algorithm: str
    inertia: float | None
    facts: dict[str, Any]


def origin_of(context: Context, reduced: Reduced, features: Features, ingested: Ingested) -> dict[str, str]:
    """Return what the mark of the clusters says of the rows that were clustered."""
    return {
        "images": ingested.fingerprint,
        "features": features.fingerprint,
        "reduction": context.settings.reduce,
        "rows": reduced.fingerprint,
    }


def reusable(store: Store, expected: str, origin: dict[str, str], n_clusters: int | None = None) -> Mark | None:
    """Return the mark of the stored clusters where they are those that would be made now; else None.

    expected : the fingerprint. n_clusters : how many there are; None for what the mark says.
    """
    mark = store.mark(CLUSTER)
    if mark is None or mark.fingerprint != expected or not origin.items() <= mark.payload.items():
        return None
    n_clusters = mark.payload["n_clusters"] if n_clusters is None else n_clusters
    return mark if _are_numbers(store.load("labels"), n_clusters) else None


def store_clusters(
    context: Context, found: Found, expected: str, origin: dict[str, str], ingested: Ingested, previous: Previous | None
) -> Mark:
    """Store clusters in place of those before, and return their mark. previous : from `previous_fit`."""
    store, centers = context.store, found.centers
    store.marks.remove(CLUSTER)
    digests = store.save("centers", centers) | found.write(store) | store.save(_KEYS, ingested.row_keys)
    payload = {
        **origin,
        "n_clusters": len(centers),
        "n_columns": centers.shape[1],
        "inertia": found.inertia,
        "nearest_previous": None
        if previous is None
        else _nearest_previous(store.load("labels"), ingested.row_keys, previous, len(centers)),
        "facts": found.facts,
        **({} if found.algorithm == KMEANS else {"algorithm": found.algorithm}),
    }
    return store.commit(CLUSTER, expected, digests, payload)


def clustered_from(store: Store, mark: Mark, *, reused: bool) -> Clustered:
    """Load the stored clusters of a mark."""
    payload = mark.payload
    return Clustered(
        mark.fingerprint,
        load_membership(store, mark),
        payload["n_clusters"],
        payload["inertia"],
        algorithm_of(mark),
        payload["nearest_previous"],
        reused,
        payload["facts"],
    )


def algorithm_of(clustered: Mark) -> str:
    """Return what found the clusters of a mark: KMEANS or LEIDEN."""
    algorithm: str = clustered.payload.get("algorithm", KMEANS)
    return algorithm


RowsOf = Callable[[NDArray[np.bool_]], Iterable[tuple[NDArray[np.int64], NDArray[np.int32]]]]
"""A function of (n_clusters,) bool: which clusters. It yields the numbers of their rows and the labels of these, (n,)
each, for one run of rows after the other."""


def order_by_size(
    counts: NDArray[np.int64], rows_of: RowsOf, listing: Listing, ok: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the order of the clusters: (n_clusters,) int64, from new number to old number.

    The largest comes first; of equal sizes the one with the smallest path. counts : (n_clusters,), by old number.
    rows_of : by old number. It is called only where sizes are equal.
    """
    sizes, times = np.unique(counts, return_counts=True)
    tied = np.isin(counts, sizes[times > 1])
    smallest = dict.fromkeys(range(len(counts)), "")
    if tied.any():
        physical = np.flatnonzero(ok)
        for rows, labels in rows_of(tied):
            for row, old in zip(physical[rows].tolist(), labels.tolist(), strict=True):
                name = listing.names[row]
                if not smallest[old] or name < smallest[old]:
                    smallest[old] = name
    return np.array(sorted(smallest, key=lambda old: (-int(counts[old]), smallest[old])))


def write_columns(store: Store, columns: Mapping[str, NDArray[Any]]) -> Digests:
    """Store columns, (n_ok,) each, and return the digests of their chunks. columns : by the name of the array."""
    digests: Digests = {}
    for name, values in columns.items():
        digests |= store.save(name, values, column_chunks(len(values)))
    return digests


def new_numbers(order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return (n_clusters + 1,) int32: the new number of each old one. The index -1, for none, gives -1."""
    numbers = np.empty(len(order) + 1, np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    numbers[-1] = -1
    return numbers


_COMPARED_BYTES = 64
"""Bytes for each row of the previous fit: its label, its key, and the sorting that np.intersect1d does. Chosen,
not measured."""


@dataclass(frozen=True)
class Previous:
    """The labels of the previous fit, (n_before,), and the keys of their rows, (n_before,)."""

    labels: NDArray[np.int32]
    keys: NDArray[np.uint64]


def previous_fit(store: Store, ingested: Ingested, n_clusters: int) -> Previous | None:
    """Return the previous fit, or None.

    It is None where there is no previous fit, where one of its labels is not the number of a cluster, and where the
    comparison does not fit the budget. n_clusters : how many there are now.
    """
    mark = store.mark(CLUSTER)
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
    return Previous(labels, keys) if _are_numbers(labels, n_before) and len(keys) == len(labels) else None


def _nearest_previous(
    labels: NDArray[np.int32], keys: NDArray[np.uint64], previous: Previous, n_clusters: int
) -> list[int | None]:
    """For each cluster, return the cluster of the previous fit that shares most images with it, or None."""
    _, now, before = np.intersect1d(keys, previous.keys, return_indices=True)
    shared = np.zeros((n_clusters, int(previous.labels.max()) + 1), np.int64)
    np.add.at(shared, (labels[now], previous.labels[before]), 1)
    return [int(row.argmax()) if row.any() else None for row in shared]


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


def load_membership(store: Store, clustered: Mark) -> Membership:
    """Load the cluster, the distance and the runner-up of every good row. clustered : the mark of the clusters.

    Raises DamagedError where a stored label is not the number of a cluster.
    """
    n_clusters = clustered.payload["n_clusters"]
    labels, distance = load_labels(store, n_clusters), store.load("distance")
    if n_clusters == 1:
        return Membership(labels, distance, None, None)
    runner_up = store.load("runner_up")
    if algorithm_of(clustered) == LEIDEN:
        return Membership(labels, distance, runner_up, store.load("margin"))
    return Membership(labels, distance, runner_up, store.load("runner_up_distance") - distance)
