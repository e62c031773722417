"""Fits every k of a range in shared passes, scores each k, and suggests one where the elbow curve has a clear knee.

All restarts run for a few iterations, then the two best of each k go on (successive halving, Jamieson and Talwalkar
2016, with one round). Where the rows form clusters, the few iterations tell a bad restart from a good one: of four
restarts the best one went on for 15 of 16 k, and the loss was 0.01 % of the inertia at most. Where they do not,
restarts differ little: 0.5 % at most, over seeds, on scores of catalog cuts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.kmeans.centers import Scaler
from bigcluster.kernels.kmeans.metrics import adjusted_rand
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans.blocks import Blocks, summarize
from bigcluster.solvers.kmeans.fit import SEED_STEP, check_keys
from bigcluster.solvers.kmeans.footprint import UNLIMITED, project_labels_bytes
from bigcluster.solvers.kmeans.lloyd import PRUNE_FROM, Lloyd
from bigcluster.solvers.kmeans.opened import Opened, OpenedHere, Spread, open_rows
from bigcluster.solvers.kmeans.restarts import Restart, SavedRestarts, load_restarts
from bigcluster.solvers.kmeans.scores import Scored
from bigcluster.solvers.kmeans.seeding import Keys, begin_sampled, sample_rows, sample_size, uniforms
from bigcluster.solvers.progress import OnProgress
from bigcluster.store.row_source import ArrayRows, RowSource

SENSITIVITIES = (1.0, 3.0, 5.0)
"""Values of Kneedle's S, from its default of 1 to a conservative one; a clear knee is the same for all of them."""
FEWEST = 7
"""Values of k that a knee takes: of fewer, too few are left when the ends of the range are cut."""
_TRIAL_ITERATIONS = 5
"""Iterations after which the two best restarts of each k go on."""
_FINALISTS = 2
"""Restarts of each k that go on: two, because `stability` compares them."""
_HALF_ROWS = 4_096
"""Rows of the sample of each half of the data: an elbow that needs more rows to show is not a clear one."""


@dataclass(frozen=True)
class Suggestion:
    """k : the suggested number of clusters, or None. reason : one sentence for a person."""

    k: int | None
    reason: str


def find_knee(ks: Sequence[int], inertia: Sequence[float], sensitivity: float) -> int | None:
    """Find the knee of a falling convex curve, or return None.

    ks, inertia : of equal length. sensitivity : Kneedle's S. Source: Satopaa et al. 2011, "Finding a 'Kneedle' in a
    haystack: detecting knee points in system behavior".
    """
    # Only where a sweep is reported: the import brings a plotting library along where one is installed.
    from kneed import KneeLocator  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no knee found" is an answer here
        knee = KneeLocator(list(ks), list(inertia), S=sensitivity, curve="convex", direction="decreasing").knee
    return None if knee is None else int(knee)


def suggest(ks: Sequence[int], inertia: Sequence[float], halves: Sequence[Sequence[float]]) -> Suggestion:
    """Suggest the knee that is found at all sensitivities, with either end of the range cut, and on both halves.

    Without such a knee there is no suggestion.
    ks : ascending. inertia : of all rows, one for each k. halves : the curves of both halves of the rows; an empty
    curve could not be fitted.
    """
    if len(ks) < FEWEST:
        return Suggestion(None, f"no clear elbow: {len(ks)} values of k are too few to bend; sweep at least {FEWEST}")
    if max(inertia) <= 0:
        return Suggestion(None, "no clear elbow: every k has inertia 0")
    knees = {s: find_knee(ks, inertia, s) for s in SENSITIVITIES}
    if None in knees.values():
        return Suggestion(None, "no clear elbow: the curve bends too evenly for a knee at every sensitivity")
    if len(set(knees.values())) > 1:
        names = ", ".join(f"k = {k} at {s:g}" for s, k in knees.items())
        return Suggestion(None, f"no clear elbow: the knee moves with the sensitivity ({names})")
    k = knees[SENSITIVITIES[0]]
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


