"""Files that survive a power cut, written without following links: data and folder are on disk before anything
vouches for them.

What lies below OUT may have been put there by somebody: a link at one of our names must lead no write and no removal
away from it. So a folder is opened one component after the other, none of them a link, and what is in it is made,
renamed and removed relative to the open folder. Unfinished files have names that nobody else can have chosen: a token
of 64 random bits, one a process, and a number.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

from bigcluster.errors import OutError

DIGEST_DIGITS = 32
"""Hex digits kept of a SHA-256: 128 bits."""
PARTIAL = ".partial"
"""Ends the name of a file that is being written."""
TOKEN = secrets.token_hex(8)
"""Of this process: 64 random bits, so that no file of others has it in its name."""
_prefix = TOKEN
_numbers = count()
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file of ours: a link is not followed, and a FIFO does not block."""
_NEW_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def digest_of(data: bytes | memoryview) -> str:
    """The first 32 hex digits of the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def digest_of_file(path: str | Path) -> str:
    """The digest of a file of any size, which is read in pieces. A link is not followed."""
    with open_file(path) as file:
        return digest_of_open(file)


def digest_of_open(file: io.FileIO) -> str:
    """The digest of an open file from its position to its end."""
    return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]


def open_file(path: str | Path, dir_fd: int | None = None) -> io.FileIO:
    """Open a file for reading; see READING."""
    return io.FileIO(os.open(path, READING, dir_fd=dir_fd))


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(files: Iterable[Path]) -> None:
    """fsync files, then every folder that holds one of them."""
    folders = set()
    for file in files:
        sync(file)
        folders.add(file.parent)
    for folder in sorted(folders):
        sync(folder)


def sync_file_system(folder: Path) -> None:
    """Sync the whole file system on which a folder lies; for many small files.

    One call takes as long as the disk needs for the data; an fsync of each of many thousand files takes minutes.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # outside of Linux
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_folder(folder: Path, root: Path | None = None, *, create: bool = False, synced: bool = True) -> Iterator[int]:
    """Open a folder below `root` and yield its descriptor. No component of the path below the root may be a link.

    root : a folder that is trusted, such as OUT; None where the folder itself is trusted.
    create : whether missing folders are made. synced : whether these are on disk when this returns; False where the
    whole file system is synced later.
    Raises OutError where a link or a file is a component of the path, FileNotFoundError where there is no such folder
    and `create` is False.
    """
    trusted = folder if root is None else root
    descriptor = os.open(trusted, _FOLDER_FLAGS)
    try:
        if root is not None:
            for part in folder.relative_to(root).parts:
                if part == "..":
                    raise OutError(f"{folder} leads out of {root}")
                inner = _open_inner(descriptor, part, folder, create, synced)
                os.close(descriptor)
                descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open_inner(outer: int, name: str, path: Path, create: bool, synced: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=outer)
            if synced:
                os.fsync(outer)
    try:
        return os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            error.filename = str(path)
            raise
        raise OutError(
            f"{path}: {name!r} is a link or a file, where bigcluster keeps a folder of its own; move it away"
        ) from None


