"""zarr's own small files. A mark holds the facts of which each is made, so that a damaged one is written anew.

store.zarr/zarr.json          .bigcluster/marks/metadata/store.json      the format of the store
store.zarr/<array>/zarr.json  .bigcluster/marks/metadata/<array>.json    shape, dtype and chunks of the array
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster.files.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.files.durable import digest_of, write_bytes
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.files.layout import ARRAYS
from bigcluster.store import shapes
from bigcluster.store.marks import Mark, Marks
from bigcluster.store.payloads import GROUP, metadata_text
from bigcluster.store.shapes import FILE, FORMAT, LIMIT_BYTES, LIMIT_VALUES

MARK = "metadata"
CRC_BYTES = 4
"""Bytes at the end of every chunk file, which hold the CRC-32C of its values, little-endian."""


def write_group(marks: Marks) -> None:
    """Write the metadata of the group, and their mark; nothing happens where both are there."""
    _write(marks, "", {"format": FORMAT})


def write_array(marks: Marks, name: str, shape: Sequence[int], dtype: str, chunks: Sequence[int]) -> None:
    """Write the metadata of an array, and their mark; nothing happens where both say the same already."""
    _write(marks, name, {"shape": [int(n) for n in shape], "dtype": dtype, "chunks": [int(n) for n in chunks]})


def register(marks: Marks, name: str = "") -> None:
    """Write the mark of a metadata file anew, of what the file says; nothing happens where they agree already.

    name : of the array; "" for the group. Raises ValueError where the file is not as this program writes it.
    """
    text = read_bounded(file_of(marks.out, name), LIMIT_BYTES)
    if not name:
        shapes.check_group_text(text)
        write_group(marks)
        return
    shapes.check_array_text(text)
    values = parse_json(text, LIMIT_VALUES)
    write_array(marks, name, values["shape"], values["data_type"], values["chunk_grid"]["configuration"]["chunk_shape"])


def _write(marks: Marks, name: str, facts: dict[str, Any]) -> None:
    """Write a metadata file and then its mark. Where this process is killed between the two, `restore` writes the file
    anew from the earlier mark."""
    text = metadata_text(facts).encode()
    file = file_of(marks.out, name)
    if not file.is_file() or _content(file) != text:
        write_bytes(file, text, marks.out)
    known = marks.read(MARK, name or GROUP)
    if known is None or known.payload != facts:
        digests = {file.relative_to(marks.out).as_posix(): digest_of(text)}
        marks.write(MARK, Mark("", digests, facts), name or GROUP)


def file_of(out: Path, name: str = "") -> Path:
    """The metadata file of an array, or of the group."""
    return out / ARRAYS / name / FILE


def is_registered(marks: Marks, name: str) -> bool:
    """Whether there is a mark for the metadata of an array, sound or not."""
    return marks.path(MARK, name).is_file()


def is_changed(marks: Marks) -> bool:
    """Whether the metadata file of the group is not what its mark says, so that it is damaged."""
    mark, file = marks.read(MARK, GROUP), file_of(marks.out)
    return mark is not None and file.is_file() and _content(file) != metadata_text(mark.payload).encode()


def restore(marks: Marks, name: str = "") -> None:
    """Write a metadata file anew where it is not what its mark says. Without a mark the file stays as it is."""
    mark = marks.read(MARK, name or GROUP)
    file = file_of(marks.out, name)
    if mark is None:
        return
    text = metadata_text(mark.payload).encode()
    if not file.is_file() or _content(file) != text:
        if os.path.lexists(file):
            set_aside(file, marks.out)
        clear_way(file.parent, marks.out)
        write_bytes(file, text, marks.out)


def _content(file: Path) -> bytes:
    """The content of a file; b"" where it is no regular file, or larger than a metadata file of ours."""
    try:
        return read_bounded(file, LIMIT_BYTES)
    except UnfitFileError:
        return b""


def unregister(marks: Marks, name: str) -> None:
    """Remove the mark of the metadata of an array that is about to be removed."""
    marks.remove(MARK, name)


def chunk_file_bytes(out: Path, name: str) -> int:
    """The size of every chunk file of an array, in bytes; 0, which no chunk has, where its metadata cannot be read."""
    try:
        values = parse_json(read_bounded(file_of(out, name), LIMIT_BYTES), LIMIT_VALUES)
        n_values: int = math.prod(values["chunk_grid"]["configuration"]["chunk_shape"])
        n_bytes: int = n_values * np.dtype(values["data_type"]).itemsize + CRC_BYTES
        return n_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def n_rows(out: Path, name: str) -> int:
    """The rows of an array, by its metadata; 0 where they cannot be read."""
    try:
        values = parse_json(read_bounded(file_of(out, name), LIMIT_BYTES), LIMIT_VALUES)
        return int(values["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0
