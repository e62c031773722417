"""Whether the content of an entry under clusters/ exists elsewhere.

A hard link keeps a picture alive that its owner deleted, and a copy may be all that is left of it. Before an entry is
removed, its content must be elsewhere: in a listed image that stands outside of OUT, or under more names than OUT
holds. Otherwise the entry is moved to OUT/kept. Size and time of an image do not prove its content: where the entry is
no other name of the image's file, the image is read.

Somebody may remove the other names of a file at the very moment at which we remove ours: the file is held open
meanwhile, and written to OUT/kept where no name is left. A process that is killed just then loses it.
"""

from __future__ import annotations

import io
import os
import stat
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigcluster.files.durable import READING, OpenFolders, digest_of_file, digest_of_open, entries_below
from bigcluster.files.kept import save, set_aside
from bigcluster.outdir.owned import WORD, Known, known_as, short_digest

_UNREAD, _HOLDS, _OTHER = range(3)
"""States of an image: not yet read; its content is the one that was decoded; its content is another one."""
_MOST_FOLDERS = 1024
"""Folders of images for which it is cached whether they lie in OUT. Images are listed folder by folder, so that few
are needed. Chosen, not measured."""
_MOST_LINKS = 40
"""Symbolic links that Linux follows on the way to a file, at most (path_resolution(7))."""


