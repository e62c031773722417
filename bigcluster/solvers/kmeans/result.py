"""What a fit of k-means returns, where the labels of its rows go, and which algorithm is chosen for a given size.

The algorithm is chosen by the numbers of rows, columns and clusters, never by the budget, so the budget changes no
result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ConfigError
from bigcluster.kernels.kmeans.sums import Floats, Labels

if TYPE_CHECKING:
    from bigcluster.solvers.kmeans.spread_labels import Labeling


class RowSink(Protocol):
    """Takes the labels and distances of the final pass, block after block, in row order.

    The pass starts again at row 0 where it has left a cluster empty.
    """

    def write(
        self, start: int, labels: Labels, distance: Floats, runner_up: Labels, runner_up_distance: Floats
    ) -> None:
        """Take rows start .. start + n - 1. labels, runner_up : (n,) int32, the nearest and the second nearest center.

        distance, runner_up_distance : (n,) float64, Euclidean distances to them, in the units of the rows. With a
        single cluster, runner_up is -1 and runner_up_distance is infinite.
        """


class RowLabels(NamedTuple):
    """Labels and distances of some rows, as a `RowSink` takes them. The names are those of the stored arrays."""

    labels: Labels
    distance: Floats
    runner_up: Labels
    runner_up_distance: Floats


class ArraySink:
    """Keeps the final pass in memory: four arrays (n_rows,), 24 bytes for each row."""

    def __init__(self, n_rows: int) -> None:
        self.labels = np.empty(n_rows, np.int32)
        self.distance = np.empty(n_rows, np.float64)
        self.runner_up = np.empty(n_rows, np.int32)
        self.runner_up_distance = np.empty(n_rows, np.float64)

    def write(
        self, start: int, labels: Labels, distance: Floats, runner_up: Labels, runner_up_distance: Floats
    ) -> None:
        part = slice(start, start + len(labels))
        self.labels[part] = labels
        self.distance[part] = distance
        self.runner_up[part] = runner_up
        self.runner_up_distance[part] = runner_up_distance


@dataclass(frozen=True)
class KMeansFit:
    """centers : (n_clusters, n_columns) float64. counts : (n_clusters,) int64, every one at least 1.

    inertia : the (weighted) sum of squared distances of the rows to their nearest center, from differences in float64.
    n_iter : Lloyd iterations of the best restart. n_requested : the number of clusters that the caller requested;
    `reason` says why there are fewer, else it is empty. inertias : of every restart. inertia_path : after each
    iteration of the best one.
    rows : the final pass, where no other sink was given and workers did not make it. labeling : how workers have made
    it, for `spread_labels.write_labels`; None where they have not.
    """

    centers: Floats
    counts: NDArray[np.int64]
    inertia: float
    n_iter: int
    converged: bool
    n_requested: int
    algorithm: str
    passes: int
    bytes_read: int
    reason: str = ""
    inertias: tuple[float, ...] = ()
    inertia_path: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    rows: ArraySink | None = field(default=None, repr=False)
    labeling: Labeling | None = field(default=None, repr=False)

    @property
    def n_clusters(self) -> int:
        return len(self.centers)


ALGORITHMS = ("lloyd", "minibatch", "two-level", "dask-ml")

TWO_LEVEL_FROM = 10_000
"""Clusters from which on two levels are chosen: flat iterations grow with their number, two levels with its root."""
MINIBATCH_FROM = 10**14
"""Multiply-adds of one exact pass from which on mini-batches are chosen: a quarter of an hour on two cores."""


def choose(n_rows: int, n_columns: int, n_clusters: int) -> tuple[str, str]:
    """Choose the algorithm for this size; return its name and the reason, one line. "dask-ml" is never chosen."""
    if n_clusters >= TWO_LEVEL_FROM:
        return "two-level", f"{n_clusters:,} clusters: flat iterations grow with their number, two levels with its root"
    work = n_rows * n_columns * n_clusters
    if work >= MINIBATCH_FROM:
        return "minibatch", f"one exact pass is {work:.1e} multiply-adds"
    return "lloyd", f"exact: one pass is at most {work:.1e} multiply-adds"


def check_algorithm(name: str) -> str:
    """Return `name` if it is "auto" or one of ALGORITHMS. Raises ConfigError otherwise."""
    if name not in ("auto", *ALGORITHMS):
        raise ConfigError(f"algorithm must be one of auto, {', '.join(ALGORITHMS)}, not {name!r}")
    return name
