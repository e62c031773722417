"""The covariance operator A on the smaller side of the data, applied to a block of vectors in one read of the data.

    n : the smaller side of X (rows of V and of A V)       k : the larger one, read in blocks

    by row, n_rows <= n_columns                                by column
        Z' = V' X_b          (b, n) (n, w)                         Z  = X_b V           (w, n) (n, b)
        Y += X_b Z           (n, w) (w, b)                         Y' += Z' X_b         (b, w) (w, n)

X_b is used as it is read, as the left or as the right operand: nothing of its size is transposed. Z = X'V is the sketch
and Y = A V the product. V and Z are quantized: int8 values times one float32 scale for each column and tile. The means
are taken out by a rank-one term: with M the data minus 128, (n, k), the centered data is M - a c', where a = 1 and
c = mean - 128 by row, and the reverse by column.
Source: Halko, Martinsson and Tropp 2011, section 4.5, for sketches of data that is streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm, Operand
from bigcluster.kernels.linalg.loops import add_scaled
from bigcluster.kernels.linalg.quantize import Quantized, quantize
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.schedule import FLOAT_COLUMNS, K_BLOCK, TILE_ROWS, Schedule
from bigcluster.store.row_source import RowSource, spans

Span = tuple[int, int]
TakeSketch = Callable[[int, Quantized], None]
"""Takes the quantized X'V of k block number i."""

_CACHE_BLOCK_BYTES = 1024 * 1024
"""Data that is laid out and multiplied at once: half of the second-level cache of many processors, all of others.
The speed is much the same from 512 KiB to 2 MiB."""


