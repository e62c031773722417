"""k-means for arrays, with scikit-learn's names and conventions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from bigcluster.config.schema import optional, positive, whole_number
from bigcluster.errors import ConfigError, TooFewSamplesError, UsageError
from bigcluster.estimators.inputs import each_block, is_dask, rows_of, seed_of
from bigcluster.estimators.verbose import Told
from bigcluster.kernels.kmeans.assign import nearest
from bigcluster.kernels.kmeans.centers import fit_scaler, prepare
from bigcluster.kernels.kmeans.sums import exact_sq
from bigcluster.kernels.linalg.moments import block_moments, refuse_bad_rows
from bigcluster.solvers.kmeans import KMeansFit, fit, fit_minibatch, fit_two_level
from bigcluster.solvers.kmeans.blocks import check_weights
from bigcluster.solvers.kmeans.fit import N_INIT, check_arguments
from bigcluster.solvers.kmeans.result import check_algorithm, choose
from bigcluster.store.row_source import RowSource
from bigcluster.units import quoted

# Kept as they are; anything else, lists among it, becomes the first.
_KINDS = (np.float64, np.float32, np.uint8, np.int8, np.uint16, np.int16)
_OTHER_NAMES = {"elkan": "lloyd"}
"""As scikit-learn calls an algorithm that gives the same. Our Lloyd keeps bounds from as many clusters as they pay."""


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """K-means clustering of numpy or dask arrays that may be larger than memory.

    Parameters
    ----------
    n_clusters : int, default 8
    init : "auto", "k-means++", "k-means||", "random" (rows), array of shape (n_clusters, n_features), or a callable
        that makes one of (X, n_clusters, random_state=RandomState). "auto" goes by n_clusters.
    n_init : int or "auto", default 4, which is "auto". Starts, which share passes over the data; the best is kept.
        1 where init is an array.
    max_iter : int, default 300. Lloyd iterations.
    tol : float, default 1e-4. Relative to the mean variance of the features; compared with the squared center shift.
    random_state : int, RandomState or None. The same int gives the same labels for any chunking, budget and threads.
    algorithm : "auto", "lloyd", "minibatch", "two-level" or "dask-ml". "auto" goes by the shape and n_clusters alone.
        "elkan" is another name of "lloyd", which has its bounds: both give what Lloyd's iterations give.
    workspace_bytes : int or None. What a dask array's rows and our state may hold in memory between passes; None for
        no limit. Never changes a result.
    verbose : int, default 0. Whether iterations are printed.
    copy_x : bool, default True. Changes nothing: what X holds is never written to.

    Attributes
    ----------
    cluster_centers_ : (n_clusters, n_features) float64. Fewer than asked for, with a ConvergenceWarning that says so,
        where the data has fewer distinct rows.
    labels_ : (n_samples,) int32, nearest center of every row; ties go to the lower number.
    inertia_ : float, sum of squared distances (weighted, if weights were given) to the nearest center.
    n_iter_ : int. algorithm_ : the one that ran. distances_ : (n_samples,) float64, Euclidean, to the nearest center.
    n_features_in_ : int.

    Raises InvalidDataError (a ValueError) naming the row that holds NaN or infinity, UsageError for bad arguments,
    TooFewSamplesError (a ValueError) for fewer rows than n_clusters.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | NDArray[Any] | Callable[..., Any] = "auto",
        n_init: int | str = 4,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
        algorithm: str = "auto",
        workspace_bytes: int | None = None,
        verbose: int = 0,
        copy_x: bool = True,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.algorithm = algorithm
        self.workspace_bytes = workspace_bytes
        self.verbose = verbose
        self.copy_x = copy_x

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Cluster X, a numpy or dask array of shape (n_samples, n_features). sample_weight : (n_samples,)."""
        self._check_arguments()
        rows = self._rows(X, reset=True)
        if rows.shape[0] < self.n_clusters:
            raise TooFewSamplesError(f"n_samples = {rows.shape[0]} should be >= n_clusters = {self.n_clusters}")
        weights = _weights(sample_weight, rows.shape[0])
        result = self._solve(X, rows, weights)
        assert result.rows is not None
        self.cluster_centers_ = result.centers
        self.labels_ = result.rows.labels
        self.distances_ = result.rows.distance
        self.inertia_ = result.inertia
        self.n_iter_ = result.n_iter
        self.algorithm_ = result.algorithm
        self._n_features_out = result.n_clusters
        if result.reason:
            warnings.warn(result.reason, ConvergenceWarning, stacklevel=2)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.int32]:
        """Labels of X after fitting to it: (n_samples,) int32."""
        labels: NDArray[np.int32] = self.fit(X, sample_weight=sample_weight).labels_
        return labels

    def predict(self, X: Any) -> Any:
        """Label of each row: (n_samples,) int32; a lazy dask array for a dask array."""
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._labels, lambda _: np.dtype(np.int32), None)

    def transform(self, X: Any) -> Any:
        """Euclidean distance of each row to each center: (n_samples, n_clusters), float32 for float32 input."""
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._distances, _float_of, len(self.cluster_centers_))

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """`transform` of X after fitting to it."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the (weighted) sum of squared distances of X to the nearest center."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        weights = _weights(sample_weight, rows.shape[0])
        total = 0.0
        for start in range(0, rows.shape[0], 8192):
            x = rows.read(start, min(start + 8192, rows.shape[0]))
            sq = exact_sq(x, self.cluster_centers_, self._labels(x, start))
            total += float((sq if weights is None else sq * weights[start : start + len(sq)]).sum())
        return -total

    def _check_arguments(self) -> None:
        """Raises ConfigError for values of another kind than the parameters have."""
        whole_number(1)("n_clusters", self.n_clusters)
        whole_number(1, auto=N_INIT)("n_init", self.n_init)
        whole_number(1)("max_iter", self.max_iter)
        positive("tol", self.tol)
        optional(whole_number(0))("workspace_bytes", self.workspace_bytes)
        if not isinstance(self.algorithm, str):
            raise ConfigError(f"algorithm must be a name, such as 'lloyd', not {quoted(self.algorithm)}")

    def _solve(self, X: Any, rows: RowSource, weights: NDArray[np.float64] | None) -> KMeansFit:
        name = check_algorithm(_OTHER_NAMES.get(self.algorithm, self.algorithm))
        if name == "auto":
            name, _ = choose(*rows.shape, self.n_clusters)
        common: dict[str, Any] = {
            "seed": seed_of(self.random_state),
            "max_iter": self.max_iter,
            "tol": self.tol,
            "workspace_bytes": self.workspace_bytes,
        }
        if name == "dask-ml":
            if weights is not None:
                raise UsageError("dask-ml takes no sample_weight; use algorithm lloyd")
            if callable(self.init):
                raise UsageError("dask-ml takes no callable as init; use algorithm lloyd")
            from bigcluster.solvers.kmeans.dask_ml import fit_dask_ml

            return fit_dask_ml(rows, self.n_clusters, init=self.init, **common)
        told = Told() if self.verbose else None
        common |= {"sample_weight": weights, "on_progress": told}
        if name == "lloyd":
            n_init = whole_number(1, auto=N_INIT)("n_init", self.n_init)
            init = self._called(X, rows, n_init, common["seed"]) if callable(self.init) else self.init
            result = fit(rows, self.n_clusters, init=init, n_init=n_init, **common)
        elif not isinstance(self.init, str) or self.init == "random":
            raise UsageError(f"algorithm {name} chooses its own centers; use lloyd with this init")
        else:
            solve = fit_minibatch if name == "minibatch" else fit_two_level
            result = solve(rows, self.n_clusters, **common)
        if told is not None:
            told.end(result, self.tol)
        return result

    def _called(self, X: Any, rows: RowSource, n_init: Any, seed: int) -> NDArray[np.float64]:
        """What the callable makes, once for each start: (n_starts, n_clusters, n_features)."""
        assert callable(self.init)
        check_arguments(rows, self.n_clusters, n_init, self.max_iter, self.tol, "random")
        given = X if is_dask(X) else rows.read(0, rows.shape[0])
        random_state, shape = np.random.RandomState(seed % 2**32), (self.n_clusters, rows.shape[1])
        made = []
        for _ in range(n_init):
            made.append(np.asarray(self.init(given, self.n_clusters, random_state=random_state), np.float64))
            if made[-1].shape != shape:
                raise UsageError(f"init made centers of shape {made[-1].shape}, {shape} are needed")
        return np.stack(made)

    def _rows(self, X: Any, *, reset: bool) -> RowSource:
        return rows_of(self, X, _KINDS, reset=reset, order="C")

    def _labels(self, x: NDArray[Any], first: int) -> NDArray[np.int32]:
        refuse_bad_rows(x, first)
        if not len(x):
            return np.empty(0, np.int32)
        scaler = fit_scaler(block_moments(x).merge(block_moments(self.cluster_centers_)))
        return nearest(x, [prepare(self.cluster_centers_, scaler)])[0]

    def _distances(self, x: NDArray[Any], first: int) -> NDArray[np.float64]:
        refuse_bad_rows(x, first)
        centers = self.cluster_centers_
        every = [exact_sq(x, centers, np.full(len(x), j, np.int32)) for j in range(len(centers))]
        return np.sqrt(np.stack(every, axis=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


def _weights(sample_weight: Any, n_rows: int) -> NDArray[np.float64] | None:
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    return check_weights(np.full(n_rows, weights) if weights.ndim == 0 else weights, n_rows)
