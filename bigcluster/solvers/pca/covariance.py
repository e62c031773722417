"""PCA through the covariance of the columns: for up to about 8,000 columns and any number of rows.

    C = X'X  ->  centered  ->  C = V L V'  ->  components V'          scores (X - mean) V

C takes one pass and is exact for uint8 data; the scores take another pass when they are written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.types import AnyArray, Float64Array
from bigcluster.kernels.pca import center_covariance, column_extremes, column_signs, score_step
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.eigen import TiledMatrix, centering_rounding
from bigcluster.solvers.pca.footprint import eigensolver_bytes
from bigcluster.solvers.pca.lanczos import leading_eigenpairs
from bigcluster.solvers.pca.operands import DENSE_LIMIT, Operands
from bigcluster.solvers.pca.product_parts import fit_steps
from bigcluster.solvers.pca.products import ProductPlan, Sums, TileSums, plan_products, symmetric_products
from bigcluster.solvers.pca.projection import Projection
from bigcluster.solvers.pca.result import Center, PCAFit, Target
from bigcluster.solvers.progress import OnProgress, StepCounter
from bigcluster.solvers.spill import SpillBuffer, Tiles
from bigcluster.store.row_source import RowSource


def fit_covariance(
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
    """Fit by the covariance matrix; the arguments, errors and guarantees are those of fit_pca, center : of the rows."""
    n_rows, n_columns = rows.shape
    mean = center.mean
    operands = Operands(rows, gemm, mean, by_row=False)
    plan = plan_products(n_columns, n_rows, operands.dtype, runtime.threads, workspace_bytes)
    progress = StepCounter(fit_steps(plan, target), on_progress, 0 if products is None else plan.steps)
    # Between block columns nothing may stay in memory: the next block column takes all of it.
    buffer = SpillBuffer(tiles, workspace_bytes if len(plan.block_columns) == 1 else 0)
    matrix, total = _scatter(operands, plan, buffer, mean, runtime, progress, checkpoints, products)
    buffer.limit(workspace_bytes - eigensolver_bytes("covariance", n_columns, target, runtime.threads))
    matrix.fetch()
    pairs = leading_eigenpairs(
        matrix, total, target, buffer=buffer, runtime=runtime, seed=seed, progress=progress, with_products=False
    )
    matrix.delete()
    rows_of = pairs.vectors(np.ones(pairs.n_vectors))
    # (n_columns, n_components)
    vectors = np.concatenate([block.astype(np.float32) for block in runtime.map(rows_of, range(len(plan.tile_spans)))])
    pairs.close()
    vectors *= column_signs(column_extremes(vectors)) * (pairs.values[: pairs.n_vectors] > 0)
    projection = Projection(rows, mean, vectors, score_step(n_rows, float(np.sqrt(pairs.values[0]))), runtime)
    progress.finish()
    return PCAFit(
        solver="covariance",
        shape=rows.shape,
        mean=mean,
        total_variance=total / (n_rows - 1),
        eigenvalues=pairs.values / (n_rows - 1),
        n_components=pairs.n_vectors,
        score_step=projection.step,
        passes=products.passes if isinstance(products, TileSums) else len(plan.block_columns),
        _write_scores=projection.write_scores,
        _write_components=projection.write_components,
        _close=buffer.clear,
    )


def _scatter(
    operands: Operands,
    plan: ProductPlan,
    buffer: SpillBuffer,
    mean: Float64Array,
    runtime: Runtime,
    progress: StepCounter,
    checkpoints: CheckpointStore,
    products: Sums | TileSums | None,
) -> tuple[TiledMatrix, float]:
    """(X - mean)'(X - mean) in tiles in `buffer`, and its trace."""
    n_rows = operands.k
    exact = operands.dtype == np.uint8
    sums = shifted_sums(mean, n_rows) if exact else np.zeros(len(mean))
    matrix = TiledMatrix(plan.tile_spans, buffer)
    if isinstance(products, TileSums):
        summed = products
    else:
        tiles = symmetric_products(operands, plan, runtime, progress, checkpoints, products)
        summed = center_tiles(tiles, matrix, sums, n_rows, exact=exact)
    if exact:
        squares = int(summed.diagonal.sum(dtype=np.int64))
        trace = (n_rows * squares - sum(int(value) ** 2 for value in sums)) / n_rows
        matrix.rounding = centering_rounding(matrix.n, float(summed.diagonal.max()))
    else:
        trace = sum((summed.diagonal[slice(*span)].sum().item() for span in plan.tile_spans), 0.0)
    return matrix, max(trace, 0.0)


def shifted_sums(mean: Float64Array, n_rows: int) -> Float64Array:
    """Return the column sums of x - 128 for uint8 rows x, integers again, as (n_columns,) float64."""
    sums: Float64Array = np.rint(mean * n_rows) - 128.0 * n_rows
    return sums


def center_tiles(
    products: Iterator[tuple[int, int, AnyArray]],
    matrix: TiledMatrix,
    sums: Float64Array,
    n_rows: int,
    *,
    exact: bool,
) -> TileSums:
    """Center tiles of X'X as they come, put them into the matrix, and return the diagonal before that.

    sums : column sums of X, which are 0 for float data, since it was centered before it was multiplied.
    """
    diagonal = np.zeros(matrix.n, np.int64 if exact else np.float64)
    for j, i, tile in products:
        part_j, part_i = slice(*matrix.tile_spans[j]), slice(*matrix.tile_spans[i])
        if i == j:
            diagonal[part_j] = np.diag(tile)
        centered = center_covariance(tile, sums[part_j], sums[part_i], n_rows)
        matrix.put(j, i, centered if matrix.n <= DENSE_LIMIT else centered.astype(np.float32))
    return TileSums(np.zeros_like(diagonal), diagonal)
