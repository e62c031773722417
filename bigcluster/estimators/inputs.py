"""Reads the inputs of the estimators as row sources: numpy arrays, whatever becomes one, and dask arrays."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from bigcluster.errors import UsageError
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.store.row_source import ArrayRows, DaskRows, RowSource, spans

_LEAST_ROWS, _MOST_ROWS = 1024, 8192
"""Rows of a block that `each_block` works on."""
_BLOCK_VALUES = 1 << 23
"""Values of such a block, between these numbers of rows: 32 MiB of float32."""

BlockWork = Callable[[NDArray[Any], int], NDArray[Any]]
"""A function of rows, (m, n_features), and the number of the first one."""


def is_dask(X: Any) -> bool:
    """Whether X is a dask array; this does not import dask."""
    return hasattr(X, "__dask_graph__") and hasattr(X, "chunks")


def of_known_length(X: Any) -> Any:
    """Return a dask array whose number of rows is known; where it is not, X is computed once and a copy is returned.

    Raises UsageError where the number of features is not known.
    """
    if X.ndim == 2 and np.isnan(X.shape[1]):
        raise UsageError(f"X has {X.shape[1]} features; their number must be known")
    if not np.isnan(X.shape[0]):
        return X
    counted = X.copy()
    counted.compute_chunk_sizes()
    return counted


def seed_of(random_state: Any) -> int:
    """Return a seed: an int as it is, anything else by scikit-learn's rules. Raises UsageError for a negative one."""
    if not isinstance(random_state, numbers.Integral):
        return int(check_random_state(random_state).randint(2**31 - 1))
    if random_state < 0:
        raise UsageError(f"random_state must be at least 0, not {random_state}")
    return int(random_state)


def rows_of(
    estimator: BaseEstimator, X: Any, kinds: tuple[type, ...], *, reset: bool, min_samples: int = 1, order: Any = None
) -> RowSource:
    """Check X, (n_samples, n_features), as scikit-learn does, and return it as a row source.

    kinds : dtypes that are taken as they are; any other becomes the first one. reset : whether the estimator is fitted
    to X. order : memory order of a numpy array, as of `validate_data`. NaN and infinity are found later, when the rows
    are read, so that the error names the row. Raises UsageError for other shapes and for data that is not numeric.
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
    X = of_known_length(X)
    if reset:
        estimator.n_features_in_ = int(X.shape[1])
        if hasattr(estimator, "feature_names_in_"):  # of what it was fitted to before
            del estimator.feature_names_in_
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
    """Apply `work` to all rows of X: (n_samples, n_columns), or (n_samples,) for n_columns=None.

    work : must give the same result for a row whatever other rows are in the block. dtype_for : gives the dtype of the
    result for that of the rows. A dask array gives a lazy dask array.
    """
    if is_dask(X):
        X = of_known_length(X)
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
    """Choose the rows of a block: enough to pay for the preparation of each block, few enough to need little memory."""
    return min(_MOST_ROWS, max(_LEAST_ROWS, _BLOCK_VALUES // n_features))
