"""Reading files that a stranger may have put there: regular files alone, and no more bytes than the reader expects.

A FIFO at the name of a file never ends, /dev/zero never does either, and a sparse file of 2 GB takes no room on a disk
but 2 GB of memory. JSON grows while it is parsed: an empty list is 3 bytes in a file and 64 in memory.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bigcluster.errors import MemoryBudgetError
from bigcluster.units import MIB, show_bytes

SETTINGS_BYTES = 1 * MIB
"""Bytes of run.toml and of a config, at most: some thousand times what our settings take."""
ROW_CHARACTERS = 2 * MIB
"""Characters of a row of our tables, at most: a row of a manifest has up to 1 MiB, and there are our own columns."""
TABLE_COLUMNS = 4200
"""Columns of our tables, at most: 4,096 of a manifest, and our own."""


class UnfitFileError(OSError):
    """A file that is not read: it is not a regular file, a link where none may be, or larger than it can be."""


def open_regular(path: str | Path, *, follow: bool = False) -> io.BufferedReader:
    """Open a regular file for reading without waiting for anybody; follow : links are followed, as for files of a user.

    Raises UnfitFileError where it is something else, FileNotFoundError where there is nothing.
    """
    _check_regular(path, os.stat(path, follow_symlinks=follow))  # opening a device may already do something
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitFileError(errno.ELOOP, "it is a link", str(path)) from None
        raise
    try:
        _check_regular(path, os.fstat(descriptor))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: str | Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise UnfitFileError(errno.EINVAL, f"it is {what}", str(path))


def read_bounded(path: str | Path, limit_bytes: int, *, follow: bool = False) -> bytes:
    """The content of a regular file of at most `limit_bytes`.

    Raises UnfitFileError where it is larger or no regular file, FileNotFoundError where there is nothing.
    """
    with open_regular(path, follow=follow) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes <= limit_bytes:
            data = file.read(n_bytes + 1)  # a read of the limit would allocate that much
            if len(data) <= n_bytes:
                return data
    raise UnfitFileError(errno.EINVAL, f"it is larger than {show_bytes(limit_bytes)}", str(path))


class BoundedLines:
    """Lines of a text file, for csv.reader; those of one row together are bounded, whether it has line ends or not."""

    def __init__(self, file: IO[str], limit_characters: int, too_long: Exception) -> None:
        """too_long : what is raised for a row that has more."""
        self._file, self._limit_characters, self._too_long = file, limit_characters, too_long
        self.taken = 0
        """Characters since the last whole row: who reads rows sets it back after each."""

    def __iter__(self) -> BoundedLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._limit_characters + 1)
        self.taken += len(line)
        if self.taken > self._limit_characters:
            raise self._too_long
        if not line:
            raise StopIteration
        return line


def read_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file of ours, the header included.

    Raises ValueError for a row that is longer than any of ours, UnfitFileError for what is no file of ours,
    FileNotFoundError where there is nothing, csv.Error and UnicodeDecodeError.
    """
    too_long = ValueError(f"{path} has a row of more than {ROW_CHARACTERS:,} characters")
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
        lines = BoundedLines(file, ROW_CHARACTERS, too_long)
        for row in csv.reader(lines):
            lines.taken = 0
            yield row


