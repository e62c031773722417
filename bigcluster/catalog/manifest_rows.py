"""The rows of a CSV or Parquet manifest. A row that cannot be parsed is refused, and the error names its line.

A manifest may come from a stranger. So one row at a time is held, and the length of a row is limited. Nobody can tell
from outside how much memory a Parquet file needs, so a child process with limited memory reads it (parquet.py).
"""

from __future__ import annotations

import codecs
import csv
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from bigcluster.errors import UsageError
from bigcluster.files.bounded import BoundedLines, open_regular
from bigcluster.planning.footprint import KEPT_BYTES, PARQUET_CHILD_BYTES, PRODUCTS_BYTES
from bigcluster.runtime.processes import start_python
from bigcluster.units import MIB, show_bytes

PATH_COLUMN = "path"
PARQUET_SUFFIX = ".parquet"
AUTO = "auto"
"""The encoding setting for files that show their encoding themselves: by a byte order mark, or by being UTF-8."""
_DELIMITERS = (",", ";", "\t")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the mark of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_ROW_CHARACTERS = 1 * MIB
"""The most characters of a row, with its line ends. Python's csv module accepts 131,072 characters in a cell."""
PARQUET_BYTES = 64 * MIB
"""Bytes that the child which reads Parquet may use by default, beyond what Python and pyarrow take."""
LEAST_BYTES = 16 * MIB
"""Bytes that reading names, headers or a Parquet file may take in any case: the pages of a dozen columns, or 150,000
names. Where the budget has no room for them, the plan refuses it and names its need."""
LISTS_LEFT_OUT = "lists-left-out"
"""The argument of the child for rows without the columns of lists."""
TOO_LARGE = "out of memory"
NO_PYARROW = "a Parquet manifest needs pyarrow: pip install 'bigcluster[parquet]', or use CSV"
"""What the child writes to stderr where it has no more memory, and where pyarrow is not installed."""
_UNFOLDED_CHARACTERS, UNFOLDED_TIMES = 64 * MIB, 1000
"""The most characters of all rows of a Parquet file: so many, and so many times the bytes of the file. Equal cells are
stored once, so that a small file may unfold to very much."""
ENDED = "the process that read it ended"
"""The reason that a message gives where a child wrote none to stderr."""
MOST_SAID = 64 << 10
"""The most bytes that are read of the child's error message."""
_NEITHER_CLOSED_NOR_DOUBLED = "a quote in a quoted cell is neither doubled nor followed by a delimiter"

Row = tuple[int, list[str]]
"""The number of the line where a row begins (in Parquet: of the row), counted from 1 with the header; and its cells."""


def parquet_bytes(most_bytes: int | None) -> int:
    """Return the bytes that the child which reads Parquet may use, where the run has most_bytes for data.

    The rows are read once more while labels.csv is written. By then the solvers' libraries are loaded, and their memory
    is subtracted here.
    """
    if most_bytes is None:
        return PARQUET_BYTES
    spare = most_bytes - PRODUCTS_BYTES - KEPT_BYTES - PARQUET_CHILD_BYTES
    return max(LEAST_BYTES, min(PARQUET_BYTES, spare))


def parquet_child_bytes(images: str | None, most_bytes: int) -> int:
    """What the child holds that reads the rows of a Parquet manifest, as they are passed through to a table; else 0.

    most_bytes : what was left for names and all else as the images were listed.
    """
    if images is None or Path(images).suffix.lower() != PARQUET_SUFFIX:
        return 0
    return PARQUET_CHILD_BYTES + parquet_bytes(most_bytes)


def csv_rows(path: Path, encoding: str) -> Iterator[Row]:
    """Yield the header, then the rows. Blank lines are skipped.

    Where `encoding` is auto, cells that are not UTF-8 hold surrogate escapes. Raises UsageError with the line for a
    quote that is not closed and for bytes that are not valid in the encoding.
    """
    begins = 1
    try:
        with _open(path, encoding) as file:
            delimiter = _delimiter_of(file, path)
            file.seek(0)
            lines = _lines(file, path)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            empty = True
            for cells in reader:
                lines.taken = 0
                if cells:
                    yield begins, cells
                    empty = False
                begins = reader.line_num + 1
            if empty:
                raise UsageError(f"the manifest {path.name} is empty; it needs a column named 'path'")
    except UnicodeError as error:
        encoding_name = "UTF-16" if encoding == AUTO else encoding
        raise UsageError(
            f"cannot read the manifest {path}: line {begins} or one that follows is not {encoding_name}; "
            "set manifest.encoding to the encoding of the file"
        ) from error
    except csv.Error as error:
        raise UsageError(f"cannot read the manifest {path}: line {begins}: {_fault(error)}") from error
    except OSError as error:
        raise UsageError(f"cannot read the manifest {path}: {error.strerror or error}") from error


