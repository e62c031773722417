"""The nearest center of every row, and the second nearest: a float32 product with a running minimum, then the proof.

A tile of |c|^2 - 2 x.c (centers x rows, a second-level cache) is all that ever exists of the distance matrix. It lies
center by center, so that one compiled loop down its columns finds the least and how far off the second is. What is too
close to call in float32 is settled exactly, so labels depend on neither tiles nor who multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Centers, error_band, largest_norm, nearest_candidate, widest_band
from bigcluster.kernels.kmeans.sums import Floats, Floats32, Labels, exact_sq, row_sq
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.loops import two_least

TILE_VALUES = 262_144  # of float32: 1 MiB, a second-level cache
_TOGETHER = 128  # centers of several sets, up to which one product serves them: more would narrow the tile


def _tile_rows(n_centers: int) -> int:
    """Rows of a tile, so that it stays in cache; a float32 product is slow below 64 rows."""
    return min(8192, max(64, TILE_VALUES // max(1, n_centers)))


def nearest(x: NDArray[Any], several: Sequence[Centers], norm: float | None = None) -> list[Labels]:
    """The nearest center of every row, for several sets of centers at once (restarts, a sweep).

    x : (n_rows, r) any real dtype, finite. All sets share one scaler. norm : `largest_norm` of the rows in that scaler,
    where it is known. Returns one (n_rows,) int32 per set.
    """
    scaled = several[0].scaler.transform(x)
    nobody = np.full(len(x), -1, np.int32)
    out: list[Labels] = []
    for sets in _together(several):
        search = _Search(scaled, sets, norm)
        labels = np.empty((len(sets), len(x)), np.int32)
        search.fill([(nobody[None], labels)])
        for number, centers in enumerate(sets):
            rows = search.close(0, number)
            labels[number, rows] = _decide(x, scaled, rows, centers, nobody)
        out += list(labels)
    return out


def _together(several: Sequence[Centers]) -> list[list[Centers]]:
    """Neighbours that are multiplied together."""
    groups: list[list[Centers]] = [[]]
    for centers in several:
        if groups[-1] and sum(other.count for other in groups[-1]) + centers.count > _TOGETHER:
            groups.append([])
        groups[-1].append(centers)
    return groups


class _Search:
    """Labels of a block of rows by their float32 scores, and which of them are too close to call."""

    def __init__(self, scaled: Floats32, sets: Sequence[Centers], norm: float | None) -> None:
        self._scaled = scaled
        self._minus2 = np.concatenate([centers.minus2 for centers in sets])
        self._sq = np.concatenate([centers.sq for centers in sets])
        self._ends = np.cumsum([0, *(centers.count for centers in sets)])
        norm = largest_norm(scaled) if norm is None else norm
        self._reach = np.array([2 * widest_band(norm, centers) for centers in sets], np.float32)
        self._close: list[tuple[Labels, NDArray[np.int64]]] = []

    def fill(self, turns: Sequence[tuple[Labels, Labels]]) -> None:
        """turns : of (centers that do not count, labels to fill), both (n_sets or 1, n_rows); one after the other."""
        n, k, n_sets = len(self._scaled), len(self._sq), len(self._reach)
        self._close = [(np.empty((n_sets, n), np.int32), np.zeros(n_sets, np.int64)) for _ in turns]
        rows = max(1, min(n, _tile_rows(k)))
        tile = np.empty(k * rows, np.float32)
        for start in range(0, n, rows):
            near = self._scaled[start : start + rows]
            score = float_product(
                self._minus2, near, transpose_right=True, out=tile[: k * len(near)].reshape(k, len(near))
            )
            for (barred, labels), close in zip(turns, self._close, strict=True):
                two_least(score, self._sq, self._ends, self._reach, start, barred, labels, *close)

    def close(self, turn: int, number: int) -> Labels:
        """The rows of one set that are too close to call."""
        rows, count = self._close[turn]
        return rows[number, : count[number]]


def _decide(x: NDArray[Any], scaled: Floats32, rows: Labels, centers: Centers, barred: Labels) -> Labels:
    """Exact labels of those rows. barred : (n_rows,) of all rows, a center that does not count, or -1."""
    out = np.empty(len(rows), np.int32)
    step = _tile_rows(centers.count)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        near = np.take(scaled, part, axis=0)
        score = float_product(near, centers.minus2, transpose_right=True)
        score += centers.sq
        without = np.flatnonzero(barred[part] >= 0)
        score[without, barred[part[without]]] = np.inf
        best = score.argmin(axis=1)
        lowest = score[np.arange(len(part)), best]
        x_norms = np.sqrt(row_sq(near)) * np.float32(1 + 1e-4)
        band = error_band(x_norms, lowest, centers.norms[best], centers.norms, x.shape[1])
        candidates = score <= (lowest + 2 * band)[:, None]
        several = np.flatnonzero(candidates.sum(axis=1) > 1)
        if several.size:
            chosen = np.take(x, part[several], axis=0)
            best[several] = nearest_candidate(chosen, centers.exact, candidates[several])
        out[start : start + step] = best
    return out


@dataclass(frozen=True)
class TwoNearest:
    """labels, runner_up : (n_rows,) int32. sq, runner_up_sq : (n_rows,) float64 squared distances, exact.

    With one center there is no second: runner_up is -1 and runner_up_sq infinite.
    """

    labels: Labels
    sq: Floats
    runner_up: Labels
    runner_up_sq: Floats


def two_nearest(x: NDArray[Any], centers: Centers) -> TwoNearest:
    """Nearest and second nearest center of every row, with their squared distances."""
    if centers.count == 1:
        labels = np.zeros(len(x), np.int32)
        return TwoNearest(labels, exact_sq(x, centers.exact, labels), labels - 1, np.full(len(x), np.inf))
    scaled = centers.scaler.transform(x)
    nobody = np.full(len(x), -1, np.int32)
    labels, runner_up = np.empty(len(x), np.int32), np.empty(len(x), np.int32)
    search = _Search(scaled, [centers], None)
    search.fill([(nobody[None], labels[None]), (labels[None], runner_up[None])])
    rows = search.close(0, 0)
    labels[rows] = _decide(x, scaled, rows, centers, nobody)
    rows = np.union1d(rows, search.close(1, 0))  # a label that was settled may have been the runner-up
    runner_up[rows] = _decide(x, scaled, rows, centers, labels)
    return TwoNearest(labels, exact_sq(x, centers.exact, labels), runner_up, exact_sq(x, centers.exact, runner_up))
