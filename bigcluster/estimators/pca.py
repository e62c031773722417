"""PCA for arrays, with scikit-learn's names and conventions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bigcluster.errors import ConfigError, UsageError
from bigcluster.estimators.inputs import each_block, is_dask, of_known_length, rows_of, seed_of
from bigcluster.kernels.finite import refuse_bad_rows
from bigcluster.kernels.gemm import Gemm
from bigcluster.rows import ArrayRows
from bigcluster.runtime import EmbeddedRuntime
from bigcluster.solvers.pca import SOLVERS, Components, PCAFit, Target, Variance, choose, fit_pca
from bigcluster.solvers.pca.transform import transform
from bigcluster.solvers.tiles import FolderTiles
from bigcluster.units import GIB

# Kept as they are; anything else becomes the first.
_KINDS = (np.float64, np.float32, np.uint8)


class PCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Principal component analysis of numpy or dask arrays that may be larger than memory.

    Parameters
    ----------
    n_components : int, float or None, default None
        How many components; or, between 0 and 1, the share of variance that they must explain; None for all there are.
    solver : "auto", "gram", "covariance" or "subspace". "auto" goes by the shape of the data alone.
    random_state : int, RandomState or None. The same int gives the same bits for any chunking, workspace and threads.
    workspace_bytes : int, default 1 GiB. What the solver may hold beside the results; tiles go to a temporary folder
        where that is not enough. Never changes a result.
    gemm : "auto", "integer" or "float32". How 8-bit data is multiplied; the results are the same.

    Attributes
    ----------
    components_ : (n_components, n_features) float32, unit rows, zero for a component without variance.
    mean_ : (n_features,) float64.
    explained_variance_, explained_variance_ratio_, singular_values_ : (n_components,) float64, ddof = 1.
    n_components_, n_samples_, n_features_in_ : int. solver_ : the one that ran.

    8-bit data stays 8-bit and is multiplied exactly; all other data is multiplied in float32. Scores are float64 where
    data that is not 8-bit or float32 goes in, else float32.
    Variances below a millionth of the first one count as none where the smaller side of the data has more than 1,536
    rows or columns, and with solver "subspace", whose shares are exact to 1e-4: float32 cannot tell them from rounding.
    A dask array of unknown length is computed once more, to count its rows.
    Raises InvalidDataError (a ValueError) naming a row with NaN or infinity, TooFewSamplesError (a ValueError)
    for more components than the data can have, UsageError (a ValueError) for other bad arguments.
    """

    def __init__(
        self,
        n_components: Any = None,
        *,
        solver: str = "auto",
        random_state: Any = None,
        workspace_bytes: int = GIB,
        gemm: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.random_state = random_state
        self.workspace_bytes = workspace_bytes
        self.gemm = gemm

    def fit(self, X: Any, y: Any = None) -> PCA:
        """Fit to X, a numpy or dask array of shape (n_samples, n_features)."""
        self._fit(X, scores=None)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit, and return the scores: (n_samples, n_components), as a dask array where X is one."""
        if is_dask(X):
            X = of_known_length(X)
        scores = _ScoreSink()
        dtype = self._fit(X, scores=scores)
        array = scores.array.astype(dtype, copy=False)
        if not is_dask(X):
            return array
        import dask.array as da

        return da.from_array(array, chunks=(X.chunks[0], array.shape[1]))

    def transform(self, X: Any) -> Any:
        """Scores of new rows, (n_samples, n_components): lazy where X is a dask array."""
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._project, _float_of, self.n_components_)

    def inverse_transform(self, X: Any) -> Any:
        """Rows (n_samples, n_features) whose scores are X: lazy where X is a dask array."""
        check_is_fitted(self)
        scores = X if is_dask(X) else np.asarray(X)
        if scores.ndim != 2 or scores.shape[1] != self.n_components_:
            raise UsageError(f"scores of {self.n_components_} components are asked for, X has the shape {scores.shape}")
        if not is_dask(X):
            return self._rebuild(scores)
        return X.rechunk({1: -1}).map_blocks(
            self._rebuild, dtype=_float_of(X.dtype), chunks=(X.chunks[0], (self.n_features_in_,))
        )

    def _project(self, block: NDArray[Any], first: int) -> NDArray[np.float32]:
        refuse_bad_rows(block, first)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = transform(block, self.mean_, ArrayRows(self.components_), self.n_components_, self._score_step)
        refuse_bad_rows(scores, first, "is too far from the rows of the fit: float32 cannot hold its scores")
        return scores

    def _rebuild(self, scores: NDArray[Any]) -> NDArray[Any]:
        dtype = _float_of(scores.dtype)
        rows: NDArray[Any] = scores.astype(dtype, copy=False) @ self.components_ + self.mean_.astype(dtype)
        return rows

    def _fit(self, X: Any, scores: _ScoreSink | None) -> np.dtype[Any]:
        self._check_arguments()
        rows = rows_of(self, X, _KINDS, reset=True, min_samples=2)
        target = self._target(rows.shape)
        solver = choose(*rows.shape, target).solver if self.solver == "auto" else self.solver
        with tempfile.TemporaryDirectory(prefix="bigcluster-") as scratch:
            fit = fit_pca(
                solver,
                rows,
                target=target,
                runtime=EmbeddedRuntime(),
                workspace_bytes=self.workspace_bytes,
                tiles=FolderTiles(Path(scratch)),
                gemm=Gemm(self.gemm),
                seed=seed_of(self.random_state),
            )
            self._keep(fit, scores)
        return _float_of(rows.dtype)

    def _keep(self, fit: PCAFit, scores: _ScoreSink | None) -> None:
        n = fit.n_components
        components = _ColumnSink(n, fit.shape[1])
        fit.write_components(components)
        if scores is not None:
            scores.array = np.empty((fit.shape[0], n), np.float32)
            fit.write_scores(scores)
        fit.close()
        self.components_ = components.array
        self.mean_ = fit.mean
        self.explained_variance_ = fit.eigenvalues[:n]
        total = fit.total_variance
        self.explained_variance_ratio_ = fit.eigenvalues[:n] / total if total > 0 else np.zeros(n)
        self.singular_values_ = np.sqrt(fit.eigenvalues[:n] * (fit.shape[0] - 1))
        self.n_components_ = n
        self.n_samples_ = fit.shape[0]
        self.solver_ = fit.solver
        self._score_step = fit.score_step

    def _check_arguments(self) -> None:
        for name, known in (("solver", ("auto", *SOLVERS)), ("gemm", ("auto", "integer", "float32"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        workspace = self.workspace_bytes
        if not isinstance(workspace, int | np.integer) or isinstance(workspace, bool) or workspace < 1:
            raise ConfigError(f"workspace_bytes must be a whole number of bytes, at least 1, not {workspace!r}")

    def _target(self, shape: tuple[int, int]) -> Target:
        wanted = self.n_components
        if wanted is None:
            return Components(min(shape))
        if isinstance(wanted, int | np.integer) and not isinstance(wanted, bool) and wanted > 0:
            return Components(int(wanted))
        if isinstance(wanted, float | np.floating) and 0 < wanted < 1:
            return Variance(float(wanted))
        raise ConfigError(
            f"n_components must be a whole number from 1 on, a share between 0 and 1, or None, not {wanted!r}"
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _ScoreSink:
    """Scores in memory: (n_rows, n_components) float32."""

    array: NDArray[np.float32]

    def write(self, start: int, block: NDArray[np.float32]) -> None:
        self.array[start : start + len(block)] = block


class _ColumnSink:
    """Components in memory: (n_components, n_columns) float32."""

    def __init__(self, n_components: int, n_columns: int) -> None:
        self.array = np.empty((n_components, n_columns), np.float32)

    def write(self, start: int, block: NDArray[np.float32]) -> None:
        self.array[:, start : start + block.shape[1]] = block


def _float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
