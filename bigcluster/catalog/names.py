"""File names, as the file system, CSV files and people need them.

Inside the program a path is a str with surrogate escapes, as os.fsdecode returns it. In files that people read it is
valid UTF-8: bytes that are not UTF-8 are written `\\xNN`, literal backslashes are doubled, and a cell that a
spreadsheet would run as a formula starts with `./`, which names the same file.
"""

from __future__ import annotations

import hashlib
import re
import sys

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Cells with such a beginning are formulas for a spreadsheet, which also drops white space and reads full-width signs
as the usual ones. Source: OWASP, "CSV Injection"."""
_ASCII_STARTS = frozenset(start for start in _FORMULA_STARTS if start.isascii())
"""The only beginnings of a formula that a path of ASCII characters can have."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DIGITS = re.compile(r"\d+")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_OF_FILES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""Encoding and error handler of names of files, as os.fsencode uses them: it would ask for them at every name."""


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
    if path.isascii() and "\\" not in path and path[:1] not in _ASCII_STARTS:  # as nearly all paths
        return path
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
    return hashlib.blake2b(path.encode(*_OF_FILES), digest_size=8).digest()
