"""The entries under clusters/: which of them we made, and what each of them leads to.

Hard links, relative symlinks and copies of the listed images. An entry is known by the list of what we made;
where that is lost, by what labels.csv and the images themselves say of it.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from bigcluster.bounded import read_dicts
from bigcluster.catalog import Listing, from_csv_path
from bigcluster.durable import digest_of_file
from bigcluster.outdir.owned import MADE_FOLDER, Known, Owned, known_file, known_link

LABELS = "labels.csv"
_NAME = re.compile(r"[0-9]+/[^/]+")
_UNKNOWN = "0"
"""The digest of a hard link that is known by its inode, size and time alone."""


def recognised(folder: Path, listing: Listing) -> Owned:
    """Our list of the folder, made anew where it is lost: the entries of labels.csv that lead to their images.

    A link holds nothing of its own, and a copy equals its image: so nothing of others is in it.
    """
    return Owned.of(_recognised(folder, listing))


def _recognised(folder: Path, listing: Listing) -> Iterator[tuple[str, Known]]:
    folders: set[str] = set()
    for path, file in labelled_files(folder.parent / LABELS):
        if not _NAME.fullmatch(file):  # not of ours, whatever labels.csv says
            continue
        entry, source = folder / file, Path(listing.root, path)
        if is_same(entry, source):
            found = entry.lstat()
            is_link = stat.S_ISLNK(found.st_mode)
            yield file, known_link(str(entry.readlink())) if is_link else known_file(found, _UNKNOWN, own=False)
        elif looks_equal(entry, source) and (digest := digest_of_file(entry)) == digest_of_file(source):
            yield file, known_file(entry.lstat(), digest, own=True)
        else:
            continue
        inner, _, _ = file.rpartition("/")
        if inner not in folders:
            folders.add(inner)
            yield f"{inner}/", MADE_FOLDER


def is_same(entry: Path, source: Path) -> bool:
    """Whether a link leads to the image."""
    try:
        return entry.samefile(source)
    except (OSError, ValueError):  # one of them is gone, or its name holds a NUL
        return False


def looks_equal(entry: Path, source: Path) -> bool:
    """Whether a copy has the image's size and time."""
    try:
        mine, theirs = entry.lstat(), source.stat()
    except (OSError, ValueError):
        return False
    return not entry.is_symlink() and (mine.st_size, mine.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def labelled_files(labels: Path) -> Iterator[tuple[str, str]]:
    """(path of the image, its file under clusters/), as far as labels.csv can be read."""
    try:
        for row in read_dicts(labels):
            if row.get("path") and row.get("file"):
                yield from_csv_path(row["path"]), from_csv_path(row["file"])
    except (OSError, ValueError, csv.Error):  # ValueError: of the encoding, or of a row too long for ours
        return
