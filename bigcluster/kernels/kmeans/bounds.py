"""Computes exact labels (n,) with fewer products: distance bounds (full_scan.Bounds) rule out groups of centers.

Each row has an upper bound of the distance to its own center, and for each group of centers a lower bound of the
distance to every other center in it. When centers drift, the upper bound grows by the drift of the own center and each
lower bound falls by the largest drift of its group (triangle inequality). A group whose lower bound exceeds the upper
bound cannot hold the nearest center and is filtered out. The steps, in the words of the papers:

    loosen                  apply the drift to all bounds
    global filter           the least lower bound of a row exceeds its upper bound: the label stays (Hamerly 2010)
    tighten                 replace the upper bound by the distance to the own center, and filter again
    group filter            only groups whose lower bound does not exceed the upper bound are scanned
                            (Ding et al. 2015, "Yinyang K-Means", section 3)
    leading columns         where many groups are left, a quarter of the columns gives a new lower bound:
                            |x - c|^2 >= |x' - c'|^2 + (|x''| - |c''|)^2 with x' the leading columns and x'' the rest

Elkan 2003 keeps a lower bound for each center; a bound for each group takes less memory, and its scans are matrix
products. All bounds include their rounding errors, and rows inside the error bound are decided by exact distances, so
the labels are those of `assign.nearest`, bit for bit.
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
from bigcluster.kernels.kmeans.sums import EXACT_TILE_VALUES, ROUNDING, Floats32, Labels, row_sq
from bigcluster.kernels.linalg.floats import float_product

# Where one way becomes cheaper than another, found by timing scores of the catalog; none of them changes a label.
_FULL_SHARE = 0.6
"""Share of (row, group) pairs left by the group filter, above which one product over all centers is cheaper."""
_LEADING_SHARE = 0.35
"""Share of (row, group) pairs left, above which the bounds from leading columns pay."""
_LEADING_GROUPS, _FIRST_GROUPS = 16, 32
"""Groups, below which a full scan costs no more than bounds from leading columns: in later passes, and in the first."""
_NARROW = 32
"""Centers in a group, up to which a product for one group costs as much as one over all centers."""
_ALL_SHARE = 0.9
"""Share of rows left by the global filter, above which gathering them costs more than scanning all rows."""


def first_assignment(x: NDArray[Any], scaled: Floats32, grouped: GroupedCenters) -> Bounds:
    """Compute exact labels and first bounds, as `scan_all` does, with fewer products where there are many groups.

    The nearest center in the leading columns is the first guess; only groups that may hold a nearer one are scanned.
    x, scaled : as in `scan_all`.
    """
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
    """Raise the lower bounds `lower`, (n, n_groups), in place by bounds from the leading columns, own centers left out.

    own : (n,) labels, or None; then `lower` is written afresh, and the center of the least bound goes to `guess`, (n,).
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
    """Loosen the bounds: upper ones grow by the drift of their center, lower ones fall by the drift of their group."""
    bounds.upper += grouped.drift[bounds.labels]
    bounds.upper *= ROUND_UP
    bounds.lower *= ROUND_DOWN
    bounds.lower -= grouped.group_drift
    np.maximum(bounds.lower, 0, out=bounds.lower)


def _tighten(scaled: Floats32, x_sq: Floats32, labels: Labels, grouped: GroupedCenters) -> tuple[Floats32, Floats32]:
    """Bound the distance to the own center by float32 differences: (lower bound, upper bound), each (n,) float32.

    scaled, x_sq, labels : (n, r), (n,) and (n,), for the same rows.
    """
    n, r = scaled.shape
    sq = np.empty(n, np.float32)
    rows = max(1, EXACT_TILE_VALUES // r)
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
    """Update labels and bounds after the centers moved: exact labels, with products for unfiltered groups alone.

    x, scaled : as in `scan_all`. `bounds` is changed in place. grouped : the new centers, with their drift.
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
    """Raise the lower bounds of `rows` by the leading columns, unless the first tile shows that it does not pay."""
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
    """Scan the groups that the bounds of `rows` do not filter out, and update labels and bounds.

    at_least : (len(rows),) float32, lower bounds of the distance to the own center.
    """
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
    """Scan the unfiltered groups of `rows`, group by group, and update labels and bounds.

    scaled, at_least, at_most : for these rows, (len(rows), r) and (len(rows),) bounds of the distance to the own
    center. Returns the indices in `rows` whose two nearest centers float32 cannot tell apart; `scan_rows` has to decide
    them.
    """
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
        pending = np.flatnonzero(lower[:, number] <= at_most)
        if not pending.size:
            continue
        score = float_product(np.take(scaled, pending, axis=0), grouped.minus2[number])  # (rows in need, width)
        score += grouped.sq[number]
        own = np.flatnonzero(groups.group[labels[pending]] == number)
        score[own, groups.slot[labels[pending[own]]]] = np.inf
        place = score.argmin(axis=1)
        value = score[np.arange(len(pending)), place] + x_sq[pending]
        band = alpha * x_norms[pending] * norms[number] + beta * norms[number] ** 2 + slack * x_sq[pending]
        near, far = lower_bound(value - band), upper_bound(value + band)
        lower[pending, number] = near
        # the two intervals overlap: float32 does not tell which center is nearer
        unclear[pending[(near <= at_most[pending]) & (far >= at_least[pending])]] = True
        nearer = np.flatnonzero(far < at_least[pending])
        if nearer.size:
            changed = pending[nearer]
            score[nearer, place[nearer]] = np.inf
            rest = lower_bound(score[nearer].min(axis=1) + x_sq[changed] - band[nearer])
            unclear[changed[rest <= far[nearer]]] = True  # another of the same group is as near
            lower[changed, number] = rest
            former = groups.group[labels[changed]]
            lower[changed, former] = np.minimum(lower[changed, former], at_least[changed])
            labels[changed] = groups.slots[number, place[nearer]]
            at_least[changed], at_most[changed] = near[nearer], far[nearer]
    bounds.labels[rows] = labels
    bounds.upper[rows] = at_most
    bounds.lower[rows] = lower
    return np.flatnonzero(unclear)
