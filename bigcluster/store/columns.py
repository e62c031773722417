"""Tables of columns in files of their own, named by the digest of their content: arrays, nothing that could run.

    {"columns": {"status": ["|u1", 4096], ...}}     one line of JSON: type and length of each column, in their order
    ...                                             then their values, little-endian, one column after the other

Later versions may add columns. A reader uses the columns that it knows, and ignores the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.files.bounded import UnfitFileError, check_room, parse_json, read_bounded
from bigcluster.files.durable import digest_of, open_folder, unfinished, write_all
from bigcluster.files.layout import LEDGER
from bigcluster.store.marks import Mark
from bigcluster.units import MIB, show_bytes

Columns = dict[str, NDArray[Any]]

LIMIT_BYTES = 48 * MIB
"""Bytes of a table, at most: that of 65,536 rows, the most that a block has, at 768 bytes for path and record."""
_HEADER_BYTES = 16 << 10
"""Bytes of the first line, at most: ours have less than 1 KiB."""
_HEADER_VALUES = 1000
"""JSON values in the first line, at most: ours have about fifty."""
_TYPES = {"|b1", "|u1", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8"}
"""Types that the values of a column may have, as numpy names them."""
_COPIES = 3
"""Copies of a table in memory while it is read: its bytes, its columns, and what is made of them."""


def write_table(out: Path, name: str, columns: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Write a table, which is not yet synced; returns its file, relative to OUT, and its digest.

    name : what the name of the file begins with. columns : arrays of one dimension.
    Raises StoreError where it would be larger than LIMIT_BYTES.
    """
    data = _pack(columns)
    if len(data) > LIMIT_BYTES:
        raise StoreError(
            f"{out / LEDGER}: the paths and records of one block take {show_bytes(len(data))}, a table may take "
            f"{show_bytes(LIMIT_BYTES)}; shorten the paths below IMAGES, or use a larger --size"
        )
    digest = digest_of(data)
    file = f"{LEDGER}/{name}-{digest}.columns"
    with open_folder(out / LEDGER, out, create=True) as folder, unfinished(folder) as new:
        write_all(new.file, memoryview(data))
        new.place((out / file).name)
    return {file: digest}


def table_of(mark: Mark) -> dict[str, str]:
    """The table for which a mark vouches, as `write_table` returns it; empty where there is none."""
    return {file: digest for file, digest in mark.digests.items() if file.startswith(f"{LEDGER}/")}


def read_table(out: Path, mark: Mark) -> Columns | None:
    """The table for which a mark vouches; None where it is gone or damaged, or has another form.

    Raises MemoryBudgetError where it takes more memory than the budget leaves.
    """
    tables = table_of(mark)
    if len(tables) != 1:
        return None
    ((file, digest),) = tables.items()
    try:
        data = read_bounded(out / file, LIMIT_BYTES)
        check_room(out / file, _COPIES * len(data), "or delete it: its files are decoded anew")
        return _unpack(data) if digest_of(data) == digest else None
    except (OSError, UnfitFileError, ValueError, TypeError, KeyError):
        return None


def _pack(columns: Mapping[str, NDArray[Any]]) -> bytes:
    arrays = {name: np.ascontiguousarray(values, values.dtype.newbyteorder("<")) for name, values in columns.items()}
    header = {"columns": {name: [values.dtype.str, len(values)] for name, values in arrays.items()}}
    return b"".join([json.dumps(header).encode(), b"\n", *(values.tobytes() for values in arrays.values())])


def _unpack(data: bytes) -> Columns:
    """The columns in the content of a file. Raises ValueError, TypeError or KeyError where it has another form."""
    end = data.index(b"\n", 0, _HEADER_BYTES)
    header = parse_json(data[:end], _HEADER_VALUES)["columns"]
    if not isinstance(header, dict):
        raise TypeError("the columns have no names")
    columns, at = dict[str, NDArray[Any]](), end + 1
    for name, (kind, length) in header.items():
        if kind not in _TYPES or type(length) is not int or not 0 <= length <= len(data):
            raise ValueError("a column has a type or a length that none of ours has")
        columns[name] = np.frombuffer(data, np.dtype(kind), length, at)
        at += columns[name].nbytes
    if at != len(data):
        raise ValueError("the file has another length than its columns")
    return columns
