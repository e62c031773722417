"""A folder that is built aside and swapped in. What others put into it is never deleted: it moves along.

A mark in the store lists what we made there: path inside the folder -> inode, size, time. Killed at any point, the next
call puts folder and list right.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bigcluster.store import Mark, Marks

NAME_BYTES = 255

Made = dict[str, list[int]]
"""Path inside the folder -> inode (0 for files of their own), size, modification time."""


@dataclass(frozen=True)
class Swap:
    """The places of one swapped folder."""

    current: Path
    new: Path
    old: Path
    marks: Marks
    created: str
    """The mark of what we made, under "current" for the folder and, while it is being replaced, under "next" for the
    one that takes its place. Other files are foreign and stay, also under a name that was ours."""

    @classmethod
    def of(cls, out: Path, folder: str, marks: Marks, created: str) -> Swap:
        return cls(out / folder, out / f".{folder}.new", out / f".{folder}.old", marks, created)

    def recover(self, recognise: Callable[[], Made] = dict) -> Made:
        """Bring what a kill left to rest; returns what we made in the current folder.

        recognise : tells what of it is ours, where the list of it is lost.

        A swap goes: note both lists; current -> old; new -> current; old retires; note the list of the current one.
        """
        mark = self.marks.read(self.created)
        lists = {"current": recognise()} if mark is None else mark.payload
        ours: Made = lists["current"]
        if self.old.exists() and self.current.exists():  # old was retiring
            _retire(self.old, self.current, ours)
            ours = lists.get("next", ours)
        elif self.old.exists():  # between the two renames
            self.old.rename(self.current)
        elif not self.new.exists():  # nothing, or the last note, was missing
            ours = lists.get("next", ours)
        if "next" in lists:
            self._remember(ours)
        if self.new.exists():
            shutil.rmtree(self.new)  # only we write there
        return ours

    def swap_in(self, ours: Made, made: Made) -> None:
        """Put the new folder in place. ours : what `recover` returned; made : what the new folder holds."""
        self._remember(ours, made)
        if self.current.exists():
            self.current.rename(self.old)
        self.new.rename(self.current)
        if self.old.exists():
            _retire(self.old, self.current, ours)
        self._remember(made)
        if not any(self.current.iterdir()):
            self.current.rmdir()

    def is_whole(self) -> bool:
        """Whether everything that we made last is still there, in its size."""
        made = listed(self.marks, self.created)
        return bool(made) and all(_has_size(self.current / name, known[1]) for name, known in (made or {}).items())

    def _remember(self, ours: Made, made: Made | None = None) -> None:
        lists = {"current": ours} if made is None else {"current": ours, "next": made}
        self.marks.write(self.created, Mark("", payload=lists))


def listed(marks: Marks, created: str) -> Made | None:
    """What we made in a swapped folder; None where the list is lost, or there never was one."""
    mark = marks.read(created)
    return None if mark is None else mark.payload["current"]


def identity(path: Path, *, copied: bool) -> list[int]:
    """What an entry of ours is known by. copied : a file of its own, not another name of an image."""
    found = path.lstat()
    return [0 if copied else found.st_ino, found.st_size, found.st_mtime_ns]


def numbered(stem: str, suffix: str, number: int) -> str:
    """`cut (2).jpg`, the stem shortened where the name would be too long for the file system."""
    tail = f" ({number}){suffix}"
    room = NAME_BYTES - len(os.fsencode(tail))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    if room < 0:  # nearly all suffix
        return numbered(stem, suffix[:-1], number)
    return stem + tail


def _has_size(path: Path, n_bytes: int) -> bool:
    try:
        return path.lstat().st_size == n_bytes
    except OSError:
        return False


def _retire(old: Path, current: Path, ours: Made) -> None:
    """Remove the old folder; what others put into it moves into the current one."""
    for foreign in _foreign_files(old, ours):
        target = current / foreign
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while os.path.lexists(target):
            number += 1
            target = target.with_name(numbered(foreign.stem, foreign.suffix, number))
        (old / foreign).rename(target)
    shutil.rmtree(old)


def _foreign_files(folder: Path, ours: Made) -> list[Path]:
    """Files in the folder that are not what we made there; all of them where our list is gone."""
    inside = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    named = ((path, path.relative_to(folder)) for path in inside)
    return [name for path, name in named if not is_ours(path, ours.get(name.as_posix()))]


def is_ours(path: Path, known: list[int] | None) -> bool:
    """A link is known by its inode, also after its picture was edited; a moved or copied OUT by size and time."""
    found = path.lstat()
    return known is not None and (found.st_ino == known[0] or [found.st_size, found.st_mtime_ns] == known[1:])
