"""One application of the covariance operator to a block of vectors, streamed: one read of the data.

    units: the smaller side of X (vectors live here)          terms: the larger one, streamed in blocks

    by row, n_rows <= n_columns                                by column
        Z' = V' X_b          (b, rows) (rows, w)                  Z  = X_b V           (w, columns) (columns, b)
        Y += X_b Z           (rows, w) (w, b)                     Y' += Z' X_b         (b, w) (w, columns)

Either way X_b is used as it is read, on the left as uint8 or on the right as int8: nothing of its size is transposed.
Vectors are 8-bit: integers times one scale per column and tile. The means are taken out by a rank-one term: with M
the shifted data, units by terms, X_centered = M - a c', where a = 1 and c = mean - 128, or the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.gemm import Bytes, Gemm, flip, float_product, transpose
from bigcluster.kernels.quantize import Code, encode
from bigcluster.rows import RowSource, spans
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.eigen import alone
from bigcluster.solvers.pca.operands import Array
from bigcluster.solvers.pca.result import Components, Doubles, Target

Floats = NDArray[np.float32]
Span = tuple[int, int]
KeepCode = Callable[[int, Code], None]

# Canonical: the rounding of the vectors and the order of the sums follow these, so they are the same for any budget.
UNIT_TILE = 4096
TERMS = 2048
FLOAT_VECTORS = 32


class Side:
    """The data, seen from its smaller side."""

    def __init__(self, rows: RowSource, mean: Doubles, gemm: Gemm) -> None:
        self.by_row = rows.shape[0] <= rows.shape[1]
        self.n_units, self.n_terms = rows.shape if self.by_row else rows.shape[::-1]
        self.unit_spans = list(spans(self.n_units, UNIT_TILE))
        self.term_spans = list(spans(self.n_terms, TERMS))
        self.exact = rows.dtype == np.uint8
        self._rows, self._mean, self._gemm = rows, mean, gemm
        shifted = mean - 128.0 if self.exact else np.zeros(len(mean))
        ones = np.ones(rows.shape[0]) if self.exact else np.zeros(rows.shape[0])
        self.unit_offsets: Doubles = ones if self.by_row else shifted
        self.term_offsets: Doubles = shifted if self.by_row else ones

    def read(self, t: int, terms: tuple[int, int]) -> Array:
        """Unit tile t of a block of terms as it lies in the data; float data centered, as float32."""
        units = self.unit_spans[t]
        row_span, column_span = (units, terms) if self.by_row else (terms, units)
        columns = slice(*column_span)
        block = self._rows.read(*row_span, columns)
        if self.exact:
            return block
        centered: Floats = np.subtract(block, self._mean[columns], dtype=np.float64).astype(np.float32)
        return centered

    def _product(self, left: Array, right: Array, *, vectors_left: bool) -> Array:
        """int32 of uint8 and int8, or all float32; the vectors are the rows of one or the columns of the other."""
        if self.exact:
            product: Array = self._gemm.product(left, right)
            return product
        # A float32 product may round otherwise at another width, and how many vectors come at once is the budget's.
        if vectors_left:
            return np.concatenate([float_product(left[a:b], right) for a, b in spans(len(left), FLOAT_VECTORS)])
        pieces = (np.ascontiguousarray(right[:, a:b]) for a, b in spans(right.shape[1], FLOAT_VECTORS))
        return np.concatenate([float_product(left, piece) for piece in pieces], axis=1)

    def operand(self, code: Code) -> Array:
        """Vectors of one unit tile in the layout that `forward` multiplies: (b, units) left or (units, b) right."""
        return self._left(code) if self.by_row else code.values

    def _left(self, code: Code) -> Array:
        if not self.exact:
            return np.ascontiguousarray(code.values.T)
        unsigned: Bytes = np.bitwise_xor(code.values.view(np.uint8), np.uint8(128))
        return transpose(unsigned)

    def _right_data(self, tile: Array) -> Array:
        right: Array = flip(tile) if self.exact else tile
        return right

    def forward(self, tile: Array, operand: Array, scale: Floats) -> Floats:
        """This tile's share of Z, as (w, b); a view."""
        if self.by_row:
            product = self._product(operand, self._right_data(tile), vectors_left=True)
            return np.multiply(product, scale[:, None], dtype=np.float32).T
        return np.multiply(self._product(tile, operand, vectors_left=False), scale, dtype=np.float32)

    def add_backward(self, image: Floats, tile: Array, code: Code, operand: Array) -> None:
        """Add this block's share of Y for one unit tile, (units, b), to its image."""
        if self.by_row:
            product = self._product(tile, operand, vectors_left=False)
            target, scale = image, code.scale
        else:
            product = self._product(operand, self._right_data(tile), vectors_left=True)
            target, scale = image.T, code.scale[:, None]
        for start, stop in spans(len(product), 256):  # in pieces that stay in the cache
            rows = slice(start, stop)
            target[rows] += np.multiply(product[rows], scale if self.by_row else scale[rows], dtype=np.float32)

    def term_operand(self, code: Code) -> Array:
        """Vectors of one block of terms in the layout that `backward` multiplies."""
        return code.values if self.by_row else self._left(code)

    def empty_image(self, t: int, width: int) -> Floats:
        """Zeros, (units, width), laid out as `backward` adds to it."""
        n_units = self.unit_spans[t][1] - self.unit_spans[t][0]
        return np.zeros((n_units, width), np.float32, order="C" if self.by_row else "F")


