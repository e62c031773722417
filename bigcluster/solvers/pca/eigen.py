"""Leading eigenpairs of a symmetric positive matrix that lives in tiles: dense where it is small, else block Lanczos.

Lanczos keeps every block of the Krylov space and orthogonalises each new one twice against all of them. The projected
matrix is not taken to be block tridiagonal: all of Q'GQ is computed, which costs nothing beyond the
orthogonalisation, and makes the Ritz values right even where blocks lose directions. One Rayleigh-Ritz at the end.
Source: Golub and Underwood 1977, "The block Lanczos method for computing eigenvalues"; Musco and Musco 2015,
"Randomized block Krylov methods", for why the whole Krylov space beats its last block.

All products are float32 on one thread each, tile by tile, added in tile order; inner products of blocks are summed
over tiles in float64. So nothing here depends on threads or on which tiles are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.cores import blas_threads
from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.gemm import float_product
from bigcluster.kernels.pca import choose_rank, nonzero_rank, orthonormal_transform, ritz
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.basis import TiledBasis
from bigcluster.solvers.pca.operands import PRECISE_UNITS
from bigcluster.solvers.pca.result import Components, Doubles, Progress, Target
from bigcluster.solvers.tiles import Shelf

Floats = NDArray[np.float32]
Result = TypeVar("Result")

# Threads of a large dense step: fixed, since LAPACK's results follow it, so that every machine gives the same ones. Two
# find eigenvectors of 2,000 x 2,000 in 0.6 of the time of one; but they spin for a while after each step, in the way of
# the products that follow, which small steps are not worth.
DENSE_THREADS = 2
LARGE = 512

# Up to here all eigenpairs are computed at once in float64 (about 0.6 s); beyond, Lanczos is faster.
DENSE_LIMIT = PRECISE_UNITS
# Eigenvalues below this share of the first are rounding: of float64 on the dense path, of float32 tiles otherwise.
DENSE_NOISE = 1e-13
FLOAT32_NOISE = 1e-6
# Converged when this share of the variance is all that another block promises to the wanted components. Gains about
# halve from block to block, so it is about all that the whole rest of the basis would add.
_GAIN = 2e-4


class TiledMatrix:
    """The lower triangle of a symmetric matrix, in float32 (float64 where it is solved densely) tiles on a shelf."""

    def __init__(self, unit_spans: list[tuple[int, int]], shelf: Shelf) -> None:
        self.unit_spans = unit_spans
        self.n = unit_spans[-1][1]
        self._shelf = shelf

    def put(self, j: int, i: int, tile: NDArray[Any]) -> None:
        self._shelf.put(f"matrix/{j}/{i}", tile)

    def get(self, j: int, i: int) -> NDArray[Any]:
        return self._shelf.get(f"matrix/{j}/{i}")

    def pairs(self) -> list[tuple[int, int]]:
        return [(j, i) for j in range(len(self.unit_spans)) for i in range(j + 1)]

    def apply(self, t: int, block: Callable[[int], Floats]) -> Floats:
        """Rows of tile t of G V, (rows_t, b), from V as block(i), (rows_i, b)."""
        total = self._share(t, 0, block)
        for i in range(1, len(self.unit_spans)):
            total += self._share(t, i, block)
        return total

    def _share(self, t: int, i: int, block: Callable[[int], Floats]) -> Floats:
        if i <= t:
            return float_product(self.get(t, i), block(i))
        return float_product(self.get(i, t), block(i), transpose_left=True)

    def dense(self) -> Doubles:
        full = np.empty((self.n, self.n))
        for j, i in self.pairs():
            tile = self.get(j, i)
            full[slice(*self.unit_spans[j]), slice(*self.unit_spans[i])] = tile
            full[slice(*self.unit_spans[i]), slice(*self.unit_spans[j])] = tile.T
        return full

    def delete(self) -> None:
        for j, i in self.pairs():
            self._shelf.delete(f"matrix/{j}/{i}")


@dataclass(frozen=True)
class Eigenpairs:
    """Leading eigenpairs, of which the target needs n_vectors.

    values : (n_computed,) float64, descending, rounding noise set to zero; vectors(t) : the rows of tile t,
    (rows_t, n_vectors), float64 from the dense path, else float32; close : deletes what is behind them.
    """

    values: Doubles
    n_vectors: int
    vectors: Callable[[int], NDArray[Any]]
    close: Callable[[], None]


def alone(size: int, task: Callable[[], Result]) -> Result:
    """Run a dense step on matrices of this size, with nothing beside it; its threads follow from the size."""
    with blas_threads(DENSE_THREADS if size >= LARGE else 1):
        return task()


def lanczos_width(target: Target) -> int:
    """Columns of one Krylov block: an eighth of the components, in whole vector registers."""
    n_wanted = target.n if isinstance(target, Components) else 800
    return min(128, max(16, n_wanted // 8 // 16 * 16))


def lanczos_size(target: Target, n: int) -> int:
    """The basis size at which convergence is first looked at."""
    n_wanted = target.n if isinstance(target, Components) else 64
    return min(n, 7 * n_wanted // 4 + 2 * lanczos_width(target))


def lanczos_steps(target: Target, n: int) -> int:
    """About how many blocks the basis will have, for progress."""
    return 1 if n <= DENSE_LIMIT else -(-lanczos_size(target, n) // lanczos_width(target)) + 2


def leading_eigenpairs(
    matrix: TiledMatrix, total: float, target: Target, *, shelf: Shelf, runtime: Runtime, seed: int, progress: Progress
) -> Eigenpairs:
    """The eigenpairs that `target` needs, orthonormal to float32; total : the trace, exact."""
    if matrix.n <= DENSE_LIMIT:
        return _dense_eigenpairs(matrix, total, target, runtime)
    return _Lanczos(matrix, total, target, shelf, runtime, progress).run(seed)


def _wanted(values: Doubles, total: float, target: Target) -> int | None:
    """How many of these eigenvalues the target takes; None where it needs more."""
    if isinstance(target, Components):
        return target.n
    return choose_rank(values, total, target.share)


def _dense_eigenpairs(matrix: TiledMatrix, total: float, target: Target, runtime: Runtime) -> Eigenpairs:
    values, vectors = alone(matrix.n, lambda: ritz(matrix.dense(), matrix.n))
    values[nonzero_rank(values, DENSE_NOISE * matrix.n) :] = 0
    n_vectors = _wanted(values, total, target)
    if n_vectors is None:  # a share of 1, up to rounding
        n_vectors = max(1, int(np.count_nonzero(values)))
    kept = np.ascontiguousarray(vectors[:, :n_vectors])
    return Eigenpairs(values, n_vectors, lambda t: kept[slice(*matrix.unit_spans[t])], lambda: None)


class _Lanczos:
    def __init__(
        self, matrix: TiledMatrix, total: float, target: Target, shelf: Shelf, runtime: Runtime, progress: Progress
    ) -> None:
        self._matrix = matrix
        self._total = total
        self._target = target
        self._runtime = runtime
        self._progress = progress
        self._basis = TiledBasis("basis", matrix.unit_spans, shelf)
        self._tiles = range(len(matrix.unit_spans))
        self._projected = np.zeros((0, 0))  # Q' G Q
        self._values: dict[int, Doubles] = {}  # of the first so many basis vectors

    def run(self, seed: int) -> Eigenpairs:
        blocks = self._start(seed)
        first_look = lanczos_size(self._target, self._matrix.n)
        while True:
            self._basis.append(blocks)
            images, inner = self._apply(blocks)
            size = self._basis.size
            self._extend_projected(inner, blocks[0].shape[1])
            self._progress.step()
            if size >= first_look and self._converged():
                break
            blocks = self._next_block(images, inner)
            if blocks[0].shape[1] == 0:  # the basis spans all that the matrix reaches
                break
        return self._finish()

    def _start(self, seed: int) -> list[Floats]:
        """A random block, orthonormal: one draw in row order, so that it depends on seed and size only."""
        width = min(lanczos_width(self._target), self._matrix.n)
        random = np.random.default_rng(seed).standard_normal((self._matrix.n, width), dtype=np.float32)
        blocks = [random[start:stop] for start, stop in self._matrix.unit_spans]
        inner = _sum([_inner(block) for block in blocks])
        return self._transformed(blocks, alone(len(inner), lambda: orthonormal_transform(inner, 0.0)))

    def _apply(self, blocks: list[Floats]) -> tuple[list[Floats], Doubles]:
        """W = G V, tile by tile, and Q' W."""

        def task(t: int) -> tuple[Floats, Floats]:
            image = self._matrix.apply(t, blocks.__getitem__)
            return image, self._basis.project(t, image)

        images, shares = zip(*self._runtime.map(task, self._tiles), strict=True)
        return list(images), _sum(shares)

    def _extend_projected(self, inner: Doubles, n_new: int) -> None:
        """Append the columns Q' G V of the newest block, and by symmetry its rows."""
        size = self._basis.size
        projected = np.zeros((size, size))
        projected[: size - n_new, : size - n_new] = self._projected
        projected[:, size - n_new :] = inner
        corner = inner[size - n_new :]
        projected[size - n_new :, : size - n_new] = inner[: size - n_new].T
        projected[size - n_new :, size - n_new :] = (corner + corner.T) / 2
        self._projected = projected

    def _next_block(self, images: list[Floats], inner: Doubles) -> list[Floats]:
        """W - Q Q'W, orthonormal: project, normalise, and both once more ("twice is enough")."""
        floor = FLOAT32_NOISE * float(np.abs(np.diag(self._projected)).max())
        images, transform = self._projected_out(images, inner, floor)
        if transform.shape[1] == 0:
            return self._transformed(images, transform)
        small = np.ascontiguousarray(transform, np.float32)

        def normalise(t: int) -> tuple[Floats, Floats]:
            image = float_product(images[t], small)
            return image, self._basis.project(t, image)

        normalised, shares = zip(*self._runtime.map(normalise, self._tiles), strict=True)
        # Unit columns now: one that loses half its length was in the basis already.
        return self._transformed(*self._projected_out(list(normalised), _sum(shares), 0.5))

    def _projected_out(self, images: list[Floats], inner: Doubles, floor: float) -> tuple[list[Floats], Doubles]:
        """W - Q inner, in place, and the transform that makes it orthonormal."""
        coefficients = inner.astype(np.float32)

        def subtract(t: int) -> Doubles:
            images[t] -= self._basis.expand(t, coefficients)
            return _inner(images[t])

        square = _sum(list(self._runtime.map(subtract, self._tiles)))
        return images, alone(len(square), lambda: orthonormal_transform(square, floor))

    def _transformed(self, blocks: list[Floats], transform: Doubles) -> list[Floats]:
        if transform.shape[1] == 0:
            return [np.zeros((len(block), 0), np.float32) for block in blocks]
        small = np.ascontiguousarray(transform, np.float32)
        return list(self._runtime.map(lambda block: float_product(np.ascontiguousarray(block), small), blocks))

    def _converged(self) -> bool:
        """Whether another block promises next to nothing to the components that are wanted."""
        size, width = self._basis.size, lanczos_width(self._target)
        n_wanted = _wanted(self._ritz_values(size), self._total, self._target)
        if n_wanted is None or size < min(self._matrix.n, 3 * n_wanted // 2):
            return False
        captured = [float(self._ritz_values(size - back)[:n_wanted].sum()) for back in (0, width, 2 * width)]
        if captured[0] >= (1 - 1e-7) * self._total:
            return True
        last, before = captured[0] - captured[1], captured[1] - captured[2]
        promised = last * min(1.0, last / before) if before > 0 else last
        return promised <= _GAIN * self._total

    def _ritz_values(self, size: int) -> Doubles:
        """Descending, of the space of the first `size` basis vectors."""
        if size <= 0:
            return np.zeros(0)
        if size not in self._values:
            part = np.ascontiguousarray(self._projected[:size, :size])
            self._values[size] = alone(size, lambda: np.linalg.eigvalsh(part))[::-1].astype(np.float64)
        return self._values[size]

    def _finish(self) -> Eigenpairs:
        size = self._basis.size
        n_vectors = self._target.n if isinstance(self._target, Components) else size
        values, vectors = alone(size, lambda: ritz(self._projected, min(size, n_vectors)))
        values[nonzero_rank(values, FLOAT32_NOISE) :] = 0
        n_wanted = _wanted(values, self._total, self._target)
        if n_wanted is None:
            n_wanted = self._all_or_error(values)
        kept = np.ascontiguousarray(vectors[:, :n_wanted], np.float32)  # (size, n_wanted or size)
        padded = np.zeros((size, n_wanted), np.float32)
        padded[:, : kept.shape[1]] = kept
        values = np.concatenate([values, np.zeros(max(0, n_wanted - len(values)))])
        return Eigenpairs(values, n_wanted, lambda t: self._basis.expand(t, padded), self._basis.delete)

    def _all_or_error(self, values: Doubles) -> int:
        """The rank, where the basis spans the matrix up to rounding and the target asks for (nearly) all of it."""
        share = float(values.sum()) / self._total
        if share < 1 - 1e-4:
            raise VarianceNotReachedError(f"the {len(values)} components computed explain {share:.4f} of the variance")
        return int(np.count_nonzero(values))


def _inner(block: Floats) -> Doubles:
    return float_product(block, block, transpose_left=True).astype(np.float64)


def _sum(shares: Any) -> Doubles:
    """The sum in order, in float64."""
    return reduce(lambda total, share: np.add(total, share, out=total), shares[1:], shares[0].astype(np.float64))
