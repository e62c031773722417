"""A folder of OUT that is rewritten in place: what we made before goes, what others put into it stays where it is.

The store lists what we made there (outdir.owned). An entry is put on the list before it is made, and comes off it
after it is gone: killed at any point, the next call knows what is ours. Nothing of others is moved, so that another
user's folder, a mount or a file system that renames no folders is no obstacle. A folder may hold a million entries:
they are looked at one by one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath

from bigcluster.catalog.keys import name_keys
from bigcluster.files.durable import (
    digest_of_open,
    entries_below,
    kept_mode,
    open_file,
    open_folder,
    remove_if_empty,
    sync_file_system,
    unfinished_name,
    unlink_below,
)
from bigcluster.files.kept import clear_way, set_aside
from bigcluster.outdir.made_folders import FOUND_FOLDER, is_made, made_folder, made_folders
from bigcluster.outdir.owned import Known, Owned, OwnedList, is_ours_by_content, known_file, short_digest

BATCH = 4096
"""Entries of a folder that are read, and then removed, at a time. Chosen, not measured."""
Remove = Callable[[str, list[Known]], None]
"""A function of the path of an entry and of what it may be; it removes the entry where it is ours."""


@dataclass(frozen=True)
class OwnedTree:
    """One folder of OUT, and the list of what we made in it."""

    out: Path
    folder: str
    owned: OwnedList

    @classmethod
    def of(cls, out: Path, folder: str, created: str) -> OwnedTree:
        return cls(out, folder, OwnedList(out, created))

    @property
    def root(self) -> Path:
        return self.out / self.folder

    def replace_by(self, staging: Path, tell: Callable[[str], None] = lambda _: None) -> Owned:
        """Put the files of a folder of ours in place of what we made before; returns the new list, which is stored.

        staging : a folder directly in OUT. A file of somebody else at the place of one of these files goes to OUT/kept.
        tell : is called with one line of text for each of those.
        """
        before = self.owned.read() or Owned.of()
        at = len(str(staging)) + 1
        names = sorted(entry.path[at:] for entry in entries_below(staging) if entry.is_file(follow_symlinks=False))
        made = Owned.of(self._made(staging, names, before))
        sync_file_system(staging)
        self.owned.write(before | made)
        for inside, files in groupby(names, lambda name: name.rpartition("/")[0]):
            self._place(staging / inside, inside, [name.rpartition("/")[2] for name in files], before, tell)
        self.remove_others(before, made, self._remove_file)
        sync_file_system(self.out)
        self.owned.write(made)
        return made

    def _made(self, staging: Path, names: list[str], before: Owned) -> Iterator[tuple[str, Known]]:
        folders = {f"{folder}/" for name in names for folder in map(str, PurePosixPath(name).parents) if folder != "."}
        yield from ((name, self.make_folder(name, before)) for name in ("", *sorted(folders)))
        for name in names:
            with open_file(f"{staging}/{name}") as file:
                yield name, known_file(os.fstat(file.fileno()), short_digest(digest_of_open(file)), own=True)

    def make_folder(self, name: str, before: Owned) -> Known:
        """Make a folder for entries of ours where there is none; returns what the list has to store for it.

        name : ends with `/`, or is "" for the whole; the folder above exists. The folder is on disk once the file
        system is synced. It is made before it is on the list, because its inode is not known before: where the process
        is killed between the two, an empty folder stays.
        """
        folder = self.root / name
        clear_way(folder, self.out)
        with open_folder(folder.parent, self.out) as above:
            try:
                os.mkdir(folder.name, dir_fd=above)
                is_new = True
            except FileExistsError:
                is_new = False
        with open_folder(folder, self.out) as descriptor:
            known = made_folder(descriptor)
        return known if is_new or known in before.get(name) else FOUND_FOLDER

    def renamed(self, before: Owned) -> Iterator[tuple[str, Known]]:
        """(name, identity) of the folders directly in this one that we made under another name.

        Such a folder belongs to the person who renamed it: the list does not have it under its new name.
        """
        made = made_folders(before)
        with contextlib.suppress(FileNotFoundError), open_folder(self.root, self.out) as descriptor:
            names = sorted(entry.name for entry in os.scandir(descriptor) if entry.is_dir(follow_symlinks=False))
            for name in names:
                known = made_folder(descriptor, name)
                if known in made and known not in before.get(f"{name}/"):
                    yield name, known

    def _place(self, staged: Path, inside: str, names: list[str], before: Owned, tell: Callable[[str], None]) -> None:
        """Put files of a staged folder in their place. inside : the path of their folder within the whole."""
        place = self.root / inside
        knowns_of = before.get_all([f"{inside}/{name}" if inside else name for name in names])
        with (
            open_folder(staged, self.out) as source,
            open_folder(place, self.out, create=True, synced=False) as folder,
        ):
            for name, knowns in zip(names, knowns_of, strict=True):
                mode, target = kept_mode(name, folder), f"{place}/{name}"
                if os.path.lexists(target) and not is_ours_by_content(target, knowns):
                    moved = set_aside(Path(target), self.out)
                    tell(f"{target} is not what bigcluster wrote there; it was moved to {moved}")
                if mode is not None:
                    os.chmod(name, mode, dir_fd=source)
                os.replace(name, name, src_dir_fd=source, dst_dir_fd=folder)

    def remove_others(self, ours: Owned, stay: Owned, remove: Remove) -> None:
        """Remove the entries that are on the list `ours` and not on `stay`, and folders of ours that are empty then."""
        with contextlib.suppress(FileNotFoundError):
            self._remove_below("", ours, stay, remove)

    def _remove_below(self, inside: str, ours: Owned, stay: Owned, remove: Remove) -> None:
        """inside : the path of a folder within the whole, which ends with `/` or is empty."""
        folder = self.root / inside
        with open_folder(folder, self.out) as descriptor, os.scandir(descriptor) as entries:
            while batch := list(islice(entries, BATCH)):
                names = [f"{inside}{entry.name}{'/' if entry.is_dir(follow_symlinks=False) else ''}" for entry in batch]
                keys = name_keys(names)
                each = zip(names, batch, ours.of_keys(keys), stay.of_keys(keys), strict=True)
                for name, entry, knowns, staying in each:
                    if knowns and name.endswith("/"):
                        self._remove_below(name, ours, stay, remove)
                    elif knowns and not staying:
                        remove(f"{folder}/{entry.name}", knowns)
        if not stay.get(inside):
            self._remove_folder(folder, ours.get(inside))

    def _remove_folder(self, folder: Path, knowns: list[Known]) -> None:
        """Remove an empty folder that we made. A folder that somebody put in its place is another one, and stays."""
        if any(map(is_made, knowns)):
            with open_folder(folder.parent, self.out) as above:
                if made_folder(above, folder.name) in knowns:
                    remove_if_empty(folder.name, above)

    def _remove_file(self, path: str, knowns: list[Known]) -> None:
        """Remove a file of ours, all of whose content we wrote."""
        if is_ours_by_content(path, knowns):
            unlink_below(Path(path), self.out)

    def is_whole(self) -> bool:
        """Whether every entry that we made last still exists and has the size that it had."""
        made = self.owned.read()
        return made is not None and len(made) > 0 and self._n_whole("", made) == len(made)

    def _n_whole(self, inside: str, made: Owned) -> int:
        """The number of entries of the list that exist in this folder and below."""
        n_whole = int(bool(made.get(inside)))
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / inside) as entries:
            for entry in entries:
                name = inside + entry.name
                if entry.is_dir(follow_symlinks=False):
                    n_whole += self._n_whole(f"{name}/", made) if made.get(f"{name}/") else 0
                else:
                    n_bytes = entry.stat(follow_symlinks=False).st_size
                    n_whole += any(known.n_bytes == n_bytes for known in made.get(name))
            return n_whole
        return 0

    def damaged(self) -> Iterator[tuple[str, str]]:
        """(path within the folder, what is wrong) of files whose content is not what we wrote. All files are read."""
        made = self.owned.read() or Owned.of()
        for inside, knowns in self._files("", made):
            if not is_ours_by_content(str(self.root / inside), knowns):
                yield inside, "is not what was written"

    def _files(self, inside: str, made: Owned) -> Iterator[tuple[str, list[Known]]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / inside) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = inside + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if made.get(f"{name}/"):
                        yield from self._files(f"{name}/", made)
                elif knowns := made.get(name):
                    yield name, knowns

    def new_staging(self) -> Path:
        """A new folder directly in OUT, under a name that nobody else has."""
        name = unfinished_name()
        with open_folder(self.out) as out:
            os.mkdir(name, dir_fd=out)
        return self.out / name
