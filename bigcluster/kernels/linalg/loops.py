"""Loops that would be many passes for numpy, in C (native/loops.c). They let go of the interpreter's lock."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.compiled import address, library
from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array, Int64Array


def two_least(
    score: Float32Array,
    add: Float32Array,
    ends: Int64Array,
    reach: Float32Array,
    start: int,
    barred: Int32Array,
    label: Int32Array,
    close: Int32Array,
    n_close: Int64Array,
) -> None:
    """For each of some sets of centers: who is nearest to each row of a tile, and which rows are too close to call.

    score + add[:, None] : (k of all sets, n), to the rows start .. start + n - 1 of a block. ends : (n_sets + 1,) where
    each set begins, and the last ends. reach : (n_sets,) how far off the second least must be. barred : (n_sets or 1,
    block) a center of the set that does not count, -1 for none.
    Fills label : (n_sets, block), from 0 in each set, and appends block rows to close : (n_sets, block), of which the
    first n_close : (n_sets,) are taken.
    """
    library().two_least(
        *(address(array, np.float32) for array in (score, add)),
        address(ends, np.int64),
        address(reach, np.float32),
        *(address(array, np.int32) for array in (barred, label, close)),
        address(n_close, np.int64),
        *(len(reach), len(barred), label.shape[1], start, score.shape[1]),
    )


def spread(
    x: Float64Array,
    starts: Int64Array,
    targets: Int64Array,
    factors: Float64Array,
    sums: Float64Array,
    weights: Float64Array,
    counts: Int64Array,
) -> None:
    """Add row i of `x`, times its factors, to its targets: those at starts[i] .. starts[i + 1] - 1.

    x : (n, n_columns). starts : (n + 1,). targets, factors : (starts[n],). sums : (n_targets, n_columns), weights,
    counts : (n_targets,), added to row after row, in order.
    """
    library().spread(
        address(x, np.float64),
        *(address(array, np.int64) for array in (starts, targets)),
        *(address(array, np.float64) for array in (factors, sums, weights)),
        address(counts, np.int64),
        *x.shape,
    )


def pixel_sums(x: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], int]:
    """Column sums (d,) and the sum of all squares of (rows, d) pixels. Exact up to 16 million rows."""
    sums, squares = np.zeros(x.shape[1], np.uint32), np.zeros(1, np.uint64)
    library().pixel_sums(address(x, np.uint8), address(sums, np.uint32), address(squares, np.uint64), *x.shape)
    return sums, int(squares[0])


def add_scaled(to: Float32Array, product: Int32Array, scale: Float32Array, *, by_row: bool) -> None:
    """to : (n, m) float32, to which a product, (n, m) int32, is added times the scale of its row or its column.

    As numpy would: rounded to float32, multiplied, rounded, added.
    """
    assert to.shape == product.shape
    assert scale.shape == (to.shape[0 if by_row else 1],)
    library().add_scaled(
        *(address(to, np.float32), address(product, np.int32), address(scale, np.float32)), *to.shape, by_row
    )
