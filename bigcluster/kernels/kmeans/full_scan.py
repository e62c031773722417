"""Computes exact labels (n,) from all k centers, and distance bounds that let later passes skip centers.

The bounds are one upper bound (n,) of the distance to a row's own center, and one lower bound for each group of other
centers (n, n_groups). Each is the float32 result moved outward by the error bound of its score
(`centers.error_factors`) and by ROUND_UP or ROUND_DOWN for the square root, so it holds for the exact distance.
bounds.py uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import TILE_VALUES
from bigcluster.kernels.kmeans.centers import error_band, error_factors, nearest_candidate, widest_band
from bigcluster.kernels.kmeans.groups import ROUND_UP, GroupedCenters, group_minima
from bigcluster.kernels.kmeans.sums import ROUNDING, Floats32, Labels, row_sq
from bigcluster.kernels.linalg.floats import float_product

ROUND_DOWN = np.float32(1 - 2.0**-21)
"""Factor that makes a float32 result a lower bound, as ROUND_UP makes it an upper one."""
_MOST_TILE_ROWS, _LEAST_TILE_ROWS = 2048, 64
"""Rows of a tile of scores: more rows gain nothing, and a float32 product is slow below 64 rows."""


@dataclass
class Bounds:
    """Labels of n rows and bounds of their distances: Euclidean (not squared), in scaled units.

    labels : (n,) int32. upper : (n,) float32, at least the distance to the center of the label. lower : (n, n_groups)
    float32, at most the distance to every other center of the group. x_sq : (n,) float32, squared norms of the rows.
    """

    labels: Labels
    upper: Floats32
    lower: Floats32
    x_sq: Floats32


def upper_bound(sq: Floats32) -> Floats32:
    """Bound distances from above by upper bounds of their squares, any shape, float32."""
    return np.sqrt(np.maximum(sq, 0)) * ROUND_UP


def lower_bound(sq: Floats32) -> Floats32:
    """Bound distances from below by lower bounds of their squares, any shape, float32."""
    return np.sqrt(np.maximum(sq, 0)) * ROUND_DOWN


def scan_all(x: NDArray[Any], scaled: Floats32, grouped: GroupedCenters) -> Bounds:
    """Compute exact labels and new bounds from all centers.

    x : (n, r) rows of any real dtype. scaled : (n, r) float32, the same rows in scaled units.
    """
    bounds = empty_bounds(scaled, grouped)
    scan_rows(x, scaled, None, bounds, grouped)
    return bounds


def empty_bounds(scaled: Floats32, grouped: GroupedCenters) -> Bounds:
    """Allocate bounds for the rows of `scaled`, (n, r) float32; only `x_sq` is set."""
    n = len(scaled)
    lower = np.empty((n, grouped.groups.count), np.float32)
    return Bounds(np.empty(n, np.int32), np.empty(n, np.float32), lower, row_sq(scaled))


def scan_rows(
    x: NDArray[Any], scaled: Floats32, rows: NDArray[np.int64] | None, bounds: Bounds, grouped: GroupedCenters
) -> None:
    """Update the labels and bounds of `rows`, (n_selected,) int64 or None for all, from all centers.

    x, scaled : all n rows, as in `scan_all`. `bounds` is changed in place. Only the scores are computed tile by tile;
    the rest runs for all rows in few calls, because threads wait for the interpreter lock between calls.
    """
    every = np.arange(len(scaled)) if rows is None else rows
    if not every.size:
        return
    centers, n_columns = grouped.centers, scaled.shape[1]
    slack = np.float32(2 * n_columns * ROUNDING)
    alpha, beta = error_factors(n_columns)
    x_sq = bounds.x_sq if rows is None else bounds.x_sq[rows]
    norm = np.sqrt(x_sq.max()) * np.float32(1 + 1e-4)
    place, value, minima = _scores(scaled, rows, grouped)
    labels = grouped.numbers[place]
    gap = row_minima(minima) - value
    close = np.flatnonzero(gap <= 2 * widest_band(float(norm), centers))
    if close.size:
        x_norms = np.sqrt(x_sq[close]) * np.float32(1 + 1e-4)
        band = error_band(x_norms, value[close], centers.norms[labels[close]], centers.norms, n_columns)
        inside = gap[close] <= 2 * band
        close, band = close[inside], band[inside]
    step = tile_rows(grouped)
    for start in range(0, len(close), step):
        some, reach = close[start : start + step], 2 * band[start : start + step]
        labels[some], value[some], minima[some] = _decide_close(x, scaled, every[some], reach, grouped)
    own = centers.norms[labels]
    upper = upper_bound(x_sq * (1 + slack) + value + own * (alpha * norm + beta * own))
    minima -= grouped.norms * (alpha * norm + beta * grouped.norms)
    minima += (x_sq * (1 - slack))[:, None]
    target = slice(None) if rows is None else rows
    bounds.labels[target], bounds.upper[target], bounds.lower[target] = labels, upper, lower_bound(minima)


def _scores(
    scaled: Floats32, rows: NDArray[np.int64] | None, grouped: GroupedCenters
) -> tuple[NDArray[np.int64], Floats32, Floats32]:
    """Compute the least score of each row and of each group.

    Returns the index in `grouped.flat` of the least score (n,) int64, that score (n,) float32, and the least score of
    each group without it (n, n_groups) float32.
    """
    n = len(scaled) if rows is None else len(rows)
    step, width = min(n, tile_rows(grouped)), grouped.flat.shape[1]
    place, value = np.empty(n, np.int64), np.empty(n, np.float32)
    minima = np.empty((n, grouped.groups.count), np.float32)
    tile = np.empty((step, width), np.float32)
    gathered = np.empty((0 if rows is None else step, scaled.shape[1]), np.float32)
    first = np.arange(0, step * width, width)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        size = part.stop - start
        if rows is None:
            near = scaled[part]
        else:
            # gathered tile by tile, so that the copies stay in cache; mode "clip" makes take write without a buffer
            near = np.take(scaled, rows[part], axis=0, out=gathered[:size], mode="clip")
        score = float_product(near, grouped.flat, out=tile[:size])  # (rows, width * n_groups)
        score += grouped.flat_sq
        flat = score.ravel()
        score.argmin(axis=1, out=place[part])
        best = first[:size] + place[part]
        np.take(flat, best, out=value[part], mode="clip")
        flat[best] = np.inf
        minima[part] = group_minima(score, grouped.groups.count)
    return place, value, minima


def _decide_close(
    x: NDArray[Any], scaled: Floats32, rows: NDArray[np.int64], reach: Floats32, grouped: GroupedCenters
) -> tuple[Labels, Floats32, Floats32]:
    """Decide the labels of a tile of rows by exact distances.

    reach : (len(rows),) float32, by how much the score of the nearest center may exceed the least score.
    Returns labels (len(rows),), upper bounds of their scores (len(rows),), and the least score of each group without
    the labelled centers (len(rows), n_groups).
    """
    groups = grouped.groups
    score = float_product(np.take(scaled, rows, axis=0), grouped.flat)
    score += grouped.flat_sq
    limit = score.min(axis=1) + reach
    within = np.zeros((len(rows), grouped.centers.count), bool)
    real = grouped.numbers >= 0
    within[:, grouped.numbers[real]] = (score <= limit[:, None])[:, real]
    labels = nearest_candidate(np.take(x, rows, axis=0), grouped.centers.exact, within)
    score[np.arange(len(rows)), groups.slot[labels] * groups.count + groups.group[labels]] = np.inf
    return labels, limit, group_minima(score, groups.count)


def row_minima(bounds: Floats32) -> Floats32:
    """Take the least value of each row by folding: (n, n_groups) -> (n,); n_groups is a power of two."""
    return group_minima(bounds, 1)[:, 0]


def tile_rows(grouped: GroupedCenters) -> int:
    """Choose the rows of a tile of scores over all centers, so that the tile stays in cache."""
    return min(_MOST_TILE_ROWS, max(_LEAST_TILE_ROWS, TILE_VALUES // grouped.sq.size))
