"""Which centers a row need not look at: distance bounds kept from one pass to the next (Lloyd with proofs of absence).

Per row: an upper bound of the distance to its own center and, for each group of centers, a lower bound of the distance
to every other center in it. When centers move, bounds give way by as much; a group whose lower bound is still above the
upper one cannot hold the nearest center. Source: Ding et al. 2015, "Yinyang k-means", section 3; with one group it is
Hamerly 2010. Where many groups are in need, the leading columns alone give a fresh lower bound at a quarter of the
cost: |x - c|^2 >= |x' - c'|^2 + (|x''| - |c''|)^2, x' leading, x'' the rest. What is left is done as float32 products
over gathered rows. Bounds carry every rounding, and rows inside the error band are settled exactly, so the labels are
those of `assign.nearest`, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.assign import TILE_VALUES
from bigcluster.kernels.centers import error_band, error_factors, settle, widest_band
from bigcluster.kernels.groups import UP, GroupedCenters, group_minima
from bigcluster.kernels.kmeans import ROUNDING, Floats32, Labels, row_sq
from bigcluster.kernels.product import multiply

_FULL_SHARE = 0.6  # of (row, group) pairs in need, above which one product over all centers is cheaper
_HEAD_SHARE = 0.35  # of pairs in need, above which the leading columns are asked first
_HEAD_GROUPS, _FIRST_GROUPS = 16, 32  # groups, below which looking at all centers costs no more
_NARROW = 32  # centers in a group, up to which a product of its own costs as much as one over all centers
_ALL_SHARE = 0.9  # of rows in need, above which gathering them costs more than looking at the others, too
_DOWN = np.float32(1 - 2.0**-21)


@dataclass
class Bounds:
    """labels : (n,) int32. upper : (n,) float32. lower : (n, n_groups) float32. Distances, not squared, frame units.

    x_sq : (n,) float32, squared norms of the rows.
    """

    labels: Labels
    upper: Floats32
    lower: Floats32
    x_sq: Floats32


def _upper(sq: Floats32) -> Floats32:
    return np.sqrt(np.maximum(sq, 0)) * UP


def _lower(sq: Floats32) -> Floats32:
    return np.sqrt(np.maximum(sq, 0)) * _DOWN


def look_at_all(x: NDArray[Any], small: Floats32, grouped: GroupedCenters) -> Bounds:
    """Exact labels and fresh bounds from every center. x : (n, r); small : the same in the frame."""
    bounds = _empty_bounds(small, grouped)
    _look_at_rows(x, small, None, bounds, grouped)
    return bounds


def _empty_bounds(small: Floats32, grouped: GroupedCenters) -> Bounds:
    n = len(small)
    lower = np.empty((n, grouped.groups.count), np.float32)
    return Bounds(np.empty(n, np.int32), np.empty(n, np.float32), lower, row_sq(small))


def _look_at_rows(
    x: NDArray[Any], small: Floats32, rows: NDArray[np.int64] | None, bounds: Bounds, grouped: GroupedCenters
) -> None:
    """Bring labels and bounds of those rows (None: all) up to date from every center.

    Tiles are left to what needs their scores; the rest is done for all rows at once, in few calls, because threads get
    in each other's way between calls.
    """
    every = np.arange(len(small)) if rows is None else rows
    if not every.size:
        return
    centers, n_columns = grouped.centers, small.shape[1]
    slack = np.float32(2 * n_columns * ROUNDING)
    alpha, beta = error_factors(n_columns)
    x_sq = bounds.x_sq if rows is None else bounds.x_sq[rows]
    norm = np.sqrt(x_sq.max()) * np.float32(1 + 1e-4)
    place, value, minima = _scores(small, rows, grouped)
    labels = grouped.numbers[place]
    gap = _least(minima) - value
    close = np.flatnonzero(gap <= 2 * widest_band(float(norm), centers))
    if close.size:
        x_norms = np.sqrt(x_sq[close]) * np.float32(1 + 1e-4)
        band = error_band(x_norms, value[close], centers.norms[labels[close]], centers.norms, n_columns)
        inside = gap[close] <= 2 * band
        close, band = close[inside], band[inside]
    step = _tile_rows(grouped)
    for start in range(0, len(close), step):
        some, reach = close[start : start + step], 2 * band[start : start + step]
        labels[some], value[some], minima[some] = _settle_close(x, small, every[some], reach, grouped)
    own = centers.norms[labels]
    upper = _upper(x_sq * (1 + slack) + value + own * (alpha * norm + beta * own))
    minima -= grouped.norms * (alpha * norm + beta * grouped.norms)
    minima += (x_sq * (1 - slack))[:, None]
    target = slice(None) if rows is None else rows
    bounds.labels[target], bounds.upper[target], bounds.lower[target] = labels, upper, _lower(minima)


def _scores(
    small: Floats32, rows: NDArray[np.int64] | None, grouped: GroupedCenters
) -> tuple[NDArray[np.int64], Floats32, Floats32]:
    """Best place and score (n,) of each row, and the best of each group (n, n_groups) without that one."""
    n = len(small) if rows is None else len(rows)
    step, width = min(n, _tile_rows(grouped)), grouped.flat.shape[1]
    place, value = np.empty(n, np.int64), np.empty(n, np.float32)
    minima = np.empty((n, grouped.groups.count), np.float32)
    tile = np.empty((step, width), np.float32)
    gathered = np.empty((0 if rows is None else step, small.shape[1]), np.float32)
    first = np.arange(0, step * width, width)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        size = part.stop - start
        if rows is None:
            near = small[part]
        else:
            # tile by tile, so that the copies stay in cache; "clip" lets take write without a copy of its own
            near = np.take(small, rows[part], axis=0, out=gathered[:size], mode="clip")
        score = multiply(near, grouped.flat, tile[:size])  # (rows, width * n_groups)
        score += grouped.flat_sq
        flat = score.ravel()
        score.argmin(axis=1, out=place[part])
        best = first[:size] + place[part]
        np.take(flat, best, out=value[part], mode="clip")
        flat[best] = np.inf
        minima[part] = group_minima(score, grouped.groups.count)
    return place, value, minima


def _settle_close(
    x: NDArray[Any], small: Floats32, rows: NDArray[np.int64], reach: Floats32, grouped: GroupedCenters
) -> tuple[Labels, Floats32, Floats32]:
    """Exact labels of a tile of rows too close to call, most that their scores can be, and minima without them.

    reach : (len(rows),) how far above the best score the nearest center's can be.
    """
    groups = grouped.groups
    score = multiply(np.take(small, rows, axis=0), grouped.flat)
    score += grouped.flat_sq
    limit = score.min(axis=1) + reach
    within = np.zeros((len(rows), grouped.centers.count), bool)
    real = grouped.numbers >= 0
    within[:, grouped.numbers[real]] = (score <= limit[:, None])[:, real]
    labels = settle(np.take(x, rows, axis=0), grouped.centers.exact, within)
    score[np.arange(len(rows)), groups.slot[labels] * groups.count + groups.group[labels]] = np.inf
    return labels, limit, group_minima(score, groups.count)


def _least(bounds: Floats32) -> Floats32:
    """(n, n_groups) -> (n,): the least of each row, by folding; n_groups is a power of two."""
    return group_minima(bounds, 1)[:, 0]


def look_first(x: NDArray[Any], small: Floats32, grouped: GroupedCenters) -> Bounds:
    """As `look_at_all`, by way of the leading columns: the nearest there is a guess that the groups must then beat."""
    if grouped.groups.count < _FIRST_GROUPS:
        return look_at_all(x, small, grouped)
    bounds = _empty_bounds(small, grouped)
    rows = np.arange(len(x))
    _look_at_heads(small, None, bounds.labels, bounds.lower, grouped)
    at_least, bounds.upper = _tighten(small, bounds.x_sq, bounds.labels, grouped)
    _look_where_needed(x, small, rows, at_least, bounds, grouped)
    return bounds


def _tile_rows(grouped: GroupedCenters) -> int:
    return min(2048, max(64, TILE_VALUES // grouped.sq.size))


def _look_at_heads(
    small: Floats32, own: Labels | None, guess: Labels | None, lower: Floats32, grouped: GroupedCenters
) -> None:
    """Lower bounds per group from the leading columns, own center left out. lower : (n, n_groups), raised in place.

    own : (n,) labels, or None: then the center of least bound is taken as the label and written to `guess`.
    """
    groups = grouped.groups
    n, r = small.shape
    n_head = len(grouped.head) - 1
    alpha, beta = error_factors(r)
    norms = np.float32(1.1) * grouped.norms
    step = _tile_rows(grouped)
    tile = np.empty((min(n, step), grouped.head.shape[1]), np.float32)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        rows = small[part]
        x_sq = row_sq(rows)
        rest = np.sqrt(row_sq(rows[:, n_head:])) * np.float32(1 + r * ROUNDING)
        score = multiply(np.hstack([rows[:, :n_head], rest[:, None]]), grouped.head, tile[: len(rows)])
        score += grouped.flat_sq
        every = np.arange(len(rows))
        if own is None:
            place = score.argmin(axis=1)
            assert guess is not None
            guess[part] = grouped.numbers[place]
        else:
            place = groups.slot[own[part]] * groups.count + groups.group[own[part]]
        score[every, place] = np.inf
        band = alpha * np.sqrt(x_sq)[:, None] * norms + beta * norms**2
        sq = (x_sq * np.float32(1 - 2 * r * ROUNDING))[:, None] + group_minima(score, groups.count) - band
        fresh = _lower(sq)
        lower[part] = fresh if own is None else np.maximum(lower[part], fresh)


def relax(bounds: Bounds, grouped: GroupedCenters) -> None:
    """Centers have moved: upper bounds rise, lower bounds fall, each by the longest way it could be."""
    bounds.upper += grouped.moved[bounds.labels]
    bounds.upper *= UP
    bounds.lower *= _DOWN
    bounds.lower -= grouped.group_moved
    np.maximum(bounds.lower, 0, out=bounds.lower)


def _tighten(small: Floats32, x_sq: Floats32, labels: Labels, grouped: GroupedCenters) -> tuple[Floats32, Floats32]:
    """Distance to the own center from float32 differences: (at least, at most), each (n,)."""
    n, r = small.shape
    sq = np.empty(n, np.float32)
    rows = max(1, 65_536 // r)
    for start in range(0, n, rows):
        stop = start + rows
        difference = np.take(grouped.centers.small, labels[start:stop], axis=0)
        difference -= small[start:stop]
        sq[start:stop] = row_sq(difference)
    distance: Floats32 = np.sqrt(sq)
    # each coordinate of x and c is off by one rounding of its own size, the sum by r roundings of the squares
    slack: Floats32 = (
        np.float32(1.1 * ROUNDING) * (np.sqrt(x_sq) + grouped.centers.norms[labels])
        + np.float32((r + 8) * ROUNDING) * distance
    )
    return np.maximum(distance - slack, 0), distance + slack


def look_again(x: NDArray[Any], small: Floats32, bounds: Bounds, grouped: GroupedCenters) -> None:
    """Bring bounds and labels up to date after the centers moved: exact labels, fewer products.

    x, small as in `look_at_all`. `bounds` is changed in place.
    """
    relax(bounds, grouped)
    least = _least(bounds.lower)
    rows = np.flatnonzero(least <= bounds.upper)
    if not rows.size:
        return
    if len(rows) > _ALL_SHARE * len(x):
        _look_at_rows(x, small, None, bounds, grouped)
        return
    if grouped.groups.width <= _NARROW:
        step = 2 * _tile_rows(grouped)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            near = np.take(small, part, axis=0)
            _, bounds.upper[part] = _tighten(near, bounds.x_sq[part], bounds.labels[part], grouped)
        _look_at_rows(x, small, rows[least[rows] <= bounds.upper[rows]], bounds, grouped)
        return
    at_least, at_most = _tighten(np.take(small, rows, axis=0), bounds.x_sq[rows], bounds.labels[rows], grouped)
    bounds.upper[rows] = at_most
    need = np.take(bounds.lower, rows, axis=0) <= at_most[:, None]  # (rows, n_groups)
    if grouped.groups.count >= _HEAD_GROUPS and need.mean() > _HEAD_SHARE:
        some = np.flatnonzero(need.any(axis=1))
        _raise_by_heads(small, rows[some], bounds, grouped)
    _look_where_needed(x, small, rows, at_least, bounds, grouped)


def _raise_by_heads(small: Floats32, rows: NDArray[np.int64], bounds: Bounds, grouped: GroupedCenters) -> None:
    """Raise the lower bounds of `rows` by the leading columns, unless a first tile shows that it does not pay."""
    first = _tile_rows(grouped)
    for part in (rows[:first], rows[first:]):
        lower = bounds.lower[part]
        _look_at_heads(np.take(small, part, axis=0), bounds.labels[part], None, lower, grouped)
        bounds.lower[part] = lower
        if not part.size or (lower <= bounds.upper[part, None]).mean() > _FULL_SHARE:
            break


def _look_where_needed(
    x: NDArray[Any],
    small: Floats32,
    rows: NDArray[np.int64],
    at_least: Floats32,
    bounds: Bounds,
    grouped: GroupedCenters,
) -> None:
    """Make labels and bounds of `rows` exact. at_least : (len(rows),) lower bound of the distance to the own center."""
    need = np.take(bounds.lower, rows, axis=0) <= bounds.upper[rows, None]  # (rows, n_groups)
    some = np.flatnonzero(need.any(axis=1))
    if not some.size:
        return
    rows, need, at_least = rows[some], need[some], at_least[some]
    if need.mean() <= _FULL_SHARE:
        near = np.take(small, rows, axis=0)
        rows = rows[_look_at_groups(near, rows, at_least, bounds.upper[rows], bounds, grouped)]
    if rows.size:
        _look_at_rows(x, small, rows, bounds, grouped)


def _look_at_groups(
    small: Floats32,
    rows: NDArray[np.int64],
    at_least: Floats32,
    at_most: Floats32,
    bounds: Bounds,
    grouped: GroupedCenters,
) -> NDArray[np.int64]:
    """Look only at the groups in need. Returns which rows are too close to call, for `look_at_all`."""
    groups, norms = grouped.groups, grouped.norms
    n_columns = small.shape[1]
    slack = np.float32(2 * n_columns * ROUNDING)
    alpha, beta = error_factors(n_columns)
    x_sq = bounds.x_sq[rows]
    x_norms = np.sqrt(x_sq) * np.float32(1 + 1e-4)
    labels = bounds.labels[rows]
    lower = np.take(bounds.lower, rows, axis=0)
    unclear = np.zeros(len(rows), bool)
    for number in range(groups.count):
        who = np.flatnonzero(lower[:, number] <= at_most)
        if not who.size:
            continue
        score = multiply(np.take(small, who, axis=0), grouped.minus2[number])  # (rows in need, width)
        score += grouped.sq[number]
        own = np.flatnonzero(groups.group[labels[who]] == number)
        score[own, groups.slot[labels[who[own]]]] = np.inf
        place = score.argmin(axis=1)
        value = score[np.arange(len(who)), place] + x_sq[who]
        band = alpha * x_norms[who] * norms[number] + beta * norms[number] ** 2 + slack * x_sq[who]
        near, far = _lower(value - band), _upper(value + band)
        lower[who, number] = near
        # no order of the two intervals: too close to call in float32
        unclear[who[(near <= at_most[who]) & (far >= at_least[who])]] = True
        won = np.flatnonzero(far < at_least[who])
        if won.size:
            winner = who[won]
            score[won, place[won]] = np.inf
            rest = _lower(score[won].min(axis=1) + x_sq[winner] - band[won])
            unclear[winner[rest <= far[won]]] = True  # another of the same group is as near
            lower[winner, number] = rest
            left = groups.group[labels[winner]]
            lower[winner, left] = np.minimum(lower[winner, left], at_least[winner])
            labels[winner] = groups.slots[number, place[won]]
            at_least[winner], at_most[winner] = near[won], far[won]
    bounds.labels[rows] = labels
    bounds.upper[rows] = at_most
    bounds.lower[rows] = lower
    return np.flatnonzero(unclear)
