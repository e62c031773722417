"""Chooses initial centers: k-means++ on a sample for few clusters, k-means|| for many, or random rows.

Random numbers are hashes of (seed, purpose, row key), so those of a row depend neither on its place nor on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import nearest
from bigcluster.kernels.kmeans.centers import Centers, Scaler, prepare
from bigcluster.kernels.kmeans.sums import ROUNDING, Floats, exact_sq, row_sq
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.store.row_source import ArrayRows

Keys = NDArray[np.uint64]
Begin = Callable[..., tuple[list[Floats], bool]]
"""A function of (blocks, scaler, keys, sample_weight, and options by name). It returns one set of initial centers for
each restart, (k, r) float64, and whether the data has fewer distinct rows than clusters."""

PARALLEL_FROM = 256
"""Clusters from which on k-means|| is chosen: k-means++ reads the whole sample once for each cluster."""
ROUNDS = 5
"""Rounds of k-means||. Source: Bahmani et al. 2012, section 5: more rounds gain little."""
_OVERSAMPLING = 2
"""Rows that a round of k-means|| draws, as a multiple of n_clusters. Source: Bahmani et al. 2012, section 5."""
SAMPLE_MIN, SAMPLE_BYTES = 16_384, 128 * 1024**2
"""Rows that a sample has at least, and bytes of float32 that limit it where rows are wide."""
_SAMPLE_PER_CLUSTER, _LEAST_PER_CLUSTER = 64, 8
"""Rows of the sample for each cluster, and fewest where rows are wide: fewer would miss clusters of average size."""


def uniforms(keys: Keys, seed: int, purpose: str) -> Floats:
    """Return one random number in (0, 1) for each key, (n,) float64: a hash of key, seed and purpose.

    purpose : of its UTF-8 bytes the first 8 count. Source: splitmix64, Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators".
    """
    salt = np.uint64(int.from_bytes(purpose.encode().ljust(8, b".")[:8], "little"))
    with np.errstate(over="ignore"):
        mixed = _mix(keys ^ _mix(np.array([seed & (2**64 - 1)], np.uint64) ^ _mix(salt + np.zeros(1, np.uint64))))
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(z: Keys) -> Keys:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def sample_rows(keys: Keys, sample_weight: Floats | None, size: int, seed: int) -> NDArray[np.int64]:
    """Draw `size` rows of positive weight, or all of them if there are fewer, each with the same probability.

    keys : (n_rows,) uint64. sample_weight : (n_rows,) or None. Returns row numbers, (n_drawn,) int64, in random order.
    """
    priority = uniforms(keys, seed, "sample")
    rows = np.arange(len(keys)) if sample_weight is None else np.flatnonzero(sample_weight > 0)
    if len(rows) > size:
        rows = rows[np.argpartition(priority[rows], size - 1)[:size]]
    return rows[np.lexsort((rows, priority[rows]))].astype(np.int64)


def random_rows(keys: Keys, sample_weight: Floats | None, size: int, seed: int) -> NDArray[np.int64]:
    """Draw `size` rows by weight without replacement, or all rows of positive weight if there are fewer.

    keys : (n_rows,) uint64. sample_weight : (n_rows,) or None. Returns row numbers, (n_drawn,) int64, in random order.
    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", algorithm A-ES.
    """
    arrival = -np.log(uniforms(keys, seed, "random"))  # exponential times, whose rates are the weights
    rows = np.arange(len(keys))
    if sample_weight is not None:
        rows = np.flatnonzero(sample_weight > 0)
        arrival[rows] /= sample_weight[rows]
    if len(rows) > size:
        rows = rows[np.argpartition(arrival[rows], size - 1)[:size]]
    return rows[np.lexsort((rows, arrival[rows]))].astype(np.int64)


def sample_size(n_clusters: int, n_columns: int) -> int:
    """Choose the rows of the sample: 64 for each cluster; fewer, but at least 8, where those exceed SAMPLE_BYTES."""
    affordable = SAMPLE_BYTES // (4 * n_columns)
    return max(SAMPLE_MIN, min(_SAMPLE_PER_CLUSTER * n_clusters, max(_LEAST_PER_CLUSTER * n_clusters, affordable)))


def plus_plus(
    x: NDArray[Any], weights: Floats | None, n_clusters: int, scaler: Scaler, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose rows as initial centers by greedy k-means++.

    x : (n_rows, n_columns) in memory. weights : (n_rows,) or None. Returns row numbers, (n_chosen,) int64, in the order
    in which they were chosen; fewer than n_clusters where no distinct row is left. Each step draws 2 + log k rows with
    a probability in proportion to weight times squared distance, and keeps the one that lowers the sum of squared
    distances most. Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding", section 5.
    """
    scaled = scaler.transform(x)
    x_sq = row_sq(scaled)
    w = np.ones(len(x)) if weights is None else weights
    trials = 2 + int(np.log(n_clusters))
    first = int(np.searchsorted(np.cumsum(w), rng.random() * w.sum(), side="right"))
    chosen = [min(first, len(x) - 1)]
    with blas_threads(1):
        sq = _sq_to(scaled, x_sq, np.array(chosen))[0]
        for _ in range(1, n_clusters):
            mass = np.cumsum(sq * w)
            if mass[-1] <= 0:
                break
            picks = np.searchsorted(mass, rng.random(trials) * mass[-1], side="right")
            picks = np.unique(np.minimum(picks, len(x) - 1))
            picks = picks[(sq * w)[picks] > 0]
            if not picks.size:
                picks = np.array([int(np.argmax(sq * w))])
            trial = np.minimum(_sq_to(scaled, x_sq, picks), sq)  # (trials, rows)
            best = int(np.argmin(np.einsum("tr,r->t", trial, w)))
            sq = trial[best]
            chosen.append(int(picks[best]))
    return np.array(chosen, dtype=np.int64)


