"""The state of one restart of k-means, and how the restarts of a fit are saved between passes and loaded after a kill.

Labels and sums are part of the saved state, because sums follow the rows that change their label. Bounds are not saved:
they only save work, and the next pass computes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.full_scan import Bounds
from bigcluster.kernels.kmeans.groups import Groups
from bigcluster.kernels.kmeans.sums import ClusterSums, Floats
from bigcluster.kernels.linalg.types import AnyArray
from bigcluster.solvers.checkpoint import Checkpoint, CheckpointStore, Facts
from bigcluster.solvers.kmeans.blocks import Blocks

_ARRAYS = ("sums", "weights", "counts")
_NUMBERS = ("n_iter", "converged", "inertia_path")


@dataclass
class Restart:
    """One restart of a fit: its centers, and what its passes have found so far.

    centers : (k, r) float64. bounded : whether it keeps distance bounds. centers_of_bounds : (k, r) float64, the
    centers of the last pass, for which the bounds were updated. groups : the grouping of the centers for the bounds.
    labels, bounds : one entry for each block of rows. sums : (k, r) float64 weighted sums of the rows of each cluster;
    weights, counts : (k,) float64 and int64, their weights and numbers. inertia_path : the inertia after each
    iteration. finalized : whether labels, counts, scatter and inertia are those of the final centers. scatter : (k,)
    float64 sums of squared distances of the rows of each cluster to its center, once finalized; inertia is their sum.
    """

    centers: Floats
    bounded: bool
    centers_of_bounds: Floats | None = None
    groups: Groups | None = None
    labels: list[NDArray[Any]] = field(default_factory=list)
    bounds: list[Bounds] = field(default_factory=list)
    sums: Floats = field(default_factory=lambda: np.empty(0))
    weights: Floats = field(default_factory=lambda: np.empty(0))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    n_iter: int = 0
    converged: bool = False
    inertia_path: list[float] = field(default_factory=list)
    finalized: bool = False
    inertia: float = np.inf
    scatter: Floats = field(default_factory=lambda: np.empty(0))

    def clear_sums(self) -> None:
        """Set the sums of all clusters to 0."""
        k, r = self.centers.shape
        self.sums, self.weights, self.counts = np.zeros((k, r)), np.zeros(k), np.zeros(k, np.int64)

    def add(self, block_sums: ClusterSums) -> None:
        """Add the sums of one block. The order of the blocks decides the last bits."""
        self.sums[block_sums.ids] += block_sums.sums
        self.weights[block_sums.ids] += block_sums.weights
        self.counts[block_sums.ids] += block_sums.counts


@dataclass(frozen=True)
class SavedRestarts:
    """Saves the restarts of one fit. facts, arrays : what else the fit needs after a kill."""

    checkpoints: CheckpointStore
    blocks: Blocks
    facts: Facts
    arrays: Iterable[tuple[str, AnyArray]] = ()

    def save(self, restarts: Sequence[Restart], iterations: int) -> None:
        """Save the restarts where it is time to; called before every pass. iterations : how many are finished."""
        n_bytes = sum(restart.centers.nbytes + restart.sums.nbytes for restart in restarts)
        n_bytes += sum(labels.nbytes for restart in restarts for labels in restart.labels)
        if self.checkpoints.should_save(n_bytes):
            numbers = [{name: getattr(restart, name) for name in _NUMBERS} for restart in restarts]
            facts = {**self.facts, "starts": numbers, "iterations": iterations, "passes": self.blocks.passes}
            self.checkpoints.save(facts, [*self.arrays, *_arrays(restarts)])


def _arrays(restarts: Sequence[Restart]) -> Iterator[tuple[str, AnyArray]]:
    for number, restart in enumerate(restarts):
        yield f"centers/{number}", restart.centers
        if restart.labels:  # there are none before the first pass
            yield f"labels/{number}", np.concatenate(restart.labels)
        elif restart.centers_of_bounds is not None:  # labels are on workers, and follow from these centers
            yield f"before/{number}", restart.centers_of_bounds
        if restart.labels or restart.centers_of_bounds is not None:
            yield from ((f"{name}/{number}", getattr(restart, name)) for name in _ARRAYS)


@dataclass(frozen=True)
class Resumed:
    """The restarts of a fit as they were saved after `iterations` iterations. state : the whole checkpoint."""

    restarts: list[Restart]
    iterations: int
    state: Checkpoint


def load_restarts(
    checkpoints: CheckpointStore, blocks: Blocks, bounded: Callable[[int], bool], *, spread: bool = False
) -> Resumed | None:
    """Load the restarts of an interrupted fit, or return None where none were saved.

    bounded : tells for a number of clusters whether a restart keeps bounds. spread : whether its labels are on workers.
    Raises DamagedError where an array is not what was saved.
    """
    state = checkpoints.load()
    if state is None:
        return None
    restarts = [_load_restart(state, number, blocks, bounded, spread) for number in range(len(state.facts["starts"]))]
    blocks.passes += state.facts["passes"]
    return Resumed(restarts, state.facts["iterations"], state)


def _load_restart(
    state: Checkpoint, number: int, blocks: Blocks, bounded: Callable[[int], bool], spread: bool
) -> Restart:
    centers = state.get(f"centers/{number}")
    numbers: dict[str, Any] = state.facts["starts"][number]
    restart = Restart(centers, bounded=bounded(len(centers)), **numbers)
    if state.facts["iterations"]:
        if spread:
            restart.centers_of_bounds = state.get(f"before/{number}")
        else:
            labels = state.get(f"labels/{number}")
            restart.labels = [labels[blocks.row_slice(block)].copy() for block in range(blocks.count)]
        for name in _ARRAYS:
            setattr(restart, name, state.get(f"{name}/{number}"))
    return restart
