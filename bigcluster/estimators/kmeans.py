"""k-means of arrays in memory or of dask, with the names and conventions of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from bigcluster.config.checks import not_negative, optional, whole_number
from bigcluster.errors import ConfigError, TooFewSamplesError, UsageError
from bigcluster.estimators.inputs import each_block, is_dask, rows_of, seed_of
from bigcluster.estimators.verbose import Reporter
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

_KINDS = (np.float64, np.float32, np.uint8, np.int8, np.uint16, np.int16)
"""Dtypes that are taken as they are; all other data, lists included, becomes the first one."""
_SCORE_ROWS = 8192
"""Rows that `score` reads at once: some megabytes of a few hundred features."""
_OTHER_NAMES = {"elkan": "lloyd"}
"""A name of scikit-learn -> the algorithm that gives the same result. Lloyd keeps distance bounds wherever they pay."""


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """K-means clustering of numpy or dask arrays that may be larger than memory.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.
    init : {"auto", "k-means++", "k-means||", "random"}, array or callable, default="auto"
        How the initial centers are chosen. "auto" takes k-means++ for few clusters and k-means|| for many; "random"
        takes rows. An array has the shape (n_clusters, n_features). A callable is called as ``init(X, n_clusters,
        random_state=RandomState)`` and returns such an array.
    n_init : int or "auto", default=4
        Number of restarts, of which the best one is kept; they share passes over the data. "auto" is 4. An array of
        initial centers makes one restart.
    max_iter : int, default=300
        Most iterations of Lloyd's algorithm.
    tol : float, default=1e-4
        A restart has converged when the squared shift of its centers is at most `tol` times the mean variance of the
        features.
    random_state : int, RandomState or None, default=None
        The same int gives the same labels for every chunking, workspace and number of threads.
    algorithm : {"auto", "lloyd", "elkan", "minibatch", "two-level", "dask-ml"}, default="auto"
        "auto" chooses by the shape of the data and n_clusters alone. "elkan" is another name of "lloyd", which keeps
        distance bounds wherever they save time.
    workspace_bytes : int or None, default=None
        Bytes that rows of a dask array and the state of the fit may take in memory between passes; None for no limit.
        It never changes a result.
    verbose : int, default=0
        Whether iterations are printed.
    copy_x : bool, default=True
        Without effect: the data of X is never changed.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features), float64
        Centers. There are fewer than n_clusters where the data has fewer distinct rows; a ConvergenceWarning says so.
    labels_ : ndarray of shape (n_samples,), int32
        Nearest center of each row; of equal distances, the lower number.
    distances_ : ndarray of shape (n_samples,), float64
        Euclidean distance of each row to its center.
    inertia_ : float
        Sum of squared distances of the rows to their centers, weighted where sample weights were given.
    n_iter_ : int
        Iterations of the best restart.
    algorithm_ : str
        The algorithm that ran.
    n_features_in_ : int
        Number of features of the data.
    feature_names_in_ : ndarray of str
        Names of the features, where X has names that are all strings.

    Notes
    -----
    Labels are exact: every row has the label of the center whose float64 distance is least. Integers of 8 and 16 bits,
    float32 and float64 are taken as they are; other data becomes float64. `fit` raises InvalidDataError (a ValueError)
    that names a row with NaN or infinity, TooFewSamplesError (a ValueError) for fewer rows than clusters, and
    UsageError (a ValueError) for other arguments that cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from bigcluster import KMeans
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> bool(model.labels_[0] == model.labels_[2] != model.labels_[3])
    True
    >>> np.sort(model.cluster_centers_, axis=0).tolist()
    [[1.0, 2.0], [10.0, 2.0]]
    >>> float(model.inertia_)
    16.0
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
        """Cluster the rows of X.

        Parameters
        ----------
        X : array-like or dask array of shape (n_samples, n_features)
            Rows to cluster.
        y : ignored
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the rows, none negative; None for equal weights.

        Returns
        -------
        self : KMeans
        """
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
        """Fit to X as `fit` does, and return the labels of its rows: (n_samples,) int32."""
        labels: NDArray[np.int32] = self.fit(X, sample_weight=sample_weight).labels_
        return labels

    def predict(self, X: Any) -> Any:
        """Label the rows of X, (n_samples, n_features), by the nearest center: (n_samples,) int32.

        A dask array gives a lazy dask array. Raises InvalidDataError for NaN or infinity, NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._labels, lambda _: np.dtype(np.int32), None)

    def transform(self, X: Any) -> Any:
        """Compute the Euclidean distance of each row of X to each center: (n_samples, n_clusters).

        The result is float32 for float32 data, else float64; a dask array gives a lazy dask array.
        """
        check_is_fitted(self)
        return each_block(self, X, _KINDS, self._distances, _float_of, len(self.cluster_centers_))

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit to X as `fit` does, and return `transform` of it: (n_samples, n_clusters)."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the (weighted) sum of squared distances of the rows of X to their nearest centers."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        weights = _weights(sample_weight, rows.shape[0])
        total = 0.0
        for start in range(0, rows.shape[0], _SCORE_ROWS):
            x = rows.read(start, min(start + _SCORE_ROWS, rows.shape[0]))
            sq = exact_sq(x, self.cluster_centers_, self._labels(x, start))
            total += float((sq if weights is None else sq * weights[start : start + len(sq)]).sum())
        return -total

    def _check_arguments(self) -> None:
        """Raises ConfigError for values of another kind than the parameters have."""
        whole_number(1)("n_clusters", self.n_clusters)
        whole_number(1, auto=N_INIT)("n_init", self.n_init)
        whole_number(1)("max_iter", self.max_iter)
        not_negative("tol", self.tol)
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
        reporter = Reporter() if self.verbose else None
        common |= {"sample_weight": weights, "on_progress": reporter}
        if name == "lloyd":
            n_init = whole_number(1, auto=N_INIT)("n_init", self.n_init)
            init = self._call_init(X, rows, n_init, common["seed"]) if callable(self.init) else self.init
            result = fit(rows, self.n_clusters, init=init, n_init=n_init, **common)
        elif not isinstance(self.init, str) or self.init == "random":
            raise UsageError(f"algorithm {name} chooses its own centers; use lloyd with this init")
        else:
            solve = fit_minibatch if name == "minibatch" else fit_two_level
            result = solve(rows, self.n_clusters, **common)
        if reporter is not None:
            reporter.end(result, self.tol)
        return result

    def _call_init(self, X: Any, rows: RowSource, n_init: Any, seed: int) -> NDArray[np.float64]:
        """Call `init` once for each restart, and return the centers: (n_init, n_clusters, n_features) float64.

        Raises UsageError for centers of another shape.
        """
        assert callable(self.init)
        check_arguments(rows, self.n_clusters, n_init, self.max_iter, self.tol, "random")
        data = X if is_dask(X) else rows.read(0, rows.shape[0])
        random_state, shape = np.random.RandomState(seed % 2**32), (self.n_clusters, rows.shape[1])
        sets = []
        for _ in range(n_init):
            sets.append(np.asarray(self.init(data, self.n_clusters, random_state=random_state), np.float64))
            if sets[-1].shape != shape:
                raise UsageError(f"init made centers of shape {sets[-1].shape}, {shape} are needed")
        return np.stack(sets)

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
