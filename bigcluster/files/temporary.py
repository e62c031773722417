"""Folders for the time of one job, outside of OUT.

A process that is killed cannot remove its folder: the next one that makes such a folder does. A folder has its process
in its name and is locked as long as that process lives. Nothing but a folder with such a name, mode and owner, whose
process has ended and whose lock is free, is removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bigcluster.files.durable import remove_folder

_NAME = re.compile(r"bigcluster-([1-9][0-9]*)-[0-9a-f]{16}")
"""The number of the process, and 64 random bits, so that nobody else has the name."""
_MODE = 0o700
"""Mode of a folder: only its owner may list it and open what is in it."""


@contextmanager
def temporary_folder(above: str | Path | None = None) -> Iterator[Path]:
    """Yield a new folder that is removed at the end of the block, with those that killed processes left beside it.

    above : the folder in which it is made; None for the system's folder for temporary files.
    """
    above = Path(above or tempfile.gettempdir())
    _remove_left(above)
    folder = above / f"bigcluster-{os.getpid()}-{secrets.token_hex(8)}"
    folder.mkdir(_MODE)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(descriptor)
            yield folder
        finally:
            os.close(descriptor)
    finally:
        remove_folder(folder)


def _remove_left(above: Path) -> None:
    """Remove the folders of processes that were killed."""
    try:
        names = os.listdir(above)
    except PermissionError:  # a folder in which files may be made, but not listed
        return
    for folder in (above / name for name in names if _is_of_ended_process(name)):
        with suppress(OSError):  # it is gone, or another process removes it just now
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == _MODE
                if is_ours and _lock(descriptor):
                    remove_folder(folder)
            finally:
                os.close(descriptor)


def _is_of_ended_process(name: str) -> bool:
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # of another user, or no process at all
        return False
    return False


def _lock(descriptor: int) -> bool:
    """Lock a folder for this process; False where another one has the lock, or the file system locks no folders."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
