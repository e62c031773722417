"""The image files below a folder, or those that match a glob. Every folder is listed once, whatever links lead to it.

With links, a few folders can have a huge number of paths: ninety links are enough for 2^29. So a folder is identified
by its device and inode number, and is listed under its first path: one without links where there is one, else the first
in natural order. Files that are not images take no memory, and a listing with more names than the budget allows is
given up.
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

from bigcluster.catalog.file_filter import FileFilter
from bigcluster.catalog.names import natural_key
from bigcluster.catalog.string_array import StringArray
from bigcluster.errors import MemoryBudgetError
from bigcluster.planning.footprint import NAME_BYTES
from bigcluster.units import show_bytes, show_count

LOOP, SEEN, UNREADABLE, OTHER = "(link loop)", "(folder listed already)", "(unreadable folder)", "(other suffixes)"
"""Reasons among the ignored entries: a link to a folder above it, another path to a folder, a folder that cannot be
read, and all suffixes beyond the first thousand."""
MOST_SUFFIXES = 1000
"""Suffixes of other files that are counted one by one. All further suffixes are counted together."""
_OUT_LEVELS = 2
"""Levels of folders in OUT that hold pictures: `clusters`, and `clusters/00` in it."""
_END = "\0"
"""Separates the sort key from the name: it is in neither, and sorts before every other character."""

Identity = tuple[int, int]


class Ignored(Counter[str]):
    """Counts what is skipped, by suffix or reason, and collects the folders that cannot be read.

    listed_before : returns the names that the last run listed. Those below a folder that cannot be read are listed
    again, because their files may still exist.
    """

    def __init__(
        self, listed_before: Callable[[], Iterable[str]] = tuple, fits: Callable[[str], bool] = lambda name: True
    ) -> None:
        super().__init__()
        self.unreadable: dict[str, None] = {}
        """The folders that cannot be read, relative to the root, in the order in which they were found."""
        self.n_kept = 0
        """The number of names of the last run that were listed again."""
        self._listed_before, self._fits = listed_before, fits
        self._before: StringArray | None = None
        """The names of the last run in ascending order, so that those below a folder are neighbours."""

    def unreadable_folder(self, folder: str, name_budget: NameBudget, file_filter: FileFilter) -> list[str]:
        """Note a folder that cannot be read, relative to the root.

        Returns the names of the last run in it, in natural order.
        """
        if folder in self.unreadable:
            return []
        self.unreadable[folder] = None
        self[UNREADABLE] += 1
        if self._before is None:
            self._before = StringArray(sorted({*name_budget.taken_by(self._listed_before())}))
        below = f"{folder}/" if folder else ""
        names = []
        for index in range(bisect.bisect_left(self._before, below), len(self._before)):
            name = self._before[index]
            if not name.startswith(below):
                break
            if self._may_list(name, file_filter):
                names.append(name)
        name_budget.take(len(names))
        self.n_kept += len(names)
        return sorted(names, key=_path_key)

    def _may_list(self, name: str, file_filter: FileFilter) -> bool:
        """Whether this run may list a name of the last run, which may have had other patterns, or a manifest."""
        parts = name.split("/")
        if os.path.isabs(name) or any(part.startswith(".") for part in parts):
            return False
        above = ("/".join(parts[:n]) for n in range(1, len(parts)))
        skipped = file_filter.is_skipped(name, False, counted=False) or any(
            file_filter.is_skipped(folder, True, counted=False) for folder in above
        )
        return not skipped and file_filter.is_image(name) and self._fits(name)


class NameBudget:
    """Limits the memory of the names and folders that a listing holds."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes, self._n_names = most_bytes, 0

    def take(self, n_names: int = 1) -> None:
        """Count further names. Raises MemoryBudgetError where there are too many."""
        self._n_names += n_names
        if self._most_bytes is not None and self._n_names * NAME_BYTES > self._most_bytes:
            raise MemoryBudgetError(
                f"IMAGES lists more than {show_count(self._n_names - 1)} names and folders, the memory budget leaves "
                f"{show_bytes(max(0, self._most_bytes))} for them; use a larger --memory, or list fewer images"
            )

    def taken_by(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the same names, and count each of them."""
        for name in names:
            self.take()
            yield name


def count_ignored(ignored: Counter[str], suffix: str) -> None:
    """Count one more file with this suffix."""
    ignored[suffix if suffix in ignored or len(ignored) < MOST_SUFFIXES else OTHER] += 1


def folders_of(out: Path | None) -> set[Identity]:
    """Return OUT and the folders in it, two levels deep.

    They are not listed, though a link among the images leads there.
    """
    identities: set[Identity] = set()
    level = [] if out is None else [os.fspath(out)]
    for depth in range(_OUT_LEVELS + 1):
        inside: list[str] = []
        for folder in level:
            try:
                identities.add(_identity(folder))
                if depth < _OUT_LEVELS:  # the last ones hold an entry for every image
                    with os.scandir(folder) as entries:
                        inside += (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:  # there is no such folder yet, or it is closed: then nobody lists it either
                continue
        level = inside
    return identities


def walk(
    root: Path, ignored: Ignored, file_filter: FileFilter, name_budget: NameBudget, but: Iterable[Identity] = ()
) -> Iterator[str]:
    """Yield the paths of the images relative to root, each folder in natural order. Hidden entries are skipped.

    but : folders that are skipped, as if they had been listed already.
    """
    links = _Links(root, file_filter, name_budget)
    known: set[Identity] = set(but)
    stack = [_inside(root, "", known, ignored, file_filter, name_budget)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        path, is_folder = entry
        if not is_folder:
            yield path
        elif links.may_follow(path, ignored):
            stack.append(_inside(root, path, known, ignored, file_filter, name_budget))


def _inside(
    root: Path, folder: str, known: set[Identity], ignored: Ignored, file_filter: FileFilter, name_budget: NameBudget
) -> Iterator[tuple[str, bool]]:
    """Yield (path, is it a folder) for the images and folders directly in a folder, in natural order."""
    entries: list[str] = []  # one string per entry: a tuple of key and name takes three times the memory
    try:
        where = os.path.join(root, folder)
        identity = _identity(where)
        if identity in known:  # mounted twice
            ignored[SEEN] += 1
            return
        known.add(identity)
        name_budget.take()
        with os.scandir(where) as scanned:
            for entry in scanned:
                name = entry.name
                if name.startswith("."):
                    continue
                is_folder = _is_folder(entry, file_filter)
                if file_filter.is_skipped(f"{folder}/{name}" if folder else name, is_folder):
                    continue
                if is_folder or file_filter.is_image(name):
                    name_budget.take()
                    entries.append(natural_key(name)[0] + _END + name + ("/" if is_folder else ""))
                else:
                    count_ignored(ignored, os.path.splitext(name)[1].lower())
    except OSError:  # not permitted, removed meanwhile, or on a failing disk
        for path in ignored.unreadable_folder(folder, name_budget, file_filter):
            yield path, False
        return
    entries.sort()
    for entry_text in entries:
        name = entry_text.rpartition(_END)[2]
        bare = name.removesuffix("/")
        yield (f"{folder}/{bare}" if folder else bare), bare is not name


class _Links:
    """Decides which links to folders are followed. It looks for all of them when the first one is found, not before."""

    def __init__(self, root: Path, file_filter: FileFilter, name_budget: NameBudget) -> None:
        self._root, self._file_filter, self._name_budget = root, file_filter, name_budget
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
                self._name_budget.take()
                waiting += self._reach(path)
        return followed

    def _reach(self, start: str) -> list[str]:
        """Note every folder that is reached from `start` without links; returns the links to folders."""
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
                self._name_budget.take()
                with os.scandir(where) as scanned:
                    for entry in scanned:
                        if entry.name.startswith(".") or not _is_folder(entry, self._file_filter):
                            continue
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if not self._file_filter.is_skipped(path, True, counted=False):
                            (links if entry.is_symlink() else folders).append(path)
            except OSError:  # the walk counts it
                continue
        return links


def match(
    root: Path,
    pattern: str,
    ignored: Ignored,
    file_filter: FileFilter,
    name_budget: NameBudget,
    out: Path | None = None,
) -> list[str]:
    """Return the paths, relative to root, of the images that match a glob, in natural order.

    `**` is any number of folders. A folder is looked into once for each part of the pattern; paths without links come
    first. out : a folder that is skipped where another path than its own leads to it, such as a link or a mount.
    """
    passed_over, own = folders_of(out), None if out is None else out.resolve()
    parts = list(Path(pattern).parts)
    if parts[-1] == "**":
        parts.append("*")
    paths: list[str] = []
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
            name_budget.take()
            if parts[at] == "**":
                folders.append((folder, at + 1))
            for path, is_folder, is_link in _matching(root, folder, parts[at], file_filter):
                if glob.has_magic(parts[at]) and file_filter.is_skipped(path, is_folder):
                    continue  # what the pattern names itself is wanted
                if is_folder and is_link and _leads_above(root, path):
                    ignored[LOOP] += 1
                elif is_folder and at + 1 < len(parts):
                    name_budget.take()
                    (links if is_link else folders).append((path, at if parts[at] == "**" else at + 1))
                elif not is_folder and at + 1 == len(parts):
                    if file_filter.is_image(path):
                        name_budget.take()
                        paths.append(path)
                    else:
                        count_ignored(ignored, os.path.splitext(path)[1].lower())
        except OSError:
            paths += ignored.unreadable_folder(folder, name_budget, file_filter)
    paths.sort(key=_path_key)
    return paths


def _matching(root: Path, folder: str, part: str, file_filter: FileFilter) -> Iterator[tuple[str, bool, bool]]:
    """Yield (path, is it a folder, is it a link) for the entries of a folder that match one part of a pattern."""
    before = f"{folder}/" if folder else ""
    if part != "**" and not glob.has_magic(part):
        where = os.path.join(root, folder, part)
        try:
            is_link = stat.S_ISLNK(os.lstat(where).st_mode)  # raises PermissionError where the folder is closed
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
                yield before + entry.name, _is_folder(entry, file_filter), entry.is_symlink()


def fits_glob(path: str, pattern: str) -> bool:
    """Whether the glob matches the path. Only the text of the path is looked at."""
    parts = list(Path(pattern).parts)
    if parts[-1] == "**":
        parts.append("*")
    return _fits(path.split("/"), parts)


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts or not names:
        return not parts and not names
    name, part = names[0], parts[0]
    is_visible = part.startswith(".") or not name.startswith(".")
    if part == "**":
        return _fits(names, parts[1:]) or (len(names) > 1 and is_visible and _fits(names[1:], parts))
    fits = is_visible and fnmatch.fnmatchcase(name, part) if glob.has_magic(part) else name == part
    return fits and _fits(names[1:], parts[1:])


def _path_key(path: str) -> list[tuple[str, str]]:
    return [natural_key(part) for part in path.split("/")]


def _identity(folder: str) -> Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _leads_above(root: Path, link: str) -> bool:
    """Whether a link leads to one of the folders in which the link lies."""
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


def _is_folder(entry: os.DirEntry[str], file_filter: FileFilter) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link to itself is a file that cannot be read. One into a closed folder is what its name says that it is.
        return error.errno != errno.ELOOP and not file_filter.is_image(entry.name)