class CovarianceOperator:
    """A = X_c X_c' where the data has fewer rows than columns ("by row"), else A = X_c' X_c ("by column").

    rows : (n_rows, n_columns) uint8 or float; mean : (n_columns,) float64. A has shape (n, n), where (n, k) is the
    shape of the data or of its transpose. In the formulas of the methods X stands for the centered (n, k) data.
    exact : whether the data is uint8, so that products are exact integers of the data and the quantized vectors.
    """

    def __init__(self, rows: RowSource, mean: Float64Array, gemm: Gemm) -> None:
        self.by_row = rows.shape[0] <= rows.shape[1]
        self.n, self.k = rows.shape if self.by_row else rows.shape[::-1]
        self.tile_spans = list(spans(self.n, TILE_ROWS))
        self.k_spans = list(spans(self.k, K_BLOCK))
        self.exact = rows.dtype == np.uint8
        self.gemm = gemm
        self._rows, self._mean = rows, mean
        self._unused: list[AnyArray] = []
        self._lock = Lock()
        shifted = mean - 128.0 if self.exact else np.zeros(len(mean))
        ones = np.ones(rows.shape[0]) if self.exact else np.zeros(rows.shape[0])
        self.n_offsets: Float64Array = ones if self.by_row else shifted  # a
        self.k_offsets: Float64Array = shifted if self.by_row else ones  # c

    def matmat(
        self, V: list[Quantized], schedule: Schedule, runtime: Runtime, take_sketch: TakeSketch | None = None
    ) -> list[Float32Array]:
        """A V, one (rows of the tile, b) float32 array for each tile of n; exact up to float32 sums.

        V : (n, b), one Quantized for each tile. take_sketch(i, XtV) gets the quantized X'V of each k block, of which
        A V is made. Reads the data once, and again the tiles that `schedule` does not keep.
        """
        tiles = range(len(self.tile_spans))
        width = V[0].values.shape[1]
        AV = [self._zeros(span, width) for span in self.tile_spans]
        shift = np.zeros(width)  # c' Z
        n_done = 0
        for read in _sketches(self, V, schedule, runtime):
            sketches = []
            for k_span, XtV, share, operand in self._quantized(read, runtime):
                shift += share
                sketches.append((k_span, XtV, operand))
                if take_sketch is not None:
                    take_sketch(n_done, XtV)
                n_done += 1

            def add_products(
                t: int, read: _Read = read, sketches: list[tuple[Span, Quantized, Operand]] = sketches
            ) -> None:
                tile = read.tiles.pop(t) if t in read.tiles else self.read(t, read.span)
                for k_span, XtV, operand in sketches:
                    self._add_product(AV[t], self._cut(tile, read.span, k_span), XtV, operand)
                self.release(tile)

            for _ in runtime.map(add_products, tiles):
                pass
        self.release_all()
        for (start, stop), product in zip(self.tile_spans, AV, strict=True):
            product -= np.outer(self.n_offsets[start:stop], shift).astype(np.float32)
        return AV

    def _quantized(self, read: _Read, runtime: Runtime) -> Iterator[tuple[Span, Quantized, Float64Array, Operand]]:
        return runtime.map(partial(_quantized_sketch, self), zip(read.k_spans, read.XtV, strict=True))

    def sketches(
        self, V: list[Quantized], k_blocks: int, runtime: Runtime, numbers: range
    ) -> Iterator[tuple[int, Quantized, Float64Array]]:
        """Yield the number of a k block, X'V of it, quantized, and its share of c' Z, for these k blocks.

        k_blocks : the number of blocks that are read together.
        """
        number = numbers.start
        for read in _sketches(self, V, Schedule(V[0].values.shape[1], k_blocks, 0), runtime, numbers):
            for _, XtV, share, _ in self._quantized(read, runtime):
                yield number, XtV, share
                number += 1
        self.release_all()

    def products(
        self,
        n_spans: list[Span],
        sketch: Callable[[int], Quantized],
        shift: Float64Array,
        k_blocks: int,
        runtime: Runtime,
    ) -> list[Float32Array]:
        """Rows of A V of the X'V of all k blocks, one (rows, b) float32 array for each span of n: the bits of `matmat`.

        sketch(i) : the quantized X'V of k block i. shift : c' Z, the shares of all k blocks added in their order.
        """
        AV = [self._zeros(span, len(shift)) for span in n_spans]
        for first, stop in spans(len(self.k_spans), k_blocks):
            k_spans = self.k_spans[first:stop]
            whole = k_spans[0][0], k_spans[-1][1]
            XtV = [sketch(i) for i in range(first, stop)]
            operands = [self.xtv_operand(one) for one in XtV]

            def add_products(
                number: int,
                whole: Span = whole,
                k_spans: list[Span] = k_spans,
                XtV: list[Quantized] = XtV,
                operands: list[Operand] = operands,
            ) -> None:
                tile = self._read(n_spans[number], whole)
                for k_span, one, operand in zip(k_spans, XtV, operands, strict=True):
                    self._add_product(AV[number], self._cut(tile, whole, k_span), one, operand)
                self.release(tile)

            for _ in runtime.map(add_products, range(len(n_spans))):
                pass
        self.release_all()
        for span, product in zip(n_spans, AV, strict=True):
            product -= np.outer(self.n_offsets[slice(*span)], shift).astype(np.float32)
        return AV

    def rmatmat(self, V: list[Quantized], runtime: Runtime, numbers: range | None = None) -> Iterator[Float32Array]:
        """X'V, one (w, b) float32 array for each of these k blocks, by default all.

        V : (n, b), one Quantized for each tile of n.
        """
        for read in _sketches(self, V, Schedule(V[0].values.shape[1], 1, 0), runtime, numbers):
            for XtV in read.XtV:
                yield np.ascontiguousarray(XtV)
        self.release_all()

    def read(self, t: int, k_span: Span) -> AnyArray:
        """Tile t of a span of k, as it lies in the data: uint8, or float data centered as float32."""
        return self._read(self.tile_spans[t], k_span)

    def _read(self, n_span: Span, k_span: Span) -> AnyArray:
        row_span, column_span = (n_span, k_span) if self.by_row else (k_span, n_span)
        columns = slice(*column_span)
        shape = row_span[1] - row_span[0], column_span[1] - column_span[0]
        block = self._rows.read(*row_span, columns, spent=self._unused_array(shape))
        if self.exact:
            return block
        centered: Float32Array = np.subtract(block, self._mean[columns], dtype=np.float64).astype(np.float32)
        return centered

    def release(self, tile: AnyArray) -> None:
        """The caller no longer uses `tile`: its memory serves a later read."""
        if self.exact:
            with self._lock:
                self._unused.append(tile)

    def _unused_array(self, shape: tuple[int, int]) -> AnyArray | None:
        with self._lock:
            for i, tile in enumerate(self._unused):
                if tile.shape == shape:
                    return self._unused.pop(i)
            if self._unused:  # it would stay in memory beside the new one
                self._unused.pop()
        return None

    def release_all(self) -> None:
        """Free the memory that waits for a later read."""
        self._unused.clear()

    def _cut(self, tile: AnyArray, read_span: Span, k_span: Span) -> AnyArray:
        """The part of a tile that belongs to one k block; a view."""
        part = slice(k_span[0] - read_span[0], k_span[1] - read_span[0])
        return tile[:, part] if self.by_row else tile[part]

    def _operand(self, vectors: Quantized, *, left: bool) -> Operand:
        if not self.exact:
            return np.ascontiguousarray(vectors.values.T) if left else vectors.values
        lay_out = self.gemm.left if left else self.gemm.right
        return lay_out(vectors.values, by_row=False)

    def v_operand(self, V: Quantized) -> Operand:
        """One tile of V laid out for X'V: (b, rows) as a left operand or (rows, b) as a right one."""
        return self._operand(V, left=self.by_row)

    def xtv_operand(self, XtV: Quantized) -> Operand:
        """One k block of X'V laid out for A V."""
        return self._operand(XtV, left=not self.by_row)

    def sketch_share(self, tile: AnyArray, operand: Operand, scale: Float32Array) -> Float32Array:
        """What one tile of X and of V adds to X'V of a k block: (w, b) float32, a view. scale : (b,) of V."""
        if not self.exact:
            assert isinstance(operand, np.ndarray)
            return _float_vectors_times(operand, tile).T if self.by_row else _float_times_vectors(tile, operand)
        if self.by_row:
            share = np.empty((len(scale), tile.shape[1]), np.float32)
            for part in _cache_blocks(tile.shape[::-1]):
                product = self.gemm.multiply(operand, self.gemm.right(tile[:, part], by_row=False))
                np.multiply(product, scale[:, None], out=share[:, part], dtype=np.float32)
            return share.T
        share = np.empty((len(tile), len(scale)), np.float32)
        for part in _cache_blocks(tile.shape):
            product = self.gemm.multiply(self.gemm.left(tile[part], by_row=True), operand)
            np.multiply(product, scale, out=share[part], dtype=np.float32)
        return share

    def _add_product(self, total: Float32Array, tile: AnyArray, XtV: Quantized, operand: Operand) -> None:
        """Add X_b Z of one tile and one k block to `total`, (rows of the tile, b)."""
        if not self.exact:
            assert isinstance(operand, np.ndarray)
            total += _float_times_vectors(tile, operand) if self.by_row else _float_vectors_times(operand, tile).T
        elif self.by_row:
            for part in _cache_blocks(tile.shape):
                product = self.gemm.multiply(self.gemm.left(tile[part], by_row=True), operand)
                add_scaled(total[part], product, XtV.scale, by_row=False)
        else:  # `total` is laid out by column
            product = self.gemm.multiply(operand, self.gemm.right(tile, by_row=False))
            add_scaled(total.T, product, XtV.scale, by_row=True)

    def _zeros(self, span: Span, width: int) -> Float32Array:
        """(rows of a span of n, width), laid out as `_add_product` adds to it."""
        start, stop = span
        return np.zeros((stop - start, width), np.float32, order="C" if self.by_row else "F")


