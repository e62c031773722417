"""Computes the nearest center, and the second nearest, of every row (n_rows, r) among k centers: exact int32 labels.

Scores |c|^2 - 2 x.c are computed in float32, one tile (k, tile_rows) at a time that fits a second-level cache; the
whole distance matrix never exists. A compiled loop down the columns of the tile finds the least score and whether the
second is within twice the error bound (`centers.widest_band`). Such rows are decided by exact distances, so labels
depend on neither the tiles nor the library that multiplied.
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

TILE_VALUES = 262_144
"""float32 values of a tile of scores: 1 MiB, a second-level cache."""
_TOGETHER = 128
"""Centers of several sets that one product serves; more would make the tile narrower than a product wants."""


def _tile_rows(n_centers: int) -> int:
    """Choose the rows of a tile so that it stays in cache; a float32 product is slow below 64 rows."""
    return min(8192, max(64, TILE_VALUES // max(1, n_centers)))


def nearest(x: NDArray[Any], several: Sequence[Centers], norm: float | None = None) -> list[Labels]:
    """Find the nearest center of every row, for several sets of centers at once (restarts, or the k of a sweep).

    x : (n_rows, r) any real dtype, finite. several : sets of centers that share one scaler. norm : `largest_norm` of
    the scaled rows, where the caller knows it. Returns one (n_rows,) int32 array of labels for each set.
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
    """Group neighbouring sets of centers that share one product."""
    groups: list[list[Centers]] = [[]]
    for centers in several:
        if groups[-1] and sum(other.count for other in groups[-1]) + centers.count > _TOGETHER:
            groups.append([])
        groups[-1].append(centers)
    return groups


class _Search:
    """Finds the labels of a block of rows by float32 scores, and the rows whose scores decide nothing."""

    def __init__(self, scaled: Floats32, sets: Sequence[Centers], norm: float | None) -> None:
        self._scaled = scaled
        self._minus2 = np.concatenate([centers.minus2 for centers in sets])
        self._sq = np.concatenate([centers.sq for centers in sets])
        self._ends = np.cumsum([0, *(centers.count for centers in sets)])
        norm = largest_norm(scaled) if norm is None else norm
        self._reach = np.array([2 * widest_band(norm, centers) for centers in sets], np.float32)
        self._close: list[tuple[Labels, NDArray[np.int64]]] = []

    def fill(self, turns: Sequence[tuple[Labels, Labels]]) -> None:
        """Fill labels, one turn after the other.

        turns : pairs of (center of each row that does not count, or -1; labels to fill), both (n_sets or 1, n_rows)
        int32. A later turn sees the labels that an earlier one filled.
        """
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
        """The (n_close,) int32 rows of one set whose best two scores are within twice the error bound."""
        rows, count = self._close[turn]
        return rows[number, : count[number]]


def _decide(x: NDArray[Any], scaled: Floats32, rows: Labels, centers: Centers, barred: Labels) -> Labels:
    """Decide the labels of `rows` exactly: (len(rows),) int32.

    barred : (n_rows,) int32, for each row of the block a center that does not count, or -1.
    """
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
    """The nearest and the second nearest center of every row.

    labels, runner_up : (n_rows,) int32. sq, runner_up_sq : (n_rows,) float64, squared distances as of `exact_sq`, in
    the units of the rows. With a single center, runner_up is -1 and runner_up_sq is infinite.
    """

    labels: Labels
    sq: Floats
    runner_up: Labels
    runner_up_sq: Floats


def two_nearest(x: NDArray[Any], centers: Centers) -> TwoNearest:
    """Find the nearest and the second nearest center of every row. x : (n_rows, r) any real dtype, finite."""
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
    rows = np.union1d(rows, search.close(1, 0))  # a label that was decided exactly may have been the runner-up
    runner_up[rows] = _decide(x, scaled, rows, centers, labels)
    return TwoNearest(labels, exact_sq(x, centers.exact, labels), runner_up, exact_sq(x, centers.exact, runner_up))
