"""OUT/kept takes files of others that stood where one of ours has to stand. No command ever empties it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from bigcluster.errors import StoreError
from bigcluster.files.durable import is_folder, is_regular, open_file, open_folder, unfinished

KEPT = "kept"
NAME_BYTES = 255
"""Bytes of the name of one file, at most: NAME_MAX of Linux file systems."""
COPY_BYTES = 1 << 20
"""Bytes that are copied at a time: few calls, and the piece stays in the cache. Chosen, not measured."""


def set_aside(path: Path, out: Path) -> Path:
    """Move a file or folder of somebody else to OUT/kept, where one of ours has to stand in its place.

    It has the same path below OUT/kept as it had in OUT, with a number where that is taken; bytes, mode and times stay.
    Returns the new path. Raises StoreError where the system does not let it be moved, such as a mounted folder.
    """
    target = _target(path, out)
    with open_folder(target.parent, out, create=True) as to, open_folder(path.parent, out) as at:
        name = free_name(to, target.name)
        try:
            _move(path.name, at, name, to)
        except OSError as error:
            raise StoreError(f"{path} cannot be moved to {target}: {error.strerror}; move it away yourself") from error
        os.fsync(to)
        os.fsync(at)
    return target.with_name(name)


def clear_way(folder: Path, out: Path) -> Path | None:
    """Move a file of somebody else to OUT/kept that stands where this folder, or one above it in OUT, has to be.

    Returns the new path; None where there is no such file.
    """
    for part in folder.relative_to(out).parents[-2::-1]:
        if is_regular(out / part):
            return set_aside(out / part, out)
    return set_aside(folder, out) if is_regular(folder) else None


def save(file: IO[bytes], path: Path, out: Path) -> Path:
    """Copy an open file that has lost its last name to OUT/kept, as if it had been moved there from `path`.

    Linux gives such a file no new name. The owner stays where the system permits that. Returns the new path.
    Raises StoreError where it cannot be written.
    """
    target = _target(path, out)
    try:
        with open_folder(target.parent, out, create=True) as to:
            name = free_name(to, target.name)
            with suppress(PermissionError):
                return target.with_name(_copy(file, to, name, owned=True))
            return target.with_name(_copy(file, to, name, owned=False))
    except OSError as error:
        raise StoreError(
            f"the last copy of a picture cannot be written to {target}: {error.strerror}; {path} is lost"
        ) from error


def _target(path: Path, out: Path) -> Path:
    """Where a path of OUT goes in OUT/kept. A folder has a number where something else stands at its name there."""
    folder = out / KEPT
    for part in path.relative_to(out).parent.parts:
        number, name = 1, part
        while os.path.lexists(folder / name) and not is_folder(folder / name):
            number += 1
            name = numbered(part, "", number)
        folder /= name
    return folder / path.name


def _copy(file: IO[bytes], to: int, name: str, *, owned: bool) -> str:
    """Copy an open file into an open folder: bytes, mode, times. owned : the owner too, which root alone may give."""
    file.seek(0)
    with unfinished(to) as new:
        shutil.copyfileobj(file, new.file, COPY_BYTES)
        status, descriptor = os.fstat(file.fileno()), new.file.fileno()
        if owned:
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        new.place_synced(name)
    return name


def _move(name: str, at: int, new_name: str, to: int) -> None:
    """Rename; a regular file of another file system, such as one in a mounted folder, is copied and then removed."""
    try:
        os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=to)
    except OSError as error:
        if error.errno != errno.EXDEV or not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise
        with open_file(name, at) as file:
            _copy(file, to, new_name, owned=True)  # refused where it is somebody else's, to all but root
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
