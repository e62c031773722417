"""The list of the images: of a folder walked in natural order, of a glob, or of a manifest. Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bigcluster.catalog.file_filter import FileFilter, left_out
from bigcluster.catalog.manifest import MANIFEST_SUFFIXES, Manifest
from bigcluster.catalog.manifest_rows import AUTO, parquet_bytes
from bigcluster.catalog.roots import first_wildcard, is_glob, root_of
from bigcluster.catalog.string_array import StringArray
from bigcluster.catalog.walk import Ignored, NameBudget, fits_glob, folders_of, match, walk
from bigcluster.errors import ImagesNotFoundError, NoImagesError, OutError, UsageError
from bigcluster.files.paths import is_url
from bigcluster.units import EXAMPLES, counted


@dataclass(frozen=True)
class Listing:
    """The listed files. Row i of every array and table is the file `names[i]`, a path relative to `root` with `/`."""

    root: Path
    names: StringArray
    ignored: dict[str, int] = field(default_factory=dict)
    """The number of files that are not images, by suffix; entries in brackets count other things that are skipped."""
    manifest: Manifest | None = None
    unreadable: tuple[str, ...] = ()
    """Folders below the root that could not be read, relative to it; "" is the root itself."""
    n_kept: int = 0
    """The number of rows in such folders. The last run listed them, and their files may still exist."""
    confined: bool = False
    """Whether files outside of `root` are refused, because a manifest may come from a stranger."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """The absolute path of the file of a row."""
        name = self.names[row]
        return name if name.startswith("/") else self._prefix + name

    @cached_property
    def _prefix(self) -> str:
        return os.path.join(self.root, "")

    @property
    def confined_to(self) -> Path | None:
        """The folder in which all files must lie, after links are followed; None where they may lie anywhere."""
        return self.root if self.confined else None

    def may_read(self, row: int) -> bool:
        """Whether the file of a row may be read: it lies under the root, or need not lie there."""
        return is_confined(self.path(row), self.confined_to)

    def is_readable_file(self, row: int) -> bool:
        """Whether the file of a row may be read and is a regular file: opening a FIFO could block."""
        return self.may_read(row) and os.path.isfile(self.path(row))


def is_confined(path: str, to: Path | None) -> bool:
    """Whether a file lies under the folder `to`, after links are followed. True where `to` is None."""
    if to is None:
        return True
    try:
        return Path(path).resolve().is_relative_to(to)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a NUL in the name
        return False


def list_images(
    images: str,
    out: Path | None,
    *,
    allow_outside: bool = False,
    encoding: str = AUTO,
    leave_out_lists: bool = False,
    exclude: tuple[str, ...] = (),
    most_bytes: int | None = None,
    listed_before: Callable[[], Iterable[str]] = tuple,
) -> Listing:
    """List the images of a folder, a glob or a manifest.

    images : the path, glob or manifest. out : the folder for the results, which is not listed; None for none.
    allow_outside, encoding : for a manifest only, see the settings manifest.*.
    leave_out_lists : do not read the columns of lists of a Parquet manifest, which are vectors.
    exclude : patterns of names, or of paths relative to IMAGES, that are not listed; not for a manifest.
    most_bytes : the memory that the names may take, in bytes; None for no limit.
    listed_before : returns the names that the last run listed. Those in folders that cannot be read are listed again.
    Raises UsageError where IMAGES is none of these, ImagesNotFoundError where nothing is there, OutError where `out`
    and the images overlap, NoImagesError where there is no image, MemoryBudgetError where there are too many for
    `most_bytes`.
    """
    source, name_budget = Path(images), NameBudget(most_bytes)
    if os.path.isdir(images):  # unlike pathlib's, it raises nothing where a folder above is closed
        listing = _list_folder(root_of(images), out, exclude, Ignored(listed_before), name_budget)
    elif os.path.isfile(images) and source.suffix.lower() in MANIFEST_SUFFIXES:
        manifest = Manifest(source.resolve(), encoding, parquet_bytes(most_bytes), leave_out_lists=leave_out_lists)
        names = StringArray(name_budget.taken_by(manifest.paths()))
        listing = Listing(root_of(images), names, manifest=manifest, confined=not allow_outside)
    elif os.path.isfile(images):
        raise UsageError(f"IMAGES must be a folder, a glob or a manifest (.csv, .parquet), not the file {images}")
    elif is_glob(images):
        listing = _list_glob(images, out, exclude, listed_before, name_budget)
    else:
        _check_there(images)
        raise UsageError(f"IMAGES must be a folder, a glob or a manifest (.csv, .parquet), which {images} is not")
    if out is not None:
        _check_apart(listing, out)
    if len(listing) == 0:
        if listing.unreadable:
            raise NoImagesError(f"no images in {images}; {unread_folders(listing)}")
        nothing = "nothing is there" if os.path.isdir(images) else "nothing matches"
        why = "it has no rows" if listing.manifest else left_out(listing.ignored) or nothing
        raise NoImagesError(f"no images in {images}: {why}")
    return listing


def unread_folders(listing: Listing) -> str:
    """Name the folders that could not be read, in one line; empty where all could be read."""
    if not listing.unreadable:
        return ""
    names = [name or str(listing.root) for name in listing.unreadable[:EXAMPLES]]
    more = len(listing.unreadable) - len(names)
    folders = ", ".join(names) + (f" and {more} more" if more else "")
    consequence = (
        f"{counted(listing.n_kept, 'image')} of the last run stay" if listing.n_kept else "what is there is not listed"
    )
    return f"{'a folder' if len(listing.unreadable) == 1 else 'folders'} could not be read ({folders}): {consequence}"


def _check_there(images: str, folder: Path | None = None) -> None:
    """Raise ImagesNotFoundError where nothing exists, and UsageError where access is denied.

    folder : of a glob, the folder before its first wildcard.
    """
    try:
        os.stat(folder or images)
    except PermissionError as error:
        if folder is None:
            raise UsageError(f"IMAGES cannot be read: {images}: {error.strerror}") from error
        # For a glob, the walk reports the folder as unreadable and keeps what the last run listed there.
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        of_glob = f": there is no folder {folder}" if folder is not None else ""
        raise ImagesNotFoundError(f"IMAGES does not exist: {images}{of_glob}") from error


def _check_apart(listing: Listing, out: Path) -> None:
    """Raise OutError where an image lies inside OUT."""
    prefix, root = os.path.join(out.resolve(), ""), os.path.join(listing.root, "")
    if listing.manifest is None and not prefix.startswith(root) and not root.startswith(prefix):
        return  # a manifest may list what lies outside its root, a folder and a glob do not
    inside_out = next((n for n in listing.names if joined(listing.root, n).startswith(prefix)), None)
    if inside_out is not None:
        raise OutError(f"IMAGES lists {inside_out}, which lies inside OUT ({out}); move OUT or narrow the glob")


def joined(root: Path, name: str) -> str:
    """Return the absolute path of a listed name. A name that begins with `../` leads out of the root."""
    if is_url(name):
        return name
    path = os.path.join(root, name)
    return os.path.normpath(path) if name.startswith("../") else path


def _list_folder(
    root: Path, out: Path | None, exclude: tuple[str, ...], ignored: Ignored, name_budget: NameBudget
) -> Listing:
    if out is not None and out.resolve().is_relative_to(root):
        raise OutError(f"OUT lies inside IMAGES ({out} in {root}): its pictures would be clustered again; move OUT")
    passed_over = folders_of(None if out is None or root.is_relative_to(out.resolve()) else out)
    names = walk(root, ignored, FileFilter(exclude, ignored), name_budget, passed_over)
    return _listing(root, StringArray(names), ignored)


def _list_glob(
    pattern: str,
    out: Path | None,
    exclude: tuple[str, ...],
    listed_before: Callable[[], Iterable[str]],
    name_budget: NameBudget,
) -> Listing:
    """List the matches of a glob. Its root is the part of the path before the first wildcard."""
    root = root_of(pattern)
    _check_there(pattern, root)
    wild = os.path.join(*Path(pattern).parts[first_wildcard(Path(pattern)) :])
    ignored = Ignored(listed_before, lambda name: fits_glob(name, wild))
    names = match(root, wild, ignored, FileFilter(exclude, ignored), name_budget, out)
    return _listing(root, StringArray(names), ignored)


def _listing(root: Path, names: StringArray, ignored: Ignored) -> Listing:
    counts = dict(sorted(ignored.items()))
    return Listing(root, names, counts, unreadable=tuple(ignored.unreadable), n_kept=ignored.n_kept)
