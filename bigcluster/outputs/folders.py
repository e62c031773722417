"""clusters/: one folder per cluster, its images under names that a person recognises.

Built aside and swapped in (outputs.swap): files of others are never deleted, they move along into the new folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing, Names, path_key
from bigcluster.errors import StoreError
from bigcluster.outputs.entries import recognised
from bigcluster.outputs.made import Lists, Made, identity
from bigcluster.outputs.swap import Swap, numbered
from bigcluster.units import show_bytes

FOLDER = "clusters"
CREATED = "folders"
"""The mark that lists what we made there."""
_NO_HARDLINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass
class Linked:
    """What became of the links."""

    files: Names = field(default_factory=Names)
    """Per listed row: the name inside clusters/, '' where there is none."""
    n_symlinks: int = 0
    """Where hard links are not possible (another file system): relative symlinks."""
    n_gone: int = 0
    """Images that vanished after they were decoded."""


def folder_names(labels: NDArray[np.int32], n_clusters: int, names: Iterator[str]) -> Iterator[str]:
    """The name inside clusters/ for each good row: `03/cut-1.jpg`, a second of that name `03/cut-1 (2).jpg`.

    Names that differ in case alone count as equal: a folder may be looked at on a system that thinks so.
    """
    used: dict[bytes, int] = {}  # 64 bits of a hash for each name given: two that share them count as equal too
    for label, name in zip(map(int, labels), names, strict=True):
        folder = cluster_folder(label, n_clusters)
        stem, suffix = os.path.splitext(name.rsplit("/", 1)[-1])
        candidate, number = stem + suffix, 1
        first = key = path_key(f"{folder}/{candidate.casefold()}")
        while key in used:
            number = used[first] + 1
            used[first] = number
            candidate = numbered(stem, suffix, number)
            key = path_key(f"{folder}/{candidate.casefold()}")
        used[key] = 1
        yield f"{folder}/{candidate}"


def cluster_folder(label: int, n_clusters: int) -> str:
    """The folder of a cluster: its number, at least two digits, so that folders sort as clusters do."""
    return f"{label:0{max(2, len(str(n_clusters - 1)))}d}"


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
    linked = Linked()
    swap = Swap.of(out, FOLDER, store_root, CREATED)
    ours = swap.recover(lambda: recognised(swap.current, listing))
    swap.new.mkdir()
    if link == "copy":
        _check_space(out, listing, ok)
    linked.files = Names(
        repeat("", len(listing))
        if link == "none"
        else _fill(swap.new, swap.current.absolute(), listing, ok, labels, n_clusters, _PLACE[link], linked, advance)
    )
    made = Made.of((name, identity(f"{swap.new}/{name}", copied=link == "copy")) for name in linked.files if name)
    swap.swap_in(ours, made)
    return linked


def created(store_root: Path) -> Made | None:
    """What we made in clusters/; None where the list is lost, or there never was one."""
    return (Lists(store_root, CREATED).read() or {}).get("current")


Place = Callable[[str, str, str], bool]
"""(source, where to make the entry, where it will stand in the end) -> whether it had to become a symlink.

Paths are str: joining a million of them as Path takes as long as linking."""


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
) -> Iterator[str]:
    """Make the entries; yields the name of each listed row's, '' where it has none."""
    for cluster in range(n_clusters):
        (new / cluster_folder(cluster, n_clusters)).mkdir(parents=True)
    names = folder_names(labels, n_clusters, (listing.names[int(row)] for row in np.flatnonzero(ok)))
    for row, good in enumerate(ok):
        name = next(names) if good else ""
        if name:
            advance(1)
            try:
                linked.n_symlinks += place(listing.path(row), f"{new}/{name}", f"{final}/{name}")
            except FileNotFoundError:
                linked.n_gone += 1
                name = ""
        yield name


def _hardlink(source: str, target: str, final: str) -> bool:
    try:
        # The system follows links on the way to a file, not the last one.
        os.link(os.path.realpath(source) if os.path.islink(source) else source, target)
    except OSError as error:
        if error.errno not in _NO_HARDLINK:
            raise
        return _symlink(source, target, final)
    return False


def _symlink(source: str, target: str, final: str) -> bool:
    if not os.path.exists(source):
        raise FileNotFoundError(source)
    Path(target).symlink_to(os.path.relpath(os.path.realpath(source), os.path.dirname(final)))
    return True


def _copy(source: str, target: str, final: str) -> bool:
    shutil.copy2(source, target)
    return False


_PLACE: dict[str, Place] = {"hardlink": _hardlink, "symlink": _symlink, "copy": _copy}


def _check_space(out: Path, listing: Listing, ok: NDArray[np.bool_]) -> None:
    need = sum(_size(listing.path(int(row))) for row in np.flatnonzero(ok))
    free = shutil.disk_usage(out).free
    if need > free:
        raise StoreError(f"link = copy needs {show_bytes(need)}, {show_bytes(free)} are free in {out}; use symlink")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