@dataclass(frozen=True)
class SweepRow:
    """The best clustering into k clusters. The stored table of a sweep has these names as its columns.

    inertia : the sum of squared distances. simplified_silhouette, silhouette_sq : means over the rows, from the
    distances to the two nearest centers, and exact on squared distances. smallest, largest : rows of a cluster.
    stability : adjusted Rand index of the two restarts that went on. n_iter : iterations. start : the number of the
    best restart.
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
    """The result of a sweep.

    rows : one for each k, ascending. orders : for each restart, (max k, r) float64 initial centers; k clusters start
    from the first k. passes : reads of all rows. bytes_read : from the row source. reason : which k were left out and
    why.
    """

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
    spread: Spread | None = None,
) -> Sweep:
    """Cluster rows for every k at once; a pass reads each block once for all of them.

    rows : (n_rows, r) of any real dtype. ks : numbers of clusters, in any order. The other arguments are those of
    `fit`. A k above the number of distinct rows is left out and named in `reason`. Raises UsageError for an empty
    range, a k below 1 or n_init below 1, and what `fit` raises.
    """
    ks = sorted(set(ks))
    if not ks:
        raise UsageError("the range of k is empty; write the smaller number first, such as 5:20")
    if ks[0] < 1 or n_init < 1:
        raise UsageError(f"every k and n_init must be at least 1; got k = {ks[0]}, n_init = {n_init}")
    keys = check_keys(row_keys, rows.shape[0])
    opened = open_rows(rows, None, runtime, _cache_bytes(workspace_bytes, rows.shape[0], ks, n_init), spread)
    blocks = opened.blocks
    fits, orders, lloyd = _fit_all(opened, ks, seed, keys, n_init, max_iter, tol, on_progress, checkpoints)
    best = {k: min(candidates, key=lambda candidate: candidate.restart.inertia) for k, candidates in fits.items()}
    scores = _score(lloyd, [candidate.restart for candidate in best.values()])
    table = tuple(
        SweepRow(
            k=k,
            inertia=candidate.restart.inertia,
            simplified_silhouette=simple,
            silhouette_sq=exact,
            smallest=int(candidate.restart.counts.min()),
            largest=int(candidate.restart.counts.max()),
            stability=_stability(lloyd, fits[k]),
            n_iter=candidate.restart.n_iter,
            start=candidate.number,
            centers=candidate.restart.centers,
        )
        for (k, candidate), (simple, exact) in zip(best.items(), scores, strict=True)
    )
    options = {"ks": list(fits), "seed": seed, "max_iter": max_iter, "tol": tol}
    halves = [opened.once(half_curve, keys, which=which, **options) for which in (0, 1)]
    opened.close()
    left_out = [k for k in ks if k not in fits]
    reason = f"k = {', '.join(map(str, left_out))}: fewer distinct rows than clusters" if left_out else ""
    suggestion = suggest([row.k for row in table], [row.inertia for row in table], halves)
    return Sweep(table, suggestion, tuple(orders), blocks.passes, blocks.bytes_read, reason)


def _cache_bytes(workspace_bytes: int | None, n_rows: int, ks: Sequence[int], n_init: int) -> int:
    if workspace_bytes is None:
        return UNLIMITED
    return max(0, workspace_bytes - sum(project_labels_bytes(n_rows, k, n_init) for k in ks))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One restart of one k. number : the number of its seed."""

    number: int
    restart: Restart


