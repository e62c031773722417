"""Removing arrays of ours and nothing else.

Every chunk of an array has one size, stands under its numbers and ends with the checksum of its values: what lies in an
array's folder without all of that was put there by somebody, and stays with the folders that it is in.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bigcluster.durable import open_folder, remove_if_empty
from bigcluster.store.chunks import stored_digest
from bigcluster.store.metadata import FILE

_MOST_AXES = 4
"""Of our arrays. Somebody's folders may be nested deeper, and are called by numbers too."""
_NUMBER = re.compile(r"0|[1-9][0-9]*")


def remove_array(root: Path, name: str, chunk_bytes: int) -> None:
    """The chunks of an array and its metadata. chunk_bytes : of a chunk file, its checksum included."""
    remove_chunks(root, f"{name}/c", chunk_bytes)
    remove_if_empty(root / name / "c")
    with suppress(FileNotFoundError), open_folder(root / name, root.parent) as folder:
        os.unlink(FILE, dir_fd=folder)
    remove_if_empty(root / name)


def remove_chunks(root: Path, inside: str, chunk_bytes: int, goes: Callable[[str], bool] = lambda _: True) -> bool:
    """The chunks below a folder of an array, such as `pixels/c/3`, and folders that are empty without them.

    goes : whether a chunk is to go, given its file relative to the store. Returns whether one went.
    """
    removed = False
    with suppress(FileNotFoundError), open_folder(root / inside, root.parent) as folder:
        for name in sorted(os.listdir(folder)):
            if not _NUMBER.fullmatch(name):
                continue
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and inside.count("/") <= _MOST_AXES:
                removed |= remove_chunks(root, f"{inside}/{name}", chunk_bytes, goes)
            elif (
                stat.S_ISREG(found.st_mode)
                and found.st_size == chunk_bytes
                and goes(f"{inside}/{name}")
                and _is_chunk(name, folder, chunk_bytes)
            ):
                os.unlink(name, dir_fd=folder)
                removed = True
    if removed:  # an empty folder of somebody else stays
        remove_if_empty(root / inside)
    return removed


def _is_chunk(name: str, folder: int, n_bytes: int) -> bool:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb", buffering=0) as file:
        return stored_digest(file, n_bytes) != ""
