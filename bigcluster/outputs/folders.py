"""The folder clusters/: a folder for each cluster, with its images under names that a person recognises.

Entries are hard links, relative symbolic links or copies of the listed images. The folder is rewritten in place
(outdir.tree): files and folders of others stay where they are, an entry that leads to its image already stays as it is,
and the last copy of a picture is never removed (outdir.last_copies). The store lists which entries we made; where that
list is lost, it is made anew (entry_recovery).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing, StringArray, path_key
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import StoreError
from bigcluster.files.durable import OpenFolders, sync_file_system, unfinished
from bigcluster.files.kept import COPY_BYTES, numbered
from bigcluster.outdir.last_copies import OtherCopies
from bigcluster.outdir.made_folders import is_made, n_folders
from bigcluster.outdir.owned import Known, Owned, OwnedBuilder, OwnedList, is_ours, known_file, known_link
from bigcluster.outdir.tree import OwnedTree
from bigcluster.outputs.entry_recovery import recovered_list
from bigcluster.units import EXAMPLES, show_bytes

FOLDER = "clusters"
CREATED = "entries"
"""The mark that lists what we made there."""
_NO_HARDLINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass
class Linked:
    """The result of writing clusters/."""

    files: StringArray = field(default_factory=StringArray)
    """Per listed row: the name inside clusters/, '' where there is none."""
    n_symlinks: int = 0
    """Where hard links are not possible (another file system): relative symlinks."""
    n_gone: int = 0
    """Images that vanished after they were decoded, or lie in a folder that is closed now."""
    n_kept: int = 0
    """Entries of an earlier run that were the last copy of their picture: they are in OUT/kept."""
    renamed: list[tuple[str, str]] = field(default_factory=list)
    """(former name, name now) of folders of clusters that somebody renamed within clusters/: they are theirs."""


def renamed_line(renamed: list[tuple[str, str]]) -> str:
    """One line on folders of clusters that somebody renamed, pairs of former and present names: whose they are now."""
    pairs = ", ".join(f"{FOLDER}/{former} to {FOLDER}/{now}" for former, now in renamed[:EXAMPLES])
    more = len(renamed) - EXAMPLES
    return (
        f"renamed since the last run: {pairs}{f' and {more} more' if more > 0 else ''}; a folder that you renamed is "
        f"yours and stays as it is, and the clusters of this run are in {FOLDER}/{cluster_folder(0, 1)} and the "
        "numbers after it"
    )


class EntryNames:
    """Gives every good row its name inside clusters/: `03/cut-1.jpg`, a second of that name `03/cut-1 (2).jpg`.

    Names that differ in case alone count as equal: a folder may be looked at on a system that thinks so.
    """

    def __init__(self, n_clusters: int) -> None:
        self._folders = [cluster_folder(label, n_clusters) for label in range(n_clusters)]
        # 64 bits of a hash for each name given: two that share them count as equal too.
        self._used: dict[bytes, int] = {}

    def of(self, label: int, name: str, is_taken: Callable[[str], bool] = lambda _: False) -> str:
        """name : the image's path; is_taken : whether something of others stands under a name inside clusters/."""
        folder = self._folders[label]
        candidate, number, used = name.rsplit("/", 1)[-1], 1, self._used
        stem, suffix = candidate, ""
        first = key = path_key(f"{folder}/{candidate.casefold()}")
        while key in used or is_taken(f"{folder}/{candidate}"):
            if number == 1:
                stem, suffix = os.path.splitext(candidate)
            number = used.get(first, number) + 1
            used[first] = number
            candidate = numbered(stem, suffix, number)
            key = path_key(f"{folder}/{candidate.casefold()}")
        used[key] = 1
        return f"{folder}/{candidate}"


def cluster_folder(label: int, n_clusters: int) -> str:
    """The folder of a cluster: its number, at least two digits, so that folders sort as clusters do."""
    return f"{label:0{max(2, len(str(n_clusters - 1)))}d}"


