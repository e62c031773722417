"""PCA of arrays in memory or of dask, with the names and conventions of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bigcluster.errors import ConfigError, UsageError
from bigcluster.estimators.gaussian import Gaussian
from bigcluster.estimators.inputs import each_block, is_dask, of_known_length, rows_of, seed_of
from bigcluster.files.temporary import temporary_folder
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.moments import refuse_bad_rows
from bigcluster.kernels.pca import column_extremes, column_signs, inverse_root
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca import SOLVERS, Components, PCAFit, Target, Variance, choose, fit_pca
from bigcluster.solvers.pca.projection import transform
from bigcluster.solvers.spill import FolderTiles
from bigcluster.store.row_source import ArrayRows
from bigcluster.units import GIB

_KINDS = (np.float64, np.float32, np.uint8)
"""Dtypes that are taken as they are; all other data becomes the first one."""


class PCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Principal component analysis of numpy or dask arrays that may be larger than memory.

    Parameters
    ----------
    n_components : int, float or None, default=None
        Number of components; or, between 0 and 1, the share of the variance that they must explain; None for all. A
        share counts as reached at >=, in scikit-learn at >. There is no "mle", which needs every variance.
    solver : {"auto", "gram", "covariance", "subspace"}, default="auto"
        "auto" chooses by the shape of the data alone.
    random_state : int, RandomState or None, default=None
        The same int gives the same bits for every chunking, workspace and number of threads.
    workspace_bytes : int, default=1 GiB
        Bytes that the solver may hold beside the results; where they are not enough, tiles go to a temporary folder. It
        never changes a result.
    gemm : {"auto", "integer", "float32"}, default="auto"
        How 8-bit data is multiplied; the results are the same.
    whiten : bool, default=False
        Whether scores are scaled to unit variance; those of a component without variance stay 0.
    copy : bool, default=True
        Without effect: the data of X is never changed.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Orthonormal rows whose largest entry is positive; zero for a component without variance. float64 where the
        scores are, else float32, with the precision of float32 in either case.
    mean_ : ndarray of shape (n_features,), float64
        Mean of each feature.
    explained_variance_ : ndarray of shape (n_components,), float64
        Variance of each score, with n_samples - 1 degrees of freedom.
    explained_variance_ratio_ : ndarray of shape (n_components,), float64
        Share of each component in the total variance.
    singular_values_ : ndarray of shape (n_components,), float64
        Norms of the columns of the scores.
    noise_variance_ : float
        Mean of the min(n_samples, n_features) - n_components variances that are left out.
    n_components_ : int
        Number of components.
    n_samples_ : int
        Number of rows of the data.
    n_features_in_ : int
        Number of features of the data.
    feature_names_in_ : ndarray of str
        Names of the features, where X has names that are all strings.
    solver_ : str
        The solver that ran.

    Notes
    -----
    8-bit data stays 8-bit and is multiplied exactly; all other data is multiplied in float32. Scores are float32 for
    8-bit and float32 data, else float64. Variances below a millionth of the first one count as 0 where the smaller side
    of the data has more than 1,536 rows or columns, and with solver "subspace", whose shares are exact to 1e-4: float32
    cannot tell them from rounding. A dask array of unknown length is computed once more, to count its rows.

    `fit` raises InvalidDataError (a ValueError) that names a row with NaN or infinity, TooFewSamplesError (a
    ValueError) for more components than the data can have, and UsageError or ConfigError (ValueErrors) for arguments
    that cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from bigcluster import PCA
    >>> X = np.array([[-1, -1], [-2, -1], [-3, -2], [1, 1], [2, 1], [3, 2]], dtype=np.float64)
    >>> model = PCA(n_components=2, random_state=0).fit(X)
    >>> model.explained_variance_ratio_.round(4).tolist()
    [0.9924, 0.0076]
    >>> model.transform(X).shape
    (6, 2)
    """

    def __init__(
        self,
        n_components: Any = None,
        *,
        solver: str = "auto",
        random_state: Any = None,
        workspace_bytes: int = GIB,
        gemm: str = "auto",
        whiten: bool = False,
        copy: bool = True,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.random_state = random_state
        self.workspace_bytes = workspace_bytes
        self.gemm = gemm
        self.whiten = whiten
        self.copy = copy

    def fit(self, X: Any, y: Any = None) -> PCA:
        """Fit the components to the rows of X.

        Parameters
        ----------
        X : array-like or dask array of shape (n_samples, n_features)
            At least two rows.
        y : ignored

        Returns
        -------
        self : PCA
        """
        self._fit(X, scores=None)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit to X as `fit` does, and return its scores: (n_samples, n_components); a dask array where X is one."""
        if is_dask(X):
            X = of_known_length(X)
        scores = _ScoreSink()
        dtype = self._fit(X, scores=scores)
        array = self._whitened(scores.array.astype(dtype, copy=False))
        if not is_dask(X):
            return array
        import dask.array as da

        return da.from_array(array, chunks=(X.chunks[0], array.shape[1]))

    def transform(self, X: Any) -> Any:
        """Compute the scores of rows, (n_samples, n_features) -> (n_samples, n_components).

        A dask array gives a lazy dask array. Raises InvalidDataError for NaN or infinity, NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._scores, _float_of, self.n_components_)

    def inverse_transform(self, X: Any) -> Any:
        """Compute the rows whose scores are X, (n_samples, n_components) -> (n_samples, n_features).

        With `whiten`, X holds whitened scores. A dask array gives a lazy dask array. Raises UsageError for another
        number of components.
        """
        check_is_fitted(self)
        scores = X if is_dask(X) else np.asarray(X)
        if scores.ndim != 2 or scores.shape[1] != self.n_components_:
            raise UsageError(f"scores of {self.n_components_} components are asked for, X has the shape {scores.shape}")
        if not is_dask(X):
            return self._rebuild(scores)
        return X.rechunk({1: -1}).map_blocks(
            self._rebuild, dtype=_float_of(X.dtype), chunks=(X.chunks[0], (self.n_features_in_,))
        )

    def get_covariance(self) -> NDArray[np.float64]:
        """Compute the covariance of the model: (n_features, n_features) float64.

        It is that of the components, and noise_variance_ in every other direction.
        """
        return self._gaussian().covariance

    def get_precision(self) -> NDArray[np.float64]:
        """Compute the inverse of `get_covariance`, of its shape and dtype. Raises UsageError where there is none."""
        return self._gaussian().precision

    def score_samples(self, X: Any) -> Any:
        """Compute the log-likelihood of each row in the normal distribution of `get_covariance`: (n_samples,) float64.

        A dask array gives a lazy dask array. Raises UsageError where the components leave no variance to other
        directions.
        """
        gaussian = self._gaussian()

        def work(block: NDArray[Any], first: int) -> NDArray[np.float64]:
            refuse_bad_rows(block, first)
            return gaussian.log_likelihood(block)

        return each_block(self, X, _KINDS, work, lambda _: np.dtype(np.float64), None)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples` over the rows of X."""
        return float(self.score_samples(X).mean())

    def _gaussian(self) -> Gaussian:
        check_is_fitted(self)
        components = self.components_.astype(np.float64)
        return Gaussian(self.mean_, components, self.explained_variance_, self.noise_variance_)

    def _scores(self, block: NDArray[Any], first: int) -> NDArray[Any]:
        scores = self._project(block, first)
        return self._whitened(scores.astype(_float_of(block.dtype), copy=False))

    def _whitened(self, scores: NDArray[Any]) -> NDArray[Any]:
        if not self.whiten:
            return scores
        return np.asarray(scores * inverse_root(self.explained_variance_), scores.dtype)

    def _project(self, block: NDArray[Any], first: int) -> NDArray[np.float32]:
        refuse_bad_rows(block, first)
        with np.errstate(over="ignore", invalid="ignore"):
            components = ArrayRows(self.components_.astype(np.float32, copy=False))
            scores = transform(block, self.mean_, components, self.n_components_, self._score_step)
        refuse_bad_rows(scores, first, "is too far from the rows of the fit: float32 cannot hold its scores")
        return scores

    def _rebuild(self, scores: NDArray[Any]) -> NDArray[Any]:
        dtype = _float_of(scores.dtype)
        scores = scores.astype(dtype, copy=False)
        if self.whiten:
            scores = scores * np.sqrt(self.explained_variance_).astype(dtype)
        rows: NDArray[Any] = scores @ self.components_.astype(dtype, copy=False) + self.mean_.astype(dtype)
        return rows

    def _fit(self, X: Any, scores: _ScoreSink | None) -> np.dtype[Any]:
        self._check_arguments()
        rows = rows_of(self, X, _KINDS, reset=True, min_samples=2)
        target = self._target(rows.shape)
        solver = choose(*rows.shape, target).solver if self.solver == "auto" else self.solver
        with temporary_folder() as scratch:
            fit = fit_pca(
                solver,
                rows,
                target=target,
                runtime=EmbeddedRuntime(),
                workspace_bytes=self.workspace_bytes,
                tiles=FolderTiles(scratch),
                gemm=Gemm(self.gemm),
                seed=seed_of(self.random_state),
            )
            dtype = _float_of(rows.dtype)
            self._keep(fit, scores, dtype)
        return dtype

    def _keep(self, fit: PCAFit, scores: _ScoreSink | None, dtype: np.dtype[Any]) -> None:
        n = fit.n_components
        components = _ColumnSink(n, fit.shape[1])
        fit.write_components(components)
        if scores is not None:
            scores.array = np.empty((fit.shape[0], n), np.float32)
            fit.write_scores(scores)
        fit.close()
        # Solvers turn components by what is at hand, scores or components; here both are: as scikit-learn does.
        signs = column_signs(column_extremes(components.array.T))
        components.array *= signs[:, None]
        if scores is not None:
            scores.array *= signs
        self.components_ = components.array.astype(dtype, copy=False)
        self.mean_ = fit.mean
        self.explained_variance_ = fit.eigenvalues[:n]
        total = fit.total_variance
        self.explained_variance_ratio_ = fit.eigenvalues[:n] / total if total > 0 else np.zeros(n)
        self.singular_values_ = np.sqrt(fit.eigenvalues[:n] * (fit.shape[0] - 1))
        left_out = min(fit.shape) - n
        self.noise_variance_ = max(0.0, total - float(fit.eigenvalues[:n].sum())) / left_out if left_out else 0.0
        self.n_components_ = n
        self.n_samples_ = fit.shape[0]
        self.solver_ = fit.solver
        self._score_step = fit.score_step

    def _check_arguments(self) -> None:
        for name, known in (("solver", ("auto", *SOLVERS)), ("gemm", ("auto", "integer", "float32"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("whiten", "copy"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        workspace = self.workspace_bytes
        if not isinstance(workspace, int | np.integer) or isinstance(workspace, bool) or workspace < 1:
            raise ConfigError(f"workspace_bytes must be a whole number of bytes, at least 1, not {workspace!r}")

    def _target(self, shape: tuple[int, int]) -> Target:
        n_components = self.n_components
        if n_components is None:
            return Components(min(shape))
        if isinstance(n_components, int | np.integer) and not isinstance(n_components, bool) and n_components > 0:
            return Components(int(n_components))
        if isinstance(n_components, float | np.floating) and 0 < n_components < 1:
            return Variance(float(n_components))
        if isinstance(n_components, str) and n_components == "mle":
            raise ConfigError(
                'n_components="mle" needs every variance of the data, which only a fit of all components has; '
                "use a share between 0 and 1, such as 0.95"
            )
        raise ConfigError(
            f"n_components must be a whole number from 1 on, a share between 0 and 1, or None, not {n_components!r}"
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
