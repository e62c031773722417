"""The job that compares files with the marks that vouch for them, on whatever worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bigcluster.errors import StoreError
from bigcluster.files.bounded import UnfitFileError
from bigcluster.files.shared_disk import come_to_light
from bigcluster.runtime.cluster import Local, Part, Worker
from bigcluster.store.chunk_io import file_fits_digest
from bigcluster.store.marks import Marks

GONE = "is gone"
CHANGED = "is not what was written"


@dataclass(frozen=True)
class CheckedFiles:
    """What `CheckFiles` has found."""

    damaged: list[tuple[int, str, str]]
    """The position of the mark, the file relative to OUT, and what is wrong with it."""
    n_bytes: int
    """The number of bytes that were read."""


@dataclass(frozen=True)
class CheckFiles:
    """Compare the files for which marks vouch with their digests. The units are positions in `marks`."""

    out: Path
    marks: tuple[tuple[str, str], ...]
    """Stage and block of each mark."""
    left_out: frozenset[tuple[int, str]]
    """Positions of marks, and files of theirs for which a later mark vouches too: that one counts."""
    chosen: frozenset[str] | None
    """The files that are read; None for all. That the others exist is looked up."""
    digests: Local[list[Mapping[str, str]]] = field(default_factory=Local, compare=False, repr=False)
    """By file, of each mark. Other processes read the marks again."""

    def __call__(self, worker: Worker, part: Part) -> CheckedFiles:
        files = [
            (number, file, digest)
            for number in part.units
            for file, digest in self._digests(number).items()
            if (number, file) not in self.left_out
        ]
        damaged, missing, n_bytes = [], [], 0
        for (number, file, digest), (what, read) in zip(files, worker.runtime.map(self._look, files), strict=True):
            n_bytes += read
            worker.progress.advance()
            if what == GONE:
                missing.append((number, file, digest))
            elif what is not None:
                damaged.append((number, file, what))
        # On a shared disk, a file that another host wrote may be seen late.
        there = come_to_light(self.out / file for _, file, _ in missing)
        for number, file, digest in missing:
            what, read = self._look((number, file, digest)) if self.out / file in there else (GONE, 0)
            n_bytes += read
            if what is not None:
                damaged.append((number, file, what))
        return CheckedFiles(damaged, n_bytes)

    def _digests(self, number: int) -> Mapping[str, str]:
        if self.digests.value is not None:
            return self.digests.value[number]
        marks, (stage, block) = Marks(self.out), self.marks[number]
        mark = marks.read(stage, block)
        if mark is None:
            raise StoreError(f"{marks.path(stage, block)} cannot be read in this process, or has changed")
        return mark.digests

    def _look(self, item: tuple[int, str, str]) -> tuple[str | None, int]:
        """Return what is wrong with a file, None where nothing is, and how many bytes were read."""
        _, file, digest = item
        try:
            if self.chosen is not None and file not in self.chosen:
                return (None if (self.out / file).is_file() else GONE), 0
            fits, read = file_fits_digest(self.out / file, file, digest)
        except (FileNotFoundError, NotADirectoryError, UnfitFileError):
            return GONE, 0
        return (None if fits else CHANGED), read
