"""What we made in a folder that others may write to as well: so much of every entry that it is known again.

.bigcluster/marks/<created>/done.json      names the list that counts, and vouches for its file
.bigcluster/made/<created>-<digest>.list   the list: 5 columns of 64 bits, little-endian, ordered by the first

Content decides: an entry is ours where its path is on the list and its content is what the list says. Inode, size and
time only save the reading: a copied OUT has others, and a file system gives the inode of a deleted file to a new one.
Folders have no content: see outdir.made_folders.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import path_key
from bigcluster.catalog.keys import name_keys
from bigcluster.files.bounded import check_room, read_bounded
from bigcluster.files.durable import digest_of, digest_of_file, unlink_below, write_bytes
from bigcluster.files.kept import clear_way
from bigcluster.files.layout import MADE
from bigcluster.store import Mark, Marks, metadata

WORD = (1 << 64) - 1
"""Mask of 64 bits."""
_DIGEST_HEX = 16
"""Hex digits of a SHA-256 that a list stores: 64 bits."""
_N_COLUMNS = 5
"""Columns of a list: the hash of the path, and the four values of `Known`."""
_MOST_OF_ONE_IMAGE = 8
"""Entries in a list for each image, at most: under an old and a new name, as file and as link; and its pages."""
_MOST_ENTRIES = 200_000
"""Entries in a list beside those of images, at most: folders of clusters, and pages. Chosen, not measured."""


class Known(NamedTuple):
    """What identifies an entry. All values are modulo 2^64, since the time of a file may be any number."""

    inode: int = 0
    """0 for files with a content of their own, whose inodes are others once OUT was copied."""
    n_bytes: int = 0
    mtime_ns: int = 0
    digest: int = 0
    """64 bits of the SHA-256 of the content; of a symbolic link, of the path that it holds."""


def short_digest(digest: str) -> int:
    """The first 64 bits of a digest in hex, such as that of an image in images.csv, as a list stores them."""
    return int(digest[:_DIGEST_HEX], 16)


def known_link(text: str) -> Known:
    """What identifies a symbolic link that holds this path."""
    return Known(digest=short_digest(hashlib.sha256(os.fsencode(text)).hexdigest()))


def known_file(status: os.stat_result, digest: int, *, own: bool) -> Known:
    """What identifies a regular file.

    digest : of its content, as `short_digest` shortens it. own : whether it has a content of its own, and is not a hard
    link to an image.
    """
    return Known(0 if own else status.st_ino & WORD, status.st_size & WORD, status.st_mtime_ns & WORD, digest)


class Owned:
    """What identifies each of our entries, by its path inside the folder: 40 bytes each, for millions of entries.

    A path is stored as 64 bits of its hash. Two of a million paths share them with a chance of 3e-8, and then either is
    taken for ours where its content is that of one of them. A path may be listed several times: while a folder is
    being rewritten, with what it had and with what it will have. The path of a folder ends with `/`.
    """

    def __init__(self, columns: NDArray[np.uint64]) -> None:
        """columns : (5, n) uint64, the hash of the path and the four values of `Known`, ordered by the hash."""
        self._columns = columns

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Known]] = ()) -> Owned:
        builder = OwnedBuilder()
        for name, known in entries:
            builder.add(name, known)
        return builder.build()

    def __len__(self) -> int:
        return len(self._columns[0])

    def __or__(self, other: Owned) -> Owned:
        """All entries of both."""
        if not len(other) or not len(self) or self is other:
            return self if len(self) else other
        return Owned(_ordered(np.concatenate(pair) for pair in zip(self._columns, other._columns, strict=True)))

    def get(self, name: str) -> list[Known]:
        """What an entry of that path may be; an empty list where it is not ours."""
        keys, key = self._columns[0], np.uint64(_key(name))
        first = last = int(keys.searchsorted(key))
        while last < len(keys) and keys[last] == key:  # nearly always one, or none
            last += 1
        return [Known(*row) for row in self._columns[1:, first:last].T.tolist()] if last > first else []

    def get_all(self, names: Sequence[str]) -> list[list[Known]]:
        """As `get`, for many paths at once."""
        return self.of_keys(name_keys(names))

    def of_keys(self, keys: NDArray[np.uint64]) -> list[list[Known]]:
        """As `get_all`, for the `name_keys` of paths, (n,), which are computed once where several lists are asked."""
        firsts = self._columns[0].searchsorted(keys).tolist()
        lasts = self._columns[0].searchsorted(keys, "right").tolist()
        rows = [row for first, last in zip(firsts, lasts, strict=True) for row in range(first, last)]
        knowns = iter([Known(*row) for row in self._columns[1:, rows].T.tolist()])
        return [list(islice(knowns, last - first)) for first, last in zip(firsts, lasts, strict=True)]

    def with_digest(self, digest: int) -> list[Known]:
        """All entries of that digest, ascending by the hash of their paths."""
        return [Known(*row) for row in self._columns[1:, self._columns[4] == np.uint64(digest)].T.tolist()]

    def without(self, names: Iterable[str]) -> Owned:
        """A list without the entries of these paths."""
        keys = np.array([_key(name) for name in names], np.uint64)
        return Owned(np.ascontiguousarray(self._columns[:, ~np.isin(self._columns[0], keys)]))

    def to_bytes(self) -> memoryview:
        return self._columns.astype("<u8", copy=False).view(np.uint8).reshape(-1).data

    @classmethod
    def from_bytes(cls, data: bytes) -> Owned:
        return cls(np.frombuffer(data, "<u8").reshape(_N_COLUMNS, -1))


class OwnedBuilder:
    """Builds an `Owned` from entries that are added one by one, in 40 bytes each."""

    def __init__(self) -> None:
        self._flat = array("Q")

    def add(self, name: str, known: Known) -> None:
        self._flat.extend((_key(name), *known))

    def build(self) -> Owned:
        """The entries that were added. They are not held here any more, so that they are in memory once."""
        flat, self._flat = np.frombuffer(self._flat, np.uint64), array("Q")
        return Owned(_ordered(flat[column::_N_COLUMNS] for column in range(_N_COLUMNS)))


def _ordered(columns: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The columns of a list, ordered by the first. They are taken one at a time: all of them twice would be a peak."""
    each = iter(columns)
    keys = next(each)
    order = np.argsort(keys, kind="stable")
    ordered = np.empty((_N_COLUMNS, len(order)), np.uint64)
    np.take(keys, order, out=ordered[0])
    for column, into in zip(each, ordered[1:], strict=True):
        np.take(column, order, out=into)
    return ordered


