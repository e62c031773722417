"""The jobs of the measure of novelty: passes over the features and the scores, in whatever process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.kernels.novelty import squared_norms
from bigcluster.runtime.cluster import Part, Worker
from bigcluster.store.refs import RowsRef
from bigcluster.store.row_source import RowSource, spans

SCORE_ROWS = 4096
"""Number of rows of scores that are read at a time: 32 MiB of float64 at 1,000 components. Chosen, not measured."""


@dataclass(frozen=True)
class NormsOfRows:
    """Compute |x - mean|^2 of runs of rows, (rows of the part,). The units are blocks of `block_rows` rows."""

    rows: RowsRef
    mean: Float64Array
    block_rows: int
    slab_columns: int
    """Columns that are read at a time."""

    def __call__(self, worker: Worker, part: Part) -> Float64Array:
        rows = self.rows.open(worker)
        n_rows, n_columns = rows.shape

        def norms_of(number: int) -> Float64Array:
            first = number * self.block_rows
            last = min(first + self.block_rows, n_rows)
            norms = np.zeros(last - first)
            for start, stop in spans(n_columns, self.slab_columns):
                norms += squared_norms(rows.read(first, last, slice(start, stop)), self.mean[start:stop])
            worker.progress.advance(len(norms))
            return norms

        return np.concatenate(list(worker.runtime.map(norms_of, part.units)))


@dataclass(frozen=True)
class SquaresOfScores:
    """Sum the squares of each column over SCORE_ROWS rows at a time. The units are such runs of rows.

    Returns (n_columns,) for each run: floats are added in the order of the runs.
    """

    rows: RowsRef

    def __call__(self, worker: Worker, part: Part) -> list[Float64Array]:
        rows = self.rows.open(worker)
        return [(_scores(rows, number) ** 2).sum(axis=0) for number in part.units]


@dataclass(frozen=True)
class LeverageOfScores:
    """Compute |scores|^2 and the leverage of runs of rows, (2, rows of the part). The units are as before."""

    rows: RowsRef
    shares: Float64Array
    """(n_columns,), 1 over the sum of squares of each column."""

    def __call__(self, worker: Worker, part: Part) -> Float64Array:
        rows = self.rows.open(worker)
        n_rows, found = rows.shape[0], []
        for number in part.units:
            squares = _scores(rows, number) ** 2
            found.append(np.stack([squares.sum(axis=1), squares @ self.shares + 1 / n_rows]))
        return np.concatenate(found, axis=1)


def _scores(rows: RowSource, number: int) -> Float64Array:
    start = number * SCORE_ROWS
    return rows.read(start, min(start + SCORE_ROWS, rows.shape[0])).astype(np.float64)
