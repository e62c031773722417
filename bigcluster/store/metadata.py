"""zarr's own small files, each vouched for by a mark that holds its text: a damaged one is put back, its data kept.

store.zarr/zarr.json          marks/metadata/store.json
store.zarr/<array>/zarr.json  marks/metadata/<array>.json
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from bigcluster.files.bounded import UnfitFileError, parse_json, read_bounded
from bigcluster.files.durable import digest_of, sync_all, write_bytes
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.store.marks import Mark, Marks
from bigcluster.store.payloads import GROUP
from bigcluster.store.shapes import FILE, LIMIT_BYTES, LIMIT_VALUES

MARK = "metadata"
CRC_BYTES = 4
"""Bytes at the end of every chunk file, which hold the CRC-32C of its values, little-endian."""


def register(marks: Marks, root: Path, name: str = "") -> None:
    """Sync the metadata file of an array and write its mark; nothing happens where the mark has the same text already.

    name : of the array; "" for the group.
    """
    file = root / name / FILE
    text = read_bounded(file, LIMIT_BYTES).decode()
    known = marks.read(MARK, name or GROUP)
    if known is None or known.payload["text"] != text:
        sync_all([file])
        digests = {file.relative_to(root).as_posix(): digest_of(text.encode())}
        marks.write(MARK, Mark("", digests, {"text": text}), name or GROUP)


def is_registered(marks: Marks, name: str) -> bool:
    """Whether there is a mark for the metadata of an array, sound or not."""
    return marks.path(MARK, name).is_file()


def is_changed(marks: Marks, root: Path, name: str = "") -> bool:
    """Whether there is a metadata file whose text is not that of its mark."""
    mark, file = marks.read(MARK, name or GROUP), root / name / FILE
    return mark is not None and file.is_file() and _content(file) != mark.payload["text"].encode()


def restore(marks: Marks, root: Path, name: str = "") -> None:
    """Write a metadata file anew where its text is not that of its mark. Without a mark the file stays as it is."""
    mark = marks.read(MARK, name or GROUP)
    file = root / name / FILE
    if mark is None:
        return
    text = mark.payload["text"].encode()
    if not file.is_file() or _content(file) != text:
        if os.path.lexists(file):
            set_aside(file, root.parent)
        clear_way(file.parent, root.parent)
        write_bytes(file, text, root.parent)


def _content(file: Path) -> bytes:
    """The content of a file; b"" where it is no regular file, or larger than a metadata file of ours."""
    try:
        return read_bounded(file, LIMIT_BYTES)
    except UnfitFileError:
        return b""


def unregister(marks: Marks, name: str) -> None:
    """Remove the mark of the metadata of an array that is about to be removed."""
    marks.remove(MARK, name)


def chunk_file_bytes(root: Path, name: str) -> int:
    """The size of every chunk file of an array, in bytes; 0, which no chunk has, where its metadata cannot be read."""
    try:
        values = parse_json(read_bounded(root / name / FILE, LIMIT_BYTES), LIMIT_VALUES)
        n_values: int = math.prod(values["chunk_grid"]["configuration"]["chunk_shape"])
        n_bytes: int = n_values * np.dtype(values["data_type"]).itemsize + CRC_BYTES
        return n_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def n_rows(root: Path, name: str) -> int:
    """The rows of an array, by its metadata; 0 where they cannot be read."""
    try:
        values = parse_json(read_bounded(root / name / FILE, LIMIT_BYTES), LIMIT_VALUES)
        return int(values["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0
