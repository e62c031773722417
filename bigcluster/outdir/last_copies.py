"""Whether the content of an entry under clusters/ exists elsewhere.

A hard link keeps a picture alive that its owner deleted, and a copy may be all that is left of it. Before an entry is
removed, its content must be elsewhere: in a listed image that stands outside of OUT, or under more names than OUT
holds. Otherwise the entry is moved to OUT/kept.
"""

from __future__ import annotations

import os
import stat
from array import array
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigcluster.files.durable import OpenFolders, entries_below
from bigcluster.files.kept import set_aside
from bigcluster.outdir.owned import Known, known_as

_WORD = (1 << 64) - 1
_MOST_FOLDERS = 1024
"""Folders of images of which it is remembered whether they lie in OUT: images are listed folder by folder."""


class Elsewhere:
    """What is known to exist outside of OUT, and what became of the entries that are the last of their kind."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._prefix = os.path.join(os.path.realpath(out), "")
        self._files, self._contents = array("Q"), array("Q")
        self._folders: dict[str, bool] = {}
        self._led_to = set[str]()
        """Entries that listed images lead to, as where a deduplicator made links of the images."""
        self._open = OpenFolders(out)
        self.n_kept = 0
        """Entries that were moved to OUT/kept."""

    def add(self, path: str, digest: int, n_bytes: int | None, mtime_ns: int | None) -> os.stat_result:
        """A listed image: its file, if no command removes that, and its content where it is still as it was decoded.

        digest : 64 bits of the content's, with the size and the time that the file had then. Returns the file's stat,
        links followed. Raises FileNotFoundError where it is gone.
        """
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            found, led_to = os.stat(path), os.path.realpath(path)
            if led_to.startswith(self._prefix):
                self._led_to.add(led_to)
            stays = True
        else:
            stays = self._is_folder_outside(os.path.dirname(path))
        if stays:
            self._files.append(_file_key(found))
            if (found.st_size, found.st_mtime_ns) == (n_bytes, mtime_ns):
                self._contents.append(digest)
        return found

    def _is_folder_outside(self, folder: str) -> bool:
        known = self._folders.get(folder)
        if known is None:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            known = not os.path.join(os.path.realpath(folder), "").startswith(self._prefix)
            self._folders[folder] = known
        return known

    def remove(self, path: str, knowns: list[Known]) -> None:
        """Remove an entry of ours whose content is elsewhere, move the last of its content to OUT/kept.

        An entry that is not what we made stays as it is, unless it is a listed image itself under another name. It is
        read: size and time can be those that we know although somebody wrote another content. An entry to which a
        listed image leads stays too: that link is somebody's.
        """
        if path in self._led_to:
            return
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and _holds(self._sorted_files, _file_key(found)):
            self._unlink(path)
        elif (known := known_as(path, knowns, trusting=False)) is not None:
            if stat.S_ISLNK(found.st_mode) or self._is_elsewhere(found, known):
                self._unlink(path)
            else:
                self.keep(path)

    def keep(self, path: str) -> None:
        """Move an entry to OUT/kept: its content may be nowhere else."""
        set_aside(Path(path), self._out)
        self.n_kept += 1

    def _unlink(self, path: str) -> None:
        folder, name = os.path.split(path)
        os.unlink(name, dir_fd=self._open.get(folder))

    def close(self) -> None:
        self._open.close()

    def _is_elsewhere(self, found: os.stat_result, known: Known) -> bool:
        if _holds(self._sorted_contents, known.digest):
            return True
        if found.st_nlink == 1:
            return False
        inside = self._inside
        key = np.uint64(_file_key(found))
        first, last = np.searchsorted(inside, key, "left"), np.searchsorted(inside, key, "right")
        return found.st_nlink > int(last - first)

    @cached_property
    def _sorted_files(self) -> NDArray[np.uint64]:
        return np.sort(np.frombuffer(self._files, np.uint64))

    @cached_property
    def _sorted_contents(self) -> NDArray[np.uint64]:
        return np.sort(np.frombuffer(self._contents, np.uint64))

    @cached_property
    def _inside(self) -> NDArray[np.uint64]:
        """Every file of OUT that has more than one name, once for each of its names here, ascending."""
        keys = array("Q")
        for entry in entries_below(self._out):
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                keys.append(_file_key(found))
        return np.sort(np.frombuffer(keys, np.uint64))


def _file_key(found: os.stat_result) -> int:
    """64 bits for a file: its inode, with the number of its device mixed in."""
    return (found.st_ino ^ (found.st_dev * 0x9E3779B97F4A7C15)) & _WORD


def _holds(ordered: NDArray[np.uint64], value: int) -> bool:
    at = int(np.searchsorted(ordered, np.uint64(value)))
    return at < len(ordered) and int(ordered[at]) == value
