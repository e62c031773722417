"""To which communities the neighbors of a row belong: its runner-up, and the community of a new row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array
from bigcluster.store.row_source import spans

_ROWS = 4_096
"""Number of rows that are counted at a time. A table of k x k booleans and k counts of 8 bytes for each of them are in
memory. Chosen, not measured."""


@dataclass(frozen=True)
class Votes:
    """The votes of the neighbors of each row. All arrays are (n_rows,)."""

    labels: Int32Array
    """The community of the row."""
    shares: Float64Array
    """The share of its neighbors that belong to it, 0 to 1."""
    runner_up: Int32Array
    """The other community with most neighbors; -1 where all neighbors belong to the community of the row."""
    runner_up_shares: Float64Array
    """The share of the neighbors that belong to the runner-up; 0 where there is none."""


def votes(neighbor_labels: Int32Array, labels: Int32Array | None = None) -> Votes:
    """Count the votes of the neighbors: each of them votes for its own community.

    neighbor_labels : (n_rows, k) int32, the communities of the neighbors, nearest first. labels : (n_rows,) int32, the
    communities of the rows; None for those with most votes, where k is at least 1. Of two communities with equal votes,
    the one with the nearest neighbor comes first.
    """
    n, k = neighbor_labels.shape
    if k == 0 and labels is not None:
        return Votes(labels, np.zeros(n), np.full(n, -1, np.int32), np.zeros(n))
    result = Votes(np.empty(n, np.int32), np.empty(n), np.empty(n, np.int32), np.empty(n))
    for start, stop in spans(n, _ROWS):
        part, row = neighbor_labels[start:stop], np.arange(stop - start)
        # For each neighbor, how many neighbors belong to its community. argmax takes the first of equal ones.
        counts = (part[:, :, None] == part[:, None, :]).sum(axis=2)
        own = part[row, counts.argmax(axis=1)] if labels is None else labels[start:stop]
        of_own = part == own[:, None]
        result.labels[start:stop] = own
        result.shares[start:stop] = of_own.sum(axis=1) / k
        counts[of_own] = 0
        second = counts.argmax(axis=1)
        most = counts[row, second]
        result.runner_up[start:stop] = np.where(most > 0, part[row, second], -1)
        result.runner_up_shares[start:stop] = most / k
    return result


def assign(
    ids: Int32Array, distances: Float32Array, labels: Int32Array, same_within: float | Float64Array = 0.0
) -> Votes:
    """Assign new rows to the communities of known ones, by the votes of their neighbors among these.

    A row that is equal to a known one belongs to the community of that row, whatever the votes are.

    ids, distances : (n_new, k), the nearest known rows of each new one, nearest first, k at least 1. labels : int32,
    (n_known,). same_within : the distance up to which two rows count as equal, of all rows or (n_new,): scores that are
    computed anew can differ in their last bits.
    """
    of_neighbors = labels[ids]
    by_votes = votes(of_neighbors).labels
    return votes(of_neighbors, np.where(distances[:, 0] <= same_within, of_neighbors[:, 0], by_votes))
