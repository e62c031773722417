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
_numbers = count()
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file of ours: a link is not followed, and a FIFO does not block."""
_NEW_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def digest_of(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def digest_of_file(path: str | Path) -> str:
    """The digest of a file of any size, which is not held. A link is not followed."""
    with open_file(path) as file:
        return digest_of_open(file)


def digest_of_open(file: io.FileIO) -> str:
    """The digest of what an open file holds from where it stands."""
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
    """Everything that was written to the file system of a folder is on disk when this returns: for many small files.

    One call takes as long as the disk needs for the data; an fsync for each of many thousand files takes minutes.
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
    """The descriptor of a folder below `root`, of which no component below the root is a link.

    root : a folder that is trusted, such as OUT; None where the folder itself is. synced : what is created is on disk
    when this returns; False where the whole file system is synced later.
    Raises OutError where a link or a file stands in the way, FileNotFoundError where there is no such folder and it is
    not to be created.
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
    """Descriptors of folders below OUT, kept open while many files are made in them by turns."""

    MOST = 256
    """A process may have some thousand descriptors open; more folders than these are opened again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def get(self, folder: str) -> int:
        """The descriptor of a folder below the root, which is there. See `open_folder`."""
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
    """A name for a file that is being written: nobody else has it."""
    return f".{TOKEN}-{next(_numbers)}{PARTIAL}"


def is_unfinished(name: str, token: str) -> bool:
    """Whether a file was being written by the process of that token."""
    return name.startswith(f".{token}-")


class Unfinished:
    """A new file in an open folder, under a name of its own until it is put in place."""

    def __init__(self, folder: int) -> None:
        self._folder, self.name = folder, unfinished_name()
        self.file = io.FileIO(os.open(self.name, _NEW_FILE_FLAGS, 0o666, dir_fd=folder), "r+")

    def digest(self) -> str:
        """Of what was written so far."""
        self.file.seek(0)
        return digest_of_open(self.file)

    def place(self, name: str) -> None:
        """Put the file in place under `name`; what stands there is replaced, a link as the link that it is."""
        os.replace(self.name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.name = ""

    def close(self) -> None:
        """Close it; it is removed where it was not put in place."""
        self.file.close()
        if self.name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._folder)


@contextlib.contextmanager
def unfinished(folder: int) -> Iterator[Unfinished]:
    """A new file, gone again unless it is put in place within the block."""
    new = Unfinished(folder)
    try:
        yield new
    finally:
        new.close()


@contextlib.contextmanager
def replacing(path: Path, root: Path | None = None) -> Iterator[IO[str]]:
    """Write text to a file beside `path` and put it in place when the block ends well; nothing changes otherwise."""
    with open_folder(path.parent, root) as folder, unfinished(folder) as new:
        with text_of(new) as file:
            yield file
        os.fsync(new.file.fileno())
        new.place(path.name)
        os.fsync(folder)


@contextlib.contextmanager
def text_of(new: Unfinished) -> Iterator[IO[str]]:
    """An unfinished file as UTF-8 text, line ends untouched; flushed at the end."""
    text = io.TextIOWrapper(io.BufferedWriter(_Borrowed(new.file)), encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach().detach()


class _Borrowed(io.RawIOBase):
    """The raw file of somebody who closes it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written: int = self._file.write(data)
        return written


def write_text(path: Path, text: str, root: Path | None = None) -> None:
    write_bytes(path, text.encode(), root)


def write_bytes(path: Path, data: bytes | memoryview, root: Path | None = None) -> None:
    """Replace a file whole, on disk when this returns. root : see `open_folder`; folders below it are made."""
    with open_folder(path.parent, root, create=root is not None) as folder, unfinished(folder) as new:
        write_all(new.file, memoryview(data))
        os.fsync(new.file.fileno())
        new.place(path.name)
        os.fsync(folder)


def write_all(file: IO[bytes], data: memoryview) -> None:
    """An unbuffered write may end early, as where the disk is nearly full: the next one then tells why."""
    while len(data):
        data = data[file.write(data) :]


def is_regular(path: str | Path) -> bool:
    """Whether a regular file stands there itself, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder stands there itself, not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def unlink_below(path: Path, root: Path) -> None:
    """Remove a file below a folder that is trusted, no link followed on the way; nothing happens where it is gone."""
    with contextlib.suppress(FileNotFoundError), open_folder(path.parent, root) as folder:
        os.unlink(path.name, dir_fd=folder)


_OUT_OF_REACH = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""What the system says of a folder that is gone, closed to this process, or deeper than a path may be long."""


def entries_below(
    root: str | Path, *, into: Callable[[os.DirEntry[str]], bool] = lambda _: True
) -> Iterator[os.DirEntry[str]]:
    """Every entry below a folder, however deep somebody nested it; links are not followed.

    into : whether to look into a folder. What is out of reach is passed over: no path of ours leads there.
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
    """Remove a folder that we alone know of, with all that is in it; nothing happens where it is gone."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def remove_if_empty(folder: str | Path, dir_fd: int | None = None) -> None:
    """Remove a folder of ours unless something is in it; nothing happens where it is gone.

    dir_fd : an open folder, where `folder` is a name in it.
    """
    try:
        os.rmdir(folder, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
