"""A symmetric positive matrix in tiles, and its leading eigenpairs.

Small ones are solved densely here, large ones by bigcluster.solvers.pca.lanczos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.kernels.pca import FLOAT32_NOISE, choose_rank, nonzero_rank, ritz
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.result import Components, Target
from bigcluster.solvers.spill import SpillBuffer

Result = TypeVar("Result")

DENSE_THREADS = 2
"""BLAS threads of a large dense step. Fixed, since LAPACK's results depend on it, so that every machine gives the same
ones. Two threads find the eigenvectors of a 2,000 x 2,000 matrix in 0.6 of the time of one."""
LARGE = 512
"""Size of a matrix from which a dense step takes DENSE_THREADS. BLAS threads spin for a while after each step, in the
way of the products that follow, which smaller steps are not worth."""

DENSE_NOISE = 1e-13
"""Share of the first eigenvalue, for each row of the matrix, below which eigenvalues are rounding of float64."""


def centering_rounding(n: int, largest: float) -> float:
    """The most that centering in float64 adds to an eigenvalue of an (n, n) matrix with entries up to `largest`.

    Means and differences round every entry about four times.
    """
    return 4 * n * largest * float(np.finfo(np.float64).eps)


class TiledMatrix:
    """The lower triangle of a symmetric matrix, in float32 (float64 where it is solved densely) tiles in a SpillBuffer.

    tile_spans : (start, stop) of the rows of each tile. rounding : an eigenvalue up to this size may be rounding alone:
    exact products may be far larger than what their centering in float64 leaves. It is 0 for data that was centered
    before it was multiplied.
    """

    def __init__(self, tile_spans: list[tuple[int, int]], buffer: SpillBuffer) -> None:
        self.tile_spans = tile_spans
        self.rounding = 0.0
        self.n = tile_spans[-1][1]
        self._buffer = buffer

    def put(self, j: int, i: int, tile: AnyArray) -> None:
        """Set tile (j, i), i <= j: (rows of tile j, rows of tile i)."""
        self._buffer.put(f"matrix/{j}/{i}", tile)

    def get(self, j: int, i: int) -> AnyArray:
        """Tile (j, i), i <= j."""
        return self._buffer.get(f"matrix/{j}/{i}")

    def fetch(self) -> None:
        """Keep tiles that are outside of memory in it, as many as fit: a solver reads all of them many times."""
        for j, i in self.pairs():
            if not self._buffer.fetch(f"matrix/{j}/{i}"):
                return

    def pairs(self) -> list[tuple[int, int]]:
        """(j, i) of every tile, i <= j."""
        return [(j, i) for j in range(len(self.tile_spans)) for i in range(j + 1)]

    def apply(self, t: int, block: Callable[[int], Float32Array]) -> Float32Array:
        """Rows of tile t of G V, (rows_t, b) float32. block(i) : rows of tile i of V, (rows_i, b) float32."""
        total = self._share(t, 0, block)
        for i in range(1, len(self.tile_spans)):
            total += self._share(t, i, block)
        return total

    def _share(self, t: int, i: int, block: Callable[[int], Float32Array]) -> Float32Array:
        if i <= t:
            return float_product(self.get(t, i), block(i))
        return float_product(self.get(i, t), block(i), transpose_left=True)

    def dense(self) -> Float64Array:
        """The whole (n, n) matrix in float64."""
        full = np.empty((self.n, self.n))
        for j, i in self.pairs():
            tile = self.get(j, i)
            full[slice(*self.tile_spans[j]), slice(*self.tile_spans[i])] = tile
            full[slice(*self.tile_spans[i]), slice(*self.tile_spans[j])] = tile.T
        return full

    def delete(self) -> None:
        """Delete all tiles."""
        for j, i in self.pairs():
            self._buffer.delete(f"matrix/{j}/{i}")


TileRows = Callable[[int], AnyArray]
"""t -> rows of tile t of some (n, m) matrix: float64 from the dense path, else float32."""


@dataclass(frozen=True)
class Eigenpairs:
    """Leading eigenpairs of a matrix G, of which the target needs n_vectors.

    values : (n_computed,) float64, descending, with zeros for what is rounding; vectors(T), products(T) : the rows of U
    T and of G U T, for T (n_vectors, m) float64, or (n_vectors,) for a diagonal matrix; `products` only where they were
    asked for; close : deletes the arrays behind both; rounding : that of the matrix.
    """

    values: Float64Array
    n_vectors: int
    vectors: Callable[[Float64Array], TileRows]
    products: Callable[[Float64Array], TileRows]
    close: Callable[[], None]
    rounding: float


def with_blas_threads(size: int, task: Callable[[], Result]) -> Result:
    """Run a dense step on matrices of this size, while nothing else computes; the size decides its BLAS threads."""
    with blas_threads(DENSE_THREADS if size >= LARGE else 1):
        return task()


def transformed(columns: Float64Array, transform: Float64Array) -> Float64Array:
    """C T, for a matrix T or the diagonal of one."""
    product: Float64Array = columns * transform if transform.ndim == 1 else columns @ transform
    return product


def n_needed_for(values: Float64Array, total: float, target: Target) -> int | None:
    """How many of these eigenvalues, descending, the target needs; None where it needs more than these.

    total : the sum of all eigenvalues.
    """
    if isinstance(target, Components):
        return target.n
    return choose_rank(values, total, target.share)


def n_dominating(values: Float64Array, total: float) -> int:
    """How many leading variances outweigh all that comes after them.

    A basis finds them at once, to float32. Its gains are measured without them, since their size and their rounding
    would hide what the basis lacks of the others.
    """
    rest = total
    for n, value in enumerate(values):
        if value <= rest / 2 or rest - value <= FLOAT32_NOISE * total:
            return n
        rest -= float(value)
    return len(values)


def dense_eigenpairs(matrix: TiledMatrix, total: float, target: Target, runtime: Runtime) -> Eigenpairs:
    """The eigenpairs that `target` needs, by LAPACK in float64. total : the trace of the matrix, exact."""
    values, vectors = with_blas_threads(matrix.n, lambda: ritz(matrix.dense(), matrix.n))
    values[nonzero_rank(values, DENSE_NOISE * matrix.n, matrix.rounding) :] = 0
    n_vectors = n_needed_for(values, total, target)
    if n_vectors is None:  # the share is 1, up to rounding
        n_vectors = max(1, int(np.count_nonzero(values)))
    leading = np.ascontiguousarray(vectors[:, :n_vectors])

    def rows_of(columns: Float64Array) -> Callable[[Float64Array], TileRows]:
        return lambda transform: lambda t: transformed(columns[slice(*matrix.tile_spans[t])], transform)

    return Eigenpairs(
        values, n_vectors, rows_of(leading), rows_of(leading * values[:n_vectors]), lambda: None, matrix.rounding
    )