def read_dicts(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file of ours by the names of its columns; raises what `read_rows` does."""
    rows = read_rows(path)
    header = next(rows, [])
    for row in rows:
        yield dict(zip(header, row, strict=False))


def check_table(path: Path, n_rows: int) -> None:
    """Look at a CSV file of ours before a library reads it whole: its size for so many rows, and its header.

    Raises UnfitFileError where it is larger than any of ours, FileNotFoundError where there is nothing.
    """
    with open_regular(path) as file:
        header = file.readline(ROW_CHARACTERS)
        n_bytes = os.fstat(file.fileno()).st_size
    if header.count(b",") > TABLE_COLUMNS or n_bytes > len(header) + n_rows * ROW_CHARACTERS:
        raise UnfitFileError(errno.EINVAL, f"it is no table of ours of {n_rows} rows", str(path))


class BoundedFile:
    """An open binary file of which at most so many bytes are read: what is asked beyond that raises OSError.

    A read counts as 16 bytes at least, so that a file cannot keep its reader busy with very small ones.
    """

    def __init__(self, file: io.BufferedReader, limit_bytes: int) -> None:
        self._file, self._limit_bytes, self._left = file, limit_bytes, limit_bytes
        self.seek, self.tell = file.seek, file.tell

    def read(self, n_bytes: int = -1) -> bytes:
        n_most = self._left + 1 if n_bytes is None or n_bytes < 0 else min(n_bytes, self._left + 1)
        data = self._file.read(n_most)
        self._left -= max(len(data), 16)
        if self._left < 0:
            raise OSError(f"more than {show_bytes(self._limit_bytes)} of it would have to be read")
        return data


_VALUE_BYTES = 160
"""Bytes of memory of a JSON value beside its text: 110 for a str in a list, 160 for an entry of a dictionary."""
_TEXT_COPIES = 3
"""Copies of the text in memory while JSON is parsed: as bytes, as str, and in the strings that are made of it."""
_WIDE = re.compile(rb"\\u[dD][89abAB]")
"""The first half of the escape of a character beyond U+FFFF."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
"""A string in JSON. The quantifiers never give back what they took, so that no text keeps the search busy."""
_left_bytes: int | None = None


def limit_parsing(left_bytes: int | None) -> None:
    """Set the memory in bytes that parsing one file may take in this process; None for no limit but those of the files.

    A job sets it from its budget, before it reads anything of OUT.
    """
    global _left_bytes
    _left_bytes = left_bytes


def check_room(path: Path, n_bytes: int, otherwise: str) -> None:
    """Raise MemoryBudgetError where the budget leaves less than `n_bytes` for reading a file.

    otherwise : what a user may do instead of giving a larger budget, as the end of the message.
    """
    if _left_bytes is not None and n_bytes > _left_bytes:
        raise MemoryBudgetError(
            f"reading {path} takes {show_bytes(n_bytes)}, the memory budget leaves {show_bytes(_left_bytes)}; use a "
            f"larger --memory, {otherwise}"
        )


def json_bytes(n_bytes: int, n_values: int) -> int:
    """Peak memory in bytes of parsing JSON. n_bytes : of the text. n_values : as from `count_values`."""
    return _TEXT_COPIES * n_bytes + _VALUE_BYTES * n_values


def count_values(raw: bytes) -> int:
    """An upper estimate of the number of values in JSON: commas and brackets in strings count as well.

    A string with a character beyond U+FFFF takes four bytes in memory for each of its characters. `json_bytes` does not
    see that in the size of the text, so that these bytes count as further values.
    """
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 4 * _bytes_of_wide(raw) // _VALUE_BYTES


def _bytes_of_wide(raw: bytes) -> int:
    """Bytes of the strings in JSON that hold the escape of a character beyond U+FFFF."""
    if _WIDE.search(raw) is None:  # as in nearly all JSON of ours
        return 0
    places = (match.span() for match in _STRING.finditer(raw))
    return sum(stop - start for start, stop in places if _WIDE.search(raw, start, stop))


def parse_json(text: bytes | str, most_values: int) -> Any:
    """Parse JSON of at most `most_values` values.

    Raises ValueError where it is not JSON, has more values, is nested too deeply, or is not ASCII, as all JSON of ours
    is: one other character would make four bytes of every character of the text.
    """
    raw = text.encode() if isinstance(text, str) else text
    if not raw.isascii():
        raise ValueError("JSON with characters that are not escaped")
    n_values = count_values(raw)
    if n_values > most_values:
        raise ValueError(f"JSON of about {n_values} values, {most_values} are the most")
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("JSON of a great depth") from None
