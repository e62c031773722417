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

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.all_centers import (
    DOWN,
    Bounds,
    empty_bounds,
    least_of,
    look_at_all,
    look_at_rows,
    lower_of,
    tile_rows,
    upper_of,
)
from bigcluster.kernels.kmeans.centers import error_factors
from bigcluster.kernels.kmeans.groups import UP, GroupedCenters, group_minima
from bigcluster.kernels.kmeans.product import multiply
from bigcluster.kernels.kmeans.sums import ROUNDING, Floats32, Labels, row_sq

_FULL_SHARE = 0.6  # of (row, group) pairs in need, above which one product over all centers is cheaper
_HEAD_SHARE = 0.35  # of pairs in need, above which the leading columns are asked first
_HEAD_GROUPS, _FIRST_GROUPS = 16, 32  # groups, below which looking at all centers costs no more
_NARROW = 32  # centers in a group, up to which a product of its own costs as much as one over all centers
_ALL_SHARE = 0.9  # of rows in need, above which gathering them costs more than looking at the others, too


def look_first(x: NDArray[Any], small: Floats32, grouped: GroupedCenters) -> Bounds:
    """As `look_at_all`, by way of the leading columns: the nearest there is a guess that the groups must then beat."""
    if grouped.groups.count < _FIRST_GROUPS:
        return look_at_all(x, small, grouped)
    bounds = empty_bounds(small, grouped)
    rows = np.arange(len(x))
    _look_at_heads(small, None, bounds.labels, bounds.lower, grouped)
    at_least, bounds.upper = _tighten(small, bounds.x_sq, bounds.labels, grouped)
    _look_where_needed(x, small, rows, at_least, bounds, grouped)
    return bounds


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
    step = tile_rows(grouped)
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
        fresh = lower_of(sq)
        lower[part] = fresh if own is None else np.maximum(lower[part], fresh)


def relax(bounds: Bounds, grouped: GroupedCenters) -> None:
    """Centers have moved: upper bounds rise, lower bounds fall, each by the longest way it could be."""
    bounds.upper += grouped.moved[bounds.labels]
    bounds.upper *= UP
    bounds.lower *= DOWN
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
    least = least_of(bounds.lower)
    rows = np.flatnonzero(least <= bounds.upper)
    if not rows.size:
        return
    if len(rows) > _ALL_SHARE * len(x):
        look_at_rows(x, small, None, bounds, grouped)
        return
    if grouped.groups.width <= _NARROW:
        step = 2 * tile_rows(grouped)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            near = np.take(small, part, axis=0)
            _, bounds.upper[part] = _tighten(near, bounds.x_sq[part], bounds.labels[part], grouped)
        look_at_rows(x, small, rows[least[rows] <= bounds.upper[rows]], bounds, grouped)
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
    first = tile_rows(grouped)
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
        look_at_rows(x, small, rows, bounds, grouped)


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
        near, far = lower_of(value - band), upper_of(value + band)
        lower[who, number] = near
        # no order of the two intervals: too close to call in float32
        unclear[who[(near <= at_most[who]) & (far >= at_least[who])]] = True
        won = np.flatnonzero(far < at_least[who])
        if won.size:
            winner = who[won]
            score[won, place[won]] = np.inf
            rest = lower_of(score[won].min(axis=1) + x_sq[winner] - band[won])
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
