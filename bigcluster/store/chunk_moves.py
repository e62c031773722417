"""Chunks that change places without a copy: their files are renamed from one array to another one."""

from __future__ import annotations

import os
from pathlib import Path

from bigcluster.files.durable import is_folder, open_folder
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.files.layout import ARRAYS


def move_rows(out: Path, source: str, index: int, target: str, to: int, *, begun: bool = False) -> None:
    """Rename the files of a row of chunks: from one matrix to another one with the same chunks.

    index, to : the numbers of the row of chunks in `source` and in `target`.
    begun : what is at the target was moved there by an earlier call, which was killed; nothing may be left to move.
    """
    old, new = out / ARRAYS / source / "c" / str(index), out / ARRAYS / target / "c" / str(to)
    if begun and not is_folder(old):
        return
    clear_way(new.parent, out)
    with open_folder(new.parent, out, create=True) as into, open_folder(old.parent, out) as folder:
        if os.path.lexists(new) and not begun:
            set_aside(new, out)
        if not os.path.lexists(new) and all(name.isdecimal() for name in os.listdir(old)):
            os.rename(old.name, new.name, src_dir_fd=folder, dst_dir_fd=into)
        else:  # what somebody else put there stays
            _move_chunks(out, old, new)
        os.fsync(into)
        os.fsync(folder)


def _move_chunks(out: Path, old: Path, new: Path) -> None:
    with open_folder(new, out, create=True) as into, open_folder(old, out) as folder:
        for name in filter(str.isdecimal, os.listdir(folder)):
            os.rename(name, name, src_dir_fd=folder, dst_dir_fd=into)
        os.fsync(into)