class OtherCopies:
    """Knows which contents exist outside of OUT. Removes entries of which there is another copy, and moves others to
    OUT/kept."""

    def __init__(self, out: Path, path_of: Callable[[int], str]) -> None:
        """path_of : a function from the row of a listed image to the path of its file."""
        self._out, self._path_of = out, path_of
        self._prefix = os.path.join(os.path.realpath(out), "")
        self._files, self._contents, self._rows = array("Q"), array("Q"), array("I")
        self._folders: dict[str, bool] = {}
        self._led_to = set[str]()
        """Paths below OUT to which listed images lead: a program that removes duplicates may have made them links."""
        self._linked_files = array("Q")
        """Per row: the file to which an image that is a symbolic link led, 0 for another one. Ends at the last link."""
        self._open = OpenFolders(out)
        self.n_kept = 0
        """The number of entries that were moved to OUT/kept."""

    def find_led_to(self, n_rows: int) -> None:
        """Find the paths below OUT to which listed images lead, of all rows, before the first entry gets its name.

        n_rows : the number of listed images.
        """
        for row in range(n_rows):
            path = self._path_of(row)
            # One that cannot be looked at leads to no entry that a person could see through it.
            with suppress(OSError, ValueError):  # ValueError: a NUL in the name
                is_link = stat.S_ISLNK(os.lstat(path).st_mode)
                if is_link or not self._is_folder_outside(_folder_of(path)):
                    for passed in _way(path):
                        if passed.startswith(self._prefix):
                            self._led_to.add(os.path.join(self._out, passed[len(self._prefix) :]))

    def is_led_to(self, path: str) -> bool:
        """Whether a listed image leads to this path below OUT, or passes it on its way: no other picture may get it.

        path : begins with OUT as it was given.
        """
        return path in self._led_to

    def was_link(self, row: int) -> bool:
        """Whether an image was a symbolic link when it was added."""
        return row < len(self._linked_files) and self._linked_files[row] != 0

    def leads_elsewhere(self, row: int, status: os.stat_result) -> bool:
        """Whether an image that was a symbolic link when it was added led to another file than that of this stat."""
        known = self._linked_files[row] if row < len(self._linked_files) else 0
        return known not in (0, _file_key(status))

    def add(self, row: int, digest: int, n_bytes: int | None, mtime_ns: int | None) -> os.stat_result:
        """Add a listed image: its file where that lies outside of OUT, and its content where the file seems unchanged.

        digest : the first 64 bits of the SHA-256 of the content that was decoded. n_bytes, mtime_ns : size in bytes and
        time in nanoseconds of the file at that time.
        Returns the stat of the file, links followed. Raises FileNotFoundError where it does not exist any more.
        """
        path = self._path_of(row)
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            status, stays = os.stat(path), True
            self._linked_files.frombytes(bytes(self._linked_files.itemsize * (row - len(self._linked_files))))
            self._linked_files.append(_file_key(status))
        else:
            stays = self._is_folder_outside(_folder_of(path))
        if stays:
            self._files.append(_file_key(status))
            if (status.st_size, status.st_mtime_ns) == (n_bytes, mtime_ns):
                self._contents.append(digest)
                self._rows.append(row)
        return status

    def _is_folder_outside(self, folder: str) -> bool:
        known = self._folders.get(folder)
        if known is None:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            known = not os.path.join(os.path.realpath(folder), "").startswith(self._prefix)
            self._folders[folder] = known
        return known

    def remove(self, path: str, knowns: list[Known]) -> None:
        """Remove an entry of ours whose content exists elsewhere; move one that is the last copy to OUT/kept.

        path : the entry. knowns : what it may be, by the list of what we made.
        An entry that we did not make stays as it is, unless it is another name of a listed image. It is read, because
        size and time may be the same although somebody wrote another content. An entry to which a listed image leads
        stays too.
        """
        if self.is_led_to(path):
            return
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and _holds(self._sorted_files, _file_key(status)):
            self._unlink_file(path, status, None)
        elif (known := known_as(path, knowns, trusting=False)) is not None:
            if stat.S_ISLNK(status.st_mode):
                self._unlink(path)
            elif self._is_elsewhere(status, known):
                self._unlink_file(path, status, known.digest)
            else:
                self.keep(path)

    def keep(self, path: str) -> None:
        """Move an entry to OUT/kept, since its content may exist nowhere else."""
        set_aside(Path(path), self._out)
        self.n_kept += 1

    def _unlink(self, path: str) -> None:
        folder, name = os.path.split(path)
        os.unlink(name, dir_fd=self._open.get(folder))

    def _unlink_file(self, path: str, status: os.stat_result, digest: int | None) -> None:
        """Remove an entry whose content exists elsewhere. Where this was its last name after all, save its content.

        digest : of its content, None where it was not read. An entry that may not be read has another name, and goes.
        """
        folder, _, name = path.rpartition("/")
        at = self._open.get(folder)
        try:
            descriptor = os.open(name, READING, dir_fd=at)
        except PermissionError:
            os.unlink(name, dir_fd=at)
            return
        try:
            os.unlink(name, dir_fd=at)
            status_now = os.fstat(descriptor)
            if status_now.st_nlink == 0:
                self._save(descriptor, path, digest if _file_key(status_now) == _file_key(status) else None)
        finally:
            os.close(descriptor)

    def _save(self, descriptor: int, path: str, digest: int | None) -> None:
        """Write an open file that has lost its last name to OUT/kept, unless a listed image has the same content."""
        with io.FileIO(descriptor, closefd=False) as file:
            if not self._is_an_image(short_digest(digest_of_open(file)) if digest is None else digest):
                save(file, Path(path), self._out)
                self.n_kept += 1

    def close(self) -> None:
        self._open.close()

    def _is_elsewhere(self, status: os.stat_result, known: Known) -> bool:
        if self._is_an_image(known.digest):
            return True
        if status.st_nlink == 1:
            return False
        inside = self._inside
        key = np.uint64(_file_key(status))
        first, last = np.searchsorted(inside, key, "left"), np.searchsorted(inside, key, "right")
        return status.st_nlink > int(last - first)

    def _is_an_image(self, digest: int) -> bool:
        """Whether a listed image has this content. Each image is read once at most."""
        contents, rows, states = self._by_content
        first, last = (int(np.searchsorted(contents, np.uint64(digest), side)) for side in ("left", "right"))
        for at in range(first, last):
            if states[at] == _UNREAD:
                states[at] = _HOLDS if self._holds_still(int(rows[at]), digest) else _OTHER
            if states[at] == _HOLDS:
                return True
        return False

    def _holds_still(self, row: int, digest: int) -> bool:
        try:
            return short_digest(digest_of_file(os.path.realpath(self._path_of(row)))) == digest
        except OSError:  # gone, closed, or on a disk that fails: nothing vouches for the content then
            return False

    @cached_property
    def _sorted_files(self) -> NDArray[np.uint64]:
        return np.sort(np.frombuffer(self._files, np.uint64))

    @cached_property
    def _by_content(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32], bytearray]:
        """Three columns: digests of images when they were decoded, ascending; their rows; their states now."""
        contents, rows = np.frombuffer(self._contents, np.uint64), np.frombuffer(self._rows, np.uint32)
        order = np.argsort(contents, kind="stable")
        return contents[order], rows[order], bytearray(len(order))

    @cached_property
    def _inside(self) -> NDArray[np.uint64]:
        """Every file of OUT that has more than one name, once for each of its names here, ascending."""
        keys = array("Q")
        for entry in entries_below(self._out):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                keys.append(_file_key(status))
        return np.sort(np.frombuffer(keys, np.uint64))


def _folder_of(path: str) -> str:
    """The folder of an absolute path: os.path.dirname in a quarter of the time, for millions of paths."""
    folder, slash, _ = path.rpartition("/")
    return folder or slash


def _way(path: str) -> Iterator[str]:
    """A path, and those to which it leads link by link, the last one included; folders on the way are resolved."""
    for _ in range(_MOST_LINKS + 1):
        folder, name = os.path.split(path)
        path = os.path.join(os.path.realpath(folder), name)
        yield path
        if not os.path.islink(path):
            return
        path = os.path.join(os.path.dirname(path), Path(path).readlink())


def _file_key(status: os.stat_result) -> int:
    """64 bits for a file: its inode, with the number of its device mixed in."""
    return (status.st_ino ^ (status.st_dev * 0x9E3779B97F4A7C15)) & WORD


def _holds(ordered: NDArray[np.uint64], value: int) -> bool:
    at = int(np.searchsorted(ordered, np.uint64(value)))
    return at < len(ordered) and int(ordered[at]) == value
