"""The manifest: a CSV or Parquet file that lists the images. Its other columns are copied to labels.csv."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from bigcluster.catalog.manifest_rows import (
    AUTO,
    PARQUET_BYTES,
    PARQUET_SUFFIX,
    PATH_COLUMN,
    Row,
    csv_rows,
    parquet_rows,
)
from bigcluster.errors import InputChangedError, UsageError
from bigcluster.files.paths import is_url
from bigcluster.units import counted, printable

MANIFEST_SUFFIXES = (".csv", PARQUET_SUFFIX)
_ROWS_COMPARED = 256
"""Rows that are held at a time when the file is read again, until they are known to be unchanged."""
_MOST_COLUMNS, _MOST_EQUAL_NAMES = 4096, 100
"""The most columns, and the most of one name: each of these gets a longer prefix in labels.csv than the one before."""


class Manifest:
    """A manifest whose rows are read again whenever they are needed, because it may have a row for each of many images.

    encoding : str, of a CSV file; "auto" knows UTF-8 and byte order marks, and accepts any bytes in paths.
    parquet_bytes : the memory for reading a Parquet file, in bytes, beyond what Python and pyarrow take.
    leave_out_lists : do not read the columns of lists of a Parquet file.
    folder : the folder that relative paths begin in, and names are relative to; by default that of the file.
    Raises UsageError where the file cannot be read, has no or several columns named `path`, or has too many columns.
    """

    def __init__(
        self,
        path: Path,
        encoding: str = AUTO,
        parquet_bytes: int = PARQUET_BYTES,
        *,
        leave_out_lists: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.path = path
        self._folder = os.fspath(folder or path.parent)
        self._encoding = encoding
        of_parquet = partial(parquet_rows, limit_bytes=parquet_bytes, leave_out_lists=leave_out_lists)
        self._reader = of_parquet if path.suffix.lower() == PARQUET_SUFFIX else csv_rows
        line, self._header = next(self._reader(path, encoding))
        self._check_columns()
        if PATH_COLUMN not in self._header:
            spaced = next((cell for cell in self._header if cell.strip() == PATH_COLUMN), None)
            if spaced is not None:
                raise UsageError(
                    f"the manifest {path.name} has a column named {spaced!r}: remove the spaces around it and "
                    "around all cells"
                )
            columns = ", ".join(self._header)
            raise UsageError(f"the manifest {path.name} needs a column named 'path'; it has {columns:.200}")
        self._at = self._header.index(PATH_COLUMN)
        self.columns = self._others(self._header)
        """The other columns, which are copied to labels.csv, in the order of the file."""
        self._check_text(line, self._header)
        self._prints: list[bytes] = []
        """Digests of the rows up to every 256th row and up to the last one, as `paths` read them."""

    def paths(self) -> Iterator[str]:
        """Yield the paths as names of a listing (see `_name`). Every row is checked, for no later pass may fail.

        Raises UsageError with the line of a row that has too few or too many cells, or text that is not UTF-8.
        """
        prints: list[bytes] = []
        digest = hashlib.blake2b(digest_size=16)
        for n_rows, (line, cells) in enumerate(self._rows(), start=1):
            self._check_text(line, cells)
            _add(digest, cells)
            if n_rows % _ROWS_COMPARED == 0:
                prints.append(digest.digest())
            yield self._name(cells[self._at])
        self._prints = [*prints, digest.digest()]

    def passed_through(self) -> Iterator[tuple[str, ...]]:
        """Yield the other cells of every row that `paths` read, in the order of `columns`.

        Raises InputChangedError before the first row that has changed since `paths` read it.
        """
        try:
            yield from self._read_again()
        except UsageError as error:
            raise InputChangedError(f"{error}; it could be read when the run began: run again") from error

    def _read_again(self) -> Iterator[tuple[str, ...]]:
        digest = hashlib.blake2b(digest_size=16)
        prints = iter(self._prints)
        waiting: list[tuple[str, ...]] = []
        for _, cells in self._rows():
            _add(digest, cells)
            waiting.append(self._others(cells))
            if len(waiting) == _ROWS_COMPARED:
                self._compare(digest.digest(), next(prints, b""))
                yield from waiting
                waiting = []
        self._compare(digest.digest(), next(prints, b""))
        yield from waiting

    def _compare(self, now: bytes, listed: bytes) -> None:
        if now != listed:
            raise InputChangedError(
                f"the manifest {self.path} was changed after its images were listed: its rows no longer belong to the "
                "results; run again"
            )

    def _others(self, cells: list[str]) -> tuple[str, ...]:
        return (*cells[: self._at], *cells[self._at + 1 :])

    def _rows(self) -> Iterator[Row]:
        rows = self._reader(self.path, self._encoding)
        if next(rows)[1] != self._header:
            raise UsageError(f"the manifest {self.path} has another header than when its images were listed")
        for line, cells in rows:
            if len(cells) != len(self._header):
                cells_here = counted(len(cells), "cell")
                raise UsageError(
                    f"line {line} of the manifest {self.path.name} has {cells_here}, and its header has "
                    f"{len(self._header)}; give every row as many cells as the header"
                )
            yield line, cells

    def _check_columns(self) -> None:
        name, number = self.path.name, len(self._header)
        if number > _MOST_COLUMNS:
            raise UsageError(f"the manifest {name} has {number} columns, {_MOST_COLUMNS} are the most; remove some")
        if self._header.count(PATH_COLUMN) > 1:
            raise UsageError(
                f"the manifest {name} has {self._header.count(PATH_COLUMN)} columns named 'path'; give all but one "
                "another name"
            )
        column, equal = Counter(self._header).most_common(1)[0]
        if equal > _MOST_EQUAL_NAMES:
            raise UsageError(f"the manifest {name} has {equal} columns named {column[:40]!r}; give them other names")

    def _check_text(self, line: int, cells: list[str]) -> None:
        """Refuse text that labels.csv cannot hold: text that is not UTF-8, and the NUL character.

        Many CSV readers end a cell at NUL. A path may hold any bytes but NUL, because paths are escaped.
        """
        whole = "".join(cells)
        if "\0" in whole:
            column = next(name for name, cell in zip(self._header, cells, strict=True) if "\0" in cell)
            raise UsageError(
                f"line {line} of the manifest {self.path.name} has a NUL character in the column "
                f"'{printable(column)}'; take it out, or set manifest.encoding where the file has another one"
            )
        if whole.isascii():
            return
        for column, cell in zip(self.columns, self._others(cells), strict=True):
            try:
                cell.encode()
            except UnicodeEncodeError:
                raise UsageError(
                    f"line {line} of the manifest {self.path.name} has text that is not UTF-8 in the column "
                    f"'{printable(column)}'; set manifest.encoding, such as --set manifest.encoding=windows-1252"
                ) from None

    def _name(self, cell: str) -> str:
        """Return the path of a cell, normalised, with `/`, and relative to the folder of the manifest.

        An absolute path outside of that folder stays absolute, so that it does not depend on where the manifest lies. A
        URL is returned unchanged: its file is not read.
        """
        if is_url(cell):
            return cell
        folder = self._folder
        whole = os.path.normpath(os.path.join(folder, self._on_disk(cell, folder)))
        relative = os.path.relpath(whole, folder)
        leaves = relative == os.pardir or relative.startswith(os.pardir + os.sep)
        return (whole if leaves and os.path.isabs(cell) else relative).replace(os.sep, "/")

    def _on_disk(self, cell: str, folder: str) -> str:
        """Return the cell itself, or, with an encoding, the name of a file that has the very bytes of the cell."""
        if self._encoding == AUTO or cell.isascii():
            return cell
        with suppress(UnicodeError, ValueError):  # ValueError: a NUL, as of UTF-16
            as_written = os.fsdecode(cell.encode(self._encoding))
            if os.path.lexists(os.path.join(folder, as_written)):
                return as_written
        return cell


def _add(digest: hashlib.blake2b, cells: list[str]) -> None:
    digest.update(repr(cells).encode())  # in which surrogates are escaped
