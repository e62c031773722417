"""Where solvers take their rows from: one small interface over numpy, dask and the store.

A solver sees good rows only, numbered 0 .. n_rows - 1, and asks for whatever rectangle suits its arithmetic. How the
rows are chunked underneath never shows, so it cannot change a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.store.chunk_grid import row_chunks

if TYPE_CHECKING:
    import dask.array as da


class RowSource(Protocol):
    """A matrix of samples that may be larger than memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_columns)"""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Rows start .. stop - 1 as a C-contiguous (stop - start, n_selected_columns) array of `dtype`.

        spent : an array that an earlier call returned and that is no longer needed: its memory may be used again, which
        saves up to half the time of a read.
        Several threads may call this at once. The caller must not write into the result, which may be a view.
        """

    def dask(self) -> da.Array:
        """The same matrix as a dask array, for solvers of other libraries; nothing is read before it is computed."""


class ArrayRows:
    """A numpy array of shape (n_rows, n_columns) as a row source. `read` returns a view where that is C-contiguous."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self._array.shape
        return n_rows, n_columns

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        del spent  # an earlier result may be a view of the array itself
        return np.ascontiguousarray(self._array[start:stop, columns])

    def dask(self) -> da.Array:
        import dask.array as da

        n_rows, _ = row_chunks(max(1, self.shape[1]), self.dtype.itemsize)
        return da.from_array(self._array, chunks=(n_rows, -1), name=False)  # a name by content would hash all of it


class DaskRows:
    """A dask array of shape (n_rows, n_columns) as a row source. `read` computes the requested rectangle alone."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self._array.shape
        return int(n_rows), int(n_columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        return dtype

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        del spent
        # The synchronous scheduler: the caller's own threads are the parallelism.
        return np.ascontiguousarray(self._array[start:stop, columns].compute(scheduler="synchronous"))

    def dask(self) -> da.Array:
        return self._array


class FirstColumns:
    """The first `n_columns` columns of another row source, as a row source."""

    def __init__(self, rows: RowSource, n_columns: int) -> None:
        self.rows = rows
        self._n_columns = n_columns

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self._n_columns

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        first = slice(*columns.indices(self._n_columns))
        return np.ascontiguousarray(self.rows.read(start, stop, first, spent=spent))

    def dask(self) -> da.Array:
        return self.rows.dask()[:, : self._n_columns]


def spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges (0, size), (size, 2 size), ... up to `total`; the last one may be shorter."""
    for start in range(0, total, size):
        yield start, min(start + size, total)
