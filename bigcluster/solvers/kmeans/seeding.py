"""Initial centers: k-means++ on a sample for small k, k-means|| for large.

Randomness is a hash of (seed, purpose, row key): a row's luck does not depend on where it is stored or who reads it.
"""

from __future__ import annotations

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

PARALLEL_FROM = 256  # clusters: k-means|| from here on; k-means++ walks the sample once per cluster
ROUNDS = 5
SAMPLE_MIN, SAMPLE_BYTES = 16_384, 128 * 1024**2


def uniforms(keys: Keys, seed: int, purpose: str) -> Floats:
    """(n,) float64 in (0, 1), one per key: splitmix64 (Steele, Lea and Flood 2014) of key, seed and purpose."""
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
    """Numbers of `size` rows of positive weight (or all there are), drawn without regard to weight, in hash order."""
    luck = uniforms(keys, seed, "sample")
    able = np.arange(len(keys)) if sample_weight is None else np.flatnonzero(sample_weight > 0)
    if len(able) > size:
        able = able[np.argpartition(luck[able], size - 1)[:size]]
    return able[np.lexsort((able, luck[able]))].astype(np.int64)


def random_rows(keys: Keys, sample_weight: Floats | None, size: int, seed: int) -> NDArray[np.int64]:
    """Numbers of `size` rows (or all of positive weight), drawn by weight without putting back.

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", algorithm A-ES.
    """
    race = -np.log(uniforms(keys, seed, "random"))
    able = np.arange(len(keys))
    if sample_weight is not None:
        able = np.flatnonzero(sample_weight > 0)
        race[able] /= sample_weight[able]
    if len(able) > size:
        able = able[np.argpartition(race[able], size - 1)[:size]]
    return able[np.lexsort((able, race[able]))].astype(np.int64)


def sample_size(n_clusters: int, n_columns: int) -> int:
    """Rows to seed from: 64 per cluster, fewer (never below 8) where they would pass 128 MiB of float32."""
    affordable = SAMPLE_BYTES // (4 * n_columns)
    return max(SAMPLE_MIN, min(64 * n_clusters, max(8 * n_clusters, affordable)))


