"""The entries under clusters/: which of them we made, and what each of them leads to.

Hard links, relative symlinks and copies of the listed images. An entry is known by the list of what we made;
where that is lost, by what labels.csv and the images themselves say of it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from bigcluster.catalog import Listing, from_csv_path
from bigcluster.outputs.made import Identity, Made, identity

LABELS = "labels.csv"


def recognised(folder: Path, listing: Listing) -> Made:
    """Our list of the folder, made anew where it is lost: the entries of labels.csv that lead to their images.

    A link holds nothing of its own, and a copy equals its image in size and time: so nothing of others is in it.
    """
    return Made.of(_recognised(folder, listing))


def _recognised(folder: Path, listing: Listing) -> Iterator[tuple[str, Identity]]:
    for path, file in labelled_files(folder.parent / LABELS):
        entry, source = folder / file, Path(listing.root, path)
        if is_same(entry, source):
            yield file, identity(entry)
        elif looks_equal(entry, source):
            yield file, identity(entry, copied=True)


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
        with labels.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("path") and row.get("file"):
                    yield from_csv_path(row["path"]), from_csv_path(row["file"])
    except (OSError, UnicodeDecodeError, csv.Error):
        return