def write_clusters(
    out: Path,
    listing: Listing,
    ledger: Ledger,
    labels: NDArray[np.int32],
    n_clusters: int,
    link: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Linked:
    """Make clusters/ show the good rows; `link` is hardlink, symlink, copy or none.

    ledger : the record of every listed row. Our list of what we made goes before the folder: killed at any point, the
    next call puts both right.
    """
    with _Writing(out, listing, link) as writing:
        return writing.write(ledger, labels, n_clusters, advance)


class _Writing:
    """One rewrite of clusters/."""

    def __init__(self, out: Path, listing: Listing, link: str) -> None:
        self._out, self._listing, self._link = out, listing, link
        self._tree = OwnedTree.of(out, FOLDER, CREATED)
        self._root = str(self._tree.root)
        before = self._tree.owned.read()
        self._before = recovered_list(self._tree.root, listing) if before is None else before
        self._other_copies = OtherCopies(out, listing.path)
        self._was_there = os.path.lexists(self._root)
        self._is_first = before is None and not self._was_there
        self._became_links: OwnedBuilder | None = None
        """Entries that had to become symlinks, once one had to."""
        self._open = OpenFolders(out)
        self._linked = Linked()

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._other_copies.close()

    def write(
        self, ledger: Ledger, labels: NDArray[np.int32], n_clusters: int, advance: Callable[[int], None]
    ) -> Linked:
        builder = OwnedBuilder()
        if not self._is_first:  # it looks at every image; no image leads to an entry of an OUT that had none
            self._other_copies.find_led_to(len(self._listing))
        if self._link == "none":
            self._linked.files = StringArray(self._no_entries(ledger))
        else:
            self._linked.files = StringArray(self._plan(ledger, labels, n_clusters, builder))
        if self._link == "copy":
            self._check_space()
        self._linked.renamed = list(self._renamed())
        if self._link != "none":
            for folder in ("", *(f"{cluster_folder(cluster, n_clusters)}/" for cluster in range(n_clusters))):
                builder.add(folder, self._tree.make_folder(folder, self._before))
        made = builder.build()
        self._tree.owned.write(self._before | made)
        if self._link != "none":
            self._make(made, advance)
            if self._became_links is not None:
                made = made | self._became_links.build()
            sync_file_system(self._tree.root)
        self._tree.remove_others(self._before, made, self._other_copies.remove)
        self._linked.n_kept = self._other_copies.n_kept
        self._tree.owned.write(made)
        return self._linked

    def _renamed(self) -> Iterator[tuple[str, str]]:
        for now, known in self._tree.renamed(self._before):
            if known in self._folders_before:
                yield self._folders_before[known], now

    @cached_property
    def _folders_before(self) -> dict[Known, str]:
        """Folders of clusters that we made before, with their names: the list itself holds hashes of names."""
        before, names = self._before, dict[Known, str]()
        most = n_folders(before)
        for width in range(2, len(str(most)) + 1):
            for label in range(min(most, 10**width)):
                name = f"{label:0{width}d}"
                names |= {known: name for known in before.get(f"{name}/") if is_made(known)}
        return names

    def _plan(self, ledger: Ledger, labels: NDArray[np.int32], n_clusters: int, builder: OwnedBuilder) -> Iterator[str]:
        """The name of each listed row's entry, '' where it has none; what will be known of it goes to the builder."""
        names, good = EntryNames(n_clusters), 0
        for row, (ok, n_bytes, mtime_ns, digest) in enumerate(ledger.identities()):
            name = ""
            if ok:
                label, source = int(labels[good]), self._listing.path(row)
                good += 1
                try:
                    status = self._other_copies.add(row, digest, n_bytes, mtime_ns)
                except (FileNotFoundError, NotADirectoryError, PermissionError):
                    self._linked.n_gone += 1
                else:
                    is_taken = _never_taken if self._is_first else partial(self._is_taken, source, status)
                    name = names.of(label, source, is_taken)
                    builder.add(name, self._known(source, name, status, digest))
            yield name

    def _no_entries(self, ledger: Ledger) -> Iterator[str]:
        """As `_plan`, where none are wanted: entries of an earlier run go if their images are still there."""
        for row, (ok, n_bytes, mtime_ns, digest) in enumerate(ledger.identities()):
            if ok and self._was_there:
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    self._other_copies.add(row, digest, n_bytes, mtime_ns)
            yield ""

    def _is_taken(self, source: str, file: os.stat_result, name: str) -> bool:
        """Whether something of others stands there, which is neither ours nor the image itself.

        source, file : the path of the image, and the stat of its file.
        """
        path = f"{self._root}/{name}"
        if self._other_copies.is_led_to(path):  # also where nothing stands: the link of a person would come to life
            return not self._stays(source, file, name)
        if not self._was_there:
            return False
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        return not (_is_same(status, file) or is_ours(path, self._before.get(name)))

    def _stays(self, source: str, file: os.stat_result, name: str) -> bool:
        """Whether the entry there is the one that this image would get, so that it is not touched."""
        path = f"{self._root}/{name}"
        if not os.path.lexists(path):
            return False
        return self._is_link_there(source, name) if self._link == "symlink" else _is_same(os.lstat(path), file)

    def _known(self, source: str, name: str, status: os.stat_result, digest: int) -> Known:
        if self._link == "symlink" or (self._link == "hardlink" and status.st_dev != self._device):
            return known_link(self._link_text(source, name))
        return known_file(status, digest, own=self._link == "copy")

    @cached_property
    def _device(self) -> int:
        return os.stat(self._out).st_dev

    def _link_text(self, source: str, name: str) -> str:
        """Relative, so that both folders may move together."""
        return os.path.relpath(os.path.realpath(source), os.path.dirname(f"{self._root}/{name}"))

    def _make(self, made: Owned, advance: Callable[[int], None]) -> None:
        gone, changed = False, set[int]()
        for row, name in enumerate(self._linked.files):
            if name:
                advance(1)
                try:
                    gone = not self._place(row, name, made) or gone
                except _ChangedError:
                    changed.add(row)
                    self._linked.n_gone += 1
        if gone or changed:  # since it was planned: rare
            files = self._linked.files
            self._linked.files = StringArray(
                n if n and row not in changed and os.path.lexists(f"{self._root}/{n}") else ""
                for row, n in enumerate(files)
            )

    def _place(self, row: int, name: str, made: Owned) -> bool:
        """Make one entry, unless it is there already; False where its image is gone.

        Raises _ChangedError where the image leads to another file than when its entry was planned.
        """
        source = self._listing.path(row)
        folder = self._open.get(f"{self._root}/{name.rpartition('/')[0]}")
        try:
            # One that has become a link since is linked as what it leads to now, as the system does it.
            is_link = self._other_copies.was_link(row) and os.path.islink(source)
            if is_link and self._other_copies.leads_elsewhere(row, os.stat(source)):
                raise _ChangedError(source)
            if self._link == "hardlink":
                self._hardlink(source, name, folder, made, is_link=is_link)
            elif self._link == "symlink":
                self._symlink(source, name, folder)
            else:
                self._copy(source, name, folder, made)
        except (FileNotFoundError, NotADirectoryError):
            self._linked.n_gone += 1
            return False
        return True

    def _hardlink(self, source: str, name: str, folder: int, made: Owned, *, is_link: bool) -> None:
        file = os.path.realpath(source) if is_link else source
        try:
            self._replacing(
                name,
                lambda: os.link(file, name.rpartition("/")[2], dst_dir_fd=folder),
                lambda path: _is_same(os.lstat(path), os.stat(file)),
            )
        except OSError as error:
            if error.errno not in _NO_HARDLINK:
                raise
            self._announce_link(source, name, made)
            self._symlink(source, name, folder)

    def _announce_link(self, source: str, name: str, made: Owned) -> None:
        """An entry is about to become a symlink though it may be on the list as a hard link."""
        if known_link(self._link_text(source, name)) in made.get(name):
            return
        if self._became_links is None:
            self._became_links, all_links = OwnedBuilder(), OwnedBuilder()
            for row, other in enumerate(self._linked.files):
                if other:
                    all_links.add(other, known_link(self._link_text(self._listing.path(row), other)))
            self._tree.owned.write(self._before | made | all_links.build())
        self._became_links.add(name, known_link(self._link_text(source, name)))

    def _symlink(self, source: str, name: str, folder: int) -> None:
        if not os.path.exists(source):
            raise FileNotFoundError(source)
        text = self._link_text(source, name)
        self._replacing(
            name,
            lambda: os.symlink(text, os.path.basename(name), dir_fd=folder),
            lambda _: self._is_link_there(source, name),
        )
        self._linked.n_symlinks += 1

    def _is_link_there(self, source: str, name: str) -> bool:
        """Whether our link to the image stands there, or its file where the image is a link into clusters/."""
        path = f"{self._root}/{name}"
        if os.path.islink(path):
            return str(Path(path).readlink()) == self._link_text(source, name)
        return os.path.realpath(source) == os.path.realpath(path)

    def _copy(self, source: str, name: str, folder: int, made: Owned) -> None:
        with open(source, "rb") as image:
            self._replacing(
                name, lambda: self._copy_of(source, image, name, folder), lambda path: is_ours(path, made.get(name))
            )

    def _copy_of(self, source: str, image: IO[bytes], name: str, folder: int) -> None:
        if os.path.lexists(f"{self._root}/{name}"):
            raise FileExistsError(name)
        with unfinished(folder) as new:
            shutil.copyfileobj(image, new.file, COPY_BYTES)
            shutil.copystat(source, f"{self._root}/{os.path.dirname(name)}/{new.name}")
            new.place(os.path.basename(name))

    def _replacing(self, name: str, make: Callable[[], None], is_there: Callable[[str], bool]) -> None:
        """Make an entry. An earlier one of ours in its place goes first, unless it is what is to be made."""
        try:
            make()
        except FileExistsError:
            path = f"{self._root}/{name}"
            if not is_there(path):
                if self._other_copies.is_led_to(path):
                    raise _ChangedError(path) from None
                self._other_copies.remove(path, self._before.get(name))
                if os.path.lexists(path):  # its size and time were those of ours, its content is not
                    self._other_copies.keep(path)
                make()

    def _check_space(self) -> None:
        need = 0
        for row, name in enumerate(self._linked.files):
            if name and not os.path.lexists(f"{self._root}/{name}"):
                with suppress(FileNotFoundError, PermissionError):
                    need += os.stat(self._listing.path(row)).st_size
        free = shutil.disk_usage(self._out).free
        if need > free:
            raise StoreError(
                f"link = copy needs {show_bytes(need)}, {show_bytes(free)} are free in {self._out}; use symlink"
            )


def _never_taken(_: str) -> bool:
    """Return False: in a folder clusters/ that is new, nothing of others stands under any name."""
    return False


class _ChangedError(Exception):
    """A link among the images, or the entry to which it leads, was changed after the entries were planned."""


def _is_same(status: os.stat_result, other: os.stat_result) -> bool:
    return (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


def created(out: Path) -> Owned | None:
    """What we made in clusters/; None where the list is lost, or there never was one."""
    return OwnedList(out, CREATED).read()
