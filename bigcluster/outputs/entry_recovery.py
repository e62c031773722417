"""The list of our entries under clusters/, made anew from labels.csv and the images where the stored list is lost."""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from bigcluster.catalog import Listing, from_csv_path
from bigcluster.files.bounded import read_dicts
from bigcluster.files.durable import digest_of_file
from bigcluster.outdir.made_folders import FOUND_FOLDER
from bigcluster.outdir.owned import Known, Owned, known_file, known_link, short_digest

LABELS = "labels.csv"
_NAME = re.compile(r"[0-9]+/[^/]+")
_UNKNOWN = 0
"""Stands for the digest of a hard link that is identified by its inode, size and time alone."""


def recovered_list(folder: Path, listing: Listing) -> Owned:
    """The list of our entries in a folder: those of labels.csv that lead to their images, or equal them.

    A link has no content of its own, and a copy has that of its image, so that no file of others is on the list. Who
    made the folders is not known: they stay.
    """
    return Owned.of(_recovered_entries(folder, listing))


def _recovered_entries(folder: Path, listing: Listing) -> Iterator[tuple[str, Known]]:
    folders: set[str] = set()
    for path, file in labelled_files(folder.parent / LABELS):
        if not _NAME.fullmatch(file):  # not of ours, whatever labels.csv says
            continue
        entry, source = folder / file, Path(listing.root, path)
        if is_same(entry, source):
            status = entry.lstat()
            is_link = stat.S_ISLNK(status.st_mode)
            yield file, known_link(str(entry.readlink())) if is_link else known_file(status, _UNKNOWN, own=False)
        elif looks_equal(entry, source) and (digest := digest_of_file(entry)) == digest_of_file(source):
            yield file, known_file(entry.lstat(), short_digest(digest), own=True)
        else:
            continue
        inner, _, _ = file.rpartition("/")
        if inner not in folders:
            folders.add(inner)
            yield f"{inner}/", FOUND_FOLDER


def is_same(entry: Path, source: Path) -> bool:
    """Whether an entry is a link to the image, hard or symbolic."""
    try:
        return entry.samefile(source)
    except (OSError, ValueError):  # one of them is gone, or its name holds a NUL
        return False


def looks_equal(entry: Path, source: Path) -> bool:
    """Whether an entry has the size and the time of the image, as a copy has."""
    try:
        mine, theirs = entry.lstat(), source.stat()
    except (OSError, ValueError):
        return False
    return not entry.is_symlink() and (mine.st_size, mine.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def labelled_files(labels: Path) -> Iterator[tuple[str, str]]:
    """(path of the image, its file under clusters/) for the rows of labels.csv up to the first that cannot be read."""
    try:
        for row in read_dicts(labels):
            if row.get("path") and row.get("file"):
                yield from_csv_path(row["path"]), from_csv_path(row["file"])
    except (OSError, ValueError, csv.Error):  # ValueError: of the encoding, or of a row too long for ours
        return
