"""PCA by streamed block Krylov iteration: for data too tall and too wide for a Gram or covariance matrix.

With A the covariance operator on the smaller side of X, the basis is V_0, A V_0, A^2 V_0, ...: every block is made
orthogonal to all before it and then quantized to int8. The quantized vectors are the basis, so quantization costs no
accuracy, only orthogonality: the Rayleigh-Ritz step is the generalised one, with V'V and V'AV. Applying A reads the
data once. More blocks extend the basis until the target is reached and the captured variance stops growing.

Scores and components are then combinations C of what the blocks left behind, so that they agree with each other:

    by row         components  Z C     scores  W C     of the quantized sketches Z = X'V and the products W = X Z
    by column      components  U C     scores  S C     of the quantized Ritz vectors U = V C', and S = X U

The products of these components with the data are at hand, so the scores are exactly theirs, and a generalised
Rayleigh-Ritz step with the inner products of both makes the components orthonormal and the scores uncorrelated. By row
it chooses among all sketches, which are half an application ahead of the basis, and reads no data. By column it reads
the data once more, and chooses among the Ritz vectors.
Source: Musco and Musco 2015, "Randomized block Krylov methods for stronger and faster approximate singular value
decomposition", algorithm 2; Halko, Martinsson and Tropp 2011, "Finding structure with randomness", section 4.5, for
sketches of streamed data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.quantize import Quantized, quantize
from bigcluster.kernels.linalg.types import Float32Array, Float64Array
from bigcluster.kernels.pca import (
    FLOAT32_NOISE,
    column_extremes,
    column_signs,
    inverse_root,
    merge_extremes,
    nonzero_rank,
    ritz_generalised,
    round_to_step,
    score_step,
)
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.blocks import Blocks
from bigcluster.solvers.pca.eigen import n_needed_for, with_blas_threads
from bigcluster.solvers.pca.krylov import LEAST_APPLICATIONS, Krylov
from bigcluster.solvers.pca.operator import CovarianceOperator
from bigcluster.solvers.pca.result import Center, PCAFit, Sink, Target, Variance
from bigcluster.solvers.pca.schedule import rayleigh_ritz_bytes, rmatmat_bytes
from bigcluster.solvers.progress import OnProgress, StepCounter
from bigcluster.solvers.spill import SpillBuffer, Tiles
from bigcluster.store.row_source import RowSource

_DEPENDENT = 1e-3
"""Share of the largest direction below which a direction of the quantized vectors counts as dependent: Ritz vectors are
nearly orthogonal, and those that are not are made of rounding alone."""
_ROUNDING = 1e-4
"""The most that quantizing Ritz vectors to int8 costs of the share of the variance that they explain."""
_SHORTFALL = 1e-3
"""Share of the whole variance that rounding may hide where the target is all of it."""


@dataclass(frozen=True)
class SubspaceScores:
    """Scores and components of a fit, in blocks.

    eigenvalues : (n_computed,) float64 eigenvalues of X'X of the centered data, descending; step : the grid of the
    scores; scores : a single block (n_rows, n_components), before `signs` (n_components,); components : blocks before
    their `rotation` (size, n_components).
    """

    eigenvalues: Float64Array
    n_components: int
    step: float
    scores: Blocks
    signs: Float32Array
    components: Blocks
    rotation: Float32Array
    runtime: Runtime

    def write(self, sink: Sink) -> None:
        """Write the (n_rows, n_components) float32 scores in row blocks."""

        def task(t: int) -> Float32Array:
            return round_to_step(self.scores.get(0, t) * self.signs, self.step)

        for t, block in zip(self.scores.tiles, self.runtime.map(task, self.scores.tiles), strict=True):
            sink.write(self.scores.spans[t][0], block)

    def write_components(self, sink: Sink) -> None:
        """Write the (n_components, n_columns) float32 components in column blocks."""

        def task(t: int) -> Float32Array:
            return np.ascontiguousarray(self.components.expand(t, self.rotation).T)

        for t, block in zip(self.components.tiles, self.runtime.map(task, self.components.tiles), strict=True):
            sink.write(self.components.spans[t][0], block)


TakeProjected = Callable[[int], Float32Array]
"""Returns the rows of a k block of X U, (w, n_vectors) float32."""


def subspace_scores(krylov: Krylov, projected: TakeProjected | None = None) -> SubspaceScores:
    """The scores and components that the target asks for; the basis of `krylov` is deleted.

    projected : by column, X U, where other processes have computed it; U are the `ritz_vectors`.
    Raises VarianceNotReachedError where the basis does not hold what the target asks for.
    """
    return _from_sketch(krylov) if krylov.operator.by_row else _from_ritz_vectors(krylov, projected)


def _ritz_vectors(krylov: Krylov) -> tuple[Float64Array, Float64Array]:
    """All Ritz values (size,) float64 of the basis, descending, and coefficients (size, n_vectors) of its Ritz vectors.

    Ritz vectors whose value is rounding are left out.
    """
    size = krylov.vectors.size
    values, vectors = with_blas_threads(
        size, lambda: ritz_generalised(krylov.inner("projected"), krylov.inner("basis"))
    )
    # What float32 cannot tell from zero has no direction: its vector is rounding, and so is all made of it.
    n_vectors = max(1, nonzero_rank(values, FLOAT32_NOISE))
    return values, vectors[:, :n_vectors]


def _from_sketch(krylov: Krylov) -> SubspaceScores:
    values, vectors = _ritz_vectors(krylov)

    # Sketches may be far from orthogonal; those of Ritz vectors, scaled to length 1, are nearly orthonormal.
    def reduced() -> tuple[Float64Array, Float64Array]:
        lengths = vectors.T @ krylov.inner("lengths") @ vectors
        # The squared length of the sketch of a Ritz vector is its Ritz value plus rounding. Where it is much shorter,
        # the value is rounding, as where the data lies far from 128 and hardly varies: the vector is dropped.
        squared = np.diag(lengths)
        scale = inverse_root(np.where(squared >= values[: len(squared)] / 2, squared, 0))
        lengths *= scale * scale[:, None]
        variances = vectors.T @ krylov.inner("variances") @ vectors
        variances *= scale * scale[:, None]
        exact, rotation = ritz_generalised(variances, lengths, _DEPENDENT)
        return exact, vectors @ (scale[:, None] * rotation)

    exact, rotation = with_blas_threads(krylov.vectors.size, reduced)
    krylov.delete()
    return _finished(krylov, exact, values[len(exact) :], rotation, krylov.AV, krylov.XtV)


def ritz_vectors(krylov: Krylov) -> tuple[list[Quantized], Float64Array]:
    """The Ritz vectors U that the target needs, quantized, one for each tile, and all Ritz values, descending.

    A share of the variance takes more vectors than it needs, since quantization costs some of the share.
    """
    operator, runtime = krylov.operator, krylov.runtime
    values, vectors = _ritz_vectors(krylov)
    n_needed = _n_needed(values, krylov)
    if isinstance(krylov.target, Variance):
        safe = n_needed_for(values, krylov.total, Variance(min(1.0, krylov.target.share + _ROUNDING)))
        n_needed = max(n_needed + max(8, n_needed // 16), safe or 2 * n_needed)
    coefficients = np.ascontiguousarray(vectors[:, :n_needed])
    del vectors
    n_vectors, item = coefficients.shape[1], 1 if operator.exact else 4
    needed = max(
        rmatmat_bytes(n_vectors, operator.n, runtime.threads, item),
        rayleigh_ritz_bytes(n_vectors),
        2 * coefficients.nbytes,
    )
    krylov.make_room(needed, f"{n_vectors} components at once, as this share of the variance asks for,")
    return _quantized(krylov, coefficients), values


def _from_ritz_vectors(krylov: Krylov, projected: TakeProjected | None) -> SubspaceScores:
    """Quantize the Ritz vectors U and read the data for X U, where it is not given."""
    operator, runtime, buffer = krylov.operator, krylov.runtime, krylov.buffer
    V, values = ritz_vectors(krylov)
    ritz, scores = Blocks("units", operator.tile_spans, buffer), Blocks("terms", operator.k_spans, buffer)
    krylov.delete()
    krylov.AV.delete_all()
    for t, quantized in enumerate(V):
        ritz.put(t, quantized)
    ritz.complete()
    krylov.passes += 1
    for t, block in enumerate(operator.rmatmat(V, runtime) if projected is None else map(projected, scores.tiles)):
        scores.put(t, quantize(block, to_int8=False))
    scores.complete()
    del V
    variances, lengths = scores.last_inner(operator.gemm, runtime), ritz.last_inner(operator.gemm, runtime)
    exact, rotation = with_blas_threads(len(variances), lambda: ritz_generalised(variances, lengths, _DEPENDENT))
    return _finished(krylov, exact, values[len(exact) :], rotation, scores, ritz)


def _quantized(krylov: Krylov, coefficients: Float64Array) -> list[Quantized]:
    """V C quantized, one for each tile. coefficients : C, (size, n_vectors)."""

    def task(t: int) -> Quantized:
        return quantize(krylov.vectors.expand(t, coefficients), to_int8=krylov.operator.exact)

    return list(krylov.runtime.map(task, krylov.vectors.tiles))


def _finished(
    krylov: Krylov,
    values: Float64Array,
    beyond: Float64Array,
    rotation: Float64Array,
    scores: Blocks,
    components: Blocks,
) -> SubspaceScores:
    """Rotate the scores and fix the signs, for as many components as the target asks for.

    values : (size',) exact eigenvalues of the combinations in the columns of `rotation`; beyond : Ritz values of what
    was left out.
    """
    runtime = krylov.runtime
    rounding = FLOAT32_NOISE * values[0] if krylov.total > 0 else np.inf
    for some in (values, beyond):
        some[some <= rounding] = 0
    n_components = _n_needed(values, krylov)
    n_there = min(n_components, rotation.shape[1])
    values = np.concatenate([values, beyond])
    # A number of components is that number, even where fewer of them hold any variance.
    values[n_there:n_components] = 0
    values = np.pad(values, (0, max(0, n_components - len(values))))
    final = np.zeros((len(rotation), n_components), np.float32)
    final[:, :n_there] = rotation[:, :n_there] * (values[:n_there] > 0)
    rotated = Blocks("scores", scores.spans, krylov.buffer)

    def rotate(t: int) -> Float32Array:
        block = scores.expand(t, final)
        rotated.put(t, quantize(block, to_int8=False))
        return column_extremes(block)

    extremes = np.zeros(n_components, np.float32)
    for tile_extremes in runtime.map(rotate, scores.tiles):
        extremes = merge_extremes(extremes, tile_extremes)
    rotated.complete()
    scores.delete_all()
    signs = column_signs(extremes).astype(np.float32)
    step = score_step(scores.spans[-1][1], float(np.sqrt(values[0])))
    return SubspaceScores(values, n_components, step, rotated, signs, components, final * signs, runtime)


def _n_needed(values: Float64Array, krylov: Krylov) -> int:
    """How many of these eigenvalues, descending, the target needs. Raises VarianceNotReachedError where all are too
    few."""
    target, total = krylov.target, krylov.total
    n_needed = n_needed_for(values, total, target)
    if n_needed is not None:
        return n_needed
    assert isinstance(target, Variance)
    share = float(values.sum()) / total
    if target.share < 1 or share < 1 - _SHORTFALL:
        raise VarianceNotReachedError(
            f"the {np.count_nonzero(values)} components that the subspace solver found explain {share:.6f} of the "
            f"variance, {target.share:g} was asked for; ask for less, or for another solver"
        )
    return max(1, int(np.count_nonzero(values)))


def fit_subspace(
    rows: RowSource,
    *,
    center: Center,
    target: Target,
    runtime: Runtime,
    workspace_bytes: int,
    tiles: Tiles,
    gemm: Gemm,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
    projected: TakeProjected | None = None,
) -> PCAFit:
    """Fit by block Krylov iteration; arguments as fit_gram, and `projected` as subspace_scores.

    Raises VarianceNotReachedError where the basis cannot be extended to what `target` asks for.
    """
    n_rows = rows.shape[0]
    progress = StepCounter(LEAST_APPLICATIONS + 2, on_progress)
    buffer = SpillBuffer(tiles, 0)
    operator = CovarianceOperator(rows, center.mean, gemm)
    total = center.total_variance * (n_rows - 1)
    krylov = Krylov(operator, total, target, buffer, workspace_bytes, runtime, progress, checkpoints)
    krylov.run(seed)
    scores = subspace_scores(krylov, projected)
    progress.finish()
    # rounding may leave the smallest below zero
    eigenvalues = np.maximum(np.minimum.accumulate(scores.eigenvalues), 0)
    return PCAFit(
        solver="subspace",
        shape=rows.shape,
        mean=center.mean,
        total_variance=center.total_variance,
        eigenvalues=eigenvalues / (n_rows - 1),
        n_components=scores.n_components,
        score_step=scores.step,
        passes=krylov.passes,
        _write_scores=scores.write,
        _write_components=scores.write_components,
        _close=buffer.clear,
    )
