"""What lies in a store against what its marks vouch for.

damaged     a mark whose seal does not fit; a vouched file that is gone or not what was written
leftovers   files that nothing vouches for: of an interrupted write, or of settings that are no more
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bigcluster.durable import PARTIAL
from bigcluster.store import metadata
from bigcluster.store.chunks import fits_digest
from bigcluster.store.marks import FOLDER, Marks

SCRATCH = "scratch"
"""Folder in the store for what a stage does not hold in memory: never vouched for, of no use to another process."""
MADE = "made"
"""Folder in the store for the lists of what was made outside of it: no array, but vouched for as arrays are."""
STATE = "state"
"""Stage of the marks that vouch for what an unfinished stage saved."""
GONE = "is gone"
CHANGED = "is not what was written"
UNSEALED = "is damaged, its seal does not fit"
Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or one that works with several threads."""


@dataclass(frozen=True)
class Damage:
    """One file, relative to the store, that is not as it was left."""

    file: str
    stage: str
    """What makes it."""
    what: str
    mark: tuple[str, str] | None = None
    """Stage and block of the mark that no longer holds."""


@dataclass(frozen=True)
class Inventory:
    damaged: list[Damage]
    leftovers: list[str]
    """Relative to the store."""
    n_files: int
    """Files that something vouches for, marks included."""
    n_bytes: int
    """Of those that were read."""

    def drop(self, marks: Marks) -> None:
        """Remove the marks that no longer hold: the next run redoes what they vouched for, and that alone.

        Those of metadata stay: a file is put back from its mark, and the mark is made anew from its file.
        """
        for damage in self.damaged:
            if damage.mark is not None and damage.mark[0] != metadata.STAGE:
                marks.remove(*damage.mark)


def take_inventory(root: Path, *, sample: int | None = None, spread: Spread = map) -> Inventory:
    """Look at every file of the store. Nothing is changed.

    sample : read no more than so many chunk files, drawn anew each time; all are looked for, and all marks are read.
    """
    marks = Marks(root)
    damaged: list[Damage] = []
    vouched: dict[str, tuple[str, str, str]] = {}  # file -> digest, stage, block
    n_bytes = n_marks = 0
    for stage, block in marks.names():
        mark, path = marks.read(stage, block), marks.path(stage, block)
        n_marks, n_bytes = n_marks + 1, n_bytes + path.stat().st_size
        if mark is None:
            damaged.append(Damage(path.relative_to(root).as_posix(), stage, UNSEALED, (stage, block)))
            continue
        vouched |= {file: (digest, stage, block) for file, digest in mark.digests.items()}
    chosen = set(vouched) if sample is None else _sampled(vouched, sample)

    def look(file: str) -> tuple[str | None, int]:
        """What is wrong with it, and how many bytes were read."""
        try:
            if file not in chosen:
                return (None if (root / file).is_file() else GONE), 0
            data = (root / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return GONE, 0
        return (None if fits_digest(file, data, vouched[file][0]) else CHANGED), len(data)

    for file, (what, read) in zip(vouched, spread(look, vouched), strict=True):
        n_bytes += read
        if what is not None:
            _, stage, block = vouched[file]
            damaged.append(Damage(file, stage, what, (stage, block)))
    return Inventory(
        sorted(damaged, key=lambda damage: damage.file),
        list(_unvouched(root, vouched)),
        len(vouched) + n_marks,
        n_bytes,
    )


def _sampled(vouched: dict[str, Any], sample: int) -> set[str]:
    small = {file for file in vouched if file.endswith(metadata.FILE)}
    chunks = sorted(vouched.keys() - small)
    return small | set(Random().sample(chunks, min(sample, len(chunks))))


def _unvouched(root: Path, vouched: Container[str]) -> Iterator[str]:
    for path in files_below(root):
        name = path.relative_to(root).as_posix()
        if name not in vouched and not (name.startswith(f"{FOLDER}/") and path.suffix == ".json"):
            yield name


def files_below(root: Path) -> Iterator[Path]:
    """Every file and link below a folder, links not followed."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def sweep(root: Path) -> None:
    """Delete what a killed process left half written. OUT must be locked. What marks vouch for stays."""
    shutil.rmtree(root / SCRATCH, ignore_errors=True)
    for path in files_below(root):
        if path.name.endswith(PARTIAL):
            path.unlink()


def tidy(root: Path) -> None:
    """Everything is done: delete what no mark vouches for, of settings that are no more. OUT must be locked."""
    marks = Marks(root)
    vouched: set[str] = set()
    for stage, block in marks.names():
        mark = marks.read(stage, block)
        if mark is None or stage == STATE or not all((root / file).is_file() for file in mark.digests):
            marks.remove(stage, block)
        elif stage != metadata.STAGE:
            vouched |= mark.digests.keys()
    arrays = {file.partition("/")[0] for file in vouched} - {MADE}
    for name in ("", *arrays):
        metadata.vouch(marks, root, name)
        vouched.add((Path(name) / metadata.FILE).as_posix())
    for file in list(_unvouched(root, vouched)):
        name = file.partition("/")[0]
        if name not in arrays | {MADE}:
            metadata.forget(marks, name)
        _remove(root / file, root)


def _remove(path: Path, root: Path) -> None:
    """Delete a file, and the folders that are empty then."""
    path.unlink()
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()
