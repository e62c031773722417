"""The job of the communities: Leiden's algorithm and what is stored of every row, on one worker."""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.runtime.cluster import Worker
from bigcluster.solvers.communities import Communities, Votes, leiden, votes
from bigcluster.solvers.communities.means import means_and_distances
from bigcluster.stages.neighbors import load_ids
from bigcluster.store.refs import RowSourceRef, StoreRef


@dataclass(frozen=True)
class Grouped:
    """Communities with the numbers that the solver gave them, and what is stored of every row."""

    communities: Communities
    votes: Votes
    means: Float64Array
    """(n_communities, n_columns)."""
    distance: Float64Array
    """The distance of each row to the mean of its community, (n_rows,)."""
    runner_up_distance: Float64Array
    """The distance to the mean of the runner-up, (n_rows,); 0 where there is none."""


@dataclass(frozen=True)
class GroupNeighbors:
    """Find the communities of the stored graph, and measure the rows against them."""

    store: StoreRef
    rows: RowSourceRef
    n_neighbors: int
    resolution: float
    seed: int
    workspace_bytes: int

    def __call__(self, worker: Worker) -> Grouped:
        ids = load_ids(self.store.open(worker), self.n_neighbors)
        found = leiden(ids, resolution=self.resolution, seed=self.seed)
        counted = votes(found.labels[ids], found.labels)
        del ids
        measured = means_and_distances(
            self.rows.open(worker),
            found.labels,
            counted.runner_up,
            found.count,
            runtime=worker.runtime,
            workspace_bytes=self.workspace_bytes,
        )
        return Grouped(found, counted, *measured)
