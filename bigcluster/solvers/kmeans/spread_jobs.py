"""The jobs of k-means over rows whose blocks are spread over the workers of a cluster, for rows whose sums are exact.

The process that calls the fit has the centers. The workers read the rows and keep labels and bounds of the blocks that
they had in the pass before. These are only a cache: labels are those of the nearest centers of that pass, so that a
worker that does not have them makes them again. Sums of rows on a grid are exact and are merged in any order; what is
not exact, such as sums of squared distances, is kept block by block and added in the order of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import nearest
from bigcluster.kernels.kmeans.centers import Centers, Scaler, prepare
from bigcluster.kernels.kmeans.full_scan import Bounds
from bigcluster.kernels.kmeans.groups import GroupedCenters, Groups, arrange
from bigcluster.kernels.kmeans.metrics import contingency
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.kernels.linalg.moments import Moments
from bigcluster.runtime.cluster import Part, Worker
from bigcluster.solvers.kmeans.blocks import Blocks, survey_block
from bigcluster.solvers.kmeans.lloyd import Farthest, assign, block_result, farthest_of
from bigcluster.solvers.kmeans.result import RowLabels
from bigcluster.solvers.kmeans.scores import Scored, score_block
from bigcluster.store.refs import ArrayRef, RowSourceRef

FIT_STATE = "the state of k-means"
"""The name of what workers keep between the passes of a fit."""


class KeptBlock(NamedTuple):
    """What a worker keeps of one block for one restart."""

    stamp: int
    """The number of the pass of this restart that made it."""
    labels: NDArray[Any]
    bounds: Bounds | None


@dataclass
class FitState:
    """What a worker keeps between the passes of one fit. All of it may vanish."""

    blocks: Blocks
    kept: dict[tuple[int, int], KeptBlock] = field(default_factory=dict)
    """By the number of the restart and that of the block."""
    norms: dict[int, float] = field(default_factory=dict)
    labeled: dict[int, tuple[int, RowLabels]] = field(default_factory=dict)
    """By the number of the block: what the final pass has found, and its number. See spread_labels.py."""


@dataclass(frozen=True)
class Fitting:
    """The rows of a fit, and the name under which workers keep what belongs to it."""

    rows: RowSourceRef
    name: str
    cache_bytes: int
    """The bytes of rows that one worker keeps in memory."""

    def state(self, worker: Worker) -> FitState:
        """Return what this worker keeps of the fit."""

        def begun() -> FitState:
            return FitState(Blocks(self.rows.open(worker), worker.runtime, self.cache_bytes))

        return worker.cached(FIT_STATE, self.name, begun)


@dataclass(frozen=True)
class Survey:
    """Take the moments of each block; the units are the numbers of the blocks."""

    fitting: Fitting

    def __call__(self, worker: Worker, part: Part) -> tuple[list[Moments], int]:
        blocks = self.fitting.state(worker).blocks
        before = blocks.bytes_read
        moments = [one for _, one in blocks.map(lambda n, x: survey_block(blocks, n, x, None), part.units)]
        return moments, blocks.bytes_read - before


@dataclass(frozen=True)
class OnRows:
    """Call a function of all rows on one worker, such as one that chooses the centers with which a fit begins."""

    fitting: Fitting
    function: Callable[..., Any]
    """It takes the arguments of a `seeding.Begin`."""
    scaler: Scaler
    row_keys: ArrayRef
    options: dict[str, Any]

    def __call__(self, worker: Worker) -> tuple[Any, int, int]:
        blocks = self.fitting.state(worker).blocks
        passes, n_bytes = blocks.passes, blocks.bytes_read
        found = self.function(blocks, self.scaler, self.row_keys.open(worker), None, **self.options)
        return found, blocks.passes - passes, blocks.bytes_read - n_bytes


class Start(NamedTuple):
    """What a pass needs to know of one restart."""

    number: int
    stamp: int
    """The number of this pass of the restart."""
    centers: Floats
    before: Floats | None
    """The centers of its pass before, of which the labels are that a worker may have kept; None in the first pass."""
    groups: Groups | None
    """None where no bounds are kept."""


@dataclass
class StartSums:
    """What a pass has found for one restart in some blocks.

    sums : (k, r), weights, counts : (k,): what the clusters gain; exact. scatter : by block, see `BlockResult`.
    """

    sums: Floats
    weights: Floats
    counts: NDArray[np.int64]
    n_moved: int = 0
    scatter: list[tuple[int, Floats]] = field(default_factory=list)


@dataclass(frozen=True)
class PassSums:
    """What a pass has found in some blocks, for each restart; and the bytes that were read for it."""

    starts: list[StartSums]
    n_bytes: int


def merge_sums(one: PassSums, other: PassSums) -> PassSums:
    """Add what two parts of a pass have found. It is exact, and does not depend on the order."""
    merged = [
        StartSums(
            a.sums + b.sums,
            a.weights + b.weights,
            a.counts + b.counts,
            a.n_moved + b.n_moved,
            sorted(a.scatter + b.scatter, key=lambda of_block: of_block[0]),
        )
        for a, b in zip(one.starts, other.starts, strict=True)
    ]
    return PassSums(merged, one.n_bytes + other.n_bytes)


@dataclass(frozen=True)
class LloydPass:
    """Assign the rows of some blocks to the nearest centers of every restart; the units are the numbers of the
    blocks."""

    fitting: Fitting
    scaler: Scaler
    starts: tuple[Start, ...]
    final: bool

    def __call__(self, worker: Worker, part: Part) -> PassSums:
        state = self.fitting.state(worker)
        before = state.blocks.bytes_read
        prepared = [prepare(start.centers, self.scaler) for start in self.starts]
        layouts = [_Layouts(start, centers) for start, centers in zip(self.starts, prepared, strict=True)]
        total = [
            StartSums(np.zeros(start.centers.shape), np.zeros(len(start.centers)), np.zeros(len(start.centers), int))
            for start in self.starts
        ]

        def work(number: int, x: NDArray[Any]) -> list[Any]:
            # An entry is taken out first: bounds change in place, and are worth nothing where this pass fails.
            kept = [_taken(state, start, number) for start in self.starts]
            old = [_labels(x, one, start, self.scaler) for one, start in zip(kept, self.starts, strict=True)]
            bounds = [None if one is None else one.bounds for one in kept]
            grouped = [layout.of(had) for layout, had in zip(layouts, bounds, strict=True)]
            after = assign(number, x, self.scaler, state.norms, prepared, grouped, bounds)
            results = [
                block_result(x, labels, new, new_bounds, centers, None, start.before is None, self.final)
                for labels, (new, new_bounds), centers, start in zip(old, after, prepared, self.starts, strict=True)
            ]
            for start, result in zip(self.starts, results, strict=True):
                state.kept[start.number, number] = KeptBlock(start.stamp, result.labels, result.bounds)
            return results

        for number, results in state.blocks.map(work, part.units):
            for sums, result in zip(total, results, strict=True):
                sums.n_moved += result.n_moved
                if result.sums is not None:
                    sums.sums[result.sums.ids] += result.sums.sums
                    sums.weights[result.sums.ids] += result.sums.weights
                    sums.counts[result.sums.ids] += result.sums.counts
                if result.scatter is not None:
                    sums.scatter.append((number, result.scatter))
        return PassSums(total, state.blocks.bytes_read - before)


class _Layouts:
    """The centers of one restart laid out for its bounds: for blocks that have some, and for those that do not."""

    def __init__(self, start: Start, centers: Centers) -> None:
        self._start, self._centers = start, centers
        self._drifted: GroupedCenters | None = None
        self._fresh: GroupedCenters | None = None
        if start.groups is not None:
            self._drifted = arrange(centers, start.groups, start.before)
            self._fresh = self._drifted if start.before is None else None

    def of(self, bounds: Bounds | None) -> GroupedCenters | None:
        """Return the layout for a block with these bounds; None where the restart keeps none."""
        if bounds is not None or self._start.groups is None:
            return self._drifted
        if self._fresh is None:  # two threads may make it: it is the same
            self._fresh = arrange(self._centers, self._start.groups, None)
        return self._fresh


def _taken(state: FitState, start: Start, number: int) -> KeptBlock | None:
    """Take out what is kept of a block, where it is of the pass before this one."""
    kept = state.kept.pop((start.number, number), None)
    return kept if kept is not None and start.before is not None and kept.stamp == start.stamp - 1 else None


def _labels(x: NDArray[Any], kept: KeptBlock | None, start: Start, scaler: Scaler) -> NDArray[Any] | None:
    """Return the labels of a block in the pass before; None in the first pass."""
    if kept is not None:
        return kept.labels
    return None if start.before is None else nearest(x, [prepare(start.before, scaler)])[0]


def _current(x: NDArray[Any], number: int, state: FitState, start: Start, scaler: Scaler) -> NDArray[Any]:
    """Return the labels of a block as the last pass left them, which stay where they are."""
    kept = state.kept.get((start.number, number))
    labels = _labels(x, kept if kept is not None and kept.stamp == start.stamp - 1 else None, start, scaler)
    assert labels is not None
    return labels


@dataclass(frozen=True)
class FindFarthest:
    """Find the rows of some blocks that are farthest from the centers of their clusters."""

    fitting: Fitting
    scaler: Scaler
    start: Start
    """`before` are the centers of which the labels are, made by pass number `stamp` - 1."""
    n_rows: int

    def __call__(self, worker: Worker, part: Part) -> tuple[list[Farthest], int]:
        state = self.fitting.state(worker)
        n_bytes = state.blocks.bytes_read

        def work(number: int, x: NDArray[Any]) -> Farthest:
            labels = _current(x, number, state, self.start, self.scaler)
            return farthest_of(x, number * state.blocks.size, labels, self.start.centers, None, self.n_rows)

        return [one for _, one in state.blocks.map(work, part.units)], state.blocks.bytes_read - n_bytes


@dataclass(frozen=True)
class CompareLabels:
    """Count for how many rows of some blocks two restarts have each pair of labels."""

    fitting: Fitting
    scaler: Scaler
    starts: tuple[Start, Start]
    """As for `FindFarthest`."""

    def __call__(self, worker: Worker, part: Part) -> tuple[NDArray[np.int64], int]:
        state = self.fitting.state(worker)
        n_bytes = state.blocks.bytes_read
        one, other = self.starts
        shape = len(one.centers), len(other.centers)

        def work(number: int, x: NDArray[Any]) -> NDArray[np.int64]:
            labels = [_current(x, number, state, start, self.scaler) for start in self.starts]
            return contingency(labels[0], labels[1], *shape)

        total = np.zeros(shape, np.int64)
        for _, table in state.blocks.map(work, part.units):
            total += table
        return total, state.blocks.bytes_read - n_bytes


@dataclass(frozen=True)
class ScoreBlocks:
    """Sum the silhouettes of the rows of each of some blocks."""

    fitting: Fitting
    scored: Scored
    scaler: Scaler

    def __call__(self, worker: Worker, part: Part) -> tuple[list[Floats], int]:
        blocks = self.fitting.state(worker).blocks
        n_bytes = blocks.bytes_read
        prepared = [prepare(centers, self.scaler) for centers in self.scored.centers]
        found = [one for _, one in blocks.map(lambda _, x: score_block(x, prepared, self.scored), part.units)]
        return found, blocks.bytes_read - n_bytes
