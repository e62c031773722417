"""Dense algebra of PCA on blocks: centering, orthonormal blocks, Rayleigh-Ritz, rank, signs, the grid of scores.

center_gram            centers a tile of X X', with the exact means of its rows
orthonormal_transform  the transform that makes the columns of a block orthonormal, from their inner products alone
ordered_sum, bordered  inner products over tiles, and the matrix that they extend
ritz                   eigenpairs of the projected matrix, largest first
choose_rank            the number of components that a target needs
score_step             the grid that makes float64 sums of scores exact
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float32Array, Float64Array

FLOAT32_NOISE = 1e-6
"""Share of the first eigenvalue, or of the largest direction of a block, below which others are rounding of float32."""
_WELL_CONDITIONED = 1e2
"""The largest ratio of the pivots of a Cholesky factor that is trusted; beyond it, eigenvectors are used."""


def center_gram(tile: NDArray[Any], row_means: Float64Array, column_means: Float64Array, mean: float) -> Float64Array:
    """The tile of the Gram matrix of centered rows, from the tile of the Gram matrix of the rows themselves.

    tile : (m, n), row_means : (m,), column_means : (n,) means of whole rows of G, mean : the mean of all of G.
    The two means are added first, so that the result is as symmetric as G, and zero where all rows are equal.
    """
    centered: Float64Array = tile - (row_means[:, None] + column_means)
    centered += mean
    return centered


def center_covariance(
    tile: NDArray[Any], row_sums: Float64Array, column_sums: Float64Array, n_rows: int
) -> Float64Array:
    """A tile of (X - mean)'(X - mean), float64, from the tile of X'X and the column sums of X.

    tile : (m, n); row_sums : (m,), column_sums : (n,) column sums of X, float64; n_rows : rows of X. X may be shifted
    by a constant, the same for all arguments.
    """
    return np.asarray(tile - (row_sums[:, None] * column_sums) / n_rows, np.float64)


def orthonormal_transform(inner: Float64Array, floor: float, noise: float = FLOAT32_NOISE) -> Float64Array:
    """T such that the columns of W T are orthonormal, where inner = W'W.

    inner : (b, b) float64; columns of norm up to `floor` are dropped, and so are directions whose share of the
    largest one, after columns are scaled to length 1, is below `noise`. T : (b, b') float64, b' <= b, and 0 where
    nothing is left.
    Source: Stathopoulos and Wu 2002, "A block orthogonalization procedure with constant synchronization requirements",
    algorithm SVQB.
    """
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    long_enough = np.flatnonzero(norms > floor)
    if len(long_enough) == 0:
        return np.zeros((len(inner), 0))
    scale = 1 / norms[long_enough]
    values, vectors = np.linalg.eigh(inner[np.ix_(long_enough, long_enough)] * scale[:, None] * scale)
    good = values > noise * values[-1]
    transform = np.zeros((len(inner), int(good.sum())))
    transform[long_enough] = scale[:, None] * vectors[:, good] / np.sqrt(values[good])
    return transform


def ordered_sum(shares: Iterable[NDArray[Any]]) -> Float64Array:
    """The sum of at least one array of one shape, added in their order in float64."""
    rest = iter(shares)
    total: Float64Array = next(rest).astype(np.float64)
    for share in rest:
        total += share
    return total


def bordered(matrix: Float64Array, columns: Float64Array) -> Float64Array:
    """A symmetric (m, m) float64 matrix extended to (m + b, m + b) by its new last columns, (m + b, b) float64."""
    size, old = len(columns), len(matrix)
    grown = np.zeros((size, size))
    grown[:old, :old] = matrix
    grown[:, old:] = columns
    grown[old:, :old] = columns[:old].T
    corner = columns[old:]
    grown[old:, old:] = (corner + corner.T) / 2
    return grown


def ritz(projected: Float64Array, n_vectors: int) -> tuple[Float64Array, Float64Array]:
    """All eigenvalues (m,) of a symmetric (m, m) float64 matrix, descending, and its first eigenvectors (m,
    n_vectors)."""
    values, vectors = np.linalg.eigh(projected)
    return values[::-1].copy(), np.ascontiguousarray(vectors[:, : -n_vectors - 1 : -1])


def ritz_generalised(
    projected: Float64Array, inner: Float64Array, noise: float = FLOAT32_NOISE
) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues (m,) and eigenvectors C (m, m) of V'AV c = l V'V c, descending, with C' V'V C = 1.

    Directions in which the basis V is dependent, up to `noise`, are left out: their eigenvalue is 0 and their vector
    zero. Rounding of the two matrices grows by 1 / noise.
    """
    reduced, transform = _orthonormal_form(projected, inner, noise)
    values, vectors = ritz(reduced, len(reduced))
    missing = len(inner) - len(values)
    return np.pad(values, (0, missing)), np.pad(transform @ vectors, ((0, 0), (0, missing)))


def ritz_values_generalised(projected: Float64Array, inner: Float64Array) -> Float64Array:
    """The eigenvalues of ritz_generalised, (m,) float64, for a third of its cost."""
    reduced, _ = _orthonormal_form(projected, inner, FLOAT32_NOISE)
    values = np.linalg.eigvalsh(reduced)[::-1]
    return np.pad(values, (0, len(inner) - len(values)))


def _orthonormal_form(projected: Float64Array, inner: Float64Array, noise: float) -> tuple[Float64Array, Float64Array]:
    """T' P T and T with T' inner T = 1. projected : P, (m, m); inner : (m, m)."""
    try:
        # This serves a basis that is nearly orthonormal, and nearly all are.
        transform: Float64Array = np.linalg.inv(np.linalg.cholesky(inner)).T
        if np.abs(np.diag(transform)).max() > _WELL_CONDITIONED * np.abs(np.diag(transform)).min():
            transform = orthonormal_transform(inner, 0.0, noise)
    except np.linalg.LinAlgError:
        transform = orthonormal_transform(inner, 0.0, noise)
    reduced = transform.T @ projected @ transform
    return (reduced + reduced.T) / 2, transform


def choose_rank(eigenvalues: Float64Array, total: float, share: float) -> int | None:
    """The smallest n whose first n eigenvalues sum to `share` of `total`; None where all of them sum to less.

    eigenvalues : (m,) descending. A total of zero is explained by any one component.
    """
    if total <= 0:
        return 1
    # The tolerance is rounding: the shares of a complete spectrum must reach 1.
    reached = np.flatnonzero(np.cumsum(eigenvalues) / total >= share - 1e-12)
    return int(reached[0]) + 1 if len(reached) else None


def nonzero_rank(eigenvalues: Float64Array, relative: float, absolute: float = 0.0) -> int:
    """How many of the descending eigenvalues are above `relative` times the first, and above `absolute`."""
    if len(eigenvalues) == 0 or eigenvalues[0] <= 0:
        return 0
    return int(np.count_nonzero(eigenvalues > max(relative * eigenvalues[0], absolute)))


def column_signs(extremes: NDArray[Any]) -> NDArray[np.int8]:
    """(n,) of +1 or -1 that make each column's entry of largest magnitude positive (scikit-learn's svd_flip)."""
    return np.where(np.asarray(extremes) < 0, -1, 1).astype(np.int8)


def column_extremes(block: Float32Array) -> Float32Array:
    """The entry of largest magnitude of each column, the first of equal ones: (n,) from block (m, n)."""
    extremes: Float32Array = block[np.abs(block).argmax(axis=0), np.arange(block.shape[1])]
    return extremes


def merge_extremes(first: Float32Array, second: Float32Array) -> Float32Array:
    """The entry of larger magnitude, column by column, of two (n,) arrays; of equal ones that of `first`."""
    merged: Float32Array = np.where(np.abs(second) > np.abs(first), second, first)
    return merged


def score_step(n_rows: int, largest_norm: float) -> float:
    """The power of two that scores are rounded to, so that float64 sums of any n_rows of them are exact in any order.

    largest_norm : a bound of the Euclidean norm of any column of scores, hence of every score. A score is then at most
    2^e, a sum of n_rows of them at most n_rows 2^e, and multiples of 2^(e + log2(n_rows) - 53) up to that fit the
    53 bits of a double.
    """
    if largest_norm <= 0:
        return 1.0
    exponent = math.frexp(largest_norm * 1.01)[1]  # 1 % for the rounding of the scores themselves
    return math.ldexp(1.0, exponent + max(1, n_rows).bit_length() - 53)


def round_to_step(scores: NDArray[Any], step: float) -> Float32Array:
    """Scores rounded to multiples of `step`, as float32."""
    return (np.rint(scores.astype(np.float64) / step) * step).astype(np.float32)


def inverse_root(values: Float64Array) -> Float64Array:
    """values^(-1/2), and 0 where a value is 0, since a direction without variance has no component. values : (m,)."""
    roots = np.zeros(len(values))
    np.divide(1, np.sqrt(values), out=roots, where=values > 0)
    return roots
