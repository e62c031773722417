"""Mean and total variance of the rows, and a check that all are finite: one pass, or none where the sums are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import InvalidDataError
from bigcluster.kernels.linalg.loops import pixel_sums
from bigcluster.kernels.linalg.moments import Moments, block_moments, refuse_bad_rows
from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.runtime.cluster import Cluster, Part, Worker
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.result import Center, ExactSums
from bigcluster.store.refs import RowSourceRef, RowsRef
from bigcluster.store.row_source import RowSource, spans

_BLOCK_VALUES = 1 << 21
"""The most values of one read of whole rows. Fixed, since float sums depend on it."""


def block_rows(n_columns: int) -> int:
    """Rows of one row block, at most 1,024. It depends on the length of a row only, never on the budget."""
    return max(1, min(1024, _BLOCK_VALUES // max(1, n_columns)))


def exact_sums(rows: RowSource, runtime: Runtime) -> ExactSums:
    """The exact sums of (n_rows, n_columns) uint8 rows, in one pass."""
    total = np.zeros(rows.shape[1], np.int64)
    squares = 0
    blocks = spans(rows.shape[0], block_rows(rows.shape[1]))
    for sums, block_squares in runtime.map(lambda span: pixel_sums(rows.read(*span)), blocks):
        total += sums
        squares += block_squares
    return ExactSums(total, squares)


def center_of(rows: RowSource, moments: ExactSums | None, runtime: Runtime) -> Center:
    """The mean and the total variance of uint8 or float rows. moments : of uint8 rows, where they are known already.

    Raises InvalidDataError for NaN and infinity.
    """
    if rows.dtype != np.uint8:
        return float_center(rows, runtime)
    return exact_center(exact_sums(rows, runtime) if moments is None else moments, rows.shape[0])


def exact_center(moments: ExactSums, n_rows: int) -> Center:
    """The mean and the total variance of n_rows uint8 rows."""
    return Center(np.asarray(moments.column_sums, np.float64) / n_rows, exact_total_variance(moments, n_rows))


def exact_total_variance(moments: ExactSums, n_rows: int) -> float:
    """The sum of all column variances (ddof = 1) of n_rows uint8 rows, in integers up to the last division."""
    squares_of_sums = sum(int(value) ** 2 for value in moments.column_sums)
    return (n_rows * moments.total_square_sum - squares_of_sums) / (n_rows * (n_rows - 1))


@dataclass(frozen=True)
class SumRows:
    """Add up the columns of runs of uint8 rows, exactly. The units are row blocks."""

    rows: RowSourceRef

    def __call__(self, worker: Worker, part: Part) -> NDArray[np.int64]:
        rows = self.rows.open(worker)
        total = np.zeros(rows.shape[1], np.int64)
        for sums, _ in worker.runtime.map(lambda span: pixel_sums(rows.read(*span)), _blocks(rows, part)):
            total += sums
        return total


@dataclass(frozen=True)
class TakeMoments:
    """Compute the moments of float rows minus `origin`, (n_columns,), block by block. The units are row blocks."""

    rows: RowSourceRef
    origin: Float64Array

    def __call__(self, worker: Worker, part: Part) -> list[Moments]:
        rows = self.rows.open(worker)
        task = partial(_block_moments, rows, self.origin)
        return list(worker.runtime.map(task, _blocks(rows, part)))


def column_mean(rows: RowSource, cluster: Cluster) -> Float64Array:
    """The mean of uint8 or float rows, (n_columns,), in one pass of all workers; of uint8 rows the exact one.

    Raises InvalidDataError with the first row that holds NaN or infinity.
    """
    parts = cluster.parts(-(-rows.shape[0] // block_rows(rows.shape[1])))
    if rows.dtype == np.uint8:
        exact = sum(cluster.spread(SumRows(RowsRef.of(rows)), parts), np.zeros(rows.shape[1], np.int64))
        return np.asarray(exact, np.float64) / rows.shape[0]
    origin = _origin(rows)
    of_blocks = (moments for some in cluster.spread(TakeMoments(RowsRef.of(rows), origin), parts) for moments in some)
    return origin + _merged(of_blocks).mean


def float_center(rows: RowSource, runtime: Runtime) -> Center:
    """The mean and the total variance of float rows, in one pass in float64.

    Raises InvalidDataError with the first row that holds NaN or infinity.
    """
    origin, total = _float_moments(rows, runtime)
    variance = float(total.scatter.sum()) / (rows.shape[0] - 1)
    if variance == 0 and total.mean.any():
        raise InvalidDataError("the squares of what the rows differ by are too small for float64; use another unit")
    return Center(origin + total.mean, variance)


def _float_moments(rows: RowSource, runtime: Runtime) -> tuple[Float64Array, Moments]:
    """Return the first row, (n_columns,), and the moments of all rows minus that row.

    The first row is subtracted so that a constant column has no variance, whatever its mean rounds to.
    """
    origin = _origin(rows)
    n_rows, n_columns = rows.shape
    return origin, _merged(runtime.map(partial(_block_moments, rows, origin), spans(n_rows, block_rows(n_columns))))


def _origin(rows: RowSource) -> Float64Array:
    """The first row in float64."""
    first = rows.read(0, 1)
    refuse_bad_rows(first, 0)
    origin: Float64Array = first[0].astype(np.float64)
    return origin


def _block_moments(rows: RowSource, origin: Float64Array, span: tuple[int, int]) -> Moments:
    block = rows.read(*span)
    refuse_bad_rows(block, span[0])
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float64 is refused for its spread
        return block_moments(block - origin)


def _merged(of_blocks: Iterable[Moments]) -> Moments:
    """The moments of all blocks, merged in their order, which shows in the last bits."""
    total: Moments | None = None
    for moments in of_blocks:
        with np.errstate(over="ignore", invalid="ignore"):
            total = moments if total is None else total.merge(moments)
    assert total is not None
    return total


def _blocks(rows: RowSource, part: Part) -> Iterator[tuple[int, int]]:
    """The row blocks of a part."""
    size = block_rows(rows.shape[1])
    for number in part.units:
        yield number * size, min((number + 1) * size, rows.shape[0])
