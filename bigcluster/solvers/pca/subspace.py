"""PCA by streamed block Krylov iteration: for data too tall and too wide for a Gram or covariance matrix.

With A the covariance operator on the smaller side of X, the basis is V_0, A V_0, A^2 V_0, ...: every block
orthogonalised against all before it and then rounded to 8 bits. The rounded vectors are the basis, so rounding costs no
accuracy, only orthogonality: the Rayleigh-Ritz step is the generalised one, with V'V and V'AV. An application is one
read of the data, and more blocks extend the basis until the target is reached and captured variance stops growing: new
columns are all that is paid for. By row, scores and components are then combinations of what the applications left
behind, and no read of the data is theirs alone; by column there is a last one (bigcluster.solvers.pca.subspace_scores).
Source: Musco and Musco 2015, "Randomized block Krylov methods for stronger and faster approximate singular value
decomposition", algorithm 2; Halko, Martinsson and Tropp 2011, section 4.5, for the streamed sketches.
"""

from __future__ import annotations

import numpy as np

from bigcluster.kernels.gemm import Gemm
from bigcluster.rows import RowSource
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.krylov import LEAST_APPLICATIONS, Krylov
from bigcluster.solvers.pca.result import Center, OnProgress, PCAFit, Progress, Target
from bigcluster.solvers.pca.sides import Side
from bigcluster.solvers.pca.subspace_scores import subspace_scores
from bigcluster.solvers.saving import NOT_SAVING, Saving
from bigcluster.solvers.tiles import Shelf, Tiles


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
    saving: Saving = NOT_SAVING,
) -> PCAFit:
    """Fit by block Krylov iteration; arguments as fit_gram.

    Raises VarianceNotReachedError where the basis cannot be extended to what `target` asks for.
    """
    n_rows = rows.shape[0]
    progress = Progress(LEAST_APPLICATIONS + 2, on_progress)
    shelf = Shelf(tiles, 0)
    side = Side(rows, center.mean, gemm)
    total = center.total_variance * (n_rows - 1)
    krylov = Krylov(side, total, target, shelf, workspace_bytes, runtime, progress, saving)
    krylov.run(seed)
    scores = subspace_scores(krylov)
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
        _close=shelf.clear,
    )
