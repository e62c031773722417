"""Leiden's algorithm on the graph of nearest neighbors, by graspologic-native.

Two rows are connected where one is a neighbor of the other; all edges weigh the same. The communities maximize the
modularity of Reichardt and Bornholdt 2006: the edges within communities, less those expected by chance times the
resolution. Source of the algorithm: Traag, Waltman and van Eck 2019, "From Louvain to Leiden".

The library runs on one thread and knows no budget: footprint.py projects what it holds. Of the libraries with a licence
that fits, it is the one that gives the same communities for the same seed: scikit-network's Leiden (0.33.5) draws from
the random numbers of the C library, which its seed does not set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.linalg.types import Int32Array, Int64Array

ITERATIONS = 5
"""Number of times that the whole algorithm is repeated, each time from the communities of the time before. Chosen, not
measured."""
TRIALS = 2
"""Independent starts, of which the larger modularity wins. On 2,060 photographs of clothing, ten seeds gave a
modularity of .709 to .715 with one start and of .714 to .716 with two; more starts added time and nothing else."""
_SEEDS = 1 << 64
"""The library takes seeds below this number."""


@dataclass(frozen=True)
class Communities:
    """Communities, numbered by size, the largest first; of one size, by their smallest row number."""

    labels: Int32Array
    """The community of every row, (n_rows,)."""
    counts: Int64Array
    """The rows of each community, (n_communities,)."""
    modularity: float
    """The modularity of Reichardt and Bornholdt, with the resolution of the call."""

    @property
    def count(self) -> int:
        """The number of communities."""
        return len(self.counts)


def leiden(ids: Int32Array, *, resolution: float = 1.0, seed: int = 0) -> Communities:
    """Find the communities of a graph of neighbors.

    ids : (n_rows, k) int32, the numbers of the neighbors of each row, none of them the row itself. resolution : above
    0; a larger one gives more and smaller communities. seed : of the order in which rows are looked at.

    Raises UsageError for a resolution that is not a finite number above 0, and where there are no rows.
    """
    if not 0 < resolution < math.inf:
        raise UsageError(f"resolution must be a number above 0, not {resolution}")
    if not len(ids):
        raise UsageError("communities need at least one row")
    if not ids.shape[1]:  # the rows have no neighbors, such as a single row
        return _numbered(np.arange(len(ids), dtype=np.int64), 0.0)
    import graspologic_native

    starts, columns = adjacency(ids)
    modularity, community_of_row = graspologic_native.leiden_csr(
        starts,
        columns,
        np.ones(len(columns)),
        len(ids),
        resolution=float(resolution),
        iterations=ITERATIONS,
        trials=TRIALS,
        seed=seed % _SEEDS,
    )
    labels = np.full(len(ids), -1, np.int64)
    n_labelled = len(community_of_row)
    rows = np.fromiter(community_of_row.keys(), np.int64, n_labelled)
    labels[rows] = np.fromiter(community_of_row.values(), np.int64, n_labelled)
    return _numbered(labels, float(modularity))


def adjacency(ids: Int32Array) -> tuple[Int64Array, Int32Array]:
    """Return the symmetric adjacency matrix of a graph of neighbors, in compressed rows.

    ids : (n_rows, k) int32. Returns starts, (n_rows + 1,) int64, and columns, (n_entries,) int32: the rows that are
    connected with row i are columns[starts[i] : starts[i + 1]], ascending.
    """
    n, k = ids.shape
    entries = np.empty((2, n, k), np.int64)  # row * n + column, once for each direction
    entries[0] = ids
    entries[1] = np.arange(n)[:, None]
    entries[1] += entries[0] * n
    entries[0] += np.arange(n)[:, None] * n
    flat = entries.reshape(-1)
    flat.sort()
    first = np.empty(len(flat), np.bool_)
    first[0] = True
    np.not_equal(flat[1:], flat[:-1], out=first[1:])
    distinct = flat[first]
    del entries, flat, first
    starts = np.searchsorted(distinct, np.arange(n + 1) * n)
    distinct %= n
    return starts, distinct.astype(np.int32)


def _numbered(labels: NDArray[np.int64], modularity: float) -> Communities:
    """Number communities by size. labels : (n_rows,), any numbers."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return Communities(number[inverse], counts[order], modularity)
