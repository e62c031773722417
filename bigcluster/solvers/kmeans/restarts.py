"""The restarts of a fit between two passes of Lloyd: saved, and loaded again after a kill.

Labels and sums are part of the state: sums follow rows that changed sides. Bounds are not: they only skip work, and the
next pass makes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.types import AnyArray
from bigcluster.solvers.checkpoint import Checkpoint, CheckpointStore, Facts
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.lloyd import Restart

_ARRAYS = ("sums", "weights", "counts")
_NUMBERS = ("n_iter", "converged", "inertia_path")


@dataclass(frozen=True)
class SavedRestarts:
    """Saves the restarts of one fit; `facts` and `arrays` are what the fit wants back besides."""

    checkpoints: CheckpointStore
    blocks: Blocks
    facts: Facts
    arrays: Iterable[tuple[str, AnyArray]] = ()

    def save(self, restarts: Sequence[Restart], iterations: int) -> None:
        """Called before every pass; `iterations` are done."""
        n_bytes = sum(restart.centers.nbytes + restart.sums.nbytes for restart in restarts)
        n_bytes += sum(labels.nbytes for restart in restarts for labels in restart.labels)
        if self.checkpoints.should_save(n_bytes):
            numbers = [{name: getattr(restart, name) for name in _NUMBERS} for restart in restarts]
            facts = {**self.facts, "starts": numbers, "iterations": iterations, "passes": self.blocks.passes}
            self.checkpoints.save(facts, [*self.arrays, *_arrays(restarts)])


def _arrays(restarts: Sequence[Restart]) -> Iterator[tuple[str, AnyArray]]:
    for number, restart in enumerate(restarts):
        yield f"centers/{number}", restart.centers
        if restart.labels:  # none before the first pass
            yield f"labels/{number}", np.concatenate(restart.labels)
            yield from ((f"{name}/{number}", getattr(restart, name)) for name in _ARRAYS)


@dataclass(frozen=True)
class Resumed:
    restarts: list[Restart]
    iterations: int
    state: Checkpoint


def load_restarts(checkpoints: CheckpointStore, blocks: Blocks, bounded: Callable[[int], bool]) -> Resumed | None:
    """The restarts as they were saved, or None. bounded(n_clusters) : whether a restart keeps bounds."""
    state = checkpoints.load()
    if state is None:
        return None
    restarts = [_load_restart(state, number, blocks, bounded) for number in range(len(state.facts["starts"]))]
    blocks.passes += state.facts["passes"]
    return Resumed(restarts, state.facts["iterations"], state)


def _load_restart(state: Checkpoint, number: int, blocks: Blocks, bounded: Callable[[int], bool]) -> Restart:
    centers = state.get(f"centers/{number}")
    numbers: dict[str, Any] = state.facts["starts"][number]
    restart = Restart(centers, bounded=bounded(len(centers)), **numbers)
    if state.facts["iterations"]:
        labels = state.get(f"labels/{number}")
        restart.labels = [labels[blocks.row_slice(block)].copy() for block in range(blocks.count)]
        for name in _ARRAYS:
            setattr(restart, name, state.get(f"{name}/{number}"))
    return restart
