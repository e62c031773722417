"""Lloyd's algorithm over canonical blocks, for several restarts in the same passes.

Every restart keeps the labels of each block, and distance bounds where it has many clusters and the workspace holds
them. Bounds save products; they never change a label. Without sample weights, only rows that change their label touch
the sums. Source: Lloyd 1982, "Least squares quantization in PCM"; the bounds: bigcluster.kernels.kmeans.bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import nearest
from bigcluster.kernels.kmeans.bounds import filtered_assignment, first_assignment
from bigcluster.kernels.kmeans.centers import Centers, Scaler, largest_norm, prepare
from bigcluster.kernels.kmeans.full_scan import Bounds
from bigcluster.kernels.kmeans.groups import GroupedCenters, arrange, group_centers
from bigcluster.kernels.kmeans.metrics import contingency
from bigcluster.kernels.kmeans.sums import ClusterSums, Floats, Labels, cluster_sums, exact_sq, moved_sums
from bigcluster.solvers.kmeans.blocks import Blocks, Summary
from bigcluster.solvers.kmeans.final_pass import Written, write_rows
from bigcluster.solvers.kmeans.restarts import Restart
from bigcluster.solvers.kmeans.result import ArraySink, RowSink
from bigcluster.solvers.kmeans.scores import Scored, score_block
from bigcluster.solvers.progress import FitProgress, OnProgress

if TYPE_CHECKING:
    from bigcluster.solvers.kmeans.spread_labels import Labeling

_OUTSIDE = 4.0
"""Mean squared shift of the centers over the mean squared distance of the rows to the new means, above which the old
centers lay outside of the data. For a center that was a row of its cluster the ratio is 1 on average."""
PRUNE_FROM = 192
"""Clusters from which on bounds pay: below, one product over all centers takes less time than their upkeep."""


Farthest = tuple[Floats, NDArray[np.int64], NDArray[Any], NDArray[Any]]
"""Squared distances, row numbers, cluster numbers and values, (n,) or (n, r), of some rows."""


@dataclass(frozen=True)
class BlockResult:
    """What one block contributes to one restart.

    sums : what clusters gain and lose; None where no row changed its label. scatter : (k,) float64 weighted squared
    distances to the centers, summed over the rows of each cluster; only in the final pass.
    """

    labels: Labels
    bounds: Bounds | None
    sums: ClusterSums | None
    n_moved: int
    scatter: Floats | None


def _progress(iteration: int, restarts: Sequence[Restart], moved_rows: int) -> FitProgress:
    inertia = min(restart.inertia_path[-1] for restart in restarts)
    return FitProgress(iteration, inertia=inertia, moved_rows=moved_rows)


class Lloyd:
    """Iterates restarts over the same blocks, each until it has converged."""

    def __init__(self, blocks: Blocks, summary: Summary, sample_weight: Floats | None) -> None:
        """summary : of these blocks. sample_weight : (n_rows,) float64, or None for equal weights."""
        self.blocks = blocks
        self.summary = summary
        self.sample_weight = sample_weight
        self._norms: dict[int, float] = {}  # block number -> `largest_norm` of its rows

    def run(
        self,
        restarts: Sequence[Restart],
        *,
        max_iter: int,
        tol: float,
        on_progress: OnProgress | None = None,
        finalize: bool = True,
        done: int = 0,
        save: Callable[[Sequence[Restart], int], None] = lambda restarts, done: None,
    ) -> None:
        """Iterate all restarts until they converge or `max_iter` is reached; then `finalize` them where asked to.

        A restart has converged when no row changes its label, or when the sum of squared center shifts is at most `tol`
        times the mean variance of the columns. done : the iterations that loaded restarts have behind them. save :
        called before each pass with the restarts and the number of finished iterations.
        """
        limit = tol * self.summary.mean_variance
        if done and on_progress is not None:
            on_progress(_progress(done, restarts, 0))  # shows at once what was done before the fit was interrupted
        for iteration in range(done + 1, max_iter + 1):
            save(restarts, iteration - 1)
            active = [restart for restart in restarts if not restart.converged]
            if not active:
                break
            n_moved = self.step(active)
            for restart, rows in zip(active, n_moved, strict=True):
                self._move_centers(restart, rows, limit, first=iteration == 1)
            if on_progress is not None:
                on_progress(_progress(iteration, active, sum(n_moved)))
        if finalize:
            self.finalize(restarts)

    def finalize(self, restarts: Sequence[Restart]) -> None:
        """Compute the labels, counts, scatter and exact inertia of the final centers (the last E-step).

        A cluster that is empty then takes the row farthest from its center, and the pass is repeated, so a restart
        keeps all of its clusters if there are as many distinct rows. Every repetition lowers the inertia.
        """
        self.step(restarts, final=True)
        refilled = list(restarts)
        while refilled := [restart for restart in refilled if self._fill_empty(restart)]:
            self.step(refilled, final=True)
        for restart in restarts:
            restart.finalized = True

    def step(self, restarts: Sequence[Restart], *, final: bool = False) -> list[int]:
        """Make one pass: new labels and sums of every restart. Returns for each how many rows changed their label."""
        is_first = [not restart.labels for restart in restarts]
        prepared = [prepare(restart.centers, self.summary.scaler) for restart in restarts]
        grouped = [_arrange(restart, centers) for restart, centers in zip(restarts, prepared, strict=True)]
        # Blocks with bounds: none in the first pass, nor in the first one after loading.
        n_bounded = [len(restart.bounds) for restart in restarts]
        sum_all = [first or self.sample_weight is not None for first in is_first]
        for restart, anew in zip(restarts, sum_all, strict=True):
            if anew:
                restart.clear_sums()
            if final:
                restart.scatter = np.zeros(len(restart.centers))

        def work(number: int, x: NDArray[Any]) -> list[BlockResult]:
            weights = None if self.sample_weight is None else self.sample_weight[self.blocks.row_slice(number)]
            before = [
                None if first else restart.labels[number] for first, restart in zip(is_first, restarts, strict=True)
            ]
            bounds = [
                restart.bounds[number] if number < n else None for n, restart in zip(n_bounded, restarts, strict=True)
            ]
            after = assign(number, x, self.summary.scaler, self._norms, prepared, grouped, bounds)
            return [
                block_result(x, old, labels, new_bounds, centers, weights, anew, final)
                for old, (labels, new_bounds), centers, anew in zip(before, after, prepared, sum_all, strict=True)
            ]

        n_moved = [0] * len(restarts)
        for number, results in self.blocks.map(work):
            for index, (restart, result) in enumerate(zip(restarts, results, strict=True)):
                _store(restart, number, result)
                n_moved[index] += result.n_moved
        for restart in restarts:
            restart.centers_of_bounds = restart.centers
            if final:
                restart.inertia = float(restart.scatter.sum())
        return n_moved

    def _move_centers(self, restart: Restart, n_moved: int, limit: float, *, first: bool) -> None:
        """Set the centers to the means of their rows (the M-step), and decide whether the restart has converged."""
        restart.n_iter += 1
        has_weight = (restart.counts > 0) & (restart.weights > 0)
        centers = restart.centers.copy()
        centers[has_weight] = restart.sums[has_weight] / restart.weights[has_weight, None]
        mean = self.summary.moments.mean
        # within = total - between: the inertia about the new means, without another pass
        between = float(restart.weights[has_weight] @ ((centers[has_weight] - mean) ** 2).sum(axis=1))
        restart.inertia_path.append(max(0.0, float(self.summary.moments.scatter.sum()) - between))
        empty = np.flatnonzero(~has_weight)
        n_relocated = self._relocate(restart, centers, empty) if empty.size else 0
        shift = float(((centers - restart.centers) ** 2).sum())
        restart.centers = centers
        restart.converged = not n_relocated and ((n_moved == 0 and not first) or shift <= limit)

    def _relocate(self, restart: Restart, centers: Floats, empty: NDArray[np.int64]) -> int:
        """Give each empty cluster one row, of those farthest from their centers; return how many clusters got one.

        empty : (n_empty,) cluster numbers. `centers`, (k, r) float64 the new means, is changed in place.
        The cluster that a row leaves loses it, which moves its mean, too; no cluster gives up its last row. Source:
        scikit-learn's `_relocate_empty_clusters_dense`. Unlike there, no two clusters take equal rows; and where the
        old centers lay outside of the data, distances are taken from the new means, since from outside all farthest
        rows would lie on one side.
        """
        shift = float(restart.weights @ ((centers - restart.centers) ** 2).sum(axis=1))
        origin = centers.copy() if shift > _OUTSIDE * restart.inertia_path[-1] else restart.centers
        sums: dict[int, Floats] = {}
        weights, counts = restart.weights.copy(), restart.counts.copy()
        n_relocated = 0
        for number, owner, row in self._farthest(restart, origin, 2 * len(empty)):
            if n_relocated == len(empty):
                break
            weight = 1.0 if self.sample_weight is None else float(self.sample_weight[number])
            if counts[owner] < 2 or weights[owner] <= weight:
                continue
            counts[owner] -= 1
            weights[owner] -= weight
            sums[owner] = sums.get(owner, restart.sums[owner]) - weight * row
            centers[empty[n_relocated]] = row
            n_relocated += 1
        for owner, total in sums.items():
            centers[owner] = total / weights[owner]
        return n_relocated

    def _fill_empty(self, restart: Restart) -> bool:
        """As `_relocate`, after the last iteration: the other centers stay. Returns whether any center was placed."""
        empty = np.flatnonzero(restart.counts == 0)
        rows = self._farthest(restart, restart.centers, len(empty))[: len(empty)] if empty.size else []
        if rows:
            restart.centers = restart.centers.copy()
            restart.centers[empty[: len(rows)]] = [row for _, _, row in rows]
        return bool(rows)

    def _farthest(self, restart: Restart, centers: Floats, n_rows: int) -> list[tuple[int, int, Floats]]:
        """Find the rows farthest from the centers of their clusters, farthest first, in one pass.

        Returns (row number, cluster number, (r,) values) of distinct rows: at least `n_rows`, if so many lie off their
        centers.
        """

        sq, numbers, owners, values = (
            np.concatenate(part) for part in zip(*self._farthest_of_blocks(restart, centers, n_rows), strict=True)
        )
        rows: dict[bytes, tuple[int, int, Floats]] = {}
        for index in np.lexsort((numbers, -sq)):
            rows.setdefault(values[index].tobytes(), (int(numbers[index]), int(owners[index]), values[index]))
        return list(rows.values())

    def _farthest_of_blocks(self, restart: Restart, centers: Floats, n_rows: int) -> list[Farthest]:
        """Make the pass of `_farthest`: what `farthest_of` finds in each block, in order."""

        def work(number: int, x: NDArray[Any]) -> Farthest:
            part = self.blocks.row_slice(number)
            weights = None if self.sample_weight is None else self.sample_weight[part]
            return farthest_of(x, part.start, restart.labels[number], centers, weights, n_rows)

        return [result for _, result in self.blocks.map(work)]

    def compare(self, one: Restart, other: Restart) -> NDArray[np.int64]:
        """Count how many rows have each pair of labels: (k of `one`, k of `other`)."""
        shape = len(one.centers), len(other.centers)
        table = np.zeros(shape, np.int64)
        for a, b in zip(one.labels, other.labels, strict=True):
            table += contingency(a, b, *shape)
        return table

    def silhouettes(self, scored: Scored) -> Floats:
        """Sum the silhouettes of all rows in one pass, (n_restarts, 2); see `score_block`."""
        prepared = [prepare(centers, self.summary.scaler) for centers in scored.centers]
        total = np.zeros((len(prepared), 2))
        for _, part in self.blocks.map(lambda _, x: score_block(x, prepared, scored)):
            total += part
        return total

    def new_sink(self) -> ArraySink | None:
        """Return what takes the final pass where nothing else was given; None where labels stay on workers."""
        return ArraySink(self.blocks.n_rows)

    def labeling(self, centers: Floats) -> Labeling | None:
        """Return how workers have labeled the rows by these centers; None where the labels went to a sink."""
        del centers
        return None

    def write_rows(self, centers: Floats, sink: RowSink | None) -> Written:
        """Make the final pass: write the labels, distances and runners-up of all rows for these centers, (k, r)."""
        assert sink is not None
        return write_rows(self.blocks, prepare(centers, self.summary.scaler), sink, self.sample_weight)


def farthest_of(
    x: NDArray[Any], first_row: int, labels: NDArray[Any], centers: Floats, weights: Floats | None, n_rows: int
) -> Farthest:
    """Find the rows of one block that are farthest from the centers of their clusters, and distinct.

    x : (block rows, r), of which `first_row` is the number of the first. Rows that lie on their centers do not count.
    """
    sq = exact_sq(x, centers, labels)
    if weights is not None:
        sq = np.where(weights > 0, sq, 0.0)
    distinct: dict[bytes, int] = {}
    for row in np.argsort(-sq, kind="stable"):
        if len(distinct) == n_rows or sq[row] == 0:
            break
        distinct.setdefault(x[row].tobytes(), row)
    order = np.array(list(distinct.values()), np.int64)
    return sq[order], order + first_row, labels[order], x[order].astype(np.float64)


def assign(
    number: int,
    x: NDArray[Any],
    scaler: Scaler,
    norms: dict[int, float],
    prepared: Sequence[Centers],
    grouped: Sequence[GroupedCenters | None],
    bounds: Sequence[Bounds | None],
) -> list[tuple[Labels, Bounds | None]]:
    """Compute the exact labels of one block for every restart, and new bounds for those that keep them.

    x : (block rows, r). norms : by block, `largest_norm` of its rows; it is filled. prepared, grouped, bounds : one
    entry for each restart; grouped is None for those without bounds, which share one product.
    """
    unbounded = [centers for centers, layout in zip(prepared, grouped, strict=True) if layout is None]
    if unbounded and number not in norms:
        norms[number] = largest_norm(scaler.transform(x))
    labels = iter(nearest(x, unbounded, norms[number]) if unbounded else [])
    any_bounded = len(unbounded) < len(prepared)
    scaled = scaler.transform(x) if any_bounded else np.empty((0, 0), np.float32)
    out: list[tuple[Labels, Bounds | None]] = []
    for layout, old in zip(grouped, bounds, strict=True):
        if layout is None:
            out.append((next(labels), None))
            continue
        if old is None:
            new = first_assignment(x, scaled, layout)
        else:
            new = replace(old, labels=old.labels.copy())
            filtered_assignment(x, scaled, new, layout)
        out.append((new.labels, new))
    return out


def _arrange(restart: Restart, centers: Centers) -> GroupedCenters | None:
    if not restart.bounded:
        return None
    if restart.groups is None:
        restart.groups = group_centers(restart.centers)
    return arrange(centers, restart.groups, restart.centers_of_bounds if restart.bounds else None)


def block_result(
    x: NDArray[Any],
    before: NDArray[Any] | None,
    labels: Labels,
    bounds: Bounds | None,
    centers: Centers,
    weights: Floats | None,
    sum_all: bool,
    final: bool,
) -> BlockResult:
    labels = labels.astype(labels_dtype(centers.count))  # the dtype of `before`: comparing others would convert both
    moved = np.arange(len(x)) if before is None else np.flatnonzero(before != labels)
    if sum_all:
        sums: ClusterSums | None = cluster_sums(x, labels, weights)
    else:
        assert before is not None
        sums = moved_sums(x, before, labels, moved) if moved.size else None
    scatter: Floats | None = None
    if final:
        sq = exact_sq(x, centers.exact, labels)
        weighted = sq if weights is None else sq * weights
        scatter = np.bincount(labels, weighted, minlength=centers.count).astype(np.float64)
    return BlockResult(labels, bounds, sums, len(moved), scatter)


def labels_dtype(n_clusters: int) -> np.dtype[Any]:
    """Choose the smallest unsigned dtype that holds the labels: a sweep keeps the labels of dozens of restarts."""
    return np.min_scalar_type(max(0, n_clusters - 1))


def _put(blocks: list[Any], number: int, value: Any) -> None:
    """Set the entry of a block. Blocks come in order, so the first pass appends them."""
    if number == len(blocks):
        blocks.append(value)
    else:
        blocks[number] = value


def _store(restart: Restart, number: int, result: BlockResult) -> None:
    _put(restart.labels, number, result.labels)
    if result.bounds is not None:
        _put(restart.bounds, number, result.bounds)
    if result.sums is not None:
        restart.add(result.sums)
    if result.scatter is not None:
        restart.scatter += result.scatter
