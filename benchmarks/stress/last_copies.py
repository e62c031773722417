"""Originals that are deleted, edited, or turned into links into clusters/, then another clustering: no content is lost.

Before every run, every content in IMAGES, in OUT and in OUT/kept is counted; after it, all of them are still somewhere,
but for copies of what is still there. OUT/kept only grows.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.stress.harness import contents, described
from benchmarks.stress.work import Job, catalog, scratch
from bigcluster.files.kept import KEPT

LINKS = ("hardlink", "copy", "symlink", "none")
N_IMAGES = 16
SETTINGS = {"size": "16x16", "components": 3, "report.write": False}


def main(full: bool) -> dict[str, Any]:
    """All combinations of how entries are made, what becomes of originals and of OUT, and how entries are made next."""
    cases = list(product(LINKS[:3], FATES, MOVES, LINKS))
    tried = cases if full else random.Random(0).sample(cases, 12)
    counts: Counter[str] = Counter()
    with scratch() as folder:
        catalog(folder / "drawn", N_IMAGES)
        for case in tried:
            counts += _one_case(folder, *case)
    return {
        "cases": len(tried),
        **dict(counts),
        "says": f"{len(tried)} combinations of link, fate of the originals ({', '.join(FATES)}), copy of OUT and next "
        f"link: {counts['contents']} contents, every one still there; {counts['kept']} in OUT/kept, of which two more "
        f"runs removed none",
    }


def _one_case(folder: Path, link: str, fate: str, move: str, after: str) -> Counter[str]:
    what = f"{link}, {fate}, {move}, then {after}"
    images, out = folder / "images", folder / "out"
    for path in (images, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "drawn", images)
    _twins(images)
    Job(images, {"k": 4, "link": link, **SETTINGS}).run(out)
    FATES[fate](images, out)
    MOVES[move](out)
    there = contents(images, out / "clusters")
    pictures = described(images)
    kept: Counter[str] = Counter()
    for k in (3, 2, 4):
        Job(images, {"k": k, "link": after, **SETTINGS}).run(out)
        missing = there.keys() - contents(images, out).keys()
        assert not missing, f"{what}: with k = {k}, {len(missing)} contents are gone"
        dangling = [path for path in images.rglob("*") if not path.exists()]
        assert not dangling, f"{what}: with k = {k}, {dangling[:3]} lead nowhere"
        assert described(images) == pictures, f"{what}: with k = {k}, the images are not as they were"
        now = contents(out / KEPT) if (out / KEPT).is_dir() else Counter()
        assert kept <= now, f"{what}: with k = {k}, kept lost some"
        assert k != 4 or kept == now, f"{what}: kept grows with every run"
        kept = now
    superfluous = kept.keys() & contents(images).keys() if fate != "edited" else set()
    assert not superfluous, f"{what}: {len(superfluous)} are kept though they are in IMAGES"
    return Counter(contents=len(there), kept=kept.total())


def _twins(images: Path) -> None:
    """Two names of one file, and two files of one content."""
    pictures = _pictures(images)
    os.link(pictures[0], images / "twin.jpg")
    os.link(pictures[1], images / "other-twin.jpg")
    shutil.copyfile(pictures[2], images / "equal.jpg")


def _pictures(images: Path) -> list[Path]:
    return sorted(images.rglob("*.jpg"))


def _entries(out: Path) -> dict[str, Path]:
    return {path.name: path for path in (out / "clusters").rglob("*.jpg")}


def _nothing(images: Path, out: Path) -> None:
    pass


def _delete(images: Path, out: Path) -> None:
    for path in _pictures(images)[::2]:
        path.unlink()


def _link_into_clusters(images: Path, out: Path) -> None:
    """As a deduplicator does; not where the entries are links themselves, which would lead in a circle."""
    entries = _entries(out)
    for path in _pictures(images)[::2]:
        if path.name in entries and not entries[path.name].is_symlink():
            path.unlink()
            path.symlink_to(entries[path.name])


def _hardlink_to_clusters(images: Path, out: Path) -> None:
    """As another deduplicator does."""
    entries = _entries(out)
    for path in _pictures(images)[::2]:
        if path.name in entries and not entries[path.name].is_symlink():
            path.unlink()
            os.link(entries[path.name], path)


def _edit(images: Path, out: Path) -> None:
    """Another file at the place, as most programs save."""
    for path in _pictures(images)[::2]:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data + b"edited")


def _edit_entries(images: Path, out: Path) -> None:
    """Files of their own at entries, in the same size and time; and the originals are gone."""
    for path in _pictures(images)[::2]:
        entry = _entries(out).get(path.name)
        if entry is not None and not entry.is_symlink():
            found, data = entry.stat(), entry.read_bytes()
            entry.unlink()
            entry.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            os.utime(entry, ns=(found.st_atime_ns, found.st_mtime_ns))
            path.unlink()


def _rename(images: Path, out: Path) -> None:
    for path in _pictures(images)[::2]:
        path.rename(path.with_name(f"renamed-{path.name}"))


FATES: dict[str, Callable[[Path, Path], None]] = {
    "as they were": _nothing,
    "deleted": _delete,
    "symlinks into clusters": _link_into_clusters,
    "hard links of entries": _hardlink_to_clusters,
    "edited": _edit,
    "entries edited": _edit_entries,
    "renamed": _rename,
}


def _copied(*, times: bool) -> Callable[[Path], None]:
    """As `cp -r`, or `cp -a`, and the copy takes the place of the original."""

    def move(out: Path) -> None:
        aside = out.with_name("aside")
        out.rename(aside)
        shutil.copytree(aside, out, symlinks=True, copy_function=shutil.copy2 if times else shutil.copyfile)
        shutil.rmtree(aside)

    return move


MOVES: dict[str, Callable[[Path], None]] = {
    "OUT as it was": lambda out: None,
    "OUT copied": _copied(times=False),
    "OUT copied with times": _copied(times=True),
}
