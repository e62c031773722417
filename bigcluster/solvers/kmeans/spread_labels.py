"""The labels of a fit, which workers make, keep and write: the process that calls the fit gets counts.

Clusters are numbered by their sizes, which are known when all rows have labels. So one pass labels the rows, and their
labels are written later. Between the two, a worker keeps the labels of the blocks that it had. They are only a cache:
labels are those of the nearest centers, so that a worker that does not have them makes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import TwoNearest, two_nearest
from bigcluster.kernels.kmeans.centers import Scaler, fit_scaler, prepare
from bigcluster.kernels.kmeans.sums import Floats, Labels
from bigcluster.kernels.linalg.moments import block_moments
from bigcluster.runtime.cluster import Cluster, Forget, Local, Part, Worker
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.result import ArraySink, RowLabels
from bigcluster.solvers.kmeans.spread_jobs import FIT_STATE, Fitting
from bigcluster.store import Digests, Store
from bigcluster.store.chunk_grid import column_chunks
from bigcluster.store.refs import RowSourceRef, StoreRef


@dataclass(frozen=True)
class Labeling:
    """How the rows of a fit are labeled: by the nearest of these centers."""

    fitting: Fitting
    shape: tuple[int, int]
    """(n_rows, n_columns) of the rows."""
    scaler: Scaler
    centers: Floats
    stamp: int = 0
    """A number that is another one for other centers of the same fit."""
    parts: tuple[Part, ...] = ()
    """The parts of the passes of the fit, whose units are blocks. It is empty where one worker made the whole fit."""
    here: Local[ArraySink] = field(default_factory=Local, compare=False, repr=False)
    """The labels of all rows, in the process that made the whole fit."""

    @classmethod
    def of(cls, rows: RowSourceRef, shape: tuple[int, int], name: str, centers: Floats, made: ArraySink) -> Labeling:
        """Return how rows were labeled by a fit in this process.

        name : of the fit, such as no other one has. made : its labels, which do not leave this process.
        """
        scaler = fit_scaler(block_moments(centers))
        return cls(Fitting(rows, name, 0), shape, scaler, centers, here=Local(made))

    @property
    def size(self) -> int:
        """The number of rows of a canonical block."""
        return block_rows(self.shape[1])

    def parts_for(self, cluster: Cluster) -> list[Part]:
        """Return the parts of a pass over these rows, whose units are blocks."""
        return list(self.parts) or cluster.parts(-(-self.shape[0] // self.size))

    def label(self, worker: Worker, numbers: range) -> Iterator[tuple[int, RowLabels]]:
        """Yield the first row and the labels of each block, in order."""
        made = self.here.value
        if made is not None:
            for number in numbers:
                start, stop = number * self.size, (number + 1) * self.size
                yield start, RowLabels(*(getattr(made, name)[start:stop] for name in RowLabels._fields))
            return
        state = self.fitting.state(worker)
        centers = prepare(self.centers, self.scaler)

        def task(number: int) -> RowLabels:
            stamp, kept = state.labeled.get(number, (None, None))
            if kept is not None and stamp == self.stamp:
                return kept
            return _labels(two_nearest(state.blocks.read(number), centers))

        for number, labels in zip(numbers, worker.runtime.map(task, numbers), strict=True):
            yield number * self.size, labels


def _labels(two: TwoNearest) -> RowLabels:
    return RowLabels(two.labels, np.sqrt(two.sq), two.runner_up, np.sqrt(two.runner_up_sq))


@dataclass(frozen=True)
class LabelBlocks:
    """Make the final pass over some blocks, and keep their labels.

    Returns the rows of each cluster, (k,) int64; of each block the sums of squared distances, (k,) float64; and the
    bytes that were read.
    """

    labeling: Labeling

    def __call__(self, worker: Worker, part: Part) -> tuple[NDArray[np.int64], list[Floats], int]:
        state = self.labeling.fitting.state(worker)
        n_bytes = state.blocks.bytes_read
        centers = prepare(self.labeling.centers, self.labeling.scaler)

        def task(number: int, x: NDArray[Any]) -> tuple[NDArray[np.int64], Floats]:
            two = two_nearest(x, centers)
            state.labeled[number] = self.labeling.stamp, _labels(two)
            counts = np.bincount(two.labels, minlength=centers.count)
            return counts, np.bincount(two.labels, two.sq, minlength=centers.count).astype(np.float64)

        counts, sq = np.zeros(centers.count, np.int64), []
        for _, (counts_of_block, sq_of_block) in state.blocks.map(task, part.units):
            counts += counts_of_block
            sq.append(sq_of_block)
        return counts, sq, state.blocks.bytes_read - n_bytes


@dataclass(frozen=True)
class TiedRows:
    """Find the rows of some clusters. The units are blocks. Returns their numbers, (n,) int64, and labels, (n,) int32.

    The clusters are those of which others have the same size: with n rows and k clusters, about k * k / n of all rows.
    """

    labeling: Labeling
    tied: NDArray[np.bool_]
    """Whether each cluster is one of them, (k,)."""

    def __call__(self, worker: Worker, part: Part) -> tuple[NDArray[np.int64], Labels]:
        rows, labels = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for first, found in self.labeling.label(worker, part.units):
            places = np.flatnonzero(self.tied[found.labels])
            rows.append(places + first)
            labels.append(found.labels[places])
        return np.concatenate(rows), np.concatenate(labels)


@dataclass(frozen=True)
class WriteLabels:
    """Write the labels and distances of rows in whole chunks, and sync them. The units are blocks.

    A chunk is written with the part that has its first row. `numbers`, (k + 1,) int32, gives each cluster its number;
    the last one is that of the runner-up -1, for none.
    """

    labeling: Labeling
    store: StoreRef
    numbers: NDArray[np.int32]
    chunk_rows: int

    def __call__(self, worker: Worker, part: Part) -> Digests:
        store, (n_rows, _), size = self.store.open(worker), self.labeling.shape, self.labeling.size
        first, last = (-(-unit * size // self.chunk_rows) for unit in (part.start, part.stop))
        digests: Digests = {}
        for start in range(first * self.chunk_rows, min(last * self.chunk_rows, n_rows), self.chunk_rows):
            stop = min(start + self.chunk_rows, n_rows)
            blocks = [one for _, one in self.labeling.label(worker, range(start // size, -(-stop // size)))]
            within = slice(start % size, start % size + stop - start)
            columns = dict(zip(RowLabels._fields, map(np.concatenate, zip(*blocks, strict=True)), strict=True))
            for name, column in columns.items():
                values = self.numbers[column[within]] if column.dtype == np.int32 else column[within]
                digests |= store.write_rows(name, start, values)
        store.sync(digests)
        return digests


def tied_rows(
    labeling: Labeling, cluster: Cluster
) -> Callable[[NDArray[np.bool_]], Iterator[tuple[NDArray[np.int64], Labels]]]:
    """Return a function that yields the rows of some clusters, part by part, with their labels; see `TiedRows`."""
    return lambda tied: cluster.spread(TiedRows(labeling, tied), labeling.parts_for(cluster))


def write_labels(labeling: Labeling, cluster: Cluster, store: Store, numbers: NDArray[np.int32]) -> Digests:
    """Have the workers write the labels and distances of all rows; return the digests of the chunks.

    numbers : the number of each cluster, see `WriteLabels`. What workers keep of the fit is freed.
    """
    n_rows = labeling.shape[0]
    (chunk_rows,) = column_chunks(n_rows)
    for name in RowLabels._fields:
        store.create(name, (n_rows,), np.int32 if name in ("labels", "runner_up") else np.float64, (chunk_rows,))
    digests: Digests = {}
    parts = labeling.parts_for(cluster)
    for written in cluster.spread(WriteLabels(labeling, StoreRef.of(store), numbers, chunk_rows), parts):
        digests |= written
    for _ in cluster.spread(Forget(FIT_STATE), parts):
        pass
    return digests
