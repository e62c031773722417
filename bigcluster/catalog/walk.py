"""The image files below a folder, or those that a glob matches; every folder once, whatever links lead to it.

Links can make more paths than there are atoms: ninety of them are enough for 2^29. So a folder is known by its device
and inode number, and its first way counts: one without links where there is one, else the first in natural order.
Nothing here takes memory for a file that is no image, and a listing of more names than there is room for is given up.
"""

from __future__ import annotations

import bisect
import errno
import fnmatch
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bigcluster.catalog.names import Names, natural_key
from bigcluster.catalog.wanted import Wanted
from bigcluster.errors import MemoryBudgetError
from bigcluster.planning.footprint import NAME_BYTES
from bigcluster.units import show_bytes, show_count

LOOP, SEEN, UNREADABLE, OTHER = "(link loop)", "(folder listed already)", "(unreadable folder)", "(other suffixes)"
"""Among what is ignored: a link to a folder above it, another way to a folder, a folder that cannot be read."""
MOST_SUFFIXES = 1000
"""Suffixes of files that are not images that are counted one by one; all further ones are counted together."""
_OUT_LEVELS = 2
"""Levels of folders in OUT that hold pictures: `clusters`, and `clusters/00` in it."""
_END = "\0"
"""Between the key and the name: in neither, and before every other character."""

Identity = tuple[int, int]


class Ignored(Counter[str]):
    """What is passed over, counted; and the folders that cannot be read, by name.

    listed_before : the names that the last run listed. Those below a folder that cannot be read are listed again: for
    all that is known, the files are there.
    """

    def __init__(
        self, listed_before: Callable[[], Iterable[str]] = tuple, fits: Callable[[str], bool] = lambda name: True
    ) -> None:
        super().__init__()
        self.unreadable: dict[str, None] = {}
        """Relative to the root, in the order in which they were met."""
        self.n_kept = 0
        """Names that were listed again."""
        self._listed_before, self._fits = listed_before, fits
        self._before: Names | None = None
        """Ascending, so that those below a folder stand side by side."""

    def unreadable_folder(self, folder: str, room: Room, wanted: Wanted) -> list[str]:
        """Note a folder, relative to the root; returns the names that are listed all the same, in natural order."""
        if folder in self.unreadable:
            return []
        self.unreadable[folder] = None
        self[UNREADABLE] += 1
        if self._before is None:
            self._before = Names(sorted({*room.taken_by(self._listed_before())}))
        below = f"{folder}/" if folder else ""
        kept = []
        for index in range(bisect.bisect_left(self._before, below), len(self._before)):
            name = self._before[index]
            if not name.startswith(below):
                break
            if self._may_list(name, wanted):
                kept.append(name)
        room.take(len(kept))
        self.n_kept += len(kept)
        return sorted(kept, key=_path_key)

    def _may_list(self, name: str, wanted: Wanted) -> bool:
        """The last run may have had a manifest, which names what it likes, or other patterns to exclude."""
        parts = name.split("/")
        if os.path.isabs(name) or any(part.startswith(".") for part in parts):
            return False
        above = ("/".join(parts[:n]) for n in range(1, len(parts)))
        skipped = wanted.is_skipped(name, False, counted=False) or any(
            wanted.is_skipped(folder, True, counted=False) for folder in above
        )
        return not skipped and wanted.is_image(name) and self._fits(name)


