"""The child that reads a list column of a Parquet file.

`python -m bigcluster.catalog.parquet_vectors FILE COLUMN BYTES` writes one line of JSON to stdout, {"n_features": N},
and then for each row N + 1 values of float32: 1 and the vector, or zeros alone where the row has no vector. Its memory
is limited as that of parquet.py.
"""

from __future__ import annotations

import difflib
import json
import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog.parquet import OPENED, is_list, with_limited_memory
from bigcluster.units import counted

_MOST_BATCH_ROWS = 1024
"""Rows that are decoded and written at a time, at most. Chosen, not measured."""
_BATCH_SHARE = 16
"""A batch takes about one part in so many of the allowed memory, since it is in memory as read, as floats, and with its
flags. Chosen, not measured."""
_SHOWN_NAMES = 300
"""Characters of the names of columns that a message shows, at most."""


def main() -> int:
    """Write the vectors to stdout. An error is one line on stderr and exit status 1."""
    path, column, limit_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def write() -> None:
        with open(1, "wb") as out:
            _write(out, path, column, limit_bytes)

    return with_limited_memory(limit_bytes, write)


def _write(out: IO[bytes], path: str, column: str, limit_bytes: int) -> None:
    """Write the header and all rows. Raises ValueError for what is not a column of vectors of one length."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, **OPENED) as file:
        _check_type(file.schema_arrow, column)
        written = _Written(out)
        n_rows = file.metadata.num_rows
        for batch in file.iter_batches(_batch_rows(file, column, limit_bytes), columns=[column], use_threads=False):
            written.add(batch.column(0))
    if n_rows == 0:
        raise ValueError("it has no rows")
    if not written.n_features:
        raise ValueError(f"no row has a vector in the column {column!r}")


def _check_type(schema: Any, column: str) -> None:
    import pyarrow as pa

    places = schema.get_all_field_indices(column)
    if len(places) > 1:
        raise ValueError(f"it has {len(places)} columns named {column!r}")
    if not places:
        near = difflib.get_close_matches(column, schema.names, n=3)
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise ValueError(f"it has no column {column!r}{hint}; it has {', '.join(schema.names):.{_SHOWN_NAMES}}")
    its_type = schema.field(places[0]).type
    if not (is_list(its_type) and pa.types.is_floating(its_type.value_type)):
        raise ValueError(f"its column {column!r} is of {its_type!s:.100}, and lists of floats are needed")


def _batch_rows(file: Any, column: str, limit_bytes: int) -> int:
    """Return how many rows are read at a time. The metadata of the file say how large they are."""
    n_bytes = n_rows = 0
    for group in range(file.metadata.num_row_groups):
        of_group = file.metadata.row_group(group)
        n_rows += of_group.num_rows
        for place in range(of_group.num_columns):
            chunk = of_group.column(place)
            if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}."):
                n_bytes += chunk.total_uncompressed_size
    row_bytes = max(1, n_bytes // max(1, n_rows))
    return max(1, min(_MOST_BATCH_ROWS, limit_bytes // _BATCH_SHARE // row_bytes))


class _Written:
    """Writes batches of a list column, and checks that all vectors have one length."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.n_features = 0
        self._n_rows = self._first = 0
        """The number of rows so far, and the number of the first one that has a vector, counted from 1."""
        self._n_waiting = 0
        """Rows without a vector that were read before the length of vectors was known."""

    def add(self, column: Any) -> None:
        """Write the rows of one batch."""
        import pyarrow.compute as pc

        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        present = lengths > 0
        if present.any():
            self._check_lengths(lengths, present)
            for done in range(0, self._n_waiting, _MOST_BATCH_ROWS):
                self._put(self._zeros(min(_MOST_BATCH_ROWS, self._n_waiting - done)))
            self._n_waiting = 0
            rows = self._zeros(len(lengths))
            with np.errstate(over="ignore"):  # an infinity is found where the row is read
                values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            rows[present, 0] = 1
            rows[present, 1:] = values.reshape(-1, self.n_features)
            self._put(rows)
        elif self.n_features:
            self._put(self._zeros(len(lengths)))
        else:
            self._n_waiting += len(lengths)
        self._n_rows += len(lengths)

    def _check_lengths(self, lengths: NDArray[np.int64], present: NDArray[np.bool_]) -> None:
        if not self.n_features:
            first = int(np.flatnonzero(present)[0])
            self.n_features, self._first = int(lengths[first]), self._n_rows + first + 1
            self._out.write(json.dumps({"n_features": self.n_features}).encode() + b"\n")
        if (different := np.flatnonzero(present & (lengths != self.n_features))).size:
            at = int(different[0])
            raise ValueError(
                f"row {self._n_rows + at + 1} has a vector of {counted(int(lengths[at]), 'value')}, and row "
                f"{self._first} one of {self.n_features}; all must have one length"
            )

    def _zeros(self, n_rows: int) -> NDArray[np.float32]:
        return np.zeros((n_rows, 1 + self.n_features), np.float32)

    def _put(self, rows: NDArray[np.float32]) -> None:
        self._out.write(rows.data)


if __name__ == "__main__":
    sys.exit(main())
