"""Removing arrays of ours and nothing else, and comparing what lies in a store with what its marks vouch for.

Every chunk of an array has one size, has its numbers as its path, and ends with the checksum of its values. Any other
file in the folder of an array was put there by somebody, and stays with the folders that it is in.

A comparison finds:

damaged     a mark whose seal does not fit; a vouched file that is gone or not what was written
leftovers   files of ours that nothing vouches for: of an interrupted write, or of settings that are no more
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bigcluster.errors import MemoryBudgetError
from bigcluster.files.durable import (
    digest_of_file,
    entries_below,
    is_regular,
    open_folder,
    remove_if_empty,
    unfinished_name,
    unlink_below,
)
from bigcluster.files.layout import ARRAYS, LEDGER, MADE, MARKS, OURS, STATES
from bigcluster.runtime.cluster import Cluster, Local, Worker
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.store import metadata
from bigcluster.store.checked_files import CheckFiles
from bigcluster.store.chunk_io import stored_digest
from bigcluster.store.extents import KINDS
from bigcluster.store.marks import Marks
from bigcluster.store.payloads import GROUP
from bigcluster.store.shapes import FILE
from bigcluster.units import show_bytes

_MOST_AXES = 4
"""Depth of folders of chunks, at most: arrays have up to three axes. Folders of somebody else may be deeper, and may
have numbers as names too."""
_NUMBER = re.compile(r"0|[1-9][0-9]*")


def remove_array(out: Path, name: str, chunk_bytes: int) -> None:
    """Remove the chunks of an array and its metadata.

    chunk_bytes : the size of a chunk file in bytes, with its checksum.
    """
    remove_chunks(out, f"{ARRAYS}/{name}/c", chunk_bytes)
    root = out / ARRAYS
    with (
        suppress(FileNotFoundError),
        open_folder(root, out) as store,
        open_folder(root / name, out) as folder,
    ):
        if FILE not in os.listdir(folder):  # no folder of ours: see `is_without_files`
            return
        remove_if_empty("c", folder)
        if os.listdir(folder) == [FILE]:
            gone = unfinished_name()  # where this process is killed, the next run removes the rest
            try:
                os.rename(name, gone, src_dir_fd=store, dst_dir_fd=store)
            except OSError:  # file systems that rename no folders, or not those of a lower layer
                gone = name
            os.unlink(FILE, dir_fd=folder)
            remove_if_empty(gone, store)
        else:
            os.unlink(FILE, dir_fd=folder)


def is_without_files(folder: Path) -> bool:
    """Whether a folder at the name of an array has no file at any depth. It is somebody else's then: one of ours always
    has its metadata."""
    return not any(True for _ in files_below(folder))


def remove_chunks(out: Path, inside: str, chunk_bytes: int, goes: Callable[[str], bool] = lambda _: True) -> bool:
    """Remove the chunks below a folder of an array, and the folders that are empty then.

    inside : the folder relative to OUT, such as `store.zarr/pixels/c/3`. chunk_bytes : as for `remove_array`.
    goes : says whether a chunk is to be removed, given its file relative to OUT.
    Returns whether a chunk was removed.
    """
    removed = False
    if is_regular(out / inside):  # somebody else's, in the place of our folder
        return removed
    with suppress(FileNotFoundError), open_folder(out / inside, out) as folder:
        for name in sorted(os.listdir(folder)):
            if not _NUMBER.fullmatch(name):
                continue
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and inside.count("/") <= _MOST_AXES + 1:
                removed |= remove_chunks(out, f"{inside}/{name}", chunk_bytes, goes)
            elif (
                stat.S_ISREG(status.st_mode)
                and status.st_size == chunk_bytes
                and goes(f"{inside}/{name}")
                and _is_chunk(name, folder, chunk_bytes)
            ):
                os.unlink(name, dir_fd=folder)
                removed = True
    if removed:  # an empty folder of somebody else stays
        remove_if_empty(out / inside)
    return removed


def _is_chunk(name: str, folder: int, n_bytes: int) -> bool:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb", buffering=0) as file:
        return stored_digest(file, n_bytes) != ""


STATE = "state"
"""Stage of the marks that vouch for what an unfinished stage saved."""
VOUCHED_BYTES = 500
"""Bytes of memory for a file that a mark vouches for: its name, its digest and its mark. Chosen, not measured."""
UNSEALED = "is damaged, its seal does not fit"
_CHUNK = re.compile(r"(0|[1-9][0-9]*)(/(0|[1-9][0-9]*))*")
_NAMED_BY_CONTENT = re.compile(
    rf"(?:{re.escape(STATES)}/[^/]+/|(?:{re.escape(MADE)}|{re.escape(LEDGER)})/[^/]+-)(?P<digest>[0-9a-f]{{32}})"
    r"\.(?:npy|list|columns)"
)
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}-.*")


@dataclass(frozen=True)
class Damage:
    """A damaged file: it is gone, or its content is not what was written."""

    file: str
    """The path relative to OUT."""
    stage: str
    """The stage that makes it."""
    what: str
    """What is wrong with it, for a message."""
    mark: tuple[str, str] | None = None
    """Stage and block of the mark that no longer holds."""


@dataclass(frozen=True)
class Inventory:
    """What lies in a store, compared with its marks."""

    damaged: list[Damage]
    leftovers: list[str]
    """Files of ours that no mark vouches for, relative to OUT."""
    n_foreign: int
    """The number of files that are not ours; they stay as they are."""
    n_files: int
    """The number of files that a mark vouches for, and of the marks."""
    n_bytes: int
    """The number of bytes that were read."""

    def drop(self, marks: Marks) -> None:
        """Remove the marks of damaged files: the next run makes anew what these marks vouched for, and nothing else.

        Marks of metadata stay, because a metadata file is written anew from its mark.
        """
        for damage in self.damaged:
            if damage.mark is not None and damage.mark[0] != metadata.MARK:
                marks.remove(*damage.mark)


def take_inventory(
    out: Path,
    *,
    sample: int | None = None,
    cluster: Cluster | None = None,
    most_bytes: int | None = None,
    on_total: Callable[[int], None] | None = None,
) -> Inventory:
    """Compare every file of the store in OUT with the marks; nothing is changed.

    sample : the number of chunk files that are read, drawn at random; None reads all. That files exist is checked for
        all of them, and all marks are read.
    cluster : the workers that read the files; by default one thread of this process.
    most_bytes : the memory in bytes that the names of the files may take.
    on_total : called with the number of files, before they are read.
    Raises MemoryBudgetError where they take more.
    """
    marks = Marks(out)
    damaged: list[Damage] = []
    vouched: dict[str, int] = {}  # file -> position of the mark in `sound`
    sound: list[tuple[str, str]] = []
    digests: list[Mapping[str, str]] = []
    left_out: set[tuple[int, str]] = set()
    n_bytes = n_marks = 0
    for stage, block in marks.names():
        mark, path = marks.read(stage, block), marks.path(stage, block)
        n_marks, n_bytes = n_marks + 1, n_bytes + path.stat().st_size
        if mark is None:
            damaged.append(Damage(path.relative_to(out).as_posix(), stage, UNSEALED, (stage, block)))
            continue
        left_out |= {(vouched[file], file) for file in mark.digests if file in vouched}
        vouched |= dict.fromkeys(mark.digests, len(sound))
        sound.append((stage, block))
        digests.append(mark.digests)
        if most_bytes is not None and len(vouched) * VOUCHED_BYTES > most_bytes:
            raise MemoryBudgetError(
                f"the marks in {out} vouch for more than {len(vouched)} files, and the memory budget leaves "
                f"{show_bytes(most_bytes)} for their names; use a larger --memory"
            )
    if on_total is not None:
        on_total(len(vouched))
    cluster = cluster or Embedded(Worker(EmbeddedRuntime(1), 0))
    chosen = None if sample is None else frozenset(_sampled(vouched, sample))
    check = CheckFiles(out, tuple(sound), frozenset(left_out), chosen, Local(digests))
    for found in cluster.spread(check, cluster.parts(len(sound))):
        n_bytes += found.n_bytes
        damaged += [Damage(file, sound[number][0], what, sound[number]) for number, file, what in found.damaged]
    leftovers, n_foreign = _leftovers(marks, vouched)
    return Inventory(
        sorted(damaged, key=lambda damage: damage.file),
        leftovers,
        n_foreign,
        len(vouched) + n_marks,
        n_bytes,
    )


def _sampled(vouched: Iterable[str], sample: int) -> set[str]:
    small = {file for file in vouched if file.endswith(FILE)}
    chunks = sorted(set(vouched) - small)
    return small | set(Random().sample(chunks, min(sample, len(chunks))))


def _leftovers(marks: Marks, vouched: Container[str]) -> tuple[list[str], int]:
    """(files of ours that no mark vouches for, number of files of others). Links are not followed."""
    out, arrays = marks.out, f"{ARRAYS}/"
    sizes = {
        f"{arrays}{name}": metadata.chunk_file_bytes(out, name) for name in marks.blocks(metadata.MARK) if name != GROUP
    }
    ours: list[str] = []
    n_foreign = 0
    for path in (*files_below(out / ARRAYS), *files_below(out / OURS)):
        name = path.relative_to(out).as_posix()
        if name in vouched or (name.startswith(f"{MARKS}/") and path.suffix == ".json"):
            continue
        array, _, inside = name.partition("/c/")
        is_chunk = array in sizes and _CHUNK.fullmatch(inside) is not None and _size(path) == sizes[array]
        if is_chunk or is_named_by_content(path, out) or _UNFINISHED.fullmatch(path.name) or _is_metadata(name, sizes):
            ours.append(name)
        else:
            n_foreign += 1
    return ours, n_foreign


def _is_metadata(name: str, sizes: Container[str]) -> bool:
    array, _, file = name.rpartition("/")
    return file == FILE and (array == ARRAYS or array in sizes)


def _size(path: Path) -> int | None:
    return path.stat().st_size if is_regular(path) else None


def is_named_by_content(path: Path, out: Path) -> bool:
    """Whether a file below state/, made/ or ledger/ is ours: then its name holds the digest of its content."""
    match = _NAMED_BY_CONTENT.fullmatch(path.relative_to(out).as_posix())
    return match is not None and is_regular(path) and digest_of_file(path) == match["digest"]


def files_below(root: Path) -> Iterator[Path]:
    """The paths of all files and links below a folder, ascending. Links are not followed."""
    yield from sorted(Path(entry.path) for entry in entries_below(root) if not entry.is_dir(follow_symlinks=False))


def tidy(out: Path) -> None:
    """Remove the files of earlier settings, for which no mark vouches, at the end of a run. OUT must be locked.

    Files of others stay: arrays that no run makes, whatever a mark says of them, arrays that no mark of ours names, and
    files in our folders that are no chunks.
    """
    marks = Marks(out)
    vouched: set[str] = set()
    for stage, block in marks.names():
        mark = marks.read(stage, block)
        if mark is None or stage == STATE or not all((out / file).is_file() for file in mark.digests):
            marks.remove(stage, block)
        elif stage != metadata.MARK:
            vouched |= mark.digests.keys()
    arrays = {file.split("/")[1] for file in vouched if file.startswith(f"{ARRAYS}/")} & KINDS.keys()
    for name in (set(marks.blocks(metadata.MARK)) & KINDS.keys()) - arrays:
        remove_array(out, name, metadata.chunk_file_bytes(out, name))
        metadata.unregister(marks, name)
    for name in ("", *(name for name in arrays if is_regular(metadata.file_of(out, name)))):
        metadata.register(marks, name)
    for name in arrays:
        chunk_bytes = metadata.chunk_file_bytes(out, name)
        remove_chunks(out, f"{ARRAYS}/{name}/c", chunk_bytes, lambda file: file not in vouched)
    for path in [path for folder in (MADE, LEDGER, STATES) for path in files_below(out / folder)]:
        if path.relative_to(out).as_posix() not in vouched and is_named_by_content(path, out):
            unlink_below(path, out)
            remove_if_empty(path.parent)
