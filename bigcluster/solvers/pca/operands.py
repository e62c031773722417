"""Operands of a symmetric product X X' or X' X, laid out so that no multiplication has to copy or transpose.

n is the axis in which the product is square: rows of X for X X', columns for X' X. k is the contraction axis. An
operand block of a span of n and a span of k is read once. Our own kernels take one layout on both sides; the others
take two:

    left    (n, k)   uint8                      rights   [(k, column block), ...]   int8, x - 128

For X X' the left operand is the data as it is read and the right one is its transpose; for X' X the other way round.
Float data is centered by its means, in float64, before it becomes the dtype of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm, Operand, add_float32_products, transpose
from bigcluster.kernels.linalg.panels import Panels
from bigcluster.kernels.linalg.types import AnyArray, Float64Array
from bigcluster.store.row_source import RowSource, spans

COLUMN_BLOCK = 256
"""Columns of one right operand. Above the diagonal of a diagonal tile an eighth is multiplied for nothing. Products
this narrow are also the fastest, as their sums stay in the second-level cache."""


@dataclass(frozen=True)
class Block:
    """The operands of one span of n and one span of k.

    left : None where no product needs it. rights : operands of COLUMN_BLOCK columns each, or a single one of all
    columns where the kernel takes one layout on both sides.
    """

    left: Operand | None
    rights: Sequence[Operand]


DENSE_LIMIT = 1536
"""The largest n whose eigenpairs are all computed at once in float64, in about 0.6 s; beyond, Lanczos is faster. Up to
here float32 data is multiplied in float64, too: scikit-learn's accuracy where it costs little."""


def work_dtype(dtype: np.dtype[Any], n: int) -> np.dtype[Any]:
    """The dtype in which data of `dtype` is multiplied for an (n, n) product.

    uint8 stays, since its products are exact integers; float64 for float64 data and for small n; else float32.
    """
    if dtype == np.uint8:
        return np.dtype(np.uint8)
    return np.dtype(np.float64 if dtype == np.float64 or n <= DENSE_LIMIT else np.float32)


class Operands:
    """Reads blocks of the data in the layouts above, and multiplies them.

    by_row : whether the product is X X' or X' X; mean : (n_columns,) float64, used for float data only.
    """

    def __init__(self, rows: RowSource, gemm: Gemm, mean: Float64Array | None, *, by_row: bool) -> None:
        self._rows = rows
        self._gemm = gemm
        self._mean = mean
        self._by_row = by_row
        self.n, self.k = rows.shape if by_row else rows.shape[::-1]
        self.dtype = work_dtype(rows.dtype, self.n)

    def _read(self, n_span: tuple[int, int], k_span: tuple[int, int]) -> AnyArray:
        """The rectangle as it lies in X: (n, k) by row, (k, n) by column."""
        row_span, column_span = (n_span, k_span) if self._by_row else (k_span, n_span)
        columns = slice(*column_span)
        block = self._rows.read(*row_span, columns)
        if self.dtype == np.uint8 or self._mean is None:
            return np.ascontiguousarray(block)
        return (block - self._mean[columns]).astype(self.dtype)

    @property
    def reuses_memory(self) -> bool:
        """Whether `load` can write into the memory of an earlier block."""
        return self.dtype == np.uint8 and self._gemm.in_panels

    def load(
        self,
        n_span: tuple[int, int],
        k_span: tuple[int, int],
        *,
        left: bool,
        right: bool,
        out: Block | None = None,
    ) -> Block:
        """Read a block, and lay out the operands that are needed. out : a block whose memory may be used again."""
        if self.dtype == np.uint8 and self._gemm.one_layout:
            spent = None if out is None else out.left
            left_side, right_side = self._gemm.both(self._read(n_span, k_span), by_row=self._by_row, out=spent)
            return Block(left_side, [right_side])
        if self._by_row:
            raw = self._read(n_span, k_span)
            cuts = spans(len(raw), COLUMN_BLOCK) if right else ()
            return Block(raw if left else None, [self._right(raw[start:stop]) for start, stop in cuts])
        n, k = n_span[1] - n_span[0], k_span[1] - k_span[0]
        lefts = np.empty((n, k), self.dtype) if left else None
        rights = []
        for start, stop in spans(n, COLUMN_BLOCK):
            raw = self._read((n_span[0] + start, n_span[0] + stop), k_span)
            if lefts is not None:
                _transposed(raw, lefts[start:stop])
            if right:
                rights.append(self._right(raw))
        return Block(lefts, rights)

    def _right(self, block: AnyArray) -> Operand:
        """The right operand of some columns, from `block` as it lies in X."""
        if self.dtype == np.uint8:
            return self._gemm.right(block, by_row=self._by_row)
        return _transposed(block) if self._by_row else block

    def add_product(self, total: AnyArray, left: Block, right: Block, *, diagonal: bool) -> None:
        """Add left right' to `total`; of a diagonal tile, only to its lower triangle.

        total : (n of left, n of right) int32 or int64 for uint8 data, else float64.
        """
        assert left.left is not None
        if self.dtype == np.uint8 and self._gemm.one_layout:
            (only,) = right.rights
            self._gemm.add_product(total, left.left, only, lower=diagonal)
            return
        assert not isinstance(left.left, Panels)
        if self.dtype == np.uint8 and self._gemm.kernel == "float32":
            add_float32_products(total, left.left, right.rights, lower=diagonal)
            return
        start = 0
        for column_block in right.rights:
            assert not isinstance(column_block, Panels)
            columns = slice(start, start + column_block.shape[1])
            # Above the diagonal of a diagonal tile is the mirror of what is below.
            top = start if diagonal else 0
            total[top:, columns] += self._multiply(left.left[top:], column_block)
            start = columns.stop

    def _multiply(self, left: AnyArray, right: AnyArray) -> AnyArray:
        """(m, k) times (k, n): int32 for uint8 data, else the dtype of the work."""
        if self.dtype == np.uint8:
            return self._gemm.multiply(left, right)
        return float_product(left, right) if self.dtype == np.float32 else left @ right


def _transposed(block: AnyArray, out: AnyArray | None = None) -> AnyArray:
    if block.dtype == np.uint8:
        return transpose(block, out)
    if out is None:
        return np.ascontiguousarray(block.T)
    out[...] = block.T
    return out
