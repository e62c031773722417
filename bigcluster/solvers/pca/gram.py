"""PCA through the Gram matrix of the rows: for fewer rows than columns, up to about 16,000 rows.

    G = X X'  ->  centered  ->  G = U L U'  ->  scores U L^(1/2)          components L^(-1/2) U' (X - mean)

G is exact for uint8 data, and the scores follow from it without a second pass over the pixels. The components are
F' (X - mean) with the dual coefficients F = U L^(-1/2), (n_rows, n_components), which scikit-learn's KernelPCA calls
eigenvectors over the root of the eigenvalues. They cost one more pass, when they are asked for.

Components are V = X'U L^(-1/2), X centered, and the scores of the training rows are those that anybody computes from V:
X V = G U L^(-1/2). For exact eigenvectors that is U L^(1/2); Ritz vectors leave a residual, and taking the scores from
G keeps it out of the difference between fit and transform. A last rotation R diagonalises the scores, which is a
Rayleigh-Ritz step of X'X on the span of V: half a power step better than the eigenvalues that came in.

    P = G U L^(-1/2),   P'P = R M R',   scores P R,   components R' L^(-1/2) U' X,   eigenvalues M
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.kernels.pca import (
    FLOAT32_NOISE,
    center_gram,
    choose_rank,
    column_extremes,
    column_signs,
    inverse_root,
    merge_extremes,
    nonzero_rank,
    ritz,
    round_to_step,
    score_step,
)
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.eigen import (
    Eigenpairs,
    TiledMatrix,
    TileRows,
    centering_rounding,
    with_blas_threads,
)
from bigcluster.solvers.pca.footprint import eigensolver_bytes
from bigcluster.solvers.pca.lanczos import leading_eigenpairs
from bigcluster.solvers.pca.operands import DENSE_LIMIT, Operands
from bigcluster.solvers.pca.product_parts import fit_steps
from bigcluster.solvers.pca.products import ProductPlan, Sums, TileSums, plan_products, symmetric_products
from bigcluster.solvers.pca.projection import COMPONENT_COLUMNS
from bigcluster.solvers.pca.result import (
    Center,
    DualCoefSink,
    PCAFit,
    Sink,
    Target,
    Variance,
)
from bigcluster.solvers.progress import OnProgress, StepCounter
from bigcluster.solvers.spill import SpillBuffer, Tiles
from bigcluster.store.row_source import RowSource, spans

Spans = list[tuple[int, int]]

_READ_COLUMNS = 16 * COMPONENT_COLUMNS
"""Columns of one read of the rows: storage chunks are wide, so many blocks share a read."""


@dataclass(frozen=True)
class GramScores:
    """Scores and dual coefficients of a Gram fit, in `buffer` by tile t, before their signs.

    "scores/t" : (rows_t, n_components); "left/t" : (n_components, rows_t), dual coefficients transposed.
    values : (n_computed,) float64 eigenvalues of G, not divided by n_rows - 1; step : the grid of the scores; dtype :
    that of the dual coefficients.
    """

    values: Float64Array
    n_components: int
    signs: NDArray[np.int8]
    step: float
    dtype: np.dtype[Any]
    tile_spans: Spans
    buffer: SpillBuffer
    runtime: Runtime

    def write(self, sink: Sink) -> None:
        """Write the (n_rows, n_components) float32 scores in row blocks."""

        def task(t: int) -> Float32Array:
            return round_to_step(self.buffer.get(f"scores/{t}") * self.signs, self.step)

        tiles = range(len(self.tile_spans))
        for t, block in zip(tiles, self.runtime.map(task, tiles), strict=True):
            sink.write(self.tile_spans[t][0], block)

    def write_dual_coef(self, sink: DualCoefSink) -> None:
        """Write the (n_rows, n_components) dual coefficients U L^(-1/2) R in row blocks, with their signs.

        They are float64 where the matrix was solved densely, since components of tiny eigenvalues need it, else
        float32.
        """
        for t, (start, _) in enumerate(self.tile_spans):
            sink.write(start, np.ascontiguousarray(self._dual_coef(t).T))

    def _dual_coef(self, t: int) -> AnyArray:
        """Dual coefficients of tile t, transposed, with their signs: (n_components, rows of tile t)."""
        dual_coef = self.buffer.get(f"left/{t}")
        signed: AnyArray = np.multiply(dual_coef, self.signs[:, None], dtype=dual_coef.dtype)
        return signed

    def write_components(self, rows: RowSource, mean: Float64Array, sink: Sink) -> None:
        """Write the (n_components, n_columns) float32 components in column blocks; reads `rows` once."""
        components_from_dual_coef(rows, mean, self._dual_coef, self.n_components, self.tile_spans, sink, self.runtime)


def components_from_dual_coef(
    rows: RowSource,
    mean: Float64Array,
    dual_coef: Callable[[int], AnyArray],
    n_components: int,
    tile_spans: Spans,
    sink: Sink,
    runtime: Runtime,
) -> None:
    """Write the components F' (X - mean) to `sink`, (n_components, n_columns) float32, in column blocks.

    dual_coef(t) : F' of row tile t, (n_components, rows of tile t) float32 or float64. Products of row tiles are added
    in row order, in the dtype of F.
    """
    dtype = dual_coef(0).dtype
    for columns in spans(rows.shape[1], _READ_COLUMNS):
        total = np.zeros((n_components, columns[1] - columns[0]), dtype)
        blocks = list(spans(columns[1] - columns[0], COMPONENT_COLUMNS))
        for t, (start, stop) in enumerate(tile_spans):
            tile = rows.read(start, stop, slice(*columns))
            for _ in runtime.map(partial(_add_block, total, dual_coef(t), tile, mean[slice(*columns)]), blocks):
                pass
        sink.write(columns[0], total.astype(np.float32, copy=False))


def _add_block(
    total: AnyArray, dual_coef: AnyArray, tile: AnyArray, mean: Float64Array, block: tuple[int, int]
) -> None:
    columns = slice(*block)
    centered = np.subtract(tile[:, columns], mean[columns], dtype=np.float64, order="C")
    total[:, columns] += _product(dual_coef, centered.astype(dual_coef.dtype, copy=False))


def gram_scores(
    pairs: Eigenpairs, tile_spans: Spans, target: Target, total: float, buffer: SpillBuffer, runtime: Runtime
) -> GramScores:
    """Put the scores and the dual coefficients into `buffer`; the eigenpairs are closed."""
    n_rows = tile_spans[-1][1]
    inverse = inverse_root(pairs.values[: pairs.n_vectors])
    products = pairs.products(inverse)
    if n_rows <= DENSE_LIMIT:
        values, rotation = pairs.values, np.eye(pairs.n_vectors)
    else:
        products = _buffered(products, len(tile_spans), buffer, runtime)
        values, rotation = _rotation(products, len(tile_spans), pairs, runtime)
    n_components = pairs.n_vectors
    if isinstance(target, Variance):  # the values have grown: fewer may do
        n_components = choose_rank(values[:n_components], total, target.share) or n_components
    dtype = np.dtype(np.float64 if n_rows <= DENSE_LIMIT else np.float32)
    leading = np.ascontiguousarray(rotation[:, :n_components], dtype)
    vectors = pairs.vectors(inverse[:, None] * rotation[:, :n_components])

    def rotate(t: int) -> Float32Array:
        scores = _product(products(t), leading)
        buffer.put(f"scores/{t}", scores)
        buffer.put(f"left/{t}", np.ascontiguousarray(vectors(t).T))
        return column_extremes(scores)

    extremes = np.zeros(n_components, dtype)
    for tile_extremes in runtime.map(rotate, range(len(tile_spans))):
        extremes = merge_extremes(extremes, tile_extremes)
    pairs.close()
    step = score_step(n_rows, float(np.sqrt(values[0])))
    return GramScores(values, n_components, column_signs(extremes), step, dtype, tile_spans, buffer, runtime)


def _product(dual_coef: AnyArray, right: AnyArray) -> AnyArray:
    """left right: of float32 operands by float_product, of float64 ones by numpy."""
    return float_product(dual_coef, right) if dual_coef.dtype == np.float32 else dual_coef @ right


def _buffered(rows_of: TileRows, n_tiles: int, buffer: SpillBuffer, runtime: Runtime) -> TileRows:
    """The same rows, computed once and kept in `buffer` as "scores/t"."""
    for _ in runtime.map(lambda t: buffer.put(f"scores/{t}", rows_of(t)), range(n_tiles)):
        pass
    return lambda t: buffer.get(f"scores/{t}")


def _rotation(
    products: TileRows, n_tiles: int, pairs: Eigenpairs, runtime: Runtime
) -> tuple[Float64Array, Float64Array]:
    """The eigenvalues of P'P, followed by those that `pairs` has beyond its vectors, and R."""

    def square(t: int) -> Float64Array:
        block = products(t)
        return float_product(block, block, transpose_left=True).astype(np.float64)

    inner = np.zeros((pairs.n_vectors, pairs.n_vectors))
    for share in runtime.map(square, range(n_tiles)):
        inner += share
    values, rotation = with_blas_threads(len(inner), lambda: ritz(inner, pairs.n_vectors))
    rank = nonzero_rank(values, FLOAT32_NOISE, pairs.rounding)
    values[rank:] = 0
    rotation[:, rank:] = 0
    # The eigenvalues beyond are of the same matrix, but half a power step less exact.
    return np.minimum.accumulate(np.concatenate([values, pairs.values[pairs.n_vectors :]])), rotation


