"""OUT/kept takes files of others that stood where one of ours has to stand. No command ever empties it."""

from __future__ import annotations

import os
from pathlib import Path

from bigcluster.durable import open_folder

KEPT = "kept"
NAME_BYTES = 255
"""The longest name of one file that file systems accept."""


def set_aside(path: Path, out: Path) -> Path:
    """Move what is not ours out of the way of a file of ours: to OUT/kept, under the path that it had in OUT.

    Its bytes, mode and name stay; where the name is taken there, the next free number is added. Returns the new place.
    """
    inside = path.relative_to(out)
    target = out / KEPT / inside
    with open_folder(target.parent, out, create=True) as to, open_folder(path.parent, out) as at:
        name = free_name(to, target.name)
        os.rename(path.name, name, src_dir_fd=at, dst_dir_fd=to)
        os.fsync(to)
        os.fsync(at)
    return target.with_name(name)


def free_name(folder: int, name: str) -> str:
    """The name, or the first numbered one that nothing has in an open folder."""
    stem, suffix = os.path.splitext(name)
    number, candidate = 1, name
    while _exists(folder, candidate):
        number += 1
        candidate = numbered(stem, suffix, number)
    return candidate


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def numbered(stem: str, suffix: str, number: int) -> str:
    """`cut (2).jpg`, the stem shortened where the name would be too long for the file system."""
    tail = f" ({number}){suffix}"
    room = NAME_BYTES - len(os.fsencode(tail))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    if room < 0:  # nearly all suffix
        return numbered(stem, suffix[:-1], number)
    return stem + tail
