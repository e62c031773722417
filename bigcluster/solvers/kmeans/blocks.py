"""The rows of a fit in canonical blocks, which every pass of k-means reads, and the first pass, which takes moments.

The number of rows of a canonical block depends on the number of columns alone. Sums are formed within blocks and added
in block order, so no result depends on storage chunks, the budget or the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import TooFewSamplesError, UsageError
from bigcluster.kernels.kmeans.centers import Scaler, fit_scaler
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.kernels.linalg.moments import Moments, block_moments, refuse_bad_rows
from bigcluster.runtime.threads import Runtime
from bigcluster.store.row_source import ArrayRows, RowSource

Result = TypeVar("Result")

_BLOCK_BYTES = 8 * 1024**2
"""Bytes of a block as float32: long calls keep threads from waiting for the interpreter lock, and the block still fits
a last-level cache."""
_MIN_ROWS, _MAX_ROWS = 256, 32_768
"""Rows of a block: a product of fewer rows is slow; more rows of few columns would leave small data to one thread."""
_EXTRA_IN_FLIGHT = 2
"""Blocks in flight beside those that run, so that a slow block leaves no thread waiting."""


def block_rows(n_columns: int) -> int:
    """Choose the rows of a canonical block: a power of two, about 8 MiB of float32, from 256 to 32,768."""
    n_rows = max(1, _BLOCK_BYTES // (4 * max(1, n_columns)))
    return min(_MAX_ROWS, max(_MIN_ROWS, 1 << (n_rows.bit_length() - 1)))


class Blocks:
    """Reads a row source block by block; the blocks that are read first stay in memory, as many as `cache_bytes` hold.

    Rows that are a numpy array already are not copied. passes : reads of all rows so far. bytes_read : bytes that came
    from the source, cached blocks not counted.
    """

    def __init__(self, rows: RowSource, runtime: Runtime, cache_bytes: int = 0) -> None:
        self.rows = rows
        self.runtime = runtime
        self.n_rows, self.n_columns = rows.shape
        self.size = block_rows(self.n_columns)
        self.count = -(-self.n_rows // self.size)
        self.bytes_read = 0
        self.passes = 0
        block_bytes = self.size * self.n_columns * rows.dtype.itemsize
        self._cached_blocks = 0 if isinstance(rows, ArrayRows) else cache_bytes // max(1, block_bytes)
        self._cache: dict[int, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def row_slice(self, number: int) -> slice:
        """The row numbers of block `number`."""
        return slice(number * self.size, min((number + 1) * self.size, self.n_rows))

    def read(self, number: int) -> NDArray[Any]:
        """Read block `number`: (block rows, n_columns) in the dtype of the source. Do not write into it."""
        cached = self._cache.get(number)
        if cached is not None:
            return cached
        part = self.row_slice(number)
        block = self.rows.read(part.start, part.stop)
        with self._lock:
            self.bytes_read += block.nbytes
            if len(self._cache) < self._cached_blocks:
                self._cache[number] = block
        return block

    def map(
        self, task: Callable[[int, NDArray[Any]], Result], numbers: range | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Make one pass: yield (number, task(number, block)) for every block, in order; tasks run in threads.

        numbers : the blocks of a part of a pass; by default all.
        """
        self.passes += 1
        numbers = range(self.count) if numbers is None else numbers

        def run(number: int) -> Result:
            return task(number, self.read(number))

        results = self.runtime.map(run, numbers, in_flight=self.runtime.threads + _EXTRA_IN_FLIGHT)
        yield from zip(numbers, results, strict=True)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Read the rows of these numbers, (n,) int64, in their order: one pass over the blocks that hold them.

        Returns (n, n_columns) in the dtype of the source.
        """
        self.passes += 1
        out = np.empty((len(numbers), self.n_columns), self.rows.dtype)
        order = np.argsort(numbers, kind="stable")
        blocks, first = np.unique(numbers[order] // self.size, return_index=True)
        ends = np.append(first[1:], len(order))

        def copy(item: tuple[int, NDArray[np.int64]]) -> None:
            number, places = item
            out[places] = self.read(number)[numbers[places] - number * self.size]

        items = ((int(b), order[i:j]) for b, i, j in zip(blocks, first, ends, strict=True))
        for _ in self.runtime.map(copy, items):
            pass
        return out


@dataclass(frozen=True)
class Summary:
    """What the first pass finds: the moments of all rows, and the scaler of the float32 filters that they give."""

    moments: Moments
    scaler: Scaler

    @property
    def mean_variance(self) -> float:
        """The mean over columns of the weighted variance, to which `tol` is relative."""
        return float(self.moments.scatter.mean() / self.moments.weight)


def summarize(blocks: Blocks, sample_weight: Floats | None) -> Summary:
    """Compute the moments of all rows in one pass. sample_weight : (n_rows,) float64, or None for equal weights.

    Raises InvalidDataError for a row with NaN or infinity, TooFewSamplesError where there are no rows or no columns.
    """
    check_size(blocks)
    total: Moments | None = None
    for _, moments in blocks.map(lambda number, block: survey_block(blocks, number, block, sample_weight)):
        total = moments if total is None else total.merge(moments)
    assert total is not None
    return Summary(total, fit_scaler(total))


def check_size(blocks: Blocks) -> None:
    """Raise TooFewSamplesError where there are no rows or no columns."""
    if blocks.n_rows == 0 or blocks.n_columns == 0:
        raise TooFewSamplesError(
            f"k-means needs at least one row and one column; got {blocks.n_rows} x {blocks.n_columns}"
        )


def survey_block(blocks: Blocks, number: int, block: NDArray[Any], sample_weight: Floats | None) -> Moments:
    """Compute the moments of one block. Raises InvalidDataError for a row with NaN or infinity."""
    part = blocks.row_slice(number)
    refuse_bad_rows(block, part.start)
    return block_moments(block, None if sample_weight is None else sample_weight[part])


def check_weights(sample_weight: NDArray[Any] | None, n_rows: int) -> Floats | None:
    """Check sample weights and return them as (n_rows,) float64; None, for equal weights, stays None.

    Raises UsageError for another shape, for weights that are negative or not finite, and where all are zero.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_rows,):
        raise UsageError(f"sample_weight has shape {weights.shape}, the rows need ({n_rows},)")
    if not np.isfinite(weights).all() or (weights < 0).any():
        bad = int(np.argmax(~(weights >= 0) | ~np.isfinite(weights)))
        raise UsageError(f"sample_weight must be finite and not negative; weight {bad} is {weights[bad]}")
    if not weights.any():
        raise UsageError("sample_weight is zero for every row; give at least one row a positive weight")
    return weights