def fit_gram(
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
    products: Sums | TileSums | None = None,
) -> PCAFit:
    """Fit by the Gram matrix; center : of the rows; the other arguments, errors and guarantees as fit_pca."""
    mean = center.mean
    operands = Operands(rows, gemm, mean, by_row=True)
    plan = plan_products(*rows.shape, operands.dtype, runtime.threads, workspace_bytes)
    progress = StepCounter(fit_steps(plan, target), on_progress, 0 if products is None else plan.steps)
    # Between block columns nothing may stay in memory: the next block column takes all of it.
    buffer = SpillBuffer(tiles, workspace_bytes if len(plan.block_columns) == 1 else 0)
    matrix, total = _centered_gram(
        operands, plan, buffer, target, workspace_bytes, runtime, progress, checkpoints, products
    )
    pairs = leading_eigenpairs(
        matrix, total, target, buffer=buffer, runtime=runtime, seed=seed, progress=progress, with_products=True
    )
    matrix.delete()
    scores = gram_scores(pairs, plan.tile_spans, target, total, buffer, runtime)
    progress.finish()
    n_rows = rows.shape[0]
    return PCAFit(
        solver="gram",
        shape=rows.shape,
        mean=mean,
        total_variance=total / (n_rows - 1),
        eigenvalues=scores.values / (n_rows - 1),
        n_components=scores.n_components,
        score_step=scores.step,
        passes=products.passes if isinstance(products, TileSums) else len(plan.block_columns),
        _write_scores=scores.write,
        _write_components=partial(scores.write_components, rows, mean),
        _write_dual_coef=scores.write_dual_coef,
        dual_coef_dtype=scores.dtype,
        _close=buffer.clear,
    )


