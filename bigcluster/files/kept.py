"""OUT/kept takes files of others that stood where one of ours has to stand. No command ever empties it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from bigcluster.errors import StoreError
from bigcluster.files.durable import open_folder, unfinished

KEPT = "kept"
NAME_BYTES = 255
"""The longest name of one file that file systems accept."""
_COPY_BYTES = 1 << 20
"""Read and written at once."""


def set_aside(path: Path, out: Path) -> Path:
    """Move what is not ours out of the way of a file of ours: to OUT/kept, under the path that it had in OUT.

    Its bytes, mode, times and name stay; where the name is taken there, the next free number is added. Returns the new
    place. Raises StoreError where the system does not let it be moved, such as a mounted folder.
    """
    inside = path.relative_to(out)
    target = out / KEPT / inside
    with open_folder(target.parent, out, create=True) as to, open_folder(path.parent, out) as at:
        name = free_name(to, target.name)
        try:
            _move(path.name, at, name, to)
        except OSError as error:
            raise StoreError(f"{path} cannot be moved to {target}: {error.strerror}; move it away yourself") from error
        os.fsync(to)
        os.fsync(at)
    return target.with_name(name)


def _move(name: str, at: int, new_name: str, to: int) -> None:
    """Rename; a regular file of another file system, such as one in a mounted folder, is copied and then removed."""
    try:
        os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=to)
    except OSError as error:
        if error.errno != errno.EXDEV or not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        with open(descriptor, "rb") as file, unfinished(to) as new:
            shutil.copyfileobj(file, new.file, _COPY_BYTES)
            found = os.fstat(descriptor)
            os.fchown(
                new.file.fileno(), found.st_uid, found.st_gid
            )  # refused where it is somebody else's, to all but root
            os.fchmod(new.file.fileno(), stat.S_IMODE(found.st_mode))
            os.utime(new.file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(new.file.fileno())
            new.place(new_name)
        os.fsync(to)
        os.unlink(name, dir_fd=at)


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
