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

from bigcluster.kernels.kmeans.centers import error_factors
from bigcluster.kernels.kmeans.full_scan import (
    ROUND_DOWN,
    Bounds,
    empty_bounds,
    lower_bound,
    row_minima,
    scan_all,
    scan_rows,
    tile_rows,
    upper_bound,
)
from bigcluster.kernels.kmeans.groups import ROUND_UP, GroupedCenters, group_minima
from bigcluster.kernels.kmeans.sums import ROUNDING, Floats32, Labels, row_sq
from bigcluster.kernels.linalg.floats import float_product

_FULL_SHARE = 0.6  # of (row, group) pairs in need, above which one product over all centers is cheaper
_LEADING_SHARE = 0.35  # of pairs in need, above which the leading columns are asked first
_LEADING_GROUPS, _FIRST_GROUPS = 16, 32  # groups, below which looking at all centers costs no more
_NARROW = 32  # centers in a group, up to which a product of its own costs as much as one over all centers
_ALL_SHARE = 0.9  # of rows in need, above which gathering them costs more than looking at the others, too


def first_assignment(x: NDArray[Any], scaled: Floats32, grouped: GroupedCenters) -> Bounds:
    """As `scan_all`, by way of the leading columns: the nearest there is a guess that the groups must then beat."""
    if grouped.groups.count < _FIRST_GROUPS:
        return scan_all(x, scaled, grouped)
    bounds = empty_bounds(scaled, grouped)
    rows = np.arange(len(x))
    _bound_by_leading(scaled, None, bounds.labels, bounds.lower, grouped)
    at_least, bounds.upper = _tighten(scaled, bounds.x_sq, bounds.labels, grouped)
    _scan_unfiltered(x, scaled, rows, at_least, bounds, grouped)
    return bounds


def _bound_by_leading(
    scaled: Floats32, own: Labels | None, guess: Labels | None, lower: Floats32, grouped: GroupedCenters
) -> None:
    """Lower bounds per group from the leading columns, own center left out. lower : (n, n_groups), raised in place.

    own : (n,) labels, or None: then the center of least bound is taken as the label and written to `guess`.
    """
    groups = grouped.groups
    n, r = scaled.shape
    n_leading = len(grouped.leading) - 1
    alpha, beta = error_factors(r)
    norms = np.float32(1.1) * grouped.norms
    step = tile_rows(grouped)
    tile = np.empty((min(n, step), grouped.leading.shape[1]), np.float32)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        rows = scaled[part]
        x_sq = row_sq(rows)
        rest = np.sqrt(row_sq(rows[:, n_leading:])) * np.float32(1 + r * ROUNDING)
        score = float_product(np.hstack([rows[:, :n_leading], rest[:, None]]), grouped.leading, out=tile[: len(rows)])
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
        fresh = lower_bound(sq)
        lower[part] = fresh if own is None else np.maximum(lower[part], fresh)


def loosen(bounds: Bounds, grouped: GroupedCenters) -> None:
    """Centers have moved: upper bounds rise, lower bounds fall, each by the longest way it could be."""
    bounds.upper += grouped.drift[bounds.labels]
    bounds.upper *= ROUND_UP
    bounds.lower *= ROUND_DOWN
    bounds.lower -= grouped.group_drift
    np.maximum(bounds.lower, 0, out=bounds.lower)


