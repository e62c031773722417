"""Where an elbow curve bends, if it does: named only when nothing contradicts it.

Every k of a range in shared passes: inertia, two silhouettes, sizes, stability, and a knee if there is one.

The restarts of a k race: all of them run a few passes, then the two best of each k go on. Where the rows do form
clusters the few passes tell a bad restart from a good one (the winner of four was kept for 15 of 16 k, the loss 0.01 %
at most); where they do not, restarts differ little (0.5 % at most, over seeds, on scores of catalog cuts).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.kmeans.assign import two_nearest
from bigcluster.kernels.kmeans.centers import prepare
from bigcluster.kernels.kmeans.metrics import adjusted_rand, contingency, silhouette_sq, simplified_silhouette
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans.blocks import Blocks, summarize
from bigcluster.solvers.kmeans.fit import check_keys
from bigcluster.solvers.kmeans.footprint import project_labels_bytes
from bigcluster.solvers.kmeans.lloyd import PRUNE_FROM, Lloyd, Restart
from bigcluster.solvers.kmeans.restarts import SavedRestarts, load_restarts
from bigcluster.solvers.kmeans.seeding import Keys, initial_centers, sample_rows, sample_size, uniforms
from bigcluster.solvers.progress import OnProgress
from bigcluster.store.row_source import ArrayRows, RowSource

SENSITIVITIES = (1.0, 3.0, 5.0)
FEWEST = 7  # values of k; of fewer, nothing is left when the ends are cut


@dataclass(frozen=True)
class Suggestion:
    """k : the number of clusters suggested, or None. reason : one line for a person."""

    k: int | None
    reason: str


def find_knee(ks: Sequence[int], inertia: Sequence[float], sensitivity: float) -> int | None:
    """The knee of a falling convex curve. Source: Satopaa et al. 2011, "Finding a Kneedle in a Haystack"."""
    # Only where a sweep is reported: the import brings a plotting library along where one is installed.
    from kneed import KneeLocator  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no knee found" is an answer here
        found = KneeLocator(list(ks), list(inertia), S=sensitivity, curve="convex", direction="decreasing").knee
    return None if found is None else int(found)


def suggest(ks: Sequence[int], inertia: Sequence[float], halves: Sequence[Sequence[float]]) -> Suggestion:
    """The knee that holds for all sensitivities, with either end of the range cut and on both halves, or none.

    ks : ascending. inertia : of all rows. halves : the curves of both halves; an empty one could not be fitted.
    """
    if len(ks) < FEWEST:
        return Suggestion(None, f"no clear elbow: {len(ks)} values of k are too few to bend; sweep at least {FEWEST}")
    if max(inertia) <= 0:
        return Suggestion(None, "no clear elbow: every k has inertia 0")
    found = {s: find_knee(ks, inertia, s) for s in SENSITIVITIES}
    if None in found.values():
        return Suggestion(None, "no clear elbow: the curve bends too evenly for a knee at every sensitivity")
    if len(set(found.values())) > 1:
        names = ", ".join(f"k = {k} at {s:g}" for s, k in found.items())
        return Suggestion(None, f"no clear elbow: the knee moves with the sensitivity ({names})")
    k = found[SENSITIVITIES[0]]
    assert k is not None
    for cut in (slice(max(2, len(ks) // 6), None), slice(0, -max(2, len(ks) // 4))):
        other = find_knee(ks[cut], inertia[cut], SENSITIVITIES[0])
        if other is None or abs(list(ks).index(other) - list(ks).index(k)) > 1:
            # 1000 / k bends nowhere in particular: what is named there is a matter of where the range starts and ends
            where = "there is none" if other is None else f"it is k = {other}"
            span = f"{ks[cut][0]}..{ks[cut][-1]}"
            return Suggestion(None, f"no clear elbow: the knee is k = {k}, but of k = {span} alone {where}")
    for name, curve in zip(("first", "second"), halves, strict=True):
        other = find_knee(ks, curve, SENSITIVITIES[0]) if curve else None
        if other != k:
            where = "has none" if other is None else f"bends at k = {other}"
            return Suggestion(None, f"no clear elbow: all rows bend at k = {k}, the {name} half of them {where}")
    return Suggestion(k, f"elbow at k = {k}: at sensitivities 1, 3 and 5, on a shorter range and on both halves")


_HEAT = 5  # passes, after which a restart is judged
_FINALISTS = 2
_HALF_ROWS = 4_096  # of each half, for its curve: an elbow that needs more rows to show is none


@dataclass(frozen=True)
class SweepRow:
    """One k. inertia : squared. Both silhouettes are means over the rows.

    simplified_silhouette : from the distances to the two nearest centers. silhouette_sq : exact, on squared distances.

    stability : adjusted Rand index of the two restarts that went on. start : the number of the restart that won.
    centers : (k, r) float64.
    """

    k: int
    inertia: float
    simplified_silhouette: float
    silhouette_sq: float
    smallest: int
    largest: int
    stability: float
    n_iter: int
    start: int
    centers: Floats = field(repr=False)


@dataclass(frozen=True)
class Sweep:
    """rows : in ascending k. orders : per restart, (max k, r) initial centers; k clusters start from the first k."""

    rows: tuple[SweepRow, ...]
    suggestion: Suggestion
    orders: tuple[Floats, ...] = field(repr=False)
    passes: int
    bytes_read: int
    reason: str = ""


def sweep(
    rows: RowSource,
    ks: Sequence[int],
    *,
    seed: int = 0,
    row_keys: NDArray[np.uint64] | None = None,
    n_init: int = 4,
    max_iter: int = 300,
    tol: float = 1e-4,
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
) -> Sweep:
    """Cluster for every k at once; a pass reads each block once for all of them.

    ks : distinct numbers of clusters, in any order. Other arguments as in `fit`. k above the number of distinct rows
    is left out and named in `reason`. Raises UsageError for an empty range, a k below 1 or n_init below 1.
    """
    wanted = sorted(set(ks))
    if not wanted:
        raise UsageError("the range of k is empty; write the smaller number first, such as 5:20")
    if wanted[0] < 1 or n_init < 1:
        raise UsageError(f"every k and n_init must be at least 1; got k = {wanted[0]}, n_init = {n_init}")
    keys = check_keys(row_keys, rows.shape[0])
    blocks = Blocks(rows, runtime or EmbeddedRuntime(), _room(workspace_bytes, rows.shape[0], wanted, n_init))
    fits, orders, lloyd = _fit_all(blocks, wanted, seed, keys, n_init, max_iter, tol, on_progress, checkpoints)
    best = {k: min(runners, key=lambda runner: runner.restart.inertia) for k, runners in fits.items()}
    scores = _score(lloyd, [runner.restart for runner in best.values()])
    table = tuple(
        SweepRow(
            k=k,
            inertia=runner.restart.inertia,
            simplified_silhouette=simple,
            silhouette_sq=exact,
            smallest=int(runner.restart.counts.min()),
            largest=int(runner.restart.counts.max()),
            stability=_stability(fits[k]),
            n_iter=runner.restart.n_iter,
            start=runner.turn,
            centers=runner.restart.centers,
        )
        for (k, runner), (simple, exact) in zip(best.items(), scores, strict=True)
    )
    halves = [_half_curve(blocks, list(fits), seed, keys, which, max_iter, tol) for which in (0, 1)]
    left_out = [k for k in wanted if k not in fits]
    reason = f"k = {', '.join(map(str, left_out))}: fewer distinct rows than clusters" if left_out else ""
    suggestion = suggest([row.k for row in table], [row.inertia for row in table], halves)
    return Sweep(table, suggestion, tuple(orders), blocks.passes, blocks.bytes_read, reason)


def _room(workspace_bytes: int | None, n_rows: int, ks: Sequence[int], n_init: int) -> int:
    if workspace_bytes is None:
        return 1 << 62
    return max(0, workspace_bytes - sum(project_labels_bytes(n_rows, k, n_init) for k in ks))


@dataclass(frozen=True, eq=False)
class _Runner:
    """One restart of one k. turn : which of the seeds it had."""

    turn: int
    restart: Restart


def _fit_all(
    blocks: Blocks,
    ks: Sequence[int],
    seed: int,
    keys: Keys,
    n_init: int,
    max_iter: int,
    tol: float,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
) -> tuple[dict[int, list[_Runner]], list[Floats], Lloyd]:
    """The finalists of every k that the distinct rows allow; seeds are prefixes of one order per turn."""
    summary = summarize(blocks, None)
    seeds = [seed + 7919 * turn for turn in range(n_init)]
    resumed, done = load_restarts(checkpoints, blocks, lambda k: k >= PRUNE_FROM), 0
    if resumed is not None:
        orders = [resumed.state.get(f"order/{turn}") for turn in range(n_init)]
        runners = [_Runner(*pair) for pair in zip(resumed.state.facts["turns"], resumed.restarts, strict=True)]
        done = resumed.iterations
    else:
        orders, _ = initial_centers(
            blocks, summary.scaler, "k-means++", ks[-1], seeds=seeds, keys=keys, sample_weight=None
        )
        allowed = [k for k in ks if k <= min(len(order) for order in orders)]
        runners = [
            _Runner(turn, Restart(order[:k].copy(), bounded=k >= PRUNE_FROM))
            for k in allowed
            for turn, order in enumerate(orders)
        ]
    lloyd = Lloyd(blocks, summary, None)

    def run(racing: list[_Runner], done: int, passes: int, *, finalize: bool) -> None:
        facts = {"turns": [runner.turn for runner in racing]}
        save = SavedRestarts(
            checkpoints, blocks, facts, [(f"order/{turn}", order) for turn, order in enumerate(orders)]
        ).save
        restarts = [runner.restart for runner in racing]
        lloyd.run(restarts, max_iter=passes, tol=tol, on_progress=on_progress, finalize=finalize, done=done, save=save)

    heat = min(_HEAT, max_iter)
    if done < heat:
        run(runners, done, heat, finalize=False)
        runners, done = _finalists(runners), heat
    run(runners, done, max_iter, finalize=True)
    fits: dict[int, list[_Runner]] = {}
    for runner in runners:
        fits.setdefault(len(runner.restart.centers), []).append(runner)
    return fits, orders, lloyd


def _finalists(runners: Sequence[_Runner]) -> list[_Runner]:
    """The best of each k so far, in the order in which they are given."""
    out: list[_Runner] = []
    for _, group in groupby(runners, key=lambda runner: len(runner.restart.centers)):
        same_k = list(group)
        best = sorted(same_k, key=lambda runner: runner.restart.inertia_path[-1])[:_FINALISTS]
        out += [runner for runner in same_k if runner in best]
    return out


def _score(lloyd: Lloyd, restarts: Sequence[Restart]) -> list[tuple[float, float]]:
    """One pass: (mean simplified silhouette, mean exact silhouette on squared distances) of every restart."""
    blocks, scaler = lloyd.blocks, lloyd.summary.scaler
    prepared = [prepare(restart.centers, scaler) for restart in restarts]
    means = [restart.sums / np.maximum(restart.counts, 1)[:, None] for restart in restarts]
    # scatter is about the centers; about the means it is less by n |mean - center|^2
    scatter = [
        np.maximum(restart.scatter - restart.counts * ((mean - restart.centers) ** 2).sum(axis=1), 0)
        for restart, mean in zip(restarts, means, strict=True)
    ]

    def look(_number: int, x: NDArray[Any]) -> NDArray[np.float64]:
        out = np.zeros((len(restarts), 2))
        for place, restart in enumerate(restarts):
            two = two_nearest(x, prepared[place])
            if prepared[place].count > 1:
                out[place, 0] = simplified_silhouette(np.sqrt(two.sq), np.sqrt(two.runner_up_sq)).sum()
            out[place, 1] = silhouette_sq(x, two.labels, means[place], restart.counts, scatter[place]).sum()
        return out

    total = np.zeros((len(restarts), 2))
    for _, part in blocks.map(look):
        total += part
    return [(float(a), float(b)) for a, b in total / blocks.n_rows]


def _stability(runners: Sequence[_Runner]) -> float:
    """Agreement of the two finalists; 1 where there is one restart only."""
    if len(runners) < 2:
        return 1.0
    one, other = (runner.restart for runner in runners)
    k = len(one.centers)
    table = np.zeros((k, k), np.int64)
    for a, b in zip(one.labels, other.labels, strict=True):
        table += contingency(a, b, k, k)
    return adjusted_rand(table)


def _half_curve(
    blocks: Blocks, ks: Sequence[int], seed: int, keys: Keys, which: int, max_iter: int, tol: float
) -> list[float]:
    """Inertia for every k, fitted anew on a sample of one half of the rows: a knee must show there too."""
    half = np.flatnonzero((uniforms(keys, seed, "halves") < 0.5) == (which == 0))
    if not ks or len(half) <= ks[-1]:
        return []
    n_rows = min(sample_size(ks[-1], blocks.n_columns), max(_HALF_ROWS, 64 * ks[-1]))
    numbers = half[sample_rows(keys[half], None, n_rows, seed)]
    with blas_threads(1):
        mine = Blocks(ArrayRows(blocks.take(numbers)), blocks.runtime)
        fits, _, _ = _fit_all(mine, ks, seed, keys[numbers], 2, max_iter, tol)
    return [min(runner.restart.inertia for runner in fits[k]) for k in ks] if len(fits) == len(ks) else []
