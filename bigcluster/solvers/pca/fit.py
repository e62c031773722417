"""fit_pca, the way into every solver: it finds the mean, and rescales float data whose unit does not suit float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.covariance import fit_covariance
from bigcluster.solvers.pca.gram import fit_gram
from bigcluster.solvers.pca.moments import center_of
from bigcluster.solvers.pca.products import Sums, TileSums
from bigcluster.solvers.pca.result import ExactSums, PCAFit, Target, check_target, within_total
from bigcluster.solvers.pca.subspace import TakeProjected, fit_subspace
from bigcluster.solvers.pca.unit import RescaledRows, rescaled_center, rescaled_fit, unit_exponent
from bigcluster.solvers.progress import OnProgress
from bigcluster.solvers.spill import Tiles
from bigcluster.store.row_source import RowSource

SOLVERS: dict[str, Callable[..., PCAFit]] = {"gram": fit_gram, "covariance": fit_covariance, "subspace": fit_subspace}


def fit_pca(
    solver: str,
    rows: RowSource,
    *,
    target: Target,
    runtime: Runtime,
    workspace_bytes: int,
    tiles: Tiles,
    gemm: Gemm,
    seed: int = 0,
    moments: ExactSums | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
    products: Sums | TileSums | None = None,
    projected: TakeProjected | None = None,
) -> PCAFit:
    """Fit by one of SOLVERS.

    rows : (n_rows, n_columns), uint8 or float; workspace_bytes : memory that the solver may use, beyond which its
    arrays go to `tiles`; gemm : multiplies uint8 data; seed : of random start vectors; on_progress : called after each
    step; moments : known sums of uint8 data, which save a pass; checkpoints : where the fit saves
    its state, so that a killed fit goes on from there; products : what `products_in_parts` found for these
    arguments; projected : as fit_subspace.
    Nothing but n_rows, n_columns, target and seed changes the result.
    Raises TooFewSamplesError; InvalidDataError for NaN, infinity, and a unit in which float32 cannot hold the scores;
    VarianceNotReachedError where the subspace solver's basis cannot be extended to what `target` asks for.
    """
    check_target(target, rows.shape)
    n_rows = rows.shape[0]
    center = center_of(rows, moments, runtime)
    exponent = 0 if rows.dtype == np.uint8 else unit_exponent(center, n_rows)
    if exponent:
        rows, center = RescaledRows(rows, exponent), rescaled_center(center, exponent)
    given: dict[str, Any] = {"products": products, "projected": projected}
    given = {name: value for name, value in given.items() if value is not None}
    fit = SOLVERS[solver](
        rows,
        center=center,
        target=target,
        runtime=runtime,
        workspace_bytes=workspace_bytes,
        tiles=tiles,
        gemm=gemm,
        seed=seed,
        on_progress=on_progress,
        checkpoints=checkpoints,
        **given,
    )
    eigenvalues = within_total(fit.eigenvalues, fit.n_components, fit.total_variance)
    n_told = max(fit.n_components, int(np.count_nonzero(eigenvalues)))
    fit = replace(fit, eigenvalues=eigenvalues[:n_told], passes=fit.passes + (moments is None))
    return rescaled_fit(fit, -exponent) if exponent else fit
