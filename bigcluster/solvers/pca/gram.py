"""PCA through the Gram matrix of the rows: for fewer rows than columns, up to about 16,000 of them.

    G = X X'  ->  centered  ->  G = U L U'  ->  scores U L^(1/2)          components L^(-1/2) U' (X - mean)

G is exact for uint8 data, and the scores follow from it without a second pass over the pixels. The components take
one more pass, when they are asked for.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.gemm import Gemm
from bigcluster.kernels.pca import center_gram
from bigcluster.rows import RowSource
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.eigen import DENSE_LIMIT, TiledMatrix, centering_rounding
from bigcluster.solvers.pca.gram_scores import gram_scores
from bigcluster.solvers.pca.lanczos import lanczos_steps, leading_eigenpairs
from bigcluster.solvers.pca.operands import Operands
from bigcluster.solvers.pca.products import ProductPlan, plan_products, symmetric_products
from bigcluster.solvers.pca.projection import eigensolver_bytes
from bigcluster.solvers.pca.result import Center, Doubles, OnProgress, PCAFit, Progress, Target
from bigcluster.solvers.saving import NOT_SAVING, Saving
from bigcluster.solvers.tiles import Shelf, Tiles


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
    saving: Saving = NOT_SAVING,
) -> PCAFit:
    """Fit by the Gram matrix; center : of the rows; the other arguments, errors and guarantees as fit_pca."""
    mean = center.mean
    operands = Operands(rows, gemm, mean, by_row=True)
    plan = plan_products(*rows.shape, operands.dtype, runtime.threads, workspace_bytes)
    progress = Progress(plan.steps + lanczos_steps(target, rows.shape[0]) + 1, on_progress)
    # Between panels nothing may stay in memory: the next panel takes all of it.
    shelf = Shelf(tiles, workspace_bytes if len(plan.panels) == 1 else 0)
    matrix, total = _centered_gram(operands, plan, shelf, target, workspace_bytes, runtime, progress, saving)
    pairs = leading_eigenpairs(
        matrix, total, target, shelf=shelf, runtime=runtime, seed=seed, progress=progress, with_images=True
    )
    matrix.delete()
    scores = gram_scores(pairs, plan.unit_spans, target, total, shelf, runtime)
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
        passes=len(plan.panels),
        _write_scores=scores.write,
        _write_components=partial(scores.write_components, rows, mean),
        _write_left=scores.write_left,
        left_dtype=scores.dtype,
        _close=shelf.clear,
    )


def _centered_gram(
    operands: Operands,
    plan: ProductPlan,
    shelf: Shelf,
    target: Target,
    workspace_bytes: int,
    runtime: Runtime,
    progress: Progress,
    saving: Saving,
) -> tuple[TiledMatrix, float]:
    """The Gram matrix of the centered rows, on the shelf, and its trace."""
    exact = operands.dtype == np.uint8
    n = operands.n_units
    matrix = TiledMatrix(plan.unit_spans, shelf)
    sums: NDArray[Any] = np.zeros(n, np.int64 if exact else np.float64)  # of whole rows of G
    diagonal = np.zeros(n, sums.dtype)

    def take(found: tuple[int, int, NDArray[Any]]) -> tuple[int, int, tuple[NDArray[Any], ...]]:
        """Its sums, before it goes to the shelf: none waits in memory for its turn."""
        j, i, tile = found
        across, down = tile.sum(axis=1, dtype=sums.dtype), tile.sum(axis=0, dtype=sums.dtype)
        corner = np.diag(tile).copy()
        matrix.put(j, i, tile)
        return j, i, (across, down, corner)

    for j, i, (across, down, corner) in runtime.map(
        take, symmetric_products(operands, plan, runtime, progress, saving)
    ):
        sums[slice(*plan.unit_spans[j])] += across
        if i != j:
            sums[slice(*plan.unit_spans[i])] += down
        else:
            diagonal[slice(*plan.unit_spans[j])] = corner
    shelf.limit(workspace_bytes - eigensolver_bytes("gram", n, target, runtime.threads))
    if exact:
        grand = sum(int(value) for value in sums)
        trace = (n * int(diagonal.sum(dtype=np.int64)) - grand) / n
        grand_mean = grand / n / n
        matrix.rounding = centering_rounding(n, float(diagonal.max()))
    else:  # the rows were centered before they were multiplied
        trace, grand_mean = float(diagonal.sum()), 0.0
    row_means: Doubles = (sums / n).astype(np.float64) if exact else np.zeros(n)

    def center(pair: tuple[int, int]) -> None:
        j, i = pair
        tile = matrix.get(j, i)
        rows_j, rows_i = slice(*plan.unit_spans[j]), slice(*plan.unit_spans[i])
        centered = center_gram(tile, row_means[rows_j], row_means[rows_i], grand_mean)
        matrix.put(j, i, _stored(centered, tile, n))

    for _ in runtime.map(center, matrix.pairs()):
        pass
    return matrix, max(trace, 0.0)


def _stored(centered: Doubles, tile: NDArray[Any], n: int) -> NDArray[Any]:
    """Float64 where the matrix is solved densely; else float32, in the memory of the integers where that fits."""
    if n <= DENSE_LIMIT:
        return centered
    if tile.dtype.itemsize == 4 and tile.flags.writeable:
        target = tile.view(np.float32)
        target[...] = centered
        return target
    return centered.astype(np.float32)