def _fit_all(
    opened: Opened,
    ks: Sequence[int],
    seed: int,
    keys: Keys,
    n_init: int,
    max_iter: int,
    tol: float,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
) -> tuple[dict[int, list[_Candidate]], list[Floats], Lloyd]:
    """Fit every k that the number of distinct rows allows: the finalists of each k, the initial orders, and the passes.

    The initial centers of k clusters are the first k of one order for each seed, so the sample is seeded once for all
    k.
    """
    blocks = opened.blocks
    seeds = [seed + SEED_STEP * number for number in range(n_init)]
    resumed, done = load_restarts(checkpoints, blocks, lambda k: k >= PRUNE_FROM, spread=opened.spread), 0
    if resumed is not None:
        orders = [resumed.state.get(f"order/{number}") for number in range(n_init)]
        candidates = [_Candidate(*pair) for pair in zip(resumed.state.facts["turns"], resumed.restarts, strict=True)]
        done = resumed.iterations
    else:
        orders, _ = opened.begin(begin_sampled, keys, method="k-means++", n_clusters=ks[-1], seeds=seeds)
        allowed = [k for k in ks if k <= min(len(order) for order in orders)]
        candidates = [
            _Candidate(number, Restart(order[:k].copy(), bounded=k >= PRUNE_FROM))
            for k in allowed
            for number, order in enumerate(orders)
        ]
    lloyd = opened.lloyd()

    def run(running: list[_Candidate], done: int, passes: int, *, finalize: bool) -> None:
        facts = {"turns": [candidate.number for candidate in running]}
        save = SavedRestarts(
            checkpoints, blocks, facts, [(f"order/{number}", order) for number, order in enumerate(orders)]
        ).save
        restarts = [candidate.restart for candidate in running]
        lloyd.run(restarts, max_iter=passes, tol=tol, on_progress=on_progress, finalize=finalize, done=done, save=save)

    trial = min(_TRIAL_ITERATIONS, max_iter)
    if done < trial:
        run(candidates, done, trial, finalize=False)
        candidates, done = _finalists(candidates), trial
    run(candidates, done, max_iter, finalize=True)
    fits: dict[int, list[_Candidate]] = {}
    for candidate in candidates:
        fits.setdefault(len(candidate.restart.centers), []).append(candidate)
    return fits, orders, lloyd


def _finalists(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Choose the best candidates of each k by their inertia so far, and keep their order."""
    out: list[_Candidate] = []
    for _, group in groupby(candidates, key=lambda candidate: len(candidate.restart.centers)):
        same_k = list(group)
        best = sorted(same_k, key=lambda candidate: candidate.restart.inertia_path[-1])[:_FINALISTS]
        out += [candidate for candidate in same_k if candidate in best]
    return out


def _score(lloyd: Lloyd, restarts: Sequence[Restart]) -> list[tuple[float, float]]:
    """Score every restart in one pass: (mean simplified silhouette, mean silhouette on squared distances)."""
    total = lloyd.silhouettes(Scored.of(restarts))
    return [(float(a), float(b)) for a, b in total / lloyd.blocks.n_rows]


def _stability(lloyd: Lloyd, candidates: Sequence[_Candidate]) -> float:
    """Compute the adjusted Rand index of the two finalists; it is 1 where there is a single restart."""
    if len(candidates) < 2:
        return 1.0
    one, other = (candidate.restart for candidate in candidates)
    return adjusted_rand(lloyd.compare(one, other))


def half_curve(
    blocks: Blocks,
    scaler: Scaler,
    keys: Keys,
    sample_weight: Floats | None,
    *,
    ks: Sequence[int],
    seed: int,
    which: int,
    max_iter: int,
    tol: float,
) -> list[float]:
    """Compute the inertia of every k, fitted anew on a sample of one half of the rows, on which a knee must show, too.

    which : 0 or 1, the half. scaler, sample_weight : not used. Returns one value for each k, or none where the half has
    too few distinct rows.
    """
    del scaler, sample_weight
    half = np.flatnonzero((uniforms(keys, seed, "halves") < 0.5) == (which == 0))
    if not ks or len(half) <= ks[-1]:
        return []
    n_rows = min(sample_size(ks[-1], blocks.n_columns), max(_HALF_ROWS, 64 * ks[-1]))
    numbers = half[sample_rows(keys[half], None, n_rows, seed)]
    with blas_threads(1):
        sample = Blocks(ArrayRows(blocks.take(numbers)), blocks.runtime)
        opened = OpenedHere(sample, summarize(sample, None), None)
        fits, _, _ = _fit_all(opened, ks, seed, keys[numbers], 2, max_iter, tol)
    return [min(candidate.restart.inertia for candidate in fits[k]) for k in ks] if len(fits) == len(ks) else []
