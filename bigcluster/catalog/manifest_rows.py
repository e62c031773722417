"""The cells of a CSV or Parquet manifest, row by row. What does not parse is refused, with its line."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bigcluster.errors import UsageError

PATH_COLUMN = "path"
AUTO = "auto"
"""The encoding of a file that says itself: by a byte order mark, or by being UTF-8."""
_DELIMITERS = (",", ";", "\t")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the mark of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NEITHER_CLOSED_NOR_DOUBLED = "a quote in a quoted cell is neither doubled nor followed by a delimiter"

Row = tuple[int, list[str]]
"""The line (of Parquet, the row) on which it begins, counted from 1 with the header; and its cells."""


def csv_rows(path: Path, encoding: str) -> Iterator[Row]:
    """The header, then the rows; blank lines do not count.

    Cells of a file that is not UTF-8 hold surrogate escapes, where `encoding` is auto. Raises UsageError with the line
    for a quote that is not closed and for bytes that are not of the encoding.
    """
    begins = 1
    try:
        with _open(path, encoding) as file:
            delimiter = _delimiter_of(file)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            empty = True
            for cells in reader:
                if cells:
                    yield begins, cells
                    empty = False
                begins = reader.line_num + 1
            if empty:
                raise UsageError(f"the manifest {path.name} is empty; it needs a column named 'path'")
    except UnicodeError as error:
        shown = "UTF-16" if encoding == AUTO else encoding
        raise UsageError(
            f"cannot read the manifest {path}: line {begins} or one that follows is not {shown}; "
            "set manifest.encoding to the encoding of the file"
        ) from error
    except csv.Error as error:
        raise UsageError(f"cannot read the manifest {path}: line {begins}: {_fault(error)}") from error
    except OSError as error:
        raise UsageError(f"cannot read the manifest {path}: {error.strerror or error}") from error


def _open(path: Path, encoding: str) -> IO[str]:
    with path.open("rb") as file:
        start = file.read(4)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if encoding != AUTO:
        name = marked if marked and encoding.startswith("utf") else encoding
        return path.open(newline="", encoding=name)
    if marked in (None, "utf-8-sig") and not _is_utf16(start):
        # Names of files are bytes, and need not be UTF-8.
        return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
    return path.open(newline="", encoding=marked or ("utf-16-be" if start[0] == 0 else "utf-16-le"))


def _is_utf16(start: bytes) -> bool:
    """Without a mark: the header is ASCII, so that every other byte is zero."""
    return len(start) >= 2 and (start[0] == 0) != (start[1] == 0)


def _delimiter_of(file: IO[str]) -> str:
    """The one that makes a header with a path column; a comma where none does, so that the header can be shown."""
    for delimiter in _DELIMITERS:
        file.seek(0)
        header = next((cells for cells in csv.reader(file, delimiter=delimiter, strict=True) if cells), [])
        if PATH_COLUMN in header:
            return delimiter
    return _DELIMITERS[0]


def _fault(error: csv.Error) -> str:
    """What Python's parser found, in words that say where to look."""
    said = str(error)
    if "unexpected end" in said:
        return "a quote is opened and not closed"
    if "expected after" in said:
        return f"{_NEITHER_CLOSED_NOR_DOUBLED}; or a quote before it is not closed"
    if "field limit" in said:
        return f"a cell has more than {csv.field_size_limit():,} characters, or a quote is opened and not closed"
    return said


def parquet_rows(path: Path, encoding: str) -> Iterator[Row]:
    """The header, then the rows. Raises UsageError where pyarrow is missing or cannot read the file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("a Parquet manifest needs pyarrow: pip install 'bigcluster[parquet]', or use CSV") from error
    try:
        with pq.ParquetFile(path) as file:
            yield 1, list(file.schema_arrow.names)
            number = 1
            for batch in file.iter_batches(batch_size=4096):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, [_text(value, encoding) for value in values]
    except UnicodeError as error:
        raise UsageError(f"cannot read the manifest {path}: it holds text that is not {error.encoding}") from error  # type: ignore[attr-defined]
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"cannot read the manifest {path}: {error}") from error


def _text(value: Any, encoding: str) -> str:
    if isinstance(value, bytes):  # a binary column: names of files may be bytes here too
        return os.fsdecode(value) if encoding == AUTO else value.decode(encoding)
    return "" if value is None else str(value)
