"""Which images there are: a folder walked in natural order, a glob, or a manifest. Nothing is decoded here."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bigcluster.catalog.manifest import MANIFEST_SUFFIXES, Manifest
from bigcluster.catalog.manifest_rows import AUTO
from bigcluster.catalog.names import Names, natural_key
from bigcluster.catalog.roots import first_wildcard, is_glob, root_of
from bigcluster.errors import NoImagesError, OutError, UsageError

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "avif", "jp2"),
        *("bmp", "dib", "tif", "tiff", "pbm", "pgm", "ppm", "pnm"),
    )
)


@dataclass(frozen=True)
class Listing:
    """The listed files in listing order: row i of everything is `names[i]`, a path relative to `root` with `/`."""

    root: Path
    names: Names
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that are not images, counted by suffix."""
    manifest: Manifest | None = None
    confined: bool = False
    """Whether files outside `root` are refused: a manifest may come from a stranger."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """The file of a row, absolute."""
        return os.path.join(self.root, self.names[row])

    @property
    def confined_to(self) -> Path | None:
        """The folder that no file may leave, links followed; None where files may lie anywhere."""
        return self.root if self.confined else None

    def may_read(self, row: int) -> bool:
        """Whether the row's file lies under the root, links followed, where that is asked for."""
        return is_confined(self.path(row), self.confined_to)

    def is_readable_file(self, row: int) -> bool:
        """Whether opening it can neither block (a FIFO) nor leave the root."""
        return self.may_read(row) and os.path.isfile(self.path(row))


def is_confined(path: str, to: Path | None) -> bool:
    """Whether a file lies under the folder `to`, links followed; everything does where that is None."""
    if to is None:
        return True
    try:
        return Path(path).resolve().is_relative_to(to)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
        return False


def list_images(images: str, out: Path | None, *, allow_outside: bool = False, encoding: str = AUTO) -> Listing:
    """List a folder, a glob or a manifest, to which alone `allow_outside` and `encoding` apply.

    Raises UsageError where IMAGES is none of these, OutError where `out` and the images overlap, NoImagesError where
    there is no image.
    """
    source = Path(images)
    if source.is_dir():
        listing = _list_folder(root_of(images), out)
    elif source.is_file() and source.suffix.lower() in MANIFEST_SUFFIXES:
        manifest = Manifest(source.resolve(), encoding)
        names = Names(manifest.paths())
        listing = Listing(root_of(images), names, manifest=manifest, confined=not allow_outside)
    elif source.is_file():
        raise UsageError(f"IMAGES must be a folder, a glob or a manifest (.csv, .parquet), not the file {images}")
    elif is_glob(images):
        listing = _list_glob(images)
    else:
        raise NoImagesError(f"IMAGES does not exist: {images}")
    if out is not None:
        _check_apart(listing, out)
    if len(listing) == 0:
        others = sum(listing.ignored.values())
        raise NoImagesError(f"no images in {images} ({others} other files); known suffixes: {_suffixes()}")
    return listing


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _check_apart(listing: Listing, out: Path) -> None:
    prefix, root = os.path.join(out.resolve(), ""), os.path.join(listing.root, "")
    if listing.manifest is None and not prefix.startswith(root) and not root.startswith(prefix):
        return  # a manifest may list what lies outside its root, a folder and a glob do not
    inside_out = next((n for n in listing.names if _joined(listing.root, n).startswith(prefix)), None)
    if inside_out is not None:
        raise OutError(f"IMAGES lists {inside_out}, which lies inside OUT ({out}); move OUT or narrow the glob")


def _joined(root: Path, name: str) -> str:
    """The file of a name; `../` leads out of the root."""
    path = os.path.join(root, name)
    return os.path.normpath(path) if name.startswith("../") else path


def _list_folder(root: Path, out: Path | None) -> Listing:
    if out is not None and out.resolve().is_relative_to(root):
        raise OutError(f"OUT lies inside IMAGES ({out} in {root}): its pictures would be clustered again; move OUT")
    ignored: Counter[str] = Counter()
    names = Names(_walk(root, ignored))
    return Listing(root, names, dict(sorted(ignored.items())))


@dataclass
class _Folder:
    """A folder that the walk is in. `identity`: its device and inode."""

    path: str
    identity: tuple[int, int]
    inside: Iterator[tuple[tuple[str, str], bool]]
    """((natural key, name), whether it is a folder) of what is not visited yet."""


def _walk(root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Image paths relative to root, each folder in natural order, hidden files and folders skipped.

    Linked folders are followed, but never into one of their own ancestors: a loop is counted as ignored.
    """
    # A list and no recursion: folders are nested as deep as strangers like.
    ancestors = _enter(root, "", [], ignored)
    while ancestors:
        folder = ancestors[-1]
        (_, name), is_folder = next(folder.inside, (("", ""), False))
        path = f"{folder.path}/{name}" if folder.path else name
        if not name:
            ancestors.pop()
        elif is_folder:
            ancestors += _enter(root, path, ancestors, ignored)
        elif _is_image(name):
            yield path
        else:
            ignored[_suffix(name)] += 1


def _enter(root: Path, path: str, ancestors: list[_Folder], ignored: Counter[str]) -> list[_Folder]:
    """The folder with what is in it; none where it is one of its own ancestors or cannot be read, which is counted."""
    try:
        found = os.stat(os.path.join(root, path))
        identity = found.st_dev, found.st_ino
        if any(identity == above.identity for above in ancestors):
            ignored["(link loop)"] += 1
            return []
        with os.scandir(os.path.join(root, path)) as entries:
            inside = sorted((natural_key(e.name), _is_folder(e)) for e in entries if not e.name.startswith("."))
    except OSError:  # not permitted, gone meanwhile, or on a disk that fails
        ignored["(unreadable folder)"] += 1
        return []
    return [_Folder(path, identity, iter(inside))]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def _list_glob(pattern: str) -> Listing:
    """Matches of a glob; its root is the folder before the first wildcard."""
    root = root_of(pattern)
    wild = os.path.join(*Path(pattern).parts[first_wildcard(Path(pattern)) :])
    ignored: Counter[str] = Counter()
    kept: list[str] = []
    loops: dict[str, bool] = {"": False}
    # glob.iglob and not Path.glob: only the former leaves hidden files out.
    for name in {*glob.iglob(wild, root_dir=root, recursive=True)}:  # noqa: PTH207
        if os.path.isdir(os.path.join(root, name)) or _in_loop(root, os.path.dirname(name), loops):
            continue
        if _is_image(name):
            kept.append(name.replace(os.sep, "/"))
        else:
            ignored[_suffix(name)] += 1
    kept.sort(key=lambda name: [natural_key(part) for part in name.split("/")])
    return Listing(root, Names(kept), dict(sorted(ignored.items())))


def _in_loop(root: Path, folder: str, known: dict[str, bool]) -> bool:
    """Whether a folder below the root is reached through a link to one of its own ancestors."""
    if folder not in known:
        above = os.path.dirname(folder)
        known[folder] = _in_loop(root, above, known) or any(
            (root / folder).samefile(root / ancestor) for ancestor in _ancestors(folder)
        )
    return known[folder]


def _ancestors(folder: str) -> Iterator[str]:
    while folder:
        folder = os.path.dirname(folder)
        yield folder


def _is_image(name: str) -> bool:
    return _suffix(name) in IMAGE_SUFFIXES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
