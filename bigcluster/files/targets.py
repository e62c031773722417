"""Writing to a file that a person named, outside of OUT: it may be there already, and what it is decides how.

A regular file is replaced whole, or left as it was: what is written has no name until it is complete. Symlinks are
followed, permissions kept. Devices and pipes are written to. Nothing else is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bigcluster.errors import StoreError, UsageError
from bigcluster.files.paths import local_path

_DESCRIPTOR = re.compile(r"/proc/(?:self|[0-9]+)/fd/([0-9]+)|/dev/fd/([0-9]+)")
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
"""What a file system without O_TMPFILE answers."""


def named(option: str, value: str | os.PathLike[str]) -> str:
    """The path under which every process of this job can open what `given` names here.

    It is absolute, and a descriptor of this process (`/dev/stdout`, `/dev/fd/63`) is named by its process.
    Raises UsageError where it is no path.
    """
    path = local_path(option, value)
    number = _STREAMS.get(path)
    match = _DESCRIPTOR.fullmatch(path)
    if match is not None and not path.startswith(f"/proc/{os.getpid()}/"):
        number = int(match[1] or match[2]) if match[2] or "/self/" in path else None
    if number is not None and os.path.isdir("/proc/self/fd"):
        return f"/proc/{os.getpid()}/fd/{number}"
    return os.path.join(Path.cwd(), path)  # not normalised: `link/..` is where the link leads


def check(option: str, path: str) -> bool:
    """Refuse what cannot be written to. Whether it is a file that is replaced whole, and not a stream.

    Raises UsageError for a folder, a block device, a socket, a file or folder without write permission (root's too),
    and for a place in a folder that does not exist.
    """
    status = _stat(option, path)
    if status is None or stat.S_ISREG(status.st_mode):
        if _DESCRIPTOR.fullmatch(path):
            what = "that is not open" if status is None else "of a file; give the name of that file"
            raise UsageError(f"{option} is a descriptor ({path}) {what}")
        _check_file(option, _destination(path), status)
        return True
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise UsageError(f"{option} must be a file, a pipe or a character device; {path} is {_kind(status.st_mode)}")
    if not os.access(path, os.W_OK):
        raise UsageError(f"{option} {path} may not be written to")
    return False


@contextlib.contextmanager
def writing(option: str, path: str) -> Iterator[IO[str]]:
    """Text for `path`, UTF-8: a stream takes it as it comes, a file is replaced when the block ends well.

    A process that is killed leaves nothing behind, where the file system has files without a name (O_TMPFILE, Linux).
    Of a file with several hard links the others keep the old content. Raises what `check` does, and OSError.
    """
    if check(option, path):
        with _replacing(option, _destination(path)) as file:
            yield file
    else:
        # Without O_CREAT: what was a pipe a moment ago never becomes a file half written.
        with open(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), "w", encoding="utf-8", newline="") as stream:
            yield stream


def _stat(option: str, path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:  # a loop of links, a file in the place of a folder, a folder that is closed to us
        raise UsageError(f"{option} {path}: {error.strerror}") from error


def _destination(path: str) -> str:
    """Where the file itself lies, or is to lie, links followed."""
    return os.path.realpath(path)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a block device" if stat.S_ISBLK(mode) else "a socket"


def _check_file(option: str, path: str, status: os.stat_result | None) -> None:
    folder = os.path.dirname(path)
    try:
        above = os.stat(folder)
    except OSError:
        raise UsageError(f"{option} {path} must name a file in a folder that exists") from None
    if not stat.S_ISDIR(above.st_mode):
        raise UsageError(f"{option} {path} must name a file in a folder that exists")
    if status is not None and not (status.st_mode & 0o222 and os.access(path, os.W_OK)):
        raise UsageError(f"{option} {path} is write-protected; permit writing (chmod u+w), or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path} cannot be replaced: its folder may not be written to; name another file")
    if status is not None and above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid, above.st_uid):
        raise UsageError(f"{option} {path} belongs to somebody else, in a folder where only owners replace files")


@contextlib.contextmanager
def _replacing(option: str, path: str) -> Iterator[IO[str]]:
    folder = os.open(os.path.dirname(path), os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        descriptor, name = _unnamed(folder)
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                status = _stat(option, path)  # as it is now: somebody may have made or changed it meanwhile
                _check_file(option, path, status)
                if status is not None:
                    _take_over(descriptor, path, status)
                os.fsync(descriptor)
                if not name and status is not None:  # a link replaces nothing, a rename does
                    name = _random_name()
                    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
                _place(folder, descriptor, name, path)
                name = ""
        finally:
            if name:
                os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def _unnamed(folder: int) -> tuple[int, str]:
    """(descriptor, name) of a new file in the folder; its name is empty where it needs none yet."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o666, dir_fd=folder), ""
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
    name = _random_name()
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder), name


def _random_name() -> str:
    # 64 random bits: no other process has the name, and nobody can put a link there beforehand.
    return f".bigcluster-{secrets.token_hex(8)}"


def _take_over(descriptor: int, path: str, status: os.stat_result) -> None:
    """Owner, extended attributes (access lists among them) and mode of the file that is replaced."""
    with contextlib.suppress(PermissionError):  # only root gives files away
        os.chown(descriptor, status.st_uid, status.st_gid)
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):  # a file system without them
            for name in os.listxattr(path):
                with contextlib.suppress(OSError):  # those of the system belong to it
                    os.setxattr(descriptor, name, os.getxattr(path, name))
    os.chmod(descriptor, stat.S_IMODE(status.st_mode))


def _place(folder: int, descriptor: int, name: str, path: str) -> None:
    """Give the file its name, which is free where it has no temporary one."""
    last = os.path.basename(path)
    if name:
        os.rename(name, last, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        os.link(f"/proc/self/fd/{descriptor}", last, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError as error:
        raise StoreError(f"somebody else made {path} meanwhile; it stays as it is, give the command again") from error


def lies_in(path: str, folder: str | os.PathLike[str]) -> bool:
    """Whether the file that `path` leads to lies in a folder, links followed; a stream lies in none."""
    if _DESCRIPTOR.fullmatch(path):
        return False
    return Path(_destination(path)).is_relative_to(os.path.realpath(folder))
