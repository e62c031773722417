"""Lloyd's algorithm whose passes are made by the workers of a cluster, with the jobs of spread_jobs.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import fit_scaler
from bigcluster.kernels.kmeans.groups import group_centers
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.kernels.linalg.moments import Moments
from bigcluster.runtime.cluster import Cluster
from bigcluster.solvers.kmeans.blocks import Blocks, Summary
from bigcluster.solvers.kmeans.final_pass import Written
from bigcluster.solvers.kmeans.lloyd import Farthest, Lloyd
from bigcluster.solvers.kmeans.restarts import Restart
from bigcluster.solvers.kmeans.result import RowSink
from bigcluster.solvers.kmeans.scores import Scored
from bigcluster.solvers.kmeans.spread_jobs import (
    CompareLabels,
    FindFarthest,
    Fitting,
    LloydPass,
    ScoreBlocks,
    Start,
    Survey,
    merge_sums,
)
from bigcluster.solvers.kmeans.spread_labels import LabelBlocks, Labeling

SPREAD_FROM = 10**10
"""Multiply-adds of one pass of k-means from which on all workers share it: about a quarter of a second on two cores.
Sharing costs some 30 ms a pass. Chosen, not measured."""


class SpreadLloyd(Lloyd):
    """Lloyd's algorithm whose passes are made by the workers of a cluster."""

    def __init__(self, blocks: Blocks, summary: Summary, fitting: Fitting, cluster: Cluster) -> None:
        """blocks : of the same rows; nothing is read of them here, but passes and bytes are counted there."""
        super().__init__(blocks, summary, None)
        self._fitting, self._cluster = fitting, cluster
        self._parts = cluster.parts(blocks.count)
        self._numbers: dict[int, int] = {}
        self._stamps: dict[int, int] = {}
        self._n_labeled = 0

    def _start(self, restart: Restart) -> Start:
        number = self._numbers.setdefault(id(restart), len(self._numbers))
        if restart.bounded and restart.groups is None:
            restart.groups = group_centers(restart.centers)
        stamp = self._stamps.get(number, 0) + 1
        groups = restart.groups if restart.bounded else None
        return Start(number, stamp, restart.centers, restart.centers_of_bounds, groups)

    def step(self, restarts: Sequence[Restart], *, final: bool = False) -> list[int]:
        """Make one pass, as `Lloyd.step` does."""
        starts = tuple(map(self._start, restarts))
        job = LloydPass(self._fitting, self.summary.scaler, starts, final)
        self.blocks.passes += 1
        found = self._cluster.merged(job, self._parts, merge_sums).take()
        self.blocks.bytes_read += found.n_bytes
        for start, restart, sums in zip(starts, restarts, found.starts, strict=True):
            if start.before is None:
                restart.clear_sums()
            restart.sums += sums.sums
            restart.weights += sums.weights
            restart.counts += sums.counts
            restart.centers_of_bounds = restart.centers
            self._stamps[start.number] = start.stamp
            if final:
                restart.scatter = np.zeros(len(restart.centers))
                for _, scatter in sums.scatter:
                    restart.scatter += scatter
                restart.inertia = float(restart.scatter.sum())
        return [sums.n_moved for sums in found.starts]

    def _farthest_of_blocks(self, restart: Restart, centers: Floats, n_rows: int) -> list[Farthest]:
        start = self._start(restart)._replace(centers=centers, groups=None)
        self.blocks.passes += 1
        out: list[Farthest] = []
        for found, n_bytes in self._cluster.spread(
            FindFarthest(self._fitting, self.summary.scaler, start, n_rows), self._parts
        ):
            out += found
            self.blocks.bytes_read += n_bytes
        return out

    def compare(self, one: Restart, other: Restart) -> NDArray[np.int64]:
        """Count pairs of labels, as `Lloyd.compare` does."""
        starts = (self._start(one)._replace(groups=None), self._start(other)._replace(groups=None))
        total = np.zeros((len(one.centers), len(other.centers)), np.int64)
        for table, n_bytes in self._cluster.spread(
            CompareLabels(self._fitting, self.summary.scaler, starts), self._parts
        ):
            total += table
            self.blocks.bytes_read += n_bytes
        return total

    def silhouettes(self, scored: Scored) -> Floats:
        """Sum silhouettes in one pass, as `Lloyd.silhouettes` does."""
        self.blocks.passes += 1
        total = np.zeros((len(scored.centers), 2))
        for found, n_bytes in self._cluster.spread(
            ScoreBlocks(self._fitting, scored, self.summary.scaler), self._parts
        ):
            self.blocks.bytes_read += n_bytes
            for part in found:
                total += part
        return total

    def new_sink(self) -> None:
        """Return None: labels stay on the workers."""

    def write_rows(self, centers: Floats, sink: RowSink | None) -> Written:
        """Make the final pass, as `Lloyd.write_rows` does. The labels stay on the workers, see `labeling`."""
        assert sink is None, "labels stay on the workers"
        self.blocks.passes += 1
        self._n_labeled += 1
        counts, scatter = np.zeros(len(centers), np.int64), np.zeros(len(centers))
        for counts_of_part, sq, n_bytes in self._cluster.spread(LabelBlocks(self.labeling(centers)), self._parts):
            counts += counts_of_part
            for sq_of_block in sq:
                scatter += sq_of_block
            self.blocks.bytes_read += n_bytes
        return Written(counts, bool((counts > 0).all()), float(scatter.sum()))

    def labeling(self, centers: Floats) -> Labeling:
        """Return how the last final pass has labeled the rows."""
        shape = self.blocks.n_rows, self.blocks.n_columns
        return Labeling(self._fitting, shape, self.summary.scaler, centers, self._n_labeled, tuple(self._parts))


def survey(blocks: Blocks, fitting: Fitting, cluster: Cluster) -> Summary:
    """Take the moments of all rows, as `blocks.summarize` does."""
    total: Moments | None = None
    blocks.passes += 1
    for found, n_bytes in cluster.spread(Survey(fitting), cluster.parts(blocks.count)):
        blocks.bytes_read += n_bytes
        for moments in found:
            total = moments if total is None else total.merge(moments)
    assert total is not None
    return Summary(total, fit_scaler(total))