def plus_plus(
    x: NDArray[Any], weights: Floats | None, n_clusters: int, scaler: Scaler, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedy k-means++: numbers of the rows chosen, in order; fewer than asked where no distinct row is left.

    x : (n_rows, n_columns) in memory. weights : (n_rows,) or None. Each step draws 2 + log k rows by weighted squared
    distance and keeps the one that lowers the sum most. Source: Arthur and Vassilvitskii 2007, section 5.
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
    """(n_picks, n_rows) squared distances, float32; exactly 0 for rows equal to the pick."""
    r = scaled.shape[1]
    out = scaled[picks] @ scaled.T
    out *= -2
    out += x_sq
    out += x_sq[picks, None]
    np.maximum(out, 0, out=out)
    # Where cancellation ate the digits, from differences: a row equal to a center must have no chance left.
    noise = np.float32(8 * (r + 8) * ROUNDING) * (x_sq + x_sq[picks, None])
    for t, row in zip(*np.nonzero(out <= noise), strict=True):
        difference = scaled[row] - scaled[picks[t]]
        out[t, row] = difference @ difference
    return out


def fill_up(
    blocks: Blocks, centers: Floats, n_clusters: int, scaler: Scaler, sample_weight: Floats | None
) -> tuple[Floats, bool]:
    """Add farthest distinct rows until there are enough. Returns the centers and whether rows ran out.

    A sample can hold fewer distinct rows than the data. Each pass adds all that it can: (k, r) float64.
    """
    while len(centers) < n_clusters:
        missing = n_clusters - len(centers)
        known = prepare(centers, scaler)

        def far(number: int, x: NDArray[Any], known: Centers = known, missing: int = missing) -> tuple[Floats, Floats]:
            sq = exact_sq(x, known.exact, nearest(x, [known])[0])
            if sample_weight is not None:
                sq = np.where(sample_weight[blocks.row_slice(number)] > 0, sq, 0.0)
            rows = np.flatnonzero(sq > 0)
            distinct, first = np.unique(x[rows], axis=0, return_index=True)
            order = np.argsort(-sq[rows[first]], kind="stable")[:missing]
            return sq[rows[first[order]]], np.asarray(distinct[order], dtype=np.float64)

        found = [result for _, result in blocks.map(far)]
        sq = np.concatenate([part[0] for part in found])
        rows = np.concatenate([part[1] for part in found])
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
    """k-means||: numbers of the rows chosen, fewer than asked where distinct rows run out.

    x : (n_rows, n_columns) in memory. keys, weights : (n_rows,). Five rounds draw about 2 k rows each by squared
    distance; the candidates, weighted by the rows nearest to them, are reclustered by k-means++.
    Source: Bahmani et al. 2012, algorithm 2.
    """
    blocks = Blocks(ArrayRows(x), runtime)
    w = np.ones(len(x)) if weights is None else weights
    chosen = np.array([int(np.argmin(uniforms(keys, seed, "first")))])
    sq = np.full(len(x), np.inf)
    owner = np.zeros(len(x), np.int64)  # place of the nearest candidate in `chosen`
    fresh = 0
    for turn in range(ROUNDS + 1):
        _come_closer(blocks, prepare(np.asarray(x[chosen[fresh:]], dtype=np.float64), scaler), fresh, sq, owner)
        mass = sq * w
        total = mass.sum()
        if turn == ROUNDS or total <= 0:
            break
        draw = np.flatnonzero(uniforms(keys, seed, f"round{turn}") < 2 * n_clusters * mass / total)
        fresh = len(chosen)
        chosen = np.concatenate([chosen, draw])
    crowd = np.bincount(owner, w, minlength=len(chosen)).astype(np.float64)
    rng = np.random.default_rng([seed & (2**63 - 1), 1])
    return chosen[plus_plus(x[chosen], crowd, n_clusters, scaler, rng)]


def _come_closer(blocks: Blocks, fresh: Centers, offset: int, sq: Floats, owner: NDArray[np.int64]) -> None:
    """Lower sq and owner where a fresh candidate is nearer: one pass. Both are changed in place."""

    def look(number: int, x: NDArray[Any]) -> None:
        part = blocks.row_slice(number)
        labels = nearest(x, [fresh])[0]
        near = exact_sq(x, fresh.exact, labels)
        closer = near < sq[part]
        sq[part][closer] = near[closer]
        owner[part][closer] = labels[closer] + offset

    if fresh.count:
        for _ in blocks.map(look):
            pass


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
    """One set of centers per seed, from one sample that all share, and whether distinct rows ran out.

    method : "k-means++" or "k-means||", which read the rows once, or "random", rows drawn by weight.
    """

    def enough(centers: NDArray[Any]) -> tuple[Floats, bool]:
        return fill_up(blocks, np.asarray(centers, dtype=np.float64), n_clusters, scaler, sample_weight)

    if method == "random":
        drawn = [enough(blocks.take(random_rows(keys, sample_weight, n_clusters, seed))) for seed in seeds]
        return [centers for centers, _ in drawn], any(short for _, short in drawn)
    numbers = sample_rows(keys, sample_weight, sample_size(n_clusters, blocks.n_columns), seeds[0])
    x = blocks.take(numbers)
    weights = None if sample_weight is None else sample_weight[numbers]

    def walk(seed: int) -> NDArray[np.int64]:
        return plus_plus(x, weights, n_clusters, scaler, np.random.default_rng(seed & (2**63 - 1)))

    if method == "k-means||":
        chosen = [parallel(x, keys[numbers], weights, n_clusters, scaler, seed, blocks.runtime) for seed in seeds]
    else:
        chosen = list(blocks.runtime.map(walk, seeds))
    filled = [enough(x[rows]) for rows in chosen]
    return [centers for centers, _ in filled], any(short for _, short in filled)
