"""The mean of each community, and the distances of the rows to the means of their own community and of the runner-up.

Sums are formed in canonical blocks and added in block order, so that no bit depends on budget or threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.sums import ClusterSums, cluster_sums, exact_sq
from bigcluster.kernels.linalg.types import Float64Array, Int32Array
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.store.row_source import RowSource


def means_and_distances(
    rows: RowSource,
    labels: Int32Array,
    runner_up: Int32Array,
    n_communities: int,
    *,
    runtime: Runtime,
    workspace_bytes: int | None = None,
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Read the rows twice; return means, distances to the own mean, and distances to the mean of the runner-up.

    rows : (n_rows, n_columns). labels : (n_rows,), each number below n_communities at least once. runner_up :
    (n_rows,), -1 where there is none; its distance is then 0. workspace_bytes : bytes of rows that may stay in memory
    between the two reads; None for no limit.
    Returns (n_communities, n_columns), (n_rows,) and (n_rows,) float64.
    """
    cache_bytes = 4 * rows.shape[0] * rows.shape[1] if workspace_bytes is None else workspace_bytes
    blocks = Blocks(rows, runtime, cache_bytes)
    sums, counts = np.zeros((n_communities, rows.shape[1])), np.zeros(n_communities, np.int64)

    def sums_of(number: int, block: NDArray[np.float32]) -> ClusterSums:
        return cluster_sums(block, labels[blocks.row_slice(number)])

    for _, part in blocks.map(sums_of):
        sums[part.ids] += part.sums
        counts[part.ids] += part.counts
    means = sums / counts[:, np.newaxis]

    def distances_of(number: int, block: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
        here = blocks.row_slice(number)
        second = runner_up[here]
        to_second = np.where(second < 0, 0, exact_sq(block, means, np.maximum(second, 0)))
        return np.sqrt(exact_sq(block, means, labels[here])), np.sqrt(to_second)

    own, other = np.empty(len(labels)), np.empty(len(labels))
    for number, found in blocks.map(distances_of):
        own[blocks.row_slice(number)], other[blocks.row_slice(number)] = found
    return means, own, other
