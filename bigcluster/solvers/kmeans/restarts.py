"""The starts of a fit between two passes of Lloyd: saved, and found again after a kill.

Labels and sums are part of the state: sums follow rows that changed sides. Bounds are not: they only skip work, and the
next pass makes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.solvers.checkpoint import Array, Facts, SavedState, Saving
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.lloyd import Start

_ARRAYS = ("sums", "weights", "counts")
_NUMBERS = ("n_iter", "converged", "inertia_path")


@dataclass(frozen=True)
class SavedStarts:
    """Saves the starts of one fit; `facts` and `arrays` are what the fit wants back besides."""

    saving: Saving
    blocks: Blocks
    facts: Facts
    arrays: Iterable[tuple[str, Array]] = ()

    def save(self, starts: Sequence[Start], iterations: int) -> None:
        """Called before every pass; `iterations` are done."""
        n_bytes = sum(start.centers.nbytes + start.sums.nbytes for start in starts)
        n_bytes += sum(labels.nbytes for start in starts for labels in start.labels)
        if self.saving.due(n_bytes):
            numbers = [{name: getattr(start, name) for name in _NUMBERS} for start in starts]
            facts = {**self.facts, "starts": numbers, "iterations": iterations, "passes": self.blocks.passes}
            self.saving.save(facts, [*self.arrays, *_arrays(starts)])


def _arrays(starts: Sequence[Start]) -> Iterator[tuple[str, Array]]:
    for number, start in enumerate(starts):
        yield f"centers/{number}", start.centers
        if start.labels:  # none before the first pass
            yield f"labels/{number}", np.concatenate(start.labels)
            yield from ((f"{name}/{number}", getattr(start, name)) for name in _ARRAYS)


@dataclass(frozen=True)
class Resumed:
    starts: list[Start]
    iterations: int
    state: SavedState


def load_starts(saving: Saving, blocks: Blocks, bounded: Callable[[int], bool]) -> Resumed | None:
    """The starts as they were saved, or None. bounded(n_clusters) : whether a start keeps bounds."""
    found = saving.load()
    if found is None:
        return None
    starts = [_start(found, number, blocks, bounded) for number in range(len(found.facts["starts"]))]
    blocks.passes += found.facts["passes"]
    return Resumed(starts, found.facts["iterations"], found)


def _start(found: SavedState, number: int, blocks: Blocks, bounded: Callable[[int], bool]) -> Start:
    centers = found.get(f"centers/{number}")
    numbers: dict[str, Any] = found.facts["starts"][number]
    start = Start(centers, bounded=bounded(len(centers)), **numbers)
    if found.facts["iterations"]:
        labels = found.get(f"labels/{number}")
        start.labels = [labels[blocks.span(block)].copy() for block in range(blocks.count)]
        for name in _ARRAYS:
            setattr(start, name, found.get(f"{name}/{number}"))
    return start
