"""What the estimators take: numpy arrays, whatever becomes one, and dask arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from bigcluster.errors import UsageError
from bigcluster.rows import ArrayRows, DaskRows, RowSource, spans
from bigcluster.runtime import EmbeddedRuntime

BlockWork = Callable[[NDArray[Any], int], NDArray[Any]]
"""Of rows (m, n_features) and the number of the first of them."""


def is_dask(X: Any) -> bool:
    return hasattr(X, "__dask_graph__") and hasattr(X, "chunks")


def rows_of(
    estimator: BaseEstimator, X: Any, kinds: tuple[type, ...], *, reset: bool, min_samples: int = 1, order: Any = None
) -> RowSource:
    """X, (n_samples, n_features), as rows, checked as scikit-learn checks it.

    NaN and infinity are left to who reads the rows, which says in which of them they are. kinds : dtypes that stay as
    they are; any other becomes the first. reset : whether X is what the estimator is fitted to.
    """
    if not is_dask(X):
        checked = validate_data(
            estimator,
            X,
            reset=reset,
            dtype=kinds,
            order=order,
            ensure_all_finite=False,
            ensure_min_samples=min_samples,
        )
        return ArrayRows(checked)
    if X.ndim != 2:
        raise UsageError(f"expected a 2D array, got {X.ndim}D of shape {X.shape}")
    if not np.can_cast(X.dtype, np.float64, "same_kind"):
        raise UsageError(f"X holds {X.dtype}, numbers are needed")
    if np.isnan(X.shape[0]):
        X.compute_chunk_sizes()
    if reset:
        estimator.n_features_in_ = int(X.shape[1])
    elif X.shape[1] != estimator.n_features_in_:
        expected = f"{type(estimator).__name__} is expecting {estimator.n_features_in_} features as input"
        raise UsageError(f"X has {X.shape[1]} features, but {expected}")
    return DaskRows(X if X.dtype in kinds else X.astype(kinds[0]))


def each_block(
    estimator: BaseEstimator,
    X: Any,
    kinds: tuple[type, ...],
    work: BlockWork,
    dtype_for: Callable[[np.dtype[Any]], np.dtype[Any]],
    n_columns: int | None,
) -> Any:
    """`work` of all rows of X: (n_samples, n_columns), or (n_samples,) for None; lazy for a dask array.

    work : gives the same for a row whatever rows stand beside it. dtype_for : of the result, by that of the rows.
    """
    rows = rows_of(estimator, X, kinds, reset=False)
    (n_rows, n_features), dtype = rows.shape, dtype_for(rows.dtype)
    if not is_dask(X):
        out = np.empty((n_rows,) if n_columns is None else (n_rows, n_columns), dtype)

        def task(span: tuple[int, int]) -> None:
            out[slice(*span)] = work(rows.read(*span), span[0])

        for _ in EmbeddedRuntime().map(task, spans(n_rows, _block_rows(n_features))):
            pass
        return out

    def lazy(block: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        ((first, _), _) = block_info[0]["array-location"]
        return work(block, first).astype(dtype, copy=False)

    whole = X.rechunk({1: -1})
    if n_columns is None:
        return whole.map_blocks(lazy, dtype=dtype, drop_axis=1, meta=np.empty(0, dtype))
    return whole.map_blocks(lazy, dtype=dtype, chunks=(whole.chunks[0], (n_columns,)), meta=np.empty((0, 0), dtype))


def _block_rows(n_features: int) -> int:
    """Enough to be worth what `work` gets ready for each block, few enough to need little memory."""
    return min(8192, max(1024, (1 << 23) // n_features))
