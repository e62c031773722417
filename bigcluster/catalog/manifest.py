"""A CSV or Parquet file that lists the images; its other columns pass through to labels.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bigcluster.errors import UsageError

MANIFEST_SUFFIXES = (".csv", ".parquet")
PATH_COLUMN = "path"


class Manifest:
    """Rows are read again whenever they are needed and never held: a manifest may be as long as the images are many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows
        columns = next(self._reader(path))
        if PATH_COLUMN not in columns:
            raise UsageError(f"the manifest {path.name} needs a column named 'path'; it has {', '.join(columns)}")
        self._at = columns.index(PATH_COLUMN)
        self.columns = (*columns[: self._at], *columns[self._at + 1 :])
        """The columns that pass through, in file order."""

    def paths(self) -> Iterator[str]:
        """Paths relative to the manifest's folder, normalised, with `/`. One that leaves it starts with `../`."""
        folder = os.fspath(self.path.parent)
        for cells in self._rows():
            whole = os.path.normpath(os.path.join(folder, cells[self._at]))
            yield os.path.relpath(whole, folder).replace(os.sep, "/")

    def passed_through(self) -> Iterator[list[str]]:
        """The other cells of every row, in the order of `columns`."""
        for cells in self._rows():
            yield cells[: self._at] + cells[self._at + 1 :]

    def _rows(self) -> Iterator[list[str]]:
        rows = self._reader(self.path)
        width = len(next(rows))
        for number, cells in enumerate(rows, start=2):
            if len(cells) != width:
                raise UsageError(f"row {number} of the manifest {self.path.name} has {len(cells)} cells, not {width}")
            yield cells


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The header, then the rows; blank lines do not count."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = (row for row in csv.reader(file) if row)
            header = next(rows, None)
            if header is None:
                raise UsageError(f"the manifest {path.name} is empty; it needs a column named 'path'")
            yield header
            yield from rows
    except (OSError, csv.Error) as error:
        raise UsageError(f"cannot read the manifest {path}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[list[str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("a Parquet manifest needs pyarrow: pip install 'bigcluster[parquet]', or use CSV") from error
    try:
        with pq.ParquetFile(path) as file:
            yield list(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=4096):
                yield from ([_cell(value) for value in row] for row in zip(*batch.to_pydict().values(), strict=True))
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"cannot read the manifest {path}: {error}") from error


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