def _open(path: Path, encoding: str) -> IO[str]:
    with open_regular(path, follow=True) as file:
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
    """Whether a file without a byte order mark is UTF-16: its header is ASCII, so every second byte is zero."""
    return len(start) >= 2 and (start[0] == 0) != (start[1] == 0)


def _delimiter_of(file: IO[str], path: Path) -> str:
    """Return the delimiter with which the header has a path column; a comma where none does, to show the header."""
    for delimiter in _DELIMITERS:
        file.seek(0)
        header = next(
            (cells for cells in csv.reader(_lines(file, path), delimiter=delimiter, strict=True) if cells), []
        )
        if any(cell.strip() == PATH_COLUMN for cell in header):
            return delimiter
    return _DELIMITERS[0]


def _fault(error: csv.Error) -> str:
    """Return an error of Python's CSV parser in words that say where to look."""
    said = str(error)
    if "unexpected end" in said:
        return "a quote is opened and not closed"
    if "expected after" in said:
        return f"{_NEITHER_CLOSED_NOR_DOUBLED}; or a quote before it is not closed"
    if "field limit" in said:
        return f"a cell has more than {csv.field_size_limit():,} characters, or a quote is opened and not closed"
    return said


def parquet_rows(
    path: Path, encoding: str, limit_bytes: int = PARQUET_BYTES, *, leave_out_lists: bool = False
) -> Iterator[Row]:
    """Yield the header, then the rows. A child reads them, which may allocate limit_bytes beyond Python and pyarrow.

    leave_out_lists : do not read the columns of lists, such as vectors.
    Raises UsageError where pyarrow is missing, cannot read the file, or needs more memory.
    """
    child = start_python(
        "bigcluster.catalog.parquet",
        *(os.fspath(path.absolute()), encoding, str(limit_bytes)),
        *[LISTS_LEFT_OUT] * leave_out_lists,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
    )
    assert child.stdout is not None
    assert child.stderr is not None
    number = 0
    try:
        with child.stdout as rows:
            lines, characters_left = _lines(rows, path), _UNFOLDED_CHARACTERS + UNFOLDED_TIMES * path.stat().st_size
            for number, cells in enumerate(csv.reader(lines, strict=True), start=1):
                characters_left -= lines.taken
                if characters_left < 0:
                    raise UsageError(
                        f"the manifest {path.name} unfolds to more than {UNFOLDED_TIMES} times its size; leave out "
                        "columns of long texts"
                    )
                lines.taken = 0
                yield number, cells
        error_lines = child.stderr.read(MOST_SAID).strip().splitlines()
        if child.wait() != 0:
            raise UsageError(why_unread(path, error_lines[-1] if error_lines else ENDED, limit_bytes))
    except csv.Error as error:
        raise UsageError(f"cannot read the manifest {path}: row {number + 1}: {_fault(error)}") from error
    finally:
        child.kill()
        child.wait()
        with suppress(OSError):
            child.stderr.close()


def why_unread(path: Path, said: str, limit_bytes: int) -> str:
    """Return the message for a Parquet file that a child could not read. said : the last line of its stderr."""
    if said == TOO_LARGE:
        return (
            f"reading the manifest {path} takes more than {show_bytes(limit_bytes)}; write it with smaller row groups "
            f"and pages, or as CSV, or use a larger --memory"
        )
    return said if said == NO_PYARROW else f"cannot read the manifest {path}: {said}"


def _lines(file: IO[str], path: Path) -> BoundedLines:
    too_long = UsageError(
        f"the manifest {path.name} has a row of more than {MOST_ROW_CHARACTERS:,} characters, or a quote is opened and "
        f"not closed"
    )
    return BoundedLines(file, MOST_ROW_CHARACTERS, too_long)