def _cache_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Blocks of rows of an (n, m) byte matrix: between its layout and its product a block stays in the cache."""
    n, m = shape
    return (slice(*span) for span in spans(n, max(64, _CACHE_BLOCK_BYTES // m // 64 * 64)))


def _float_vectors_times(vectors: Float32Array, tile: Float32Array) -> Float32Array:
    """(b, n) times data (n, m)."""
    data = np.ascontiguousarray(tile)
    # How many vectors come at once follows the budget, and a product of another width may round otherwise.
    return np.concatenate([float_product(vectors[a:b], data) for a, b in spans(len(vectors), FLOAT_COLUMNS)])


def _float_times_vectors(tile: Float32Array, vectors: Float32Array) -> Float32Array:
    """Data (m, n) times (n, b)."""
    data = np.ascontiguousarray(tile)
    parts = (np.ascontiguousarray(vectors[:, a:b]) for a, b in spans(vectors.shape[1], FLOAT_COLUMNS))
    return np.concatenate([float_product(data, part) for part in parts], axis=1)


@dataclass(frozen=True)
class _Read:
    """Some k blocks that were read together.

    XtV : X'V of each block, (w, b) float32, summed over the tiles in their order; tiles : those that stay in memory.
    """

    k_spans: list[Span]
    XtV: list[Float32Array]
    tiles: dict[int, AnyArray]

    @property
    def span(self) -> Span:
        return self.k_spans[0][0], self.k_spans[-1][1]


def _sketches(
    operator: CovarianceOperator,
    V: list[Quantized],
    schedule: Schedule,
    runtime: Runtime,
    numbers: range | None = None,
) -> Iterator[_Read]:
    """X'V of these k blocks, by default of all, read by read."""
    numbers = range(len(operator.k_spans)) if numbers is None else numbers
    tiles = range(len(operator.tile_spans))
    operands = list(runtime.map(lambda t: operator.v_operand(V[t]), tiles))
    shift = np.zeros(V[0].values.shape[1])  # a' V
    for share in runtime.map(lambda t: V[t].weighted(operator.n_offsets[slice(*operator.tile_spans[t])]), tiles):
        shift += share
    for first in range(numbers.start, numbers.stop, schedule.k_blocks):
        read = _Read(operator.k_spans[first : min(first + schedule.k_blocks, numbers.stop)], [], {})

        def shares_of(t: int, read: _Read = read) -> list[Float32Array]:
            tile = operator.read(t, read.span)
            parts = (operator._cut(tile, read.span, k_span) for k_span in read.k_spans)
            shares = [operator.sketch_share(part, operands[t], V[t].scale) for part in parts]
            if t < schedule.n_kept:
                read.tiles[t] = tile
            else:
                operator.release(tile)
            return shares

        # One task more than there are threads: no thread waits while a share is added up.
        for shares in runtime.map(shares_of, tiles, in_flight=runtime.threads + 1):
            if not read.XtV:
                read.XtV.extend(shares)
                continue
            for total, share_of_block in zip(read.XtV, shares, strict=True):
                total += share_of_block

        def take_out_mean(block: tuple[Span, Float32Array]) -> None:
            k_span, total = block
            total -= np.outer(operator.k_offsets[slice(*k_span)], shift).astype(np.float32)

        for _ in runtime.map(take_out_mean, zip(read.k_spans, read.XtV, strict=True)):
            pass
        yield read


def _quantized_sketch(
    operator: CovarianceOperator, block: tuple[Span, Float32Array]
) -> tuple[Span, Quantized, Float64Array, Operand]:
    """One k block of X'V quantized, its share of c' Z, and its layout for A V."""
    k_span, total = block
    XtV = quantize(np.ascontiguousarray(total), to_int8=operator.exact)
    return k_span, XtV, XtV.weighted(operator.k_offsets[slice(*k_span)]), operator.xtv_operand(XtV)
