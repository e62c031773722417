"""Means and finiteness: one pass over the data, saved where ingest already knows the sums."""

from __future__ import annotations

import numpy as np

from bigcluster.kernels.finite import refuse_bad_rows
from bigcluster.kernels.loops import pixel_sums
from bigcluster.rows import RowSource, spans
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.result import Doubles, Moments

# One read: at most this many values, in whole rows. Fixed, since float sums depend on it.
_BLOCK_VALUES = 1 << 21


def block_rows(n_columns: int) -> int:
    """Rows of one canonical row block: from the row length alone, never from the budget."""
    return max(1, min(1024, _BLOCK_VALUES // max(1, n_columns)))


def exact_moments(rows: RowSource, runtime: Runtime) -> Moments:
    """Moments of uint8 data, in one pass."""
    total = np.zeros(rows.shape[1], np.int64)
    squares = 0
    blocks = spans(rows.shape[0], block_rows(rows.shape[1]))
    for sums, block_squares in runtime.map(lambda span: pixel_sums(rows.read(*span)), blocks):
        total += sums
        squares += block_squares
    return Moments(total, squares)


def data_mean(rows: RowSource, moments: Moments | None, runtime: Runtime) -> Doubles:
    """(n_columns,) float64: from known moments, or in one pass, which also refuses NaN and infinity in float data."""
    if rows.dtype != np.uint8:
        return float_mean(rows, runtime)
    known = exact_moments(rows, runtime) if moments is None else moments
    return np.asarray(known.column_sums, np.float64) / rows.shape[0]


def exact_total_variance(moments: Moments, n_rows: int) -> float:
    """The sum of all column variances, ddof = 1, in integers up to the last division."""
    squares_of_sums = sum(int(value) ** 2 for value in moments.column_sums)
    return (n_rows * moments.total_square_sum - squares_of_sums) / (n_rows * (n_rows - 1))


def float_mean(rows: RowSource, runtime: Runtime) -> Doubles:
    """(n_columns,) float64 means of float data; InvalidDataError names the first row with NaN or infinity."""
    n_rows, n_columns = rows.shape

    def task(span: tuple[int, int]) -> Doubles:
        block = rows.read(*span)
        refuse_bad_rows(block, span[0])
        sums: Doubles = block.sum(axis=0, dtype=np.float64)
        return sums

    total = np.zeros(n_columns)
    for sums in runtime.map(task, spans(n_rows, block_rows(n_columns))):
        total += sums
    return total / n_rows


def float_total_variance(rows: RowSource, mean: Doubles, runtime: Runtime) -> float:
    """The sum of all column variances, ddof = 1, in float64, in one pass."""
    n_rows, n_columns = rows.shape

    def task(span: tuple[int, int]) -> float:
        centered = (rows.read(*span) - mean).ravel()
        return float(np.vdot(centered, centered))

    return sum(runtime.map(task, spans(n_rows, block_rows(n_columns)))) / (n_rows - 1)