def _key(name: str) -> int:
    return int.from_bytes(path_key(name), "little")


def is_ours(path: str, knowns: Iterable[Known]) -> bool:
    """Whether a file or a link is one of these. A file is read unless its size, time and inode decide."""
    return known_as(path, knowns) is not None


def is_ours_by_content(path: str, knowns: Iterable[Known]) -> bool:
    """As `is_ours`, but every regular file is read, because an edit may leave size and time as they were."""
    return known_as(path, knowns, trusting=False) is not None


def known_as(path: str, knowns: Iterable[Known], *, trusting: bool = True) -> Known | None:
    """Which of these a file or a link is; None where it is none of them, and so not ours.

    trusting : whether a regular file whose inode, size and time are the same counts as unchanged, without reading it.
    """
    knowns = list(knowns)
    if not knowns:
        return None
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        link = known_link(str(Path(path).readlink()))
        return link if link in knowns else None
    if not stat.S_ISREG(status.st_mode):
        return None
    untouched = [known for known in knowns if trusting and _is_untouched(status, known)]
    if len({known.digest for known in untouched}) == 1:  # else two images of one size and one time
        return untouched[0]
    knowns = [known for known in knowns if known.n_bytes == status.st_size & WORD]
    digest = short_digest(digest_of_file(path)) if knowns else None
    return next((known for known in knowns if known.digest == digest), None)


def _is_untouched(status: os.stat_result, known: Known) -> bool:
    return (known.n_bytes, known.mtime_ns) == (status.st_size & WORD, status.st_mtime_ns & WORD) and (
        known.inode in (0, status.st_ino & WORD)
    )


@dataclass(frozen=True)
class OwnedList:
    """The stored list of one folder of OUT. A mark names the file that counts, so that it is replaced at once."""

    out: Path
    created: str
    """The name of the mark."""

    def read(self) -> Owned | None:
        """Read the list; None where there is none, or where it is damaged or of another version.

        Raises MemoryBudgetError where it takes more memory than the budget leaves.
        """
        mark = Marks(self.out).read(self.created)
        if mark is None or len(mark.digests) != 1:
            return None
        ((file, digest),) = mark.digests.items()
        self._check_room(self.out / file)
        try:
            data = read_bounded(self.out / file, self._most_bytes())
            return Owned.from_bytes(data) if digest_of(data) == digest else None
        except (OSError, ValueError):
            return None

    def _check_room(self, file: Path) -> None:
        """Raise MemoryBudgetError where a list that may be ours is larger than the budget leaves."""
        with suppress(OSError):  # told by who reads it
            if (n_bytes := file.lstat().st_size) <= self._most_bytes():
                check_room(file, n_bytes, "or delete it: what lies in that folder then stays as it is")

    def _most_bytes(self) -> int:
        """Bytes of a list of ours, at most: several entries for every listed image, and the pages of a report."""
        return _N_COLUMNS * 8 * (_MOST_ENTRIES + _MOST_OF_ONE_IMAGE * metadata.n_rows(self.out, "pixels"))

    def write(self, owned: Owned) -> None:
        """Replace the list. It is on disk when this returns, so that entries are on the list before they are made."""
        marks = Marks(self.out)
        before = marks.read(self.created)
        data = owned.to_bytes()
        digest = digest_of(data)
        file = f"{MADE}/{self.created}-{digest}.list"
        clear_way(self.out / MADE, self.out)
        write_bytes(self.out / file, data, self.out)
        marks.write(self.created, Mark("", {file: digest}))
        for old in set(before.digests if before else ()) - {file}:
            if old.startswith(f"{MADE}/"):
                unlink_below(self.out / old, self.out)
