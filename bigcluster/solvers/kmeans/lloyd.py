"""Lloyd's algorithm over canonical blocks, for several restarts in the same passes.

Every restart keeps its labels per block and, for many centers and where the budget allows, distance bounds. Bounds skip
products; they never change a label. Without weights only rows that changed sides touch the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import nearest
from bigcluster.kernels.kmeans.bounds import filtered_assignment, first_assignment
from bigcluster.kernels.kmeans.centers import Centers, largest_norm, prepare
from bigcluster.kernels.kmeans.full_scan import Bounds
from bigcluster.kernels.kmeans.groups import GroupedCenters, Groups, arrange, group_centers
from bigcluster.kernels.kmeans.sums import ClusterSums, Floats, Labels, cluster_sums, exact_sq, moved_sums
from bigcluster.solvers.kmeans.blocks import Blocks, Summary
from bigcluster.solvers.progress import FitProgress, OnProgress

_OUTSIDE = 4.0  # mean squared way of the centers over that of the rows to their means; from a row as center it is 1
PRUNE_FROM = 192  # centers; below, a product over all of them costs less than keeping bounds


@dataclass
class Restart:
    """One restart on its way. centers : (k, r) float64; labels, bounds : one entry per block."""

    centers: Floats
    bounded: bool
    before: Floats | None = None  # the centers that the bounds know
    groups: Groups | None = None
    labels: list[NDArray[Any]] = field(default_factory=list)
    bounds: list[Bounds] = field(default_factory=list)
    sums: Floats = field(default_factory=lambda: np.empty(0))
    weights: Floats = field(default_factory=lambda: np.empty(0))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    n_iter: int = 0
    converged: bool = False
    inertia_path: list[float] = field(default_factory=list)
    finalized: bool = False  # labels, counts, scatter and inertia are those of the final centers
    inertia: float = np.inf
    scatter: Floats = field(default_factory=lambda: np.empty(0))  # (k,) squared distances by cluster, at the end

    def clear_sums(self) -> None:
        k, r = self.centers.shape
        self.sums, self.weights, self.counts = np.zeros((k, r)), np.zeros(k), np.zeros(k, np.int64)

    def add(self, part: ClusterSums) -> None:
        self.sums[part.ids] += part.sums
        self.weights[part.ids] += part.weights
        self.counts[part.ids] += part.counts


@dataclass(frozen=True)
class _Outcome:
    """What a block hands back for one restart."""

    labels: Labels
    bounds: Bounds | None
    part: ClusterSums | None
    moved: int
    sq: Floats | None  # (k,) weighted squared distances by cluster, where asked for


def _progress(iteration: int, restarts: Sequence[Restart], moved_rows: int) -> FitProgress:
    inertia = min(restart.inertia_path[-1] for restart in restarts)
    return FitProgress(iteration, inertia=inertia, moved_rows=moved_rows)


class Lloyd:
    """Runs restarts over the blocks until each has converged. tol : absolute, on the sum of squared center shifts."""

    def __init__(self, blocks: Blocks, summary: Summary, sample_weight: Floats | None) -> None:
        self.blocks = blocks
        self.summary = summary
        self.sample_weight = sample_weight
        self._norms: dict[int, float] = {}  # of the rows of each block, as `nearest` wants them

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
        """Iterate every restart, then `finalize` them, unless the caller has a final pass of its own.

        done : iterations that resumed restarts have behind them; save : called between passes.
        """
        limit = tol * self.summary.mean_variance
        if done and on_progress is not None:
            on_progress(_progress(done, restarts, 0))  # what a killed fit had behind it is seen at once
        for iteration in range(done + 1, max_iter + 1):
            save(restarts, iteration - 1)
            live = [restart for restart in restarts if not restart.converged]
            if not live:
                break
            moved = self.step(live)
            for restart, rows in zip(live, moved, strict=True):
                self._move_centers(restart, rows, limit, first=iteration == 1)
            if on_progress is not None:
                on_progress(_progress(iteration, live, sum(moved)))
        if finalize:
            self.finalize(restarts)

    def finalize(self, restarts: Sequence[Restart]) -> None:
        """Give each restart its final labels, counts and exact inertia. Clusters that are empty now take rows, too.

        So a restart keeps all of its clusters wherever there are as many distinct rows. Every round lowers the inertia.
        """
        self.step(restarts, final=True)
        short = list(restarts)
        while short := [restart for restart in short if self._fill_empty(restart)]:
            self.step(short, final=True)
        for restart in restarts:
            restart.finalized = True

    def step(self, restarts: Sequence[Restart], *, final: bool = False) -> list[int]:
        """One pass: new labels and sums of every restart. Returns how many rows changed sides, per restart."""
        first = [not restart.labels for restart in restarts]
        prepared = [prepare(restart.centers, self.summary.scaler) for restart in restarts]
        grouped = [_arrange(restart, centers) for restart, centers in zip(restarts, prepared, strict=True)]
        kept = [len(restart.bounds) for restart in restarts]  # none in the first pass, also of resumed restarts
        whole = [f or self.sample_weight is not None for f in first]
        for restart, again in zip(restarts, whole, strict=True):
            if again:
                restart.clear_sums()
            if final:
                restart.scatter = np.zeros(len(restart.centers))

        def work(number: int, x: NDArray[Any]) -> list[_Outcome]:
            weights = None if self.sample_weight is None else self.sample_weight[self.blocks.row_slice(number)]
            old = [None if f else restart.labels[number] for f, restart in zip(first, restarts, strict=True)]
            bounds = [
                restart.bounds[number] if number < known else None
                for known, restart in zip(kept, restarts, strict=True)
            ]
            new = self._assign(number, x, prepared, grouped, bounds)
            return [
                _outcome(x, before, labels, kept, centers, weights, again, final)
                for before, (labels, kept), centers, again in zip(old, new, prepared, whole, strict=True)
            ]

        moved = [0] * len(restarts)
        for number, outcomes in self.blocks.map(work):
            for index, (restart, outcome) in enumerate(zip(restarts, outcomes, strict=True)):
                _keep(restart, number, outcome)
                moved[index] += outcome.moved
        for restart in restarts:
            restart.before = restart.centers
            if final:
                restart.inertia = float(restart.scatter.sum())
        return moved

    def _move_centers(self, restart: Restart, moved: int, limit: float, *, first: bool) -> None:
        """The means of the rows become the centers; decides whether this restart has converged."""
        restart.n_iter += 1
        has_weight = (restart.counts > 0) & (restart.weights > 0)
        centers = restart.centers.copy()
        centers[has_weight] = restart.sums[has_weight] / restart.weights[has_weight, None]
        mean = self.summary.moments.mean
        between = float(restart.weights[has_weight] @ ((centers[has_weight] - mean) ** 2).sum(axis=1))
        restart.inertia_path.append(max(0.0, float(self.summary.moments.scatter.sum()) - between))
        empty = np.flatnonzero(~has_weight)
        placed = self._relocate(restart, centers, empty) if empty.size else 0
        shift = float(((centers - restart.centers) ** 2).sum())
        restart.centers = centers
        restart.converged = not placed and ((moved == 0 and not first) or shift <= limit)

    def _relocate(self, restart: Restart, centers: Floats, empty: NDArray[np.int64]) -> int:
        """Each emptied cluster takes one row, of those farthest from the centers that the step measured from.

        The row's cluster gives it up, which moves its mean, too; none gives up its last row. `centers`, the new means,
        are changed in place. Returns how many clusters found a row. Source: scikit-learn's relocation. Unlike it, no
        two clusters take equal rows, and centers that lay outside of the data are not measured from, but the new means
        are: else all rows would be found on one side.
        """
        went = float(restart.weights @ ((centers - restart.centers) ** 2).sum(axis=1))
        origin = centers.copy() if went > _OUTSIDE * restart.inertia_path[-1] else restart.centers
        sums: dict[int, Floats] = {}
        weights, counts = restart.weights.copy(), restart.counts.copy()
        filled = 0
        for number, owner, row in self._farthest(restart, origin, 2 * len(empty)):
            if filled == len(empty):
                break
            weight = 1.0 if self.sample_weight is None else float(self.sample_weight[number])
            if counts[owner] < 2 or weights[owner] <= weight:
                continue
            counts[owner] -= 1
            weights[owner] -= weight
            sums[owner] = sums.get(owner, restart.sums[owner]) - weight * row
            centers[empty[filled]] = row
            filled += 1
        for owner, total in sums.items():
            centers[owner] = total / weights[owner]
        return filled

    def _fill_empty(self, restart: Restart) -> bool:
        """As `_relocate`, after the last iteration: the other centers stay. Returns whether any center was placed."""
        empty = np.flatnonzero(restart.counts == 0)
        rows = self._farthest(restart, restart.centers, len(empty))[: len(empty)] if empty.size else []
        if rows:
            restart.centers = restart.centers.copy()
            restart.centers[empty[: len(rows)]] = [row for _, _, row in rows]
        return bool(rows)

    def _farthest(self, restart: Restart, centers: Floats, wanted: int) -> list[tuple[int, int, Floats]]:
        """(row number, its cluster, its values) of the rows farthest from their cluster's center: one pass.

        No two are alike, and there are at least `wanted` if as many rows lie off their centers.
        """

        def look(number: int, x: NDArray[Any]) -> tuple[Floats, NDArray[np.int64], NDArray[Any], NDArray[Any]]:
            labels = restart.labels[number]
            sq = exact_sq(x, centers, labels)
            if self.sample_weight is not None:
                sq = np.where(self.sample_weight[self.blocks.row_slice(number)] > 0, sq, 0.0)
            distinct: dict[bytes, int] = {}
            for row in np.argsort(-sq, kind="stable"):
                if len(distinct) == wanted or sq[row] == 0:
                    break
                distinct.setdefault(x[row].tobytes(), row)
            order = np.array(list(distinct.values()), np.int64)
            return sq[order], order + number * self.blocks.size, labels[order], x[order].astype(np.float64)

        found = [result for _, result in self.blocks.map(look)]
        sq, numbers, owners, values = (np.concatenate(part) for part in zip(*found, strict=True))
        out: dict[bytes, tuple[int, int, Floats]] = {}
        for place in np.lexsort((numbers, -sq)):
            out.setdefault(values[place].tobytes(), (int(numbers[place]), int(owners[place]), values[place]))
        return list(out.values())

    def _assign(
        self,
        number: int,
        x: NDArray[Any],
        prepared: Sequence[Centers],
        grouped: Sequence[GroupedCenters | None],
        bounds: Sequence[Bounds | None],
    ) -> list[tuple[Labels, Bounds | None]]:
        """Exact labels of one block for every restart: one product for those without bounds, filters for the others."""
        plain = [centers for centers, layout in zip(prepared, grouped, strict=True) if layout is None]
        if plain and number not in self._norms:
            self._norms[number] = largest_norm(self.summary.scaler.transform(x))
        labels = iter(nearest(x, plain, self._norms[number]) if plain else [])
        scaled = self.summary.scaler.transform(x) if len(plain) < len(prepared) else np.empty((0, 0), np.float32)
        out: list[tuple[Labels, Bounds | None]] = []
        for layout, known in zip(grouped, bounds, strict=True):
            if layout is None:
                out.append((next(labels), None))
            elif known is None:
                fresh = first_assignment(x, scaled, layout)
                out.append((fresh.labels, fresh))
            else:
                again = replace(known, labels=known.labels.copy())
                filtered_assignment(x, scaled, again, layout)
                out.append((again.labels, again))
        return out


def _arrange(restart: Restart, centers: Centers) -> GroupedCenters | None:
    if not restart.bounded:
        return None
    if restart.groups is None:
        restart.groups = group_centers(restart.centers)
    return arrange(centers, restart.groups, restart.before if restart.bounds else None)


def _outcome(
    x: NDArray[Any],
    before: NDArray[Any] | None,
    labels: Labels,
    bounds: Bounds | None,
    centers: Centers,
    weights: Floats | None,
    whole: bool,
    final: bool,
) -> _Outcome:
    labels = labels.astype(labels_dtype(centers.count))  # that of `before`: comparing others would convert both
    moved = np.arange(len(x)) if before is None else np.flatnonzero(before != labels)
    if whole:
        part: ClusterSums | None = cluster_sums(x, labels, weights)
    else:
        assert before is not None
        part = moved_sums(x, before, labels, moved) if moved.size else None
    by_cluster: Floats | None = None
    if final:
        sq = exact_sq(x, centers.exact, labels)
        own = sq if weights is None else sq * weights
        by_cluster = np.bincount(labels, own, minlength=centers.count).astype(np.float64)
    return _Outcome(labels, bounds, part, len(moved), by_cluster)


def labels_dtype(n_clusters: int) -> np.dtype[Any]:
    """The smallest that holds the labels: a sweep keeps those of dozens of restarts."""
    return np.min_scalar_type(max(0, n_clusters - 1))


def _put(blocks: list[Any], number: int, value: Any) -> None:
    """Blocks come in order: the first pass appends them."""
    if number == len(blocks):
        blocks.append(value)
    else:
        blocks[number] = value


def _keep(restart: Restart, number: int, outcome: _Outcome) -> None:
    _put(restart.labels, number, outcome.labels)
    if outcome.bounds is not None:
        _put(restart.bounds, number, outcome.bounds)
    if outcome.part is not None:
        restart.add(outcome.part)
    if outcome.sq is not None:
        restart.scatter += outcome.sq