def _tighten(scaled: Floats32, x_sq: Floats32, labels: Labels, grouped: GroupedCenters) -> tuple[Floats32, Floats32]:
    """Distance to the own center from float32 differences: (at least, at most), each (n,)."""
    n, r = scaled.shape
    sq = np.empty(n, np.float32)
    rows = max(1, 65_536 // r)
    for start in range(0, n, rows):
        stop = start + rows
        difference = np.take(grouped.centers.scaled, labels[start:stop], axis=0)
        difference -= scaled[start:stop]
        sq[start:stop] = row_sq(difference)
    distance: Floats32 = np.sqrt(sq)
    # each coordinate of x and c is off by one rounding of its own size, the sum by r roundings of the squares
    slack: Floats32 = (
        np.float32(1.1 * ROUNDING) * (np.sqrt(x_sq) + grouped.centers.norms[labels])
        + np.float32((r + 8) * ROUNDING) * distance
    )
    return np.maximum(distance - slack, 0), distance + slack


def filtered_assignment(x: NDArray[Any], scaled: Floats32, bounds: Bounds, grouped: GroupedCenters) -> None:
    """Bring bounds and labels up to date after the centers moved: exact labels, fewer products.

    x, scaled as in `scan_all`. `bounds` is changed in place.
    """
    loosen(bounds, grouped)
    least = row_minima(bounds.lower)
    rows = np.flatnonzero(least <= bounds.upper)
    if not rows.size:
        return
    if len(rows) > _ALL_SHARE * len(x):
        scan_rows(x, scaled, None, bounds, grouped)
        return
    if grouped.groups.width <= _NARROW:
        step = 2 * tile_rows(grouped)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            near = np.take(scaled, part, axis=0)
            _, bounds.upper[part] = _tighten(near, bounds.x_sq[part], bounds.labels[part], grouped)
        scan_rows(x, scaled, rows[least[rows] <= bounds.upper[rows]], bounds, grouped)
        return
    at_least, at_most = _tighten(np.take(scaled, rows, axis=0), bounds.x_sq[rows], bounds.labels[rows], grouped)
    bounds.upper[rows] = at_most
    need = np.take(bounds.lower, rows, axis=0) <= at_most[:, None]  # (rows, n_groups)
    if grouped.groups.count >= _LEADING_GROUPS and need.mean() > _LEADING_SHARE:
        some = np.flatnonzero(need.any(axis=1))
        _raise_by_leading(scaled, rows[some], bounds, grouped)
    _scan_unfiltered(x, scaled, rows, at_least, bounds, grouped)


def _raise_by_leading(scaled: Floats32, rows: NDArray[np.int64], bounds: Bounds, grouped: GroupedCenters) -> None:
    """Raise the lower bounds of `rows` by the leading columns, unless a first tile shows that it does not pay."""
    first = tile_rows(grouped)
    for part in (rows[:first], rows[first:]):
        lower = bounds.lower[part]
        _bound_by_leading(np.take(scaled, part, axis=0), bounds.labels[part], None, lower, grouped)
        bounds.lower[part] = lower
        if not part.size or (lower <= bounds.upper[part, None]).mean() > _FULL_SHARE:
            break


def _scan_unfiltered(
    x: NDArray[Any],
    scaled: Floats32,
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
        near = np.take(scaled, rows, axis=0)
        rows = rows[_scan_groups(near, rows, at_least, bounds.upper[rows], bounds, grouped)]
    if rows.size:
        scan_rows(x, scaled, rows, bounds, grouped)


def _scan_groups(
    scaled: Floats32,
    rows: NDArray[np.int64],
    at_least: Floats32,
    at_most: Floats32,
    bounds: Bounds,
    grouped: GroupedCenters,
) -> NDArray[np.int64]:
    """Look only at the groups in need. Returns which rows are too close to call, for `scan_all`."""
    groups, norms = grouped.groups, grouped.norms
    n_columns = scaled.shape[1]
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
        score = float_product(np.take(scaled, who, axis=0), grouped.minus2[number])  # (rows in need, width)
        score += grouped.sq[number]
        own = np.flatnonzero(groups.group[labels[who]] == number)
        score[own, groups.slot[labels[who[own]]]] = np.inf
        place = score.argmin(axis=1)
        value = score[np.arange(len(who)), place] + x_sq[who]
        band = alpha * x_norms[who] * norms[number] + beta * norms[number] ** 2 + slack * x_sq[who]
        near, far = lower_bound(value - band), upper_bound(value + band)
        lower[who, number] = near
        # no order of the two intervals: too close to call in float32
        unclear[who[(near <= at_most[who]) & (far >= at_least[who])]] = True
        won = np.flatnonzero(far < at_least[who])
        if won.size:
            winner = who[won]
            score[won, place[won]] = np.inf
            rest = lower_bound(score[won].min(axis=1) + x_sq[winner] - band[won])
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