@dataclass(frozen=True)
class Pass:
    """How an application is scheduled: columns at once (each group is a read of the data), and whether the tiles of a
    block stay in memory between their two uses (else they are read twice)."""

    columns: int
    keep_tiles: bool


def block_width(target: Target, n_units: int) -> int:
    """Columns of one block: four of them hold a little more than twice the components."""
    n_wanted = target.n if isinstance(target, Components) else 400
    return min(n_units, max(32, -(-n_wanted * 9 // 16 // 16) * 16))


def application_bytes(n_units: int, columns: int, threads: int, item: int, *, keep_tiles: bool) -> int:
    """What one application of `columns` vectors holds: images, operands, tiles and the scratch of every thread."""
    tile = min(UNIT_TILE, n_units)
    held = n_units * TERMS * item if keep_tiles else 0
    scratch = threads * (2 * tile * TERMS * item + 8 * columns * max(tile, TERMS)) + 4 * 8 * columns * TERMS
    return n_units * columns * (4 + item) + held + scratch


def plan_pass(n_units: int, width: int, threads: int, item: int, workspace_bytes: int) -> Pass:
    """The fewest reads that fit; 32 columns at a time, twice read, where nothing does."""
    blocks = -(-width // FLOAT_VECTORS)
    for groups in range(1, blocks + 1):
        columns = -(-blocks // groups) * FLOAT_VECTORS
        for keep_tiles in (True, False):
            if application_bytes(n_units, columns, threads, item, keep_tiles=keep_tiles) <= workspace_bytes:
                return Pass(columns, keep_tiles)
    return Pass(FLOAT_VECTORS, keep_tiles=False)


def apply(side: Side, codes: list[Code], plan: Pass, runtime: Runtime, keep: KeepCode | None = None) -> list[Floats]:
    """X_c X_c' V of one group of columns: (units, b) float32 images, one per unit tile, exact up to float32 sums.

    codes : V, one per unit tile; keep(i, code) takes the rounded Z of each block of terms, which the images are of.
    """
    tiles = range(len(side.unit_spans))
    width = codes[0].values.shape[1]
    images = [side.empty_image(t, width) for t in tiles]
    term_shift = np.zeros(width)  # c' Z
    for i, (terms, total, kept) in enumerate(_forward_blocks(side, codes, plan, runtime)):
        offsets = side.term_offsets[slice(*terms)]
        code, shift, operand = alone(partial(_term_code, side, total, offsets))
        term_shift += shift
        if keep is not None:
            keep(i, code)

        def backward(
            t: int,
            terms: Span = terms,
            kept: dict[int, Array] = kept,
            code: Code = code,
            operand: Array = operand,
        ) -> None:
            tile = kept.pop(t) if t in kept else side.read(t, terms)
            side.add_backward(images[t], tile, code, operand)

        for _ in runtime.map(backward, tiles):
            pass
    for (start, stop), image in zip(side.unit_spans, images, strict=True):
        image -= np.outer(side.unit_offsets[start:stop], term_shift).astype(np.float32)
    return images


def project_terms(side: Side, codes: list[Code], runtime: Runtime) -> Iterator[Floats]:
    """X_c' V, (w, b) float32 for every block of terms: half an application."""
    for _, total, _ in _forward_blocks(side, codes, Pass(codes[0].values.shape[1], keep_tiles=False), runtime):
        yield np.ascontiguousarray(total)


def _forward_blocks(
    side: Side, codes: list[Code], plan: Pass, runtime: Runtime
) -> Iterator[tuple[Span, Floats, dict[int, Array]]]:
    """For every block of terms Z = X_c' V, summed over unit tiles in order, and the tiles that were kept."""
    tiles = range(len(side.unit_spans))
    operands = list(runtime.map(lambda t: side.operand(codes[t]), tiles))
    unit_shift = np.zeros(codes[0].values.shape[1])  # a' V
    for shift in runtime.map(lambda t: codes[t].weighted(side.unit_offsets[slice(*side.unit_spans[t])]), tiles):
        unit_shift += shift
    for terms in side.term_spans:
        kept: dict[int, Array] = {}

        def forward(t: int, terms: Span = terms, kept: dict[int, Array] = kept) -> Floats:
            tile = side.read(t, terms)
            if plan.keep_tiles:
                kept[t] = tile
            return side.forward(tile, operands[t], codes[t].scale)

        total: Floats | None = None
        for share in runtime.map(forward, tiles):
            total = share if total is None else np.add(total, share, out=total)
        assert total is not None
        total -= np.outer(side.term_offsets[slice(*terms)], unit_shift).astype(np.float32)
        yield terms, total, kept


def _term_code(side: Side, block: Floats, offsets: Doubles) -> tuple[Code, Doubles, Array]:
    """Z of one block of terms rounded, its share of c' Z, and its layout for `backward`."""
    code = encode(np.ascontiguousarray(block), rounded=side.exact)
    return code, code.weighted(offsets), side.term_operand(code)
