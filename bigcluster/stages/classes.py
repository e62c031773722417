"""The most probable classes of the images, and the classes that stand out in each cluster.

A class stands out where a larger share of the images of a cluster has it among their most probable classes than of all
images. Neither figure alone ranks them well: the share is largest for classes that are common everywhere, and the lift,
which is the share divided by that of all images, for classes that one image alone has. Their product
share * log(lift) is what a class adds to the Kullback-Leibler divergence of the cluster from the whole, so that a class
has to be both frequent in the cluster and rarer elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import DamagedError
from bigcluster.planning.footprint import CLASS_BLOCK_BYTES, CLASS_COUNT_BYTES, CLASSES_OF_A_CLUSTER
from bigcluster.stages.ingest import stored_class_names, stored_embedding
from bigcluster.stages.pixel_blocks import CLASSES
from bigcluster.store import Store, StoredRows
from bigcluster.store.row_source import spans

NAME_PARTS = 2
"""Classes in the suggested name of a cluster: with one, a cluster of several things would be called by one of them.
Chosen, not measured."""
LEAST_SHARE = 0.1
"""Share of the images of a cluster that must have a class, so that the class can stand out. Chosen, not measured."""
LEAST_IMAGES = 2
"""Number of images of a cluster that must have a class, so that the class can stand out; 1 in a cluster of one image.
Chosen: what a single image shows says nothing about the others."""
_NAME_CHARACTERS = 40
"""Characters of a class in the name of a cluster, at most: almost all classes of ImageNet have fewer."""


@dataclass(frozen=True)
class ImageClasses:
    """The most probable classes of every good image, as they are stored."""

    names: tuple[str, ...]
    """The names of all classes."""
    per_image: int
    """How many classes each image has, the most probable first."""
    rows: StoredRows
    """(n_ok, 2 * per_image) float32: the numbers of the classes, then their probabilities."""

    def read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the numbers and the probabilities of the classes of rows start .. stop - 1, each (n, per_image).

        Raises DamagedError for a number that no class has.
        """
        block = self.rows.read(start, stop)
        numbers, probabilities = block[:, : self.per_image], block[:, self.per_image :]
        if not ((numbers >= 0) & (numbers < len(self.names))).all():
            raise DamagedError("the array classes holds a number that no class has; run the job again with --replace")
        return numbers.astype(np.int64), probabilities

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The rows (start, stop) that are read at once."""
        n_rows, n_columns = self.rows.shape
        return list(spans(n_rows, max(1, min(self.rows.chunks[0], CLASS_BLOCK_BYTES // (4 * n_columns)))))


@dataclass(frozen=True)
class ClassShare:
    """A class that stands out in a cluster."""

    name: str
    share: float
    """The share of the images of the cluster that have the class among their most probable ones."""
    lift: float
    """That share, divided by the share of all images."""


@dataclass(frozen=True)
class ClusterClasses:
    """The classes that stand out in each cluster: at most CLASSES_OF_A_CLUSTER, by share * log(lift)."""

    names: tuple[str, ...]
    """The names of all classes."""
    numbers: NDArray[np.int32]
    """(k, CLASSES_OF_A_CLUSTER), the numbers of classes; -1 where no more stand out."""
    shares: NDArray[np.float32]
    """(k, CLASSES_OF_A_CLUSTER)"""
    lifts: NDArray[np.float32]
    """(k, CLASSES_OF_A_CLUSTER)"""

    def of(self, cluster: int) -> list[ClassShare]:
        """Return the classes of a cluster, the one that stands out most first; may be empty."""
        rows = zip(self.numbers[cluster], self.shares[cluster], self.lifts[cluster], strict=True)
        return [ClassShare(self.names[n], float(share), float(lift)) for n, share, lift in rows if n >= 0]

    def name(self, cluster: int) -> str:
        """Return the suggested name of a cluster: its first classes, each by its first synonym; "" without any."""
        return ", ".join(dict.fromkeys(_short(chosen.name) for chosen in self.of(cluster)[:NAME_PARTS]))


def _short(name: str) -> str:
    """Return the first synonym of a class: "jean, blue jean, denim" -> "jean"."""
    first = name.partition(",")[0].strip()
    return first if len(first) <= _NAME_CHARACTERS else f"{first[: _NAME_CHARACTERS - 1]}…"


def load_classes(store: Store, ok: NDArray[np.bool_]) -> ImageClasses | None:
    """Return the stored classes of the good images; None where none are stored. ok : (n_listed,)."""
    embedding = stored_embedding(store)
    if embedding is None or not embedding["n_classes"]:
        return None
    return ImageClasses(stored_class_names(store), embedding["n_classes"], StoredRows(store.array(CLASSES), ok))


def classes_of_clusters(classes: ImageClasses, labels: NDArray[np.int32], n_clusters: int) -> ClusterClasses:
    """Return the classes that stand out in each cluster. labels : (n_ok,), the cluster of every good image.

    Classes are counted for as many clusters at once as CLASS_COUNT_BYTES permit, in one pass each.
    """
    n_classes, sizes = len(classes.names), np.bincount(labels, minlength=n_clusters)
    at_once = max(1, CLASS_COUNT_BYTES // (4 * n_classes))
    totals = np.zeros(n_classes, np.int64)
    for start, stop in classes.blocks:
        totals += np.bincount(classes.read(start, stop)[0].reshape(-1), minlength=n_classes)
    shares_of_all = totals / len(labels)
    shape = (n_clusters, CLASSES_OF_A_CLUSTER)
    result = ClusterClasses(
        classes.names, np.full(shape, -1, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    )
    for first, last in spans(n_clusters, at_once):
        counts = np.zeros((last - first, n_classes), np.int32)
        for start, stop in classes.blocks:
            block = labels[start:stop]
            inside = (block >= first) & (block < last)
            numbers = classes.read(start, stop)[0][inside]
            np.add.at(counts, (block[inside, np.newaxis] - first, numbers), 1)
        for cluster in range(first, last):
            _choose(result, cluster, counts[cluster - first], int(sizes[cluster]), shares_of_all)
    return result


def _choose(
    result: ClusterClasses, cluster: int, counts: NDArray[np.int32], size: int, shares_of_all: NDArray[np.float64]
) -> None:
    """Set the row of a cluster in `result`.

    counts : (n_classes,), the number of images of the cluster with each class. size : the images of the cluster.
    shares_of_all : (n_classes,), the share of all images with each class.
    """
    frequent = np.flatnonzero(counts >= max(min(LEAST_IMAGES, size), LEAST_SHARE * size))
    share = counts[frequent] / size
    lift = share / shares_of_all[frequent]
    best = np.argsort(-share * np.log(lift), kind="stable")[:CLASSES_OF_A_CLUSTER]
    best = best[lift[best] > 1]
    result.numbers[cluster, : len(best)] = frequent[best]
    result.shares[cluster, : len(best)], result.lifts[cluster, : len(best)] = share[best], lift[best]
