"""What a folder that we made is known by: its inode, and the moment at which it was made.

A name alone does not tell our folder from one that somebody made after they had renamed or removed ours, and neither
does an inode alone: a file system gives that of a deleted folder to the next one. In a copied OUT both differ, so that
its folders count as somebody's: they stay, even where they are empty.
"""

from __future__ import annotations

import ctypes
import os

from bigcluster.outdir.owned import WORD, Known, Owned

FOUND_FOLDER = Known()
"""Stands for a folder that has entries of ours and that somebody else made, or of which the maker is not known."""
_MADE = 1
"""Stands where the digest of a file stands. The path of a folder ends with `/`: no file is mistaken for one."""

_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _STATX_BTIME = 0x100, 0x1000, 0x800
"""Flags of statx, of Linux since 4.11: how the path is taken, and that the time of birth is wanted."""
_STATX_BYTES, _BTIME_AT = 256, 80
"""Bytes of its struct, and the one at which the time of birth begins: int64 of seconds, then uint32 of nanoseconds."""
_NS = 10**9
"""Nanoseconds of a second."""


def made_folder(descriptor: int, name: str = "") -> Known:
    """What the list stores of a folder that we made. No link is followed.

    descriptor : of the open folder itself, or of the one in which `name` is its name.
    """
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False) if name else os.fstat(descriptor)
    born = getattr(status, "st_birthtime", None)  # in seconds; on macOS and BSD
    birth_ns = _birth_ns(descriptor, name) if born is None else int(born * _NS)
    return Known(status.st_ino & WORD, 0, birth_ns & WORD, _MADE)


def made_folders(owned: Owned) -> set[Known]:
    """The folders on a list that we made."""
    return set(owned.with_digest(_MADE))


def n_folders(owned: Owned) -> int:
    """How many folders a list names; those of a rewriting that did not come to its end count twice."""
    return len(owned.with_digest(_MADE)) + len(owned.with_digest(FOUND_FOLDER.digest))


def is_made(known: Known) -> bool:
    """Whether an entry of the list that is a folder is one that we made."""
    return known.digest == _MADE


def _birth_ns(descriptor: int, name: str) -> int:
    """When a folder was made, in nanoseconds since 1970; 0 where the file system does not store it."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW | (0 if name else _AT_EMPTY_PATH)
    if statx(descriptor, os.fsencode(name), flags, _STATX_BTIME, buffer) != 0:
        return 0
    fields = memoryview(buffer.raw)
    if not fields[:4].cast("I")[0] & _STATX_BTIME:
        return 0
    seconds, nanoseconds = (
        fields[_BTIME_AT : _BTIME_AT + 8].cast("q")[0],
        fields[_BTIME_AT + 8 : _BTIME_AT + 12].cast("I")[0],
    )
    return int(seconds) * _NS + int(nanoseconds)
