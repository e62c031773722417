"""Does clusters/ agree with labels.csv: every image has its entry there, and the entry leads to the image.

A missing or exchanged entry is damage. What became of an image since - edited, replaced, gone - is a note: the
entry is still what was made. Files of others are none of our business.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bigcluster.outputs.entries import LABELS, is_same, labelled_files, looks_equal
from bigcluster.outputs.folders import FOLDER
from bigcluster.outputs.made import Identity, Made, identity
from bigcluster.outputs.swap import is_ours
from bigcluster.store import Damage

STAGE = "output"
SHOWN = 3


@dataclass
class FolderAudit:
    """What was found, and what became of the images themselves: kind -> how many, and the first of their paths."""

    n_entries: int
    damaged: list[Damage] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, path: str) -> None:
        self.sources[kind] += 1
        if self.sources[kind] <= SHOWN:
            self.examples.setdefault(kind, []).append(path)

    def notes(self) -> Iterator[str]:
        for kind, number in sorted(self.sources.items()):
            shown = ", ".join(self.examples[kind]) + (", ..." if number > SHOWN else "")
            yield f"{number} image{'s' * (number > 1)} {kind} since the run: {shown}"


def audit(out: Path, root: Path, made: Made | None, *, sample: int | None = None) -> FolderAudit:
    """Look at the entry of every row of labels.csv, or of `sample` of them.

    root : the folder of the images; made : our list of what was made, None where it is lost.
    """
    found = FolderAudit(sum(1 for _ in labelled_files(out / LABELS)))
    chosen = range(found.n_entries)
    if sample is not None and sample < found.n_entries:
        chosen = set(Random().sample(chosen, sample))  # type: ignore[assignment]
    for number, (path, file) in enumerate(labelled_files(out / LABELS)):
        if number not in chosen:
            continue
        name = f"{FOLDER}/{file}"
        what = _entry(out / FOLDER / file, root / path, None if made is None else made.get(file))
        if what in _SOURCES:
            found.note(what, path)
        elif what is not None:
            found.damaged.append(Damage(name, STAGE, what))
    return found


_EDITED, _REPLACED, _LOST = "edited", "replaced", "gone"
_SOURCES = {_EDITED, _REPLACED, _LOST}


def _entry(entry: Path, source: Path, known: Identity | None) -> str | None:
    """What became of an entry or of its image; None where both are as they were left."""
    if not os.path.lexists(entry):
        return "is gone"
    if entry.is_symlink():
        return _symlink(entry, source, known)
    if is_same(entry, source):
        return None if known is None or identity(source)[1:] == known[1:] else _EDITED
    if known is None or not is_ours(entry, known):
        return None if known is None and looks_equal(entry, source) else "is not what was put there"
    if not source.exists():
        return _LOST
    if identity(entry).inode == known.inode:  # it is still the link that was made
        return _REPLACED
    return None if looks_equal(entry, source) else _EDITED


def _symlink(entry: Path, source: Path, known: Identity | None) -> str | None:
    if os.path.realpath(entry) == os.path.realpath(source):
        return None if source.exists() else _LOST
    as_made = known is not None and identity(entry)[1:] == known[1:]
    return _REPLACED if as_made and entry.exists() else "leads to another image"
