"""A folder that is built aside and swapped in. What others put into it is never deleted: it moves along.

A list of what we made there stays in the store. Killed at any point, the next call puts folder and list right.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bigcluster.durable import write_text

NAME_BYTES = 255

Made = dict[str, list[int]]
"""Path inside the folder -> inode (0 for files of their own), size, modification time."""


@dataclass(frozen=True)
class Swap:
    """The places of one swapped folder."""

    current: Path
    new: Path
    old: Path
    created: Path
    """What we made, under "current" for the folder and, while it is being replaced, under "next" for the one that takes
    its place. Other files are foreign and stay, also under a name that was ours."""

    @classmethod
    def of(cls, out: Path, folder: str, created: Path) -> Swap:
        return cls(out / folder, out / f".{folder}.new", out / f".{folder}.old", created)

    def recover(self) -> Made:
        """Bring what a kill left to rest; returns what we made in the current folder.

        A swap goes: note both lists; current -> old; new -> current; old retires; note the list of the current one.
        """
        lists = _lists(self.created)
        ours = lists.get("current", {})
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
        made = _lists(self.created).get("current", {})
        return bool(made) and all(_has_size(self.current / name, known[1]) for name, known in made.items())

    def _remember(self, ours: Made, made: Made | None = None) -> None:
        lists = {"current": ours} if made is None else {"current": ours, "next": made}
        write_text(self.created, json.dumps(lists))


def identity(path: Path, *, linked: bool) -> list[int]:
    """What a file of ours is known by."""
    found = path.lstat()
    return [found.st_ino if linked else 0, found.st_size, found.st_mtime_ns]


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


def _lists(created: Path) -> dict[str, Made]:
    try:
        lists: dict[str, Made] = json.loads(created.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(lists, dict) and all(isinstance(made, dict) for made in lists.values())
    return lists if sound else {}


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
    return [name for path, name in named if not _is_ours(path, ours.get(name.as_posix()))]


def _is_ours(path: Path, known: list[int] | None) -> bool:
    """A link is known by its inode, also after its picture was edited; a moved or copied OUT by size and time."""
    found = path.lstat()
    return known is not None and (found.st_ino == known[0] or [found.st_size, found.st_mtime_ns] == known[1:])
