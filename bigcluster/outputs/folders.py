"""clusters/: one folder per cluster, its images under names that a person recognises.

Built aside and swapped in. A list of what was created stays with it, so that files of others are never deleted: they
move along into the new folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.errors import StoreError
from bigcluster.outputs.entries import Made, identity, is_ours, recognised
from bigcluster.store import Mark, Marks
from bigcluster.units import show_bytes

FOLDER = "clusters"
CREATED = "folders"
"""The mark that lists what we made, path -> identity, under "current" for clusters/ and, while it is being replaced,
under "next" for the folder that takes its place. Other files are foreign and stay, also under a name that was ours."""
NAME_BYTES = 255
_NO_HARDLINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass
class Linked:
    """What became of the links."""

    files: list[str] = field(default_factory=list)
    """Per listed row: the name inside clusters/, '' where there is none."""
    n_symlinks: int = 0
    """Where hard links are not possible (another file system): relative symlinks."""
    n_gone: int = 0
    """Images that vanished after they were decoded."""


def folder_names(labels: NDArray[np.int32], n_clusters: int, names: Iterator[str]) -> Iterator[str]:
    """The name inside clusters/ for each good row: `03/cut-1.jpg`, a second of that name `03/cut-1 (2).jpg`.

    Names that differ in case alone count as equal: a folder may be looked at on a system that thinks so.
    """
    used: dict[tuple[int, str], int] = {}
    for label, name in zip(labels.tolist(), names, strict=True):
        stem, suffix = os.path.splitext(name.rsplit("/", 1)[-1])
        candidate, number = stem + suffix, 1
        while (label, candidate.casefold()) in used:
            number = used[label, (stem + suffix).casefold()] + 1
            used[label, (stem + suffix).casefold()] = number
            candidate = _numbered(stem, suffix, number)
        used[label, candidate.casefold()] = 1
        yield f"{cluster_folder(label, n_clusters)}/{candidate}"


def cluster_folder(label: int, n_clusters: int) -> str:
    """The folder of a cluster: its number, at least two digits, so that folders sort as clusters do."""
    return f"{label:0{max(2, len(str(n_clusters - 1)))}d}"


def _numbered(stem: str, suffix: str, number: int) -> str:
    tail = f" ({number}){suffix}"
    room = NAME_BYTES - len(os.fsencode(tail))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    if room < 0:  # nearly all suffix
        return _numbered(stem, suffix[:-1], number)
    return stem + tail


def write_clusters(
    out: Path,
    store_root: Path,
    listing: Listing,
    ok: NDArray[np.bool_],
    labels: NDArray[np.int32],
    n_clusters: int,
    link: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Linked:
    """Build clusters/ for the good rows and swap it in; `link` is hardlink, symlink, copy or none.

    Our list of what we made there follows the folder: killed at any point, the next call puts both right.
    """
    linked = Linked([""] * len(listing))
    folders = _Folders(out / FOLDER, out / f".{FOLDER}.new", out / f".{FOLDER}.old", Marks(store_root))
    ours = _recover(folders, listing)
    current, new = folders.current, folders.new
    new.mkdir()
    if link == "copy":
        _check_space(out, listing, ok)
    if link != "none":
        _fill(new, current.absolute(), listing, ok, labels, n_clusters, _PLACE[link], linked, advance)
    made = {name: identity(new / name, copied=link == "copy") for name in linked.files if name}
    _remember(folders, ours, made)
    if current.exists():
        current.rename(folders.old)
    new.rename(current)
    if folders.old.exists():
        _retire(folders.old, current, ours)
    _remember(folders, made)
    if not any(current.iterdir()):
        current.rmdir()
    return linked


@dataclass(frozen=True)
class _Folders:
    current: Path
    new: Path
    old: Path
    marks: Marks


def created(marks: Marks) -> Made | None:
    """What we made in clusters/; None where the list is lost, or there never was one."""
    mark = marks.read(CREATED)
    return None if mark is None else mark.payload["current"]


def _recover(folders: _Folders, listing: Listing) -> Made:
    """Bring what a kill left to rest; returns what we made in the current folder.

    A swap goes: note both lists; current -> old; new -> current; old retires; note the list of the current one.
    """
    mark = folders.marks.read(CREATED)
    lists = {"current": recognised(folders.current, listing)} if mark is None else mark.payload
    ours: Made = lists["current"]
    if folders.old.exists() and folders.current.exists():  # old was retiring
        _retire(folders.old, folders.current, ours)
        ours = lists.get("next", ours)
    elif folders.old.exists():  # between the two renames
        folders.old.rename(folders.current)
    elif not folders.new.exists():  # nothing, or the last note, was missing
        ours = lists.get("next", ours)
    if "next" in lists:
        _remember(folders, ours)
    if folders.new.exists():
        shutil.rmtree(folders.new)  # only we write there
    return ours


def _remember(folders: _Folders, ours: Made, made: Made | None = None) -> None:
    lists = {"current": ours} if made is None else {"current": ours, "next": made}
    folders.marks.write(CREATED, Mark("", payload=lists))


Place = Callable[[str, Path, Path], bool]
"""(source, where to make the entry, where it will stand in the end) -> whether it had to become a symlink."""


def _fill(
    new: Path,
    final: Path,
    listing: Listing,
    ok: NDArray[np.bool_],
    labels: NDArray[np.int32],
    n_clusters: int,
    place: Place,
    linked: Linked,
    advance: Callable[[int], None],
) -> None:
    for cluster in range(n_clusters):
        (new / cluster_folder(cluster, n_clusters)).mkdir(parents=True)
    rows = np.flatnonzero(ok).tolist()
    names = folder_names(labels, n_clusters, (listing.names[row] for row in rows))
    for row, name in zip(rows, names, strict=True):
        advance(1)
        try:
            linked.n_symlinks += place(listing.path(row), new / name, final / name)
        except FileNotFoundError:
            linked.n_gone += 1
            continue
        linked.files[row] = name


def _hardlink(source: str, target: Path, final: Path) -> bool:
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno not in _NO_HARDLINK:
            raise
        return _symlink(source, target, final)
    return False


def _symlink(source: str, target: Path, final: Path) -> bool:
    if not os.path.exists(source):
        raise FileNotFoundError(source)
    target.symlink_to(os.path.relpath(os.path.realpath(source), final.parent))
    return True


def _copy(source: str, target: Path, final: Path) -> bool:
    shutil.copy2(source, target)
    return False


_PLACE: dict[str, Place] = {"hardlink": _hardlink, "symlink": _symlink, "copy": _copy}


def _check_space(out: Path, listing: Listing, ok: NDArray[np.bool_]) -> None:
    need = sum(_size(listing.path(row)) for row in np.flatnonzero(ok).tolist())
    free = shutil.disk_usage(out).free
    if need > free:
        raise StoreError(f"link = copy needs {show_bytes(need)}, {show_bytes(free)} are free in {out}; use symlink")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _retire(old: Path, current: Path, ours: Made) -> None:
    """Remove the old folder; what others put into it moves into the current one."""
    for foreign in _foreign_files(old, ours):
        target = current / foreign
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while os.path.lexists(target):
            number += 1
            target = target.with_name(_numbered(foreign.stem, foreign.suffix, number))
        (old / foreign).rename(target)
    shutil.rmtree(old)


def _foreign_files(folder: Path, ours: Made) -> list[Path]:
    """Files in the folder that are not what we made there; all of them where our list is gone."""
    inside = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    named = ((path, path.relative_to(folder)) for path in inside)
    return [name for path, name in named if not is_ours(path, ours.get(name.as_posix()))]