def _sq_to(scaled: NDArray[np.float32], x_sq: NDArray[np.float32], picks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute squared distances of all rows to some of them: (n_picks, n_rows) float32; exactly 0 for equal rows.

    scaled : (n_rows, r), x_sq : (n_rows,) their squared norms, picks : (n_picks,) row numbers.
    """
    r = scaled.shape[1]
    out = scaled[picks] @ scaled.T
    out *= -2
    out += x_sq
    out += x_sq[picks, None]
    np.maximum(out, 0, out=out)
    # Where cancellation leaves no digits, differences are taken: a row that equals a center must never be drawn again.
    # (r + 8) roundings of the squares bound the error of a product of r terms; 8 times that is on the safe side.
    noise = np.float32(8 * (r + 8) * ROUNDING) * (x_sq + x_sq[picks, None])
    for t, row in zip(*np.nonzero(out <= noise), strict=True):
        difference = scaled[row] - scaled[picks[t]]
        out[t, row] = difference @ difference
    return out


def fill_up(
    blocks: Blocks, centers: Floats, n_clusters: int, scaler: Scaler, sample_weight: Floats | None
) -> tuple[Floats, bool]:
    """Add the farthest distinct rows to the centers until there are `n_clusters`.

    A sample may hold fewer distinct rows than the data. Each pass adds as many rows as it finds.
    centers : (k, r) float64. Returns (k', r) float64, and whether the data has fewer distinct rows than n_clusters.
    """
    while len(centers) < n_clusters:
        missing = n_clusters - len(centers)
        known = prepare(centers, scaler)

        def farthest_of(
            number: int, x: NDArray[Any], known: Centers = known, missing: int = missing
        ) -> tuple[Floats, Floats]:
            sq = exact_sq(x, known.exact, nearest(x, [known])[0])
            if sample_weight is not None:
                sq = np.where(sample_weight[blocks.row_slice(number)] > 0, sq, 0.0)
            rows = np.flatnonzero(sq > 0)
            distinct, first = np.unique(x[rows], axis=0, return_index=True)
            order = np.argsort(-sq[rows[first]], kind="stable")[:missing]
            return sq[rows[first[order]]], np.asarray(distinct[order], dtype=np.float64)

        of_blocks = [result for _, result in blocks.map(farthest_of)]
        sq = np.concatenate([sq for sq, _ in of_blocks])
        rows = np.concatenate([rows for _, rows in of_blocks])
        if not len(sq):
            return centers, True
        distinct, first = np.unique(rows, axis=0, return_index=True)
        order = np.argsort(-sq[first], kind="stable")[:missing]
        centers = np.concatenate([centers, distinct[order]])
    return centers, False


def parallel(
    x: NDArray[Any],
    keys: Keys,
    weights: Floats | None,
    n_clusters: int,
    scaler: Scaler,
    seed: int,
    runtime: Runtime,
) -> NDArray[np.int64]:
    """Choose rows as initial centers by k-means||.

    x : (n_rows, n_columns) in memory. keys : (n_rows,) uint64. weights : (n_rows,) or None. Returns row numbers,
    (n_chosen,) int64; fewer than n_clusters where there are fewer distinct rows.
    Five rounds draw about 2 k candidates each, in proportion to weight times squared distance. The candidates, weighted
    by the rows nearest to them, are reduced to k by k-means++. Source: Bahmani et al. 2012, "Scalable k-means++",
    algorithm 2.
    """
    blocks = Blocks(ArrayRows(x), runtime)
    w = np.ones(len(x)) if weights is None else weights
    chosen = np.array([int(np.argmin(uniforms(keys, seed, "first")))])
    sq = np.full(len(x), np.inf)
    owner = np.zeros(len(x), np.int64)  # index of the nearest candidate in `chosen`
    n_known = 0  # candidates whose distances are in `sq` already
    for turn in range(ROUNDS + 1):
        new = prepare(np.asarray(x[chosen[n_known:]], dtype=np.float64), scaler)
        _update_nearest(blocks, new, n_known, sq, owner)
        mass = sq * w
        total = mass.sum()
        if turn == ROUNDS or total <= 0:
            break
        drawn = np.flatnonzero(uniforms(keys, seed, f"round{turn}") < _OVERSAMPLING * n_clusters * mass / total)
        n_known = len(chosen)
        chosen = np.concatenate([chosen, drawn])
    candidate_weights = np.bincount(owner, w, minlength=len(chosen)).astype(np.float64)
    rng = np.random.default_rng([seed & (2**63 - 1), 1])
    return chosen[plus_plus(x[chosen], candidate_weights, n_clusters, scaler, rng)]


def _update_nearest(blocks: Blocks, new: Centers, first: int, sq: Floats, owner: NDArray[np.int64]) -> None:
    """Update each row's nearest candidate after `new` ones were added, in one pass.

    first : the index of the first new candidate. sq : (n_rows,) squared distances to the nearest candidate, and owner :
    (n_rows,) its index; both are changed in place.
    """

    def update(number: int, x: NDArray[Any]) -> None:
        part = blocks.row_slice(number)
        labels = nearest(x, [new])[0]
        near = exact_sq(x, new.exact, labels)
        closer = near < sq[part]
        sq[part][closer] = near[closer]
        owner[part][closer] = labels[closer] + first

    if new.count:
        for _ in blocks.map(update):
            pass


def begin_sampled(
    blocks: Blocks,
    scaler: Scaler,
    keys: Keys,
    sample_weight: Floats | None,
    *,
    method: str,
    n_clusters: int,
    seeds: list[int],
) -> tuple[list[Floats], bool]:
    """Choose initial centers as `initial_centers` does, as a `Begin`."""
    return initial_centers(blocks, scaler, method, n_clusters, seeds=seeds, keys=keys, sample_weight=sample_weight)


def initial_centers(
    blocks: Blocks,
    scaler: Scaler,
    method: str,
    n_clusters: int,
    *,
    seeds: list[int],
    keys: Keys,
    sample_weight: Floats | None,
) -> tuple[list[Floats], bool]:
    """Choose one set of initial centers for each seed, all from one sample.

    method : "k-means++" or "k-means||", which read the rows once, or "random", which draws rows by weight.
    keys : (n_rows,) uint64. sample_weight : (n_rows,) or None.
    Returns the sets, each (k, r) float64, and whether the data has fewer distinct rows than n_clusters.
    """

    def filled_up(centers: NDArray[Any]) -> tuple[Floats, bool]:
        return fill_up(blocks, np.asarray(centers, dtype=np.float64), n_clusters, scaler, sample_weight)

    if method == "random":
        drawn = [filled_up(blocks.take(random_rows(keys, sample_weight, n_clusters, seed))) for seed in seeds]
        return [centers for centers, _ in drawn], any(short for _, short in drawn)
    numbers = sample_rows(keys, sample_weight, sample_size(n_clusters, blocks.n_columns), seeds[0])
    x = blocks.take(numbers)
    weights = None if sample_weight is None else sample_weight[numbers]

    def plus_plus_of(seed: int) -> NDArray[np.int64]:
        return plus_plus(x, weights, n_clusters, scaler, np.random.default_rng(seed & (2**63 - 1)))

    if method == "k-means||":
        chosen = [parallel(x, keys[numbers], weights, n_clusters, scaler, seed, blocks.runtime) for seed in seeds]
    else:
        chosen = list(blocks.runtime.map(plus_plus_of, seeds))
    filled = [filled_up(x[rows]) for rows in chosen]
    return [centers for centers, _ in filled], any(short for _, short in filled)
