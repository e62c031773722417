"""Rows and columns of stored arrays: read as solvers want them, written in whole chunks as solvers make them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bigcluster.errors import DamagedError
from bigcluster.store.chunk_grid import row_chunks
from bigcluster.store.dask_arrays import lazy_array, without_holes

if TYPE_CHECKING:
    import dask.array as da

    from bigcluster.store.arrays import Store


def read_whole(array: Any, key: Any) -> NDArray[Any]:
    """Read a part of a zarr array. key : as for numpy indexing; `...` for the whole array.

    Raises DamagedError where a chunk is lost or its checksum does not fit.
    """
    try:
        return np.asarray(array[key])
    except ValueError as error:  # the checksum codec's, or a chunk that is gone
        raise DamagedError(f"the stored array {array.path!r} is damaged ({error})") from error


def read_at_once(array: Any) -> NDArray[Any]:
    """Read a whole zarr array. An array of one chunk, as small ones are, is read without a copy.

    Raises DamagedError where a chunk is lost or its checksum does not fit.
    """
    if any(size > chunk for size, chunk in zip(array.shape, array.chunks, strict=True)):
        return read_whole(array, ...)
    if 0 in array.shape:  # there is nothing in its chunk, which was not written
        return np.empty(array.shape, array.dtype)
    into = np.empty(array.chunks, array.dtype)
    try:
        array.store.read_chunk("/".join([array.path, "c", *("0" for _ in array.shape)]), into)
    except ValueError as error:
        raise DamagedError(f"the stored array {array.path!r} is damaged ({error})") from error
    return into[tuple(map(slice, array.shape))]


def read_rectangle(
    array: Any, rows: tuple[int, int], columns: tuple[int, int], spent: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Read rows[0] .. rows[1] - 1 and columns[0] .. columns[1] - 1 of a stored matrix as a C-contiguous array.

    Chunks that lie whole in the result are read straight into it. spent : an earlier result that is no longer needed;
    its memory is used where shape and dtype fit.
    Raises DamagedError where a chunk is lost or its checksum does not fit.
    """
    height, width = array.chunks
    shape = rows[1] - rows[0], columns[1] - columns[0]
    fits = spent is not None and spent.shape == shape and spent.dtype == array.dtype and spent.flags.c_contiguous
    values = spent if spent is not None and fits else np.empty(shape, array.dtype)
    chunk: NDArray[Any] | None = None
    for i in range(rows[0] // height, -(-rows[1] // height)):
        for j in range(columns[0] // width, -(-columns[1] // width)):
            down = slice(max(i * height, rows[0]), min((i + 1) * height, rows[1]))
            across = slice(max(j * width, columns[0]), min((j + 1) * width, columns[1]))
            place = values[_shifted(down, rows[0]), _shifted(across, columns[0])]
            whole = place.shape == (height, width) and place.flags.c_contiguous
            if not whole and chunk is None:
                chunk = np.empty((height, width), array.dtype)
            into = place if whole else chunk
            assert into is not None
            try:
                array.store.read_chunk(f"{array.path}/c/{i}/{j}", into)
            except ValueError as error:
                raise DamagedError(f"the stored array {array.path!r} is damaged ({error})") from error
            if not whole:
                place[...] = into[_shifted(down, i * height), _shifted(across, j * width)]
    return values


def _shifted(span: slice, by: int) -> slice:
    return slice(span.start - by, span.stop - by)


class RowWriter:
    """Takes consecutive blocks of rows of any length and writes whole chunks: the sink of a solver's scores."""

    def __init__(
        self,
        store: Store,
        name: str,
        n_rows: int,
        n_columns: int,
        dtype: DTypeLike,
        span: tuple[int, int] | None = None,
    ) -> None:
        """span : the rows (start, stop) that come: whole chunks of a stored array. By default all of a new one."""
        if span is None:
            self.create(store, name, n_rows, n_columns, dtype)
            span = 0, n_rows
        self._store, self._name = store, name
        chunks = row_chunks(n_columns, np.dtype(dtype).itemsize)
        self._buffer = np.empty((min(chunks[0], span[1] - span[0]), n_columns), dtype)
        self._start, self._stop = span
        self._filled = 0
        self._digests: dict[str, str] = {}

    @staticmethod
    def create(store: Store, name: str, n_rows: int, n_columns: int, dtype: DTypeLike) -> int:
        """Create the array, and return the number of rows of its chunks."""
        chunks = row_chunks(n_columns, np.dtype(dtype).itemsize)
        store.create(name, (n_rows, n_columns), dtype, chunks)
        return chunks[0]

    def write(self, start: int, block: NDArray[Any]) -> None:
        """Take rows start .. start + len(block) - 1; they follow the rows taken before."""
        if start != self._start + self._filled:
            raise ValueError(f"rows must come in order: expected row {self._start + self._filled}, got {start}")
        while len(block):
            taken = min(len(block), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = block[:taken]
            self._filled += taken
            block = block[taken:]
            if self._filled == len(self._buffer) or self._start + self._filled == self._stop:
                self._flush()

    def _flush(self) -> None:
        self._digests |= self._store.write_rows(self._name, self._start, self._buffer[: self._filled])
        self._start += self._filled
        self._filled = 0

    def close(self) -> dict[str, str]:
        """All rows are in: the files that hold them, and their digests."""
        if self._start != self._stop:
            raise ValueError(f"{self._name} got {self._start} of {self._stop} rows")
        return self._digests


class ColumnWriter:
    """Takes consecutive blocks of columns, (n_rows, w) each, and writes whole chunks: the sink of components."""

    def __init__(self, store: Store, name: str, n_rows: int, n_columns: int, dtype: DTypeLike) -> None:
        # As RowWriter, of the transposed matrix: chunks hold all rows of some columns where they can.
        columns, rows = row_chunks(n_rows, np.dtype(dtype).itemsize)
        self._store, self._name, self._n_columns = store, name, n_columns
        store.create(name, (n_rows, n_columns), dtype, (rows, min(columns, n_columns)))
        self._buffer = np.empty((n_rows, min(columns, n_columns)), dtype)
        self._start = self._filled = 0
        self._digests: dict[str, str] = {}

    def write(self, start: int, block: NDArray[Any]) -> None:
        """Take columns start .. start + w - 1; they follow the columns taken before."""
        if start != self._start + self._filled:
            raise ValueError(f"columns must come in order: expected {self._start + self._filled}, got {start}")
        while block.shape[1]:
            taken = min(block.shape[1], self._buffer.shape[1] - self._filled)
            self._buffer[:, self._filled : self._filled + taken] = block[:, :taken]
            self._filled += taken
            block = block[:, taken:]
            if self._filled == self._buffer.shape[1] or self._start + self._filled == self._n_columns:
                self._digests |= self._store.write_columns(self._name, self._start, self._buffer[:, : self._filled])
                self._start += self._filled
                self._filled = 0

    def close(self) -> dict[str, str]:
        """All columns are in: the files that hold them, and their digests."""
        if self._start != self._n_columns:
            raise ValueError(f"got {self._start} of {self._n_columns} columns")
        return self._digests


class StoredRows:
    """The good rows of a stored array as a RowSource: holes of failed files are never seen."""

    def __init__(self, array: Any, ok: NDArray[np.bool_] | None = None, *, mask: str | None = None) -> None:
        """ok : (n,) which rows of the array are good; None for all. mask : the name of the stored array with the values
        of `ok`, where they are stored: other processes read it (`refs.RowsRef`).
        """
        self._array = array
        self._mask = "" if ok is None else mask
        self._physical = None if ok is None or bool(ok.all()) else np.flatnonzero(ok)  # (n_rows,) or None: all
        self._n_rows = int(array.shape[0]) if self._physical is None else len(self._physical)

    @property
    def place(self) -> tuple[Path, str, str, str] | None:
        """OUT, the edition of its store, the name of the array, and that of the mask; "" for a matrix without holes.

        None where the mask is not stored.
        """
        files = self._array.store
        return None if self._mask is None else (files.out, files.edition, str(self._array.path), self._mask)

    @property
    def shape(self) -> tuple[int, int]:
        return self._n_rows, int(self._array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def chunks(self) -> tuple[int, int]:
        """(rows, columns) of a stored chunk."""
        rows, columns = self._array.chunks
        return int(rows), int(columns)

    def dask(self, version: tuple[str, str] | None = None) -> da.Array:
        """The rows as a dask array in their stored chunks, (n_rows, n_columns). version : see `lazy_array`."""
        lazy = lazy_array(self._array, version)
        if self._physical is None:
            return lazy
        ok = np.zeros(self._array.shape[0], bool)
        ok[self._physical] = True
        return without_holes(lazy, ok)

    def read(
        self, start: int, stop: int, columns: slice = slice(None), *, spent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        first, last, _ = columns.indices(self.shape[1])
        if self._physical is None:
            start, stop, _ = slice(start, stop).indices(self._n_rows)
            return read_rectangle(self._array, (start, max(start, stop)), (first, last), spent)
        rows = self._physical[start:stop]
        if len(rows) == 0:
            return np.empty((0, last - first), self.dtype)
        block = read_rectangle(self._array, (int(rows[0]), int(rows[-1]) + 1), (first, last))
        return block if len(block) == len(rows) else np.ascontiguousarray(block[rows - rows[0]])