class OpenFolders:
    """Descriptors of folders below OUT that stay open while many files are made in them in any order."""

    MOST = 256
    """Folders that are open at the same time, at most. Many systems permit 1,024 descriptors in a process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def get(self, folder: str) -> int:
        """The descriptor of an existing folder below the root. Raises what `open_folder` does."""
        known = self._open.get(folder)
        if known is None:
            if len(self._open) >= self.MOST:
                self.close()
            with open_folder(Path(folder), self._root) as descriptor:
                known = self._open[folder] = os.dup(descriptor)
        return known

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def unfinished_name() -> str:
    """A new name for a file that is being written, which no other file has."""
    return f".{_prefix}-{next(_numbers)}{PARTIAL}"


def write_for(token: str) -> None:
    """Begin the names of unfinished files with the token of another process, for which this one writes.

    That process, or the next one that holds OUT, removes them where this process is killed. The names of two processes
    differ: the token of this one follows.
    """
    global _prefix
    _prefix = token if token == TOKEN else f"{token}-{TOKEN}"


def is_unfinished(name: str, token: str) -> bool:
    """Whether a name is that of an unfinished file of the process with that token."""
    return name.startswith(f".{token}-")


def kept_mode(name: str, folder: int) -> int | None:
    """The mode that a new file takes over from the one that it replaces in an open folder; None where there is none.

    A mode that a person gave stays. The owner may always read: what this process cannot read is not known as its own.
    """
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) | stat.S_IRUSR if stat.S_ISREG(mode) else None


class Unfinished:
    """A new file in an open folder, under a name of its own until it is put in place."""

    def __init__(self, folder: int, replaced: str = "") -> None:
        """replaced : the name of the file that this one is to replace, whose mode it has from the start."""
        self._folder, self.name = folder, unfinished_name()
        mode = kept_mode(replaced, folder) if replaced else None
        opened = os.open(self.name, _NEW_FILE_FLAGS, 0o666 if mode is None else mode, dir_fd=folder)
        self.file = io.FileIO(opened, "r+")
        if mode is not None:
            os.fchmod(opened, mode)  # the umask took bits away

    def digest(self) -> str:
        """The digest of what was written so far."""
        self.file.seek(0)
        return digest_of_open(self.file)

    def place(self, name: str) -> None:
        """Rename the file to `name` in its folder. A file of that name is replaced; of a link, the link itself."""
        os.replace(self.name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.name = ""

    def place_synced(self, name: str) -> None:
        """As `place`; the data and the name are on disk when this returns."""
        os.fsync(self.file.fileno())
        self.place(name)
        os.fsync(self._folder)

    def close(self) -> None:
        """Close the file, and remove it where it was not put in place."""
        self.file.close()
        if self.name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._folder)


@contextlib.contextmanager
def unfinished(folder: int, replaced: str = "") -> Iterator[Unfinished]:
    """A new file in an open folder, which is removed at the end of the block unless it was put in place.

    replaced : the name of the file that it is to replace, whose mode it takes over; "" for none.
    """
    new = Unfinished(folder, replaced)
    try:
        yield new
    finally:
        new.close()


@contextlib.contextmanager
def replacing(path: Path, root: Path | None = None) -> Iterator[IO[str]]:
    """Write text to a file beside `path`, and put it in place, synced, where the block ends without an error.

    root : see `open_folder`.
    """
    with open_folder(path.parent, root) as folder, unfinished(folder, path.name) as new:
        with text_of(new) as file:
            yield file
        new.place_synced(path.name)


@contextlib.contextmanager
def text_of(new: Unfinished) -> Iterator[IO[str]]:
    """An unfinished file as a text file of UTF-8, which writes line ends as they are and is flushed at the end."""
    text = io.TextIOWrapper(io.BufferedWriter(_Borrowed(new.file)), encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach().detach()


class _Borrowed(io.RawIOBase):
    """A raw file that its owner closes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written: int = self._file.write(data)
        return written


def write_text(path: Path, text: str, root: Path | None = None) -> None:
    """As `write_bytes`, for a text, in UTF-8."""
    write_bytes(path, text.encode(), root)


def write_bytes(path: Path, data: bytes | memoryview, root: Path | None = None) -> None:
    """Replace a file whole; it is on disk when this returns. root : see `open_folder`; folders below it are made."""
    with (
        open_folder(path.parent, root, create=root is not None) as folder,
        unfinished(folder, path.name) as new,
    ):
        write_all(new.file, memoryview(data))
        new.place_synced(path.name)


def write_all(file: IO[bytes], data: memoryview) -> None:
    """Write all bytes to an unbuffered file. A write may end early on a full disk; the next one raises OSError."""
    while len(data):
        data = data[file.write(data) :]


def is_regular(path: str | Path) -> bool:
    """Whether the path is a regular file, and not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def unlink_below(path: Path, root: Path) -> None:
    """Remove a file below a trusted folder without following a link. Nothing happens where there is no such file."""
    if not os.path.lexists(path):  # also where a file stands in the place of its folder
        return
    with contextlib.suppress(FileNotFoundError), open_folder(path.parent, root) as folder:
        os.unlink(path.name, dir_fd=folder)


_OUT_OF_REACH = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Error numbers for a folder that was removed, that this process may not read, or whose path is too long."""


def entries_below(
    root: str | Path, *, into: Callable[[os.DirEntry[str]], bool] = lambda _: True
) -> Iterator[os.DirEntry[str]]:
    """Yield all entries below a folder, at any depth. Links are not followed.

    into : says of a folder whether its entries are wanted. Folders that cannot be read are skipped: no path of ours
    leads there.
    """
    waiting = [os.fspath(root)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError as error:
            _check_out_of_reach(error)
            continue
        with entries:
            for entry in entries:
                try:
                    entry.stat(follow_symlinks=False)  # which the entry remembers
                except OSError as error:
                    _check_out_of_reach(error)
                    continue
                if entry.is_dir(follow_symlinks=False) and into(entry):
                    waiting.append(entry.path)
                yield entry


def _check_out_of_reach(error: OSError) -> None:
    if error.errno not in _OUT_OF_REACH:
        raise error


def remove_folder(folder: Path) -> None:
    """Remove a folder of this process with everything in it. Nothing happens where there is no such folder."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def remove_if_empty(folder: str | Path, dir_fd: int | None = None) -> None:
    """Remove a folder of ours if it is empty. Nothing happens where there is no such folder.

    dir_fd : an open folder, where `folder` is a name in it.
    """
    try:
        os.rmdir(folder, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise
