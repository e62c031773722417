"""File names, as the file system, CSV files and people need them.

Inside the program a path is a str with surrogate escapes, as os.fsdecode returns it. In files that people read it is
valid UTF-8: bytes that are not UTF-8 are written `\\xNN`, literal backslashes are doubled, and a cell that a
spreadsheet would run as a formula starts with `./`, which names the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Cells with such a beginning are formulas for a spreadsheet, which also drops white space and reads full-width signs
as the usual ones. Source: OWASP, "CSV Injection"."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DIGITS = re.compile(r"\d+")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def natural_key(name: str) -> tuple[str, str]:
    """Return a sort key by which cut-2 comes before cut-10.

    A digit run becomes its length, then its digits, inside one string: a tuple of parts per name, as natural-sorting
    libraries make it, would take several hundred MiB for a folder of a million images.
    """
    return _DIGITS.sub(_length_first, name).casefold(), name


def _length_first(run: re.Match[str]) -> str:
    digits = run[0].lstrip("0")
    return f"{len(digits):03d}{digits}"


def to_csv_path(path: str) -> str:
    """Return a path as it is written in a CSV cell: valid UTF-8, which `from_csv_path` turns back into the path."""
    cell = path.replace("\\", "\\\\")
    cell = _NOT_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", cell)
    return "./" + cell if cell.startswith(_FORMULA_STARTS) else cell


def from_csv_path(cell: str) -> str:
    """Return the path of a CSV cell: the inverse of `to_csv_path`."""
    plain = re.sub(r"\\(\\|x[0-9a-f]{2})", lambda m: "\\" if m[1] == "\\" else chr(0xDC00 + int(m[1][1:], 16)), cell)
    return plain[2:] if plain.startswith("./") and plain[2:].startswith(_FORMULA_STARTS) else plain


def guard_cell(cell: str) -> str:
    """Put an apostrophe before a text cell that a spreadsheet would run as a formula.

    A number such as -5 is unchanged.
    """
    return "'" + cell if cell.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(cell) else cell


def path_key(path: str) -> bytes:
    """Return a hash of 8 bytes for a path. Random choices that concern a file are seeded with it."""
    return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()


class Names:
    """A sequence of many paths in one block of bytes. Each takes its text and about 10 bytes, in a list of str 60."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._blob = bytearray()
        self._ends = array("q", [0])  # (n + 1,)
        for name in names:
            self._blob += os.fsencode(name)
            self._ends.append(len(self._blob))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(bytes(self._blob[self._ends[index] : self._ends[index + 1]]))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