def sum_tiles(
    products: Iterator[tuple[int, int, AnyArray]], matrix: TiledMatrix, runtime: Runtime, *, exact: bool
) -> TileSums:
    """Put tiles of X X' into the matrix as they come, and return the sums of whole rows and the diagonal.

    exact : whether the tiles hold integers.
    """
    sums: AnyArray = np.zeros(matrix.n, np.int64 if exact else np.float64)
    diagonal = np.zeros(matrix.n, sums.dtype)

    def sum_up(product: tuple[int, int, AnyArray]) -> tuple[int, int, tuple[AnyArray, ...]]:
        """Sum up a tile and put it into `buffer` at once, so that no tile waits in memory for its turn."""
        j, i, tile = product
        across, down = tile.sum(axis=1, dtype=sums.dtype), tile.sum(axis=0, dtype=sums.dtype)
        corner = np.diag(tile).copy()
        matrix.put(j, i, tile)
        return j, i, (across, down, corner)

    for j, i, (across, down, corner) in runtime.map(sum_up, products):
        sums[slice(*matrix.tile_spans[j])] += across
        if i != j:
            sums[slice(*matrix.tile_spans[i])] += down
        else:
            diagonal[slice(*matrix.tile_spans[j])] = corner
    return TileSums(sums, diagonal)


def _centered_gram(
    operands: Operands,
    plan: ProductPlan,
    buffer: SpillBuffer,
    target: Target,
    workspace_bytes: int,
    runtime: Runtime,
    progress: StepCounter,
    checkpoints: CheckpointStore,
    products: Sums | TileSums | None,
) -> tuple[TiledMatrix, float]:
    """The Gram matrix of the centered rows, in tiles in `buffer`, and its trace."""
    exact = operands.dtype == np.uint8
    n = operands.n
    matrix = TiledMatrix(plan.tile_spans, buffer)
    if isinstance(products, TileSums):
        summed = products
    else:
        tiles = symmetric_products(operands, plan, runtime, progress, checkpoints, products)
        summed = sum_tiles(tiles, matrix, runtime, exact=exact)
    sums, diagonal = summed.rows, summed.diagonal
    buffer.limit(workspace_bytes - eigensolver_bytes("gram", n, target, runtime.threads))
    if exact:
        grand = sum(int(value) for value in sums)
        trace = (n * int(diagonal.sum(dtype=np.int64)) - grand) / n
        grand_mean = grand / n / n
        matrix.rounding = centering_rounding(n, float(diagonal.max()))
    else:  # the rows were centered before they were multiplied
        trace, grand_mean = float(diagonal.sum()), 0.0
    row_means: Float64Array = (sums / n).astype(np.float64) if exact else np.zeros(n)

    def center(pair: tuple[int, int]) -> None:
        j, i = pair
        tile = matrix.get(j, i)
        rows_j, rows_i = slice(*plan.tile_spans[j]), slice(*plan.tile_spans[i])
        centered = center_gram(tile, row_means[rows_j], row_means[rows_i], grand_mean)
        matrix.put(j, i, _stored(centered, tile, n))

    for _ in runtime.map(center, matrix.pairs()):
        pass
    return matrix, max(trace, 0.0)


def _stored(centered: Float64Array, tile: AnyArray, n: int) -> AnyArray:
    """Float64 where the matrix is solved densely; else float32, in the memory of the integers where that fits."""
    if n <= DENSE_LIMIT:
        return centered
    if tile.dtype.itemsize == 4 and tile.flags.writeable:
        target = tile.view(np.float32)
        target[...] = centered
        return target
    return centered.astype(np.float32)
