"""A folder that is built aside and swapped in. What others put into it is never deleted: it moves along.

The store lists what we made there (outputs.made). Killed at any point, the next call puts folder and list right. A
folder may hold a million entries: they are looked at one by one or by the batch, never listed whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bigcluster.outputs.made import Identity, Lists, Made, identity
from bigcluster.store.inventory import files_below

NAME_BYTES = 255
BATCH = 4096
"""Entries of one folder that are held at once while it is emptied."""


@dataclass(frozen=True)
class Swap:
    """The places of one swapped folder."""

    current: Path
    new: Path
    old: Path
    lists: Lists
    """What we made: "current" for the folder and, while it is being replaced, "next" for the one that takes its place.
    Other files are foreign and stay, also under a name that was ours."""

    @classmethod
    def of(cls, out: Path, folder: str, store_root: Path, created: str) -> Swap:
        return cls(out / folder, out / f".{folder}.new", out / f".{folder}.old", Lists(store_root, created))

    def recover(self, recognise: Callable[[], Made] = Made.of) -> Made:
        """Bring what a kill left to rest; returns what we made in the current folder.

        recognise : tells what of it is ours, where the list of it is lost.

        A swap goes: note both lists; current -> old; new -> current; old retires; note the list of the current one.
        """
        lists = self.lists.read() or {"current": recognise()}
        ours = lists["current"]
        if self.old.exists() and self.current.exists():  # old was retiring
            _retire(self.old, self.current, ours)
            ours = lists.get("next", ours)
        elif self.old.exists():  # between the two renames
            self.old.rename(self.current)
        elif not self.new.exists():  # nothing, or the last note, was missing
            ours = lists.get("next", ours)
        if "next" in lists:
            self.lists.write({"current": ours})
        if self.new.exists():
            _empty(str(self.new), "", lambda path, _: os.unlink(path))  # only we write there
        return ours

    def swap_in(self, ours: Made, made: Made) -> None:
        """Put the new folder in place. ours : what `recover` returned; made : what the new folder holds."""
        self.lists.write({"current": ours, "next": made})
        if self.current.exists():
            self.current.rename(self.old)
        self.new.rename(self.current)
        if self.old.exists():
            _retire(self.old, self.current, ours)
        self.lists.write({"current": made})
        if not any(self.current.iterdir()):
            self.current.rmdir()

    def is_whole(self) -> bool:
        """Whether everything that we made last is still there, in its size."""
        made = (self.lists.read() or {}).get("current", Made.of())
        inside = ((path, path.relative_to(self.current).as_posix()) for path in files_below(self.current))
        return 0 < len(made) == sum(_has_size(path, made.get(name)) for path, name in inside)


def numbered(stem: str, suffix: str, number: int) -> str:
    """`cut (2).jpg`, the stem shortened where the name would be too long for the file system."""
    tail = f" ({number}){suffix}"
    room = NAME_BYTES - len(os.fsencode(tail))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    if room < 0:  # nearly all suffix
        return numbered(stem, suffix[:-1], number)
    return stem + tail


def _has_size(path: Path, known: Identity | None) -> bool:
    try:
        return known is not None and identity(path).n_bytes == known.n_bytes
    except OSError:
        return False


def is_ours(path: str | Path, known: Identity | None) -> bool:
    """A link is known by its inode, also after its picture was edited; a moved or copied OUT by size and time."""
    if known is None:
        return False
    found = identity(path)
    return found.inode == known.inode or found[1:] == known[1:]


def _retire(old: Path, current: Path, ours: Made) -> None:
    """Remove the old folder; what others put into it moves into the current one."""

    def remove(path: str, name: str) -> None:
        if is_ours(path, ours.get(name)):
            os.unlink(path)
        else:
            _move(Path(path), current / name)

    _empty(str(old), "", remove)


def _move(foreign: Path, target: Path) -> None:
    """Under its name, or the next one that is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, target.name
    stem, suffix = os.path.splitext(name)
    while os.path.lexists(target):
        number += 1
        target = target.with_name(numbered(stem, suffix, number))
    foreign.rename(target)


def _empty(folder: str, inside: str, remove: Callable[[str, str], None]) -> None:
    """Remove a folder. remove : gets rid of one file or link, given also its path inside the whole.

    Paths are str: a Path interns its names, and the table of interned strings grows with a million of them for good.
    """
    while batch := _some(folder):
        for name, is_folder in batch:
            path = f"{folder}/{name}"
            if is_folder:
                _empty(path, f"{inside}{name}/", remove)
            else:
                remove(path, inside + name)
    os.rmdir(folder)


def _some(folder: str) -> list[tuple[str, bool]]:
    """The first entries of a folder, and whether they are folders themselves; links are not."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, BATCH))