class Room:
    """How many names and folders may be held."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes, self._n_names = most_bytes, 0

    def take(self, n_names: int = 1) -> None:
        """Raises MemoryBudgetError where they are too many."""
        self._n_names += n_names
        if self._most_bytes is not None and self._n_names * NAME_BYTES > self._most_bytes:
            raise MemoryBudgetError(
                f"IMAGES lists more than {show_count(self._n_names - 1)} names and folders, the memory budget leaves "
                f"{show_bytes(max(0, self._most_bytes))} for them; use a larger --memory, or list fewer images"
            )

    def taken_by(self, names: Iterable[str]) -> Iterator[str]:
        """The same names, each with its place."""
        for name in names:
            self.take()
            yield name


def count_ignored(ignored: Counter[str], suffix: str) -> None:
    """One more file of that suffix."""
    ignored[suffix if suffix in ignored or len(ignored) < MOST_SUFFIXES else OTHER] += 1


def folders_of(out: Path | None) -> set[Identity]:
    """OUT and the folders that a run makes in it, two levels deep: a link among the images may lead there."""
    found: set[Identity] = set()
    level = [] if out is None else [os.fspath(out)]
    for depth in range(_OUT_LEVELS + 1):
        inside: list[str] = []
        for folder in level:
            try:
                found.add(_identity(folder))
                if depth < _OUT_LEVELS:  # the last ones hold an entry for every image
                    with os.scandir(folder) as entries:
                        inside += (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:  # there is no such folder yet, or it is closed: then nobody lists it either
                continue
        level = inside
    return found


def walk(root: Path, ignored: Ignored, wanted: Wanted, room: Room, but: Iterable[Identity] = ()) -> Iterator[str]:
    """Image paths relative to root, each folder in natural order, hidden files and folders skipped.

    but : folders that are passed over, as if they had been listed already.
    """
    links = _Links(root, wanted, room)
    known: set[Identity] = set(but)
    stack = [_inside(root, "", known, ignored, wanted, room)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        path, is_folder = found
        if not is_folder:
            yield path
        elif links.may_follow(path, ignored):
            stack.append(_inside(root, path, known, ignored, wanted, room))


def _inside(
    root: Path, folder: str, known: set[Identity], ignored: Ignored, wanted: Wanted, room: Room
) -> Iterator[tuple[str, bool]]:
    """(path, is it a folder) of the images and folders directly in a folder, in natural order."""
    entries: list[str] = []  # one string each: a tuple with its key and its name takes three times as much
    try:
        where = os.path.join(root, folder)
        identity = _identity(where)
        if identity in known:  # mounted twice
            ignored[SEEN] += 1
            return
        known.add(identity)
        room.take()
        with os.scandir(where) as scanned:
            for entry in scanned:
                name = entry.name
                if name.startswith("."):
                    continue
                is_folder = _is_folder(entry, wanted)
                if wanted.is_skipped(f"{folder}/{name}" if folder else name, is_folder):
                    continue
                if is_folder or wanted.is_image(name):
                    room.take()
                    entries.append(natural_key(name)[0] + _END + name + ("/" if is_folder else ""))
                else:
                    count_ignored(ignored, os.path.splitext(name)[1].lower())
    except OSError:  # not permitted, gone meanwhile, or on a disk that fails
        for path in ignored.unreadable_folder(folder, room, wanted):
            yield path, False
        return
    entries.sort()
    for entry_text in entries:
        name = entry_text.rpartition(_END)[2]
        bare = name.removesuffix("/")
        yield (f"{folder}/{bare}" if folder else bare), bare is not name


class _Links:
    """Which linked folders are followed. All of them are looked for when the first one is met, and not before."""

    def __init__(self, root: Path, wanted: Wanted, room: Room) -> None:
        self._root, self._wanted, self._room = root, wanted, room
        self._followed: set[str] | None = None
        self._reached: set[Identity] = set()

    def may_follow(self, path: str, ignored: Counter[str]) -> bool:
        if not os.path.islink(os.path.join(self._root, path)):
            return True
        if self._followed is None:
            self._followed = self._choose()
        if path in self._followed:
            return True
        ignored[LOOP if _leads_above(self._root, path) else SEEN] += 1
        return False

    def _choose(self) -> set[str]:
        followed: set[str] = set()
        waiting = self._reach("")
        while waiting:
            waiting.sort(key=_path_key, reverse=True)
            path = waiting.pop()
            try:
                new = _identity(os.path.join(self._root, path)) not in self._reached
            except OSError:
                new = True  # the walk counts it as unreadable
            if new:
                followed.add(path)
                self._room.take()
                waiting += self._reach(path)
        return followed

    def _reach(self, start: str) -> list[str]:
        """Note every folder that is reached from `start` without links; returns the linked folders on the way."""
        links: list[str] = []
        folders = [start]
        while folders:
            folder = folders.pop()
            where = os.path.join(self._root, folder)
            try:
                identity = _identity(where)
                if identity in self._reached:
                    continue
                self._reached.add(identity)
                self._room.take()
                with os.scandir(where) as scanned:
                    for entry in scanned:
                        if entry.name.startswith(".") or not _is_folder(entry, self._wanted):
                            continue
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if not self._wanted.is_skipped(path, True, counted=False):
                            (links if entry.is_symlink() else folders).append(path)
            except OSError:  # the walk counts it
                continue
        return links


def match(root: Path, pattern: str, ignored: Ignored, wanted: Wanted, room: Room, out: Path | None = None) -> list[str]:
    """Image paths relative to root that a glob matches, in natural order. `**` is any number of folders.

    A folder is looked into once for each part of the pattern; ways without links come first.
    out : a folder that is passed over where another way than its own leads to it, such as a link or a mount.
    """
    passed_over, own = folders_of(out), None if out is None else out.resolve()
    parts = list(Path(pattern).parts)
    if parts[-1] == "**":
        parts.append("*")
    found: list[str] = []
    seen: set[tuple[Identity, int]] = set()
    folders, links = [("", 0)], list[tuple[str, int]]()
    while folders or links:
        if not folders:
            links.sort(key=lambda link: (_path_key(link[0]), link[1]), reverse=True)
            folders.append(links.pop())
        folder, at = folders.pop()
        try:
            identity = _identity(os.path.join(root, folder))
            is_way_into_out = identity in passed_over and own is not None and not (root / folder).is_relative_to(own)
            if (identity, at) in seen or is_way_into_out:
                ignored[SEEN] += 1
                continue
            seen.add((identity, at))
            room.take()
            if parts[at] == "**":
                folders.append((folder, at + 1))
            for path, is_folder, is_link in _matching(root, folder, parts[at], wanted):
                if glob.has_magic(parts[at]) and wanted.is_skipped(path, is_folder):
                    continue  # what the pattern names itself is wanted
                if is_folder and is_link and _leads_above(root, path):
                    ignored[LOOP] += 1
                elif is_folder and at + 1 < len(parts):
                    room.take()
                    (links if is_link else folders).append((path, at if parts[at] == "**" else at + 1))
                elif not is_folder and at + 1 == len(parts):
                    if wanted.is_image(path):
                        room.take()
                        found.append(path)
                    else:
                        count_ignored(ignored, os.path.splitext(path)[1].lower())
        except OSError:
            found += ignored.unreadable_folder(folder, room, wanted)
    found.sort(key=_path_key)
    return found


def _matching(root: Path, folder: str, part: str, wanted: Wanted) -> Iterator[tuple[str, bool, bool]]:
    """(path, is it a folder, is it a link) of what one part of a pattern matches in a folder."""
    before = f"{folder}/" if folder else ""
    if part != "**" and not glob.has_magic(part):
        where = os.path.join(root, folder, part)
        try:
            is_link = stat.S_ISLNK(os.lstat(where).st_mode)  # which says where a folder is closed
        except (FileNotFoundError, NotADirectoryError):
            return
        yield before + part, os.path.isdir(where), is_link
        return
    fits = re.compile(fnmatch.translate("*" if part == "**" else part)).match
    with os.scandir(os.path.join(root, folder)) as scanned:
        for entry in scanned:
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if fits(entry.name):
                yield before + entry.name, _is_folder(entry, wanted), entry.is_symlink()


def fits_glob(path: str, pattern: str) -> bool:
    """Whether `match` with this pattern lists the path, as far as the path itself tells."""
    parts = list(Path(pattern).parts)
    if parts[-1] == "**":
        parts.append("*")
    return _fits(path.split("/"), parts)


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts or not names:
        return not parts and not names
    name, part = names[0], parts[0]
    shown = part.startswith(".") or not name.startswith(".")
    if part == "**":
        return _fits(names, parts[1:]) or (len(names) > 1 and shown and _fits(names[1:], parts))
    fits = shown and fnmatch.fnmatchcase(name, part) if glob.has_magic(part) else name == part
    return fits and _fits(names[1:], parts[1:])


def _path_key(path: str) -> list[tuple[str, str]]:
    return [natural_key(part) for part in path.split("/")]


def _identity(folder: str) -> Identity:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _leads_above(root: Path, link: str) -> bool:
    """Whether a linked folder is one of those that it lies in."""
    try:
        to = _identity(os.path.join(root, link))
        above = os.path.dirname(link)
        while to != _identity(os.path.join(root, above)):
            if not above:
                return False
            above = os.path.dirname(above)
    except OSError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str], wanted: Wanted) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link to itself is a file that cannot be read. One into a closed folder is what its name says that it is.
        return error.errno != errno.ELOOP and not wanted.is_image(entry.name)
