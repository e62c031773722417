"""Leading eigenpairs of a large symmetric positive matrix in tiles, by block Lanczos.

Every block of the Krylov space is kept, and each new one is orthogonalised twice against all of them. The projected
matrix is not taken to be block tridiagonal: all of Q'GQ is computed, which costs nothing beyond the orthogonalisation,
and makes the Ritz values right even where blocks lose directions. There is one Rayleigh-Ritz step at the end. Blocks
are narrow, since a space of many powers holds more than one of many directions: as narrow as products are fast. A basis
that reaches its limit before it has converged, as that of noise does, shrinks to its leading Ritz vectors and grows
again (a thick restart): the next block holds all that they still lack.
Source: Golub and Underwood 1977, "The block Lanczos method for computing eigenvalues"; Musco and Musco 2015,
"Randomized block Krylov methods", for why the whole Krylov space beats its last block; Wu and Simon 2000,
"Thick-restart Lanczos method for large symmetric eigenvalue problems".

All products are float32 on one thread each, tile by tile, added in tile order; inner products of blocks are summed over
tiles in float64. So the result depends neither on threads nor on which tiles are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import Float32Array, Float64Array
from bigcluster.kernels.pca import FLOAT32_NOISE, nonzero_rank, ordered_sum, orthonormal_transform, ritz
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.basis import TiledBasis
from bigcluster.solvers.pca.eigen import (
    Eigenpairs,
    TiledMatrix,
    TileRows,
    dense_eigenpairs,
    n_dominating,
    n_needed_for,
    transformed,
    with_blas_threads,
)
from bigcluster.solvers.pca.operands import DENSE_LIMIT
from bigcluster.solvers.pca.result import Components, Target, Variance, usual_components
from bigcluster.solvers.progress import StepCounter
from bigcluster.solvers.spill import SpillBuffer

_REST = 5e-4
"""Converged when all blocks that could still come promise less than this share of the variance to the needed
components, without the eigenvalues that outweigh all others."""
_SLOWEST = 0.9
"""Gains of captured variance fall about geometrically, so two of them tell how fast; this is the slowest ratio
believed."""
_NEAR = 4
"""With at most so many blocks to go, the basis grows to its end without another look."""
_FLOOR = 1e-7
"""A column of G V that is no longer than this share of the first eigenvalue, outside of the basis, is rounding: that of
one float32 entry, which adds up to less over a column. Directions of a millionth of the first are still told apart."""
_KEPT, _NEW = 2, 8
"""A restart keeps so many blocks beyond the components, and leaves room for so many new ones at least."""
_MOST_RESTARTS = 8
"""What has not converged after so many has no leading directions: the basis has seen several times as many as
needed."""


def lanczos_width(target: Target) -> int:
    """Columns of one Krylov block: a sixteenth of the components, as 16, 32 or 48."""
    return min(48, max(16, usual_components(target) // 16 // 16 * 16))


def lanczos_size(target: Target, n: int) -> int:
    """The size of the basis at which convergence is judged first. n : rows of the matrix."""
    n_needed = target.n if isinstance(target, Components) else 64
    return min(n, 7 * n_needed // 4 + 2 * lanczos_width(target))


def lanczos_limit(target: Target, n: int) -> int:
    """The largest size of the basis: bounded for a number of components; a share of the variance may need all n."""
    if not isinstance(target, Components):
        return n
    return min(n, max(lanczos_size(target, n) * 9 // 8, target.n + (_KEPT + _NEW) * lanczos_width(target)))


def lanczos_steps(target: Target, n: int) -> int:
    """About how many blocks the basis will have, for the progress of a fit."""
    return 1 if n <= DENSE_LIMIT else -(-lanczos_size(target, n) // lanczos_width(target)) + 2


def leading_eigenpairs(
    matrix: TiledMatrix,
    total: float,
    target: Target,
    *,
    buffer: SpillBuffer,
    runtime: Runtime,
    seed: int,
    progress: StepCounter,
    with_products: bool,
) -> Eigenpairs:
    """The eigenpairs that `target` needs, orthonormal up to float32.

    total : the trace of the matrix, exact. seed : of the first block. with_products : keep G Q as well, for
    Eigenpairs.products. Small matrices are solved densely. Raises VarianceNotReachedError where the target is a share
    of the variance that float32 cannot tell from rounding.
    """
    if matrix.n <= DENSE_LIMIT:
        return dense_eigenpairs(matrix, total, target, runtime)
    return _Lanczos(matrix, total, target, buffer, runtime, progress, with_products=with_products).run(seed)


class _Lanczos:
    """One run of block Lanczos; its arguments are those of leading_eigenpairs."""

    def __init__(
        self,
        matrix: TiledMatrix,
        total: float,
        target: Target,
        buffer: SpillBuffer,
        runtime: Runtime,
        progress: StepCounter,
        *,
        with_products: bool,
    ) -> None:
        self._matrix = matrix
        self._total = total
        self._target = target
        self._runtime = runtime
        self._progress = progress
        self._basis = TiledBasis("basis", matrix.tile_spans, buffer)
        self._products = TiledBasis("images", matrix.tile_spans, buffer) if with_products else None  # G Q
        self._tiles = range(len(matrix.tile_spans))
        self._limit = lanczos_limit(target, matrix.n)
        self._room = np.zeros((0, 0))  # holds the projected matrix Q' G Q, and room for it to grow
        self._values: dict[int, Float64Array] = {}  # Ritz values by the number of basis vectors

    def run(self, seed: int) -> Eigenpairs:
        """Grow the basis until it has converged, and return the leading eigenpairs."""
        blocks = self._start(seed)
        next_look, end = lanczos_size(self._target, self._matrix.n), math.inf
        restarts = 0
        while True:
            self._basis.append(blocks)
            products, inner = self._apply(blocks)
            if self._products is not None:
                self._products.append(products)
            self._extend_projected(inner, blocks[0].shape[1])
            self._progress.step()
            if next_look <= self._basis.size < end:
                missing = self._missing()
                next_look = self._basis.size + min(missing, self._basis.size // 2)
                near = missing <= _NEAR * lanczos_width(self._target) and isinstance(self._target, Components)
                if missing == 0 or near:
                    end = next_look
            if self._basis.size >= end:
                break
            blocks = self._next_block(products, inner, seed)
            if blocks[0].shape[1] == 0:  # the basis spans everything, or all that has variance
                break
            if self._basis.size + blocks[0].shape[1] > self._limit < self._matrix.n:
                if restarts == _MOST_RESTARTS:
                    break
                restarts += 1
                self._restart()
                next_look, end = self._basis.size + _NEW * lanczos_width(self._target), math.inf
        return self._finish()

    def _start(self, seed: int) -> list[Float32Array]:
        """A random orthonormal block, drawn in row order, so that it depends on the seed and the size only."""
        width = min(lanczos_width(self._target), self._matrix.n)
        random = np.random.default_rng(seed).standard_normal((self._matrix.n, width), dtype=np.float32)
        blocks = [random[start:stop] for start, stop in self._matrix.tile_spans]
        inner = ordered_sum([_inner(block) for block in blocks])
        return self._transformed(blocks, with_blas_threads(len(inner), lambda: orthonormal_transform(inner, 0.0)))

    def _apply(self, blocks: list[Float32Array]) -> tuple[list[Float32Array], Float64Array]:
        """W = G V as one (rows_t, b) float32 for each tile, and Q' W, (size, b) float64."""

        def task(t: int) -> tuple[Float32Array, Float32Array]:
            product = self._matrix.apply(t, blocks.__getitem__)
            return product, self._basis.project(t, product)

        products, shares = zip(*self._runtime.map(task, self._tiles), strict=True)
        return list(products), ordered_sum(shares)

    def _extend_projected(self, inner: Float64Array, n_new: int) -> None:
        """Append the columns Q' G V of the newest block, and by symmetry its rows."""
        size, old = self._basis.size, self._basis.size - n_new
        if size > len(self._room):
            capacity = self._limit if isinstance(self._target, Components) else size * 9 // 8
            room = np.zeros((capacity, capacity))
            room[:old, :old] = self._room[:old, :old]
            self._room = room
        self._room[:old, old:size] = inner[:old]
        self._room[old:size, :old] = inner[:old].T
        self._room[old:size, old:size] = (inner[old:] + inner[old:].T) / 2

    @property
    def _projected(self) -> Float64Array:
        """Q' G Q, a view."""
        return self._room[: self._basis.size, : self._basis.size]

    def _restart(self) -> None:
        """Shrink the basis to its leading Ritz vectors. The next block is orthogonal to the whole basis, hence to
        them."""
        assert isinstance(self._target, Components)
        size, n_kept = self._basis.size, self._target.n + _KEPT * lanczos_width(self._target)
        values, vectors = with_blas_threads(size, lambda: ritz(self._projected, n_kept))
        coefficients = vectors.astype(np.float32)
        self._basis = self._shrunk(self._basis, coefficients)
        if self._products is not None:
            self._products = self._shrunk(self._products, coefficients)
        self._room[:n_kept, :n_kept] = np.diag(values[:n_kept])
        self._values.clear()

    def _shrunk(self, basis: TiledBasis, coefficients: Float32Array) -> TiledBasis:
        """B C, which replaces the basis B."""
        shrunk = basis.empty_like()
        shrunk.append(list(self._runtime.map(lambda t: basis.expand(t, coefficients), self._tiles)))
        basis.delete()
        return shrunk

    def _next_block(self, products: list[Float32Array], inner: Float64Array, seed: int) -> list[Float32Array]:
        """W - Q Q'W, orthonormal: project, normalise, and both once more ("twice is enough").

        Where columns of W = G V differ by less than float32 resolves, because one eigenvalue outweighs the others or
        many are equal, random vectors fill the block, unless the basis holds all of the trace.
        """
        size, diagonal = self._basis.size, np.diag(self._projected)
        blocks = self._transformed(*self._projected_out(products, inner, _FLOOR * float(np.abs(diagonal).max())))
        missing = min(lanczos_width(self._target), self._matrix.n - size) - blocks[0].shape[1]
        if missing > 0 and diagonal.sum() < (1 - FLOAT32_NOISE) * self._total:
            random = np.random.default_rng([seed, size])
            more = [random.standard_normal((len(block), missing), dtype=np.float32) for block in blocks]
            blocks = self._orthogonal([np.hstack(pair) for pair in zip(blocks, more, strict=True)], 0.0)
        return self._orthogonal(blocks, 0.5)

    def _orthogonal(self, blocks: list[Float32Array], least: float) -> list[Float32Array]:
        """Make blocks orthogonal to the basis, and orthonormal.

        least : columns of length 1 of which less remains were in the basis, and are dropped.
        """
        shares = self._runtime.map(lambda t: self._basis.project(t, blocks[t]), self._tiles)
        return self._transformed(*self._projected_out(blocks, ordered_sum(shares), least))

    def _projected_out(
        self, products: list[Float32Array], inner: Float64Array, floor: float
    ) -> tuple[list[Float32Array], Float64Array]:
        """W - Q inner, in place, and the transform that makes it orthonormal. inner : Q'W, (size, b)."""
        coefficients = inner.astype(np.float32)

        def subtract(t: int) -> Float64Array:
            products[t] -= self._basis.expand(t, coefficients)
            return _inner(products[t])

        square = ordered_sum(list(self._runtime.map(subtract, self._tiles)))
        return products, with_blas_threads(len(square), lambda: orthonormal_transform(square, floor))

    def _transformed(self, blocks: list[Float32Array], transform: Float64Array) -> list[Float32Array]:
        if transform.shape[1] == 0:
            return [np.zeros((len(block), 0), np.float32) for block in blocks]
        small = np.ascontiguousarray(transform, np.float32)
        return list(self._runtime.map(lambda block: float_product(np.ascontiguousarray(block), small), blocks))

    def _missing(self) -> int:
        """About how many columns the basis still needs: 0 where more would add next to nothing to the components."""
        size, width = self._basis.size, lanczos_width(self._target)
        n_needed = n_needed_for(self._ritz_values(size), self._total, self._target)
        if n_needed is None:
            return size // 8 + 1
        least = min(self._matrix.n, 3 * n_needed // 2)
        if size < least:
            return least - size
        first = n_dominating(self._ritz_values(size), self._total)
        others = self._total - float(self._ritz_values(size)[:first].sum())
        captured = [float(self._ritz_values(size - back)[first:n_needed].sum()) for back in (0, width, 2 * width)]
        last, before = captured[0] - captured[1], captured[1] - captured[2]
        if others - captured[0] <= 1e-7 * self._total or last <= 0:
            return 0
        ratio = min(_SLOWEST, last / before) if before > 0 else _SLOWEST
        rest = last * ratio / (1 - ratio) / others
        if rest <= _REST:
            return 0
        return width * math.ceil(math.log(_REST / rest) / math.log(ratio))

    def _ritz_values(self, size: int) -> Float64Array:
        """The Ritz values of the first `size` basis vectors, (size,) float64, descending."""
        if size <= 0:
            return np.zeros(0)
        if size not in self._values:
            part = np.ascontiguousarray(self._projected[:size, :size])
            self._values[size] = with_blas_threads(size, lambda: np.linalg.eigvalsh(part))[::-1].astype(np.float64)
        return self._values[size]

    def _finish(self) -> Eigenpairs:
        size = self._basis.size
        n_vectors = self._target.n if isinstance(self._target, Components) else size
        values, vectors = with_blas_threads(size, lambda: ritz(self._projected, min(size, n_vectors)))
        values[nonzero_rank(values, FLOAT32_NOISE, self._matrix.rounding) :] = 0
        n_needed = n_needed_for(values, self._total, self._target)
        if n_needed is None:
            n_needed = self._all_or_error(values)
        padded = np.zeros((size, n_needed))
        padded[:, : vectors.shape[1]] = vectors[:, :n_needed]
        values = np.concatenate([values, np.zeros(max(0, n_needed - len(values)))])
        return Eigenpairs(
            values,
            n_needed,
            self._rows_of(self._basis, padded),
            self._rows_of(self._products, padded),
            self._delete,
            self._matrix.rounding,
        )

    @staticmethod
    def _rows_of(basis: TiledBasis | None, coefficients: Float64Array) -> Callable[[Float64Array], TileRows]:
        """T -> t -> rows of tile t of B C T. coefficients : C, (size, n_vectors)."""

        def rows_of(transform: Float64Array) -> TileRows:
            assert basis is not None, "the products of the basis were not kept"
            source, product = basis, with_blas_threads(len(coefficients), lambda: transformed(coefficients, transform))
            matrix = product.astype(np.float32)
            return lambda t: source.expand(t, matrix)

        return rows_of

    def _delete(self) -> None:
        self._basis.delete()
        if self._products is not None:
            self._products.delete()

    def _all_or_error(self, values: Float64Array) -> int:
        """The rank, for a target of all of the variance whose basis spans the matrix up to rounding.

        Raises VarianceNotReachedError for other targets.
        """
        assert isinstance(self._target, Variance)
        share = float(values.sum()) / self._total
        if self._target.share < 1 or share < 1 - 1e-4:
            raise VarianceNotReachedError(
                f"the {np.count_nonzero(values)} components that float32 can tell from rounding explain {share:.6f} of "
                f"the variance, {self._target.share:g} was asked for; ask for less"
            )
        return int(np.count_nonzero(values))


def _inner(block: Float32Array) -> Float64Array:
    return float_product(block, block, transpose_left=True).astype(np.float64)
