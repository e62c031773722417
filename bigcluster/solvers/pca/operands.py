"""The two sides of a symmetric product X X' or X' X, laid out so that no multiplication has to copy or transpose.

A *unit* is what the product is square in: a row of X for X X', a column for X' X. The contraction runs over the other
axis. An operand block of units u and contraction c is read once. Our own kernels take one layout on both sides; the
others take two:

    left    (u, c)   uint8                      rights   [(c, strip), ...]   int8, x - 128

For X X' the left side is the data as it is read and the right side is its transpose; for X' X the other way round.
Float data is centered by its means, in float64, before it becomes the work type, and needs no shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm, Side, add_float32_products, transpose
from bigcluster.kernels.linalg.panels import Panels
from bigcluster.store.row_source import RowSource, spans

Array = NDArray[Any]

# Columns of one right-hand block: above the diagonal, an eighth of a diagonal tile is multiplied for nothing. Products
# this narrow are also the fastest, as their sums stay in the second-level cache.
STRIP = 256


@dataclass(frozen=True)
class Block:
    """left : None where it is not needed; rights : strips of STRIP units, or one of all where both sides are alike."""

    left: Side | None
    rights: Sequence[Side]


# Up to here the product is solved densely in float64, so float32 data is multiplied in float64 too: scikit-learn's
# accuracy where it costs little.
PRECISE_UNITS = 1536


def work_dtype(rows: RowSource, n_units: int) -> np.dtype[Any]:
    """uint8 for exact integers; float64 for float64 data and for few units; float32 for any other float."""
    if rows.dtype == np.uint8:
        return np.dtype(np.uint8)
    return np.dtype(np.float64 if rows.dtype == np.float64 or n_units <= PRECISE_UNITS else np.float32)


class Operands:
    """Reads blocks of units in the layouts above.

    by_row : units are rows (X X') or columns (X' X); mean : (n_columns,) float64, used for float data only.
    """

    def __init__(self, rows: RowSource, gemm: Gemm, mean: NDArray[np.float64] | None, *, by_row: bool) -> None:
        self._rows = rows
        self._gemm = gemm
        self._mean = mean
        self._by_row = by_row
        self.n_units, self.n_terms = rows.shape if by_row else rows.shape[::-1]
        self.dtype = work_dtype(rows, self.n_units)

    def _read(self, units: tuple[int, int], terms: tuple[int, int]) -> Array:
        """The rectangle as it lies in X: (units, terms) by row, (terms, units) by column."""
        row_span, column_span = (units, terms) if self._by_row else (terms, units)
        columns = slice(*column_span)
        block = self._rows.read(*row_span, columns)
        if self.dtype == np.uint8 or self._mean is None:
            return np.ascontiguousarray(block)
        return (block - self._mean[columns]).astype(self.dtype)

    @property
    def takes_memory(self) -> bool:
        """Whether a block can come into the memory of another one."""
        return self.dtype == np.uint8 and self._gemm.in_panels

    def load(
        self,
        units: tuple[int, int],
        terms: tuple[int, int],
        *,
        left: bool,
        right: bool,
        instead: Block | None = None,
    ) -> Block:
        """Both layouts of a block of units, or the one that is needed; in the memory of the one that it comes after."""
        if self.dtype == np.uint8 and self._gemm.both_sides:
            spent = None if instead is None else instead.left
            left_side, right_side = self._gemm.both(self._read(units, terms), by_row=self._by_row, out=spent)
            return Block(left_side, [right_side])
        if self._by_row:
            raw = self._read(units, terms)
            cuts = spans(len(raw), STRIP) if right else ()
            return Block(raw if left else None, [self._right(raw[start:stop]) for start, stop in cuts])
        n_units, n_terms = units[1] - units[0], terms[1] - terms[0]
        lefts = np.empty((n_units, n_terms), self.dtype) if left else None
        rights = []
        for start, stop in spans(n_units, STRIP):
            raw = self._read((units[0] + start, units[0] + stop), terms)
            if lefts is not None:
                _transposed(raw, lefts[start:stop])
            if right:
                rights.append(self._right(raw))
        return Block(lefts, rights)

    def _right(self, block: Array) -> Side:
        """A strip of units, as it lies in X, for the right side."""
        if self.dtype == np.uint8:
            return self._gemm.right(block, by_row=self._by_row)
        return _transposed(block) if self._by_row else block

    def add_product(self, total: Array, left: Block, right: Block, *, diagonal: bool) -> None:
        """total : (left's units, right's units), added to; of a diagonal tile, the lower triangle is."""
        assert left.left is not None
        if self.dtype == np.uint8 and self._gemm.both_sides:
            (only,) = right.rights
            self._gemm.add_product(total, left.left, only, lower=diagonal)
            return
        assert not isinstance(left.left, Panels)
        if self.dtype == np.uint8 and self._gemm.kernel == "float32":
            add_float32_products(total, left.left, right.rights, lower=diagonal)
            return
        start = 0
        for strip in right.rights:
            assert not isinstance(strip, Panels)
            columns = slice(start, start + strip.shape[1])
            # Above the diagonal of a diagonal tile is the mirror of what is below.
            top = start if diagonal else 0
            total[top:, columns] += self._multiply(left.left[top:], strip)
            start = columns.stop

    def _multiply(self, left: Array, right: Array) -> Array:
        """(m, c) times (c, n): int32 for uint8 data, else the work type."""
        if self.dtype == np.uint8:
            return self._gemm.multiply(left, right)
        return float_product(left, right) if self.dtype == np.float32 else left @ right


def _transposed(block: Array, out: Array | None = None) -> Array:
    if block.dtype == np.uint8:
        return transpose(block, out)
    if out is None:
        return np.ascontiguousarray(block.T)
    out[...] = block.T
    return out
