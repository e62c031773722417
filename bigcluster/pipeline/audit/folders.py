"""This module checks that clusters/ agrees with labels.csv: every image has its entry, which leads to the image.

A missing or exchanged entry is damage. An image that was edited, replaced or deleted since is a note, because the entry
itself is unchanged. Files that bigcluster did not write are ignored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bigcluster.files.durable import digest_of_file, is_folder, is_regular
from bigcluster.outdir.owned import Known, Owned, is_ours_by_content, known_file, known_link
from bigcluster.outputs.entry_recovery import LABELS, is_same, labelled_files, looks_equal
from bigcluster.outputs.folders import FOLDER
from bigcluster.planning.stage_names import OUTPUT
from bigcluster.store import Damage
from bigcluster.units import EXAMPLES, counted


@dataclass
class FolderAudit:
    """The damaged entries, and the changed images: for each kind of change their number and the first of their
    paths."""

    n_entries: int
    damaged: list[Damage] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, path: str) -> None:
        """Count a changed image."""
        self.sources[kind] += 1
        if self.sources[kind] <= EXAMPLES:
            self.examples.setdefault(kind, []).append(path)

    def notes(self) -> Iterator[str]:
        """Yield one sentence for each kind of change."""
        for kind, number in sorted(self.sources.items()):
            examples = ", ".join(self.examples[kind]) + (", ..." if number > EXAMPLES else "")
            yield f"{counted(number, 'image')} {kind} since the run: {examples}"


def audit(out: Path, root: Path, made: Owned | None, *, sample: int | None = None) -> FolderAudit:
    """Examine the entry of every row of labels.csv, or of `sample` random rows. Copies are read.

    root : the folder of the images. made : the list of the entries that a run made; None where it is lost.
    """
    result = FolderAudit(sum(1 for _ in labelled_files(out / LABELS)))
    chosen = range(result.n_entries)
    if sample is not None and sample < result.n_entries:
        chosen = set(Random().sample(chosen, sample))  # type: ignore[assignment]
    moved: Counter[str] = Counter()
    for number, (path, file) in enumerate(labelled_files(out / LABELS)):
        if number not in chosen:
            continue
        folder = file.partition("/")[0]
        if not is_folder(out / FOLDER / folder):
            moved[folder] += 1
            continue
        what = _entry(out / FOLDER / file, root / path, [] if made is None else made.get(file))
        if what in _SOURCES:
            result.note(what, path)
        elif what is not None:
            result.damaged.append(Damage(f"{FOLDER}/{file}", OUTPUT, what))
    result.damaged += (Damage(f"{FOLDER}/{folder}", OUTPUT, _moved(n)) for folder, n in sorted(moved.items()))
    return result


def _moved(n_entries: int) -> str:
    entries = "1 entry" if n_entries == 1 else f"{n_entries:,} entries"
    return (
        f"is not there under this name ({entries}): the folder was renamed, moved or deleted; the next run makes it "
        "again and leaves a renamed one as it is; to arrange pictures in your own way, copy clusters/ out of OUT"
    )


_EDITED, _REPLACED, _LOST = "edited", "replaced", "gone"
_SOURCES = {_EDITED, _REPLACED, _LOST}


def _entry(entry: Path, source: Path, knowns: list[Known]) -> str | None:
    """Return the change of an entry or of its image; None where both are unchanged."""
    if not os.path.lexists(entry):
        return "is gone"
    if entry.is_symlink():
        return _symlink(entry, source, knowns)
    if is_same(entry, source):
        if not knowns or _is_untouched(source, knowns) or is_ours_by_content(os.path.realpath(source), knowns):
            return None  # a new time alone is no edit
        return _EDITED
    if not knowns:
        return None if looks_equal(entry, source) else "is not what was put there"
    is_as_linked = entry.lstat().st_ino in {known.inode for known in knowns}  # whose image may have been edited
    if not is_as_linked and not is_ours_by_content(str(entry), knowns):
        return None if _has_content_of(entry, source) else "is not what was put there"
    if not source.exists():
        return _LOST
    if is_ours_by_content(os.path.realpath(source), knowns):
        return None  # a copy, or a hard link that became one when OUT was copied
    return _REPLACED if is_as_linked else _EDITED


def _has_content_of(entry: Path, source: Path) -> bool:
    """Return whether a file has the content of the image: a link becomes a copy when OUT is copied."""
    if not (source.is_file() and is_regular(entry)) or source.stat().st_size != entry.stat().st_size:
        return False
    return digest_of_file(entry) == digest_of_file(os.path.realpath(source))


def _is_untouched(source: Path, knowns: list[Known]) -> bool:
    """Return whether the size and the time of an image are unchanged. Links are followed, for it may be one itself."""
    status = source.stat()
    return any(known[1:3] == known_file(status, 0, own=True)[1:3] for known in knowns) or not any(
        known.n_bytes or known.mtime_ns for known in knowns
    )


def _symlink(entry: Path, source: Path, knowns: list[Known]) -> str | None:
    if os.path.realpath(entry) == os.path.realpath(source):
        return None if source.exists() else _LOST
    as_made = known_link(str(entry.readlink())) in knowns
    if not entry.exists():
        return "leads nowhere: its link is relative, and OUT or the images were moved; the next run makes it again"
    return _REPLACED if as_made else "leads to another image"
