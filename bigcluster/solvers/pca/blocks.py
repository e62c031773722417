"""A matrix whose columns come in blocks, each in row tiles in a SpillBuffer: int8 with scales, or float32.

    B = [B_0 B_1 ...]     (n, size): block k has a width of its own, tile t has rows spans[t]
    project:  B[t]' W[t]      (size, rows_t) (rows_t, b)
    expand:   B[t] C          (rows_t, size) (size, b)

Every product is made block by block, in order, so its bits follow from the blocks alone. The basis of Lanczos, which
has many narrow blocks of float32 to multiply at once, is cut otherwise (bigcluster.solvers.pca.lanczos).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.quantize import Quantized
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.kernels.pca import ordered_sum
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.spill import SpillBuffer


class Blocks:
    """Blocks of columns of one matrix.

    name : prefix of the names in `buffer` and in checkpoints; spans : (start, stop) of the rows of each tile. widths :
    of the complete blocks. Several threads may put different tiles of a block at once.
    """

    def __init__(self, name: str, spans: list[tuple[int, int]], buffer: SpillBuffer) -> None:
        self.spans = spans
        self.tiles = range(len(spans))
        self.widths: list[int] = []
        self._name, self._buffer = name, buffer
        self._scales: dict[str, Float32Array] = {}

    @property
    def size(self) -> int:
        """Columns of all complete blocks."""
        return sum(self.widths)

    def put(self, t: int, quantized: Quantized, *, group: int = 0) -> None:
        """Put tile t of the next block, or of one group of its columns; it counts once the block is complete."""
        self._put(self._tile(len(self.widths), t, group), quantized)

    def complete(self, n_groups: int = 1) -> None:
        """Join the n_groups groups of columns of the next block, all of whose tiles were put, and count the block."""
        k = len(self.widths)
        if n_groups > 1:
            for t in self.tiles:
                names = [self._tile(k, t, group) for group in range(n_groups)]
                parts = [self._quantized(name) for name in names]
                whole = Quantized(np.hstack([part.values for part in parts]), np.hstack([part.scale for part in parts]))
                for name in names:
                    self._delete(name)
                self._put(self._tile(k, t), whole)
        self.widths.append(len(self._scales[self._tile(k, 0)]))

    def quantized(self, k: int, t: int) -> Quantized:
        """Tile t of block k, as it was put."""
        return self._quantized(self._tile(k, t))

    def get(self, k: int, t: int) -> Float32Array:
        """Tile t of block k, (rows_t, width of block k) float32."""
        return self.quantized(k, t).dequantize()

    def project(self, t: int, block: Float32Array) -> Float32Array:
        """What tile t adds to B'W: (size, b) float32. block : rows of tile t of W, (rows_t, b) float32."""
        shares = [float_product(self.get(k, t), block, transpose_left=True) for k in range(len(self.widths))]
        return np.concatenate(shares) if shares else np.zeros((0, block.shape[1]), np.float32)

    def expand(self, t: int, coefficients: Float64Array | Float32Array) -> Float32Array:
        """Rows of tile t of B C: (rows_t, b) float32. coefficients : C, (size, b)."""
        start, stop = self.spans[t]
        total = np.zeros((stop - start, coefficients.shape[1]), np.float32)
        for k, (first, last) in enumerate(self._columns()):
            total += float_product(self.get(k, t), np.ascontiguousarray(coefficients[first:last], np.float32))
        return total

    def last_inner(self, gemm: Gemm, runtime: Runtime) -> Float64Array:
        """B'B_k of the last block: the new columns of B'B, (size, width) float64, summed in the order of tiles.

        Products of int8 are exact; those of float32 are computed in float64, since columns that are far from orthogonal
        share leading directions, which would drown the others in float32.
        """
        blocks = range(len(self.widths))

        def exact(t: int) -> Float64Array:
            last = self.quantized(blocks[-1], t)
            right, shares = gemm.right(last.values, by_row=False), []
            for quantized in (self.quantized(k, t) for k in blocks):
                product = gemm.multiply(gemm.left(quantized.values, by_row=False), right)
                shares.append(product * quantized.scale.astype(np.float64)[:, None])
            return np.concatenate(shares) * last.scale

        def precise(t: int) -> Float64Array:
            last = self.get(blocks[-1], t).astype(np.float64)
            return np.concatenate([self.get(k, t).T.astype(np.float64) @ last for k in blocks])

        is_int8 = self.quantized(blocks[-1], 0).values.dtype == np.int8
        return ordered_sum(runtime.map(exact if is_int8 else precise, self.tiles))

    def delete(self, k: int) -> None:
        """Delete the tiles of block k; its columns still count."""
        for t in self.tiles:
            self._delete(self._tile(k, t))

    def delete_all(self) -> None:
        """Delete the tiles of all blocks; their columns still count."""
        for k in range(len(self.widths)):
            self.delete(k)

    def saved(self, k: int) -> Iterator[tuple[str, Callable[[], AnyArray]]]:
        """Names of what a saved state takes of block k, and how to get it."""
        for t in self.tiles:
            name = self._tile(k, t)
            yield name, partial(self._buffer.get, name)
            yield f"{name}/scale", partial(self._scales.__getitem__, name)

    def restore(self, k: int, get: Callable[[str], AnyArray]) -> None:
        """Put block k back from a checkpoint, by its `get`; the caller restores `widths`."""
        names = [self._tile(k, t) for t in self.tiles]
        scales = [get(f"{name}/scale") for name in names]  # first: they are in a file of their own
        for name, scale in zip(names, scales, strict=True):
            self._put(name, Quantized(get(name), scale))

    def _columns(self) -> Iterator[tuple[int, int]]:
        at = 0
        for width in self.widths:
            yield at, at + width
            at += width

    def _tile(self, k: int, t: int, group: int = 0) -> str:
        return f"{self._name}/{k}/{t}" if group == 0 else f"{self._name}/{k}/{t}/{group}"

    def _put(self, name: str, quantized: Quantized) -> None:
        self._scales[name] = quantized.scale
        self._buffer.put(name, np.ascontiguousarray(quantized.values))

    def _quantized(self, name: str) -> Quantized:
        return Quantized(self._buffer.get(name), self._scales[name])

    def _delete(self, name: str) -> None:
        self._buffer.delete(name)
        self._scales.pop(name, None)
