"""The nearest center of every row, and the second nearest: a float32 product with a running minimum, then the proof.

A tile of |c|^2 - 2 x.c (rows x centers, a second-level cache) is all that ever exists of the distance matrix. Up to
`few.MOST` centers it lies center by center, see there; beyond, row by row, where numpy's argmin costs a tenth of the
product. What is too close to call in float32 is settled exactly, so labels depend on neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels import few
from bigcluster.kernels.centers import Centers, error_band, largest_norm, settle, widest_band
from bigcluster.kernels.kmeans import Floats, Floats32, Labels, exact_sq, row_sq
from bigcluster.kernels.product import multiply

TILE_VALUES = 262_144  # of float32: 1 MiB, a second-level cache


def _take_nearest(
    score: Floats32, x: NDArray[Any], small: Floats32, centers: Centers, widest: np.float32
) -> NDArray[np.intp]:
    """Exact argmin of each row of a tile, whose score there becomes +inf.

    score : (n_rows, k) float32, +inf where a center is out. widest : no row's `error_band` is wider.
    """
    every = np.arange(len(score))
    best: NDArray[np.intp] = score.argmin(axis=1)
    value = score[every, best]
    score[every, best] = np.inf
    gap = score[every, score.argmin(axis=1)] - value  # to the second best; numpy's argmin is faster than its min
    close = np.flatnonzero(gap <= 2 * widest)
    if close.size:
        x_norms = np.sqrt(row_sq(small[close])) * np.float32(1 + 1e-4)
        band = error_band(x_norms, value[close], centers.norms[best[close]], centers.norms, x.shape[1])
        inside = gap[close] <= 2 * band
        close, band = close[inside], band[inside]
    if close.size:
        score[close, best[close]] = value[close]
        limit = (value[close] + 2 * band)[:, None]
        best[close] = settle(x[close], centers.exact, score[close] <= limit)
        score[close, best[close]] = np.inf
    return best


def tile_rows(n_centers: int) -> int:
    """Rows of a tile, so that it stays in cache; a float32 product is slow below 64 rows."""
    return min(2048, max(64, TILE_VALUES // max(1, n_centers)))


def nearest(x: NDArray[Any], several: Sequence[Centers], norm: float | None = None) -> list[Labels]:
    """The nearest center of every row, for several sets of centers at once (restarts, a sweep): one product for all.

    x : (n_rows, r) any real dtype, finite. All sets share one frame. norm : `largest_norm` of the rows in that frame,
    where it is known. Returns one (n_rows,) int32 per set.
    """
    if all(centers.count <= few.MOST for centers in several):
        return few.nearest(x, several, norm)
    minus2 = several[0].minus2 if len(several) == 1 else np.hstack([centers.minus2 for centers in several])
    sq = np.concatenate([centers.sq for centers in several])
    ends = np.cumsum([centers.count for centers in several])
    out = [np.empty(len(x), np.int32) for _ in several]
    small = several[0].frame.rows(x)
    if norm is None:
        norm = largest_norm(small)
    widest = [widest_band(norm, centers) for centers in several]
    rows = min(len(x), tile_rows(len(sq)))
    tile = np.empty((rows, len(sq)), np.float32)
    for start in range(0, len(x), max(1, rows)):
        part = slice(start, min(start + rows, len(x)))
        score = multiply(small[part], minus2, tile[: part.stop - start])  # (rows, all centers)
        score += sq
        for labels, centers, end, band in zip(out, several, ends, widest, strict=True):
            own = score[:, end - centers.count : end]
            labels[part] = _take_nearest(own, x[part], small[part], centers, band)
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
    labels = np.empty(len(x), np.int32)
    runner_up = np.full(len(x), -1, np.int32)
    small = centers.frame.rows(x)
    for part, take in _tiles(x, small, centers):
        labels[part] = take()
        if centers.count > 1:
            runner_up[part] = take()
    sq = exact_sq(x, centers.exact, labels)
    second = exact_sq(x, centers.exact, runner_up) if centers.count > 1 else np.full(len(x), np.inf)
    return TwoNearest(labels, sq, runner_up, second)


def _tiles(
    x: NDArray[Any], small: Floats32, centers: Centers
) -> Iterator[tuple[slice, Callable[[], NDArray[np.integer[Any]]]]]:
    """Tiles of rows, and what names the nearest of the centers not named yet. A tile must be done before the next."""
    norm = largest_norm(small)
    if centers.count <= few.MOST:
        for _, part, keys in few.keys_by_tile(small, [centers], norm):
            yield part, lambda part=part, keys=keys: keys.take_nearest(x[part], small[part])  # type: ignore[misc]
        return
    widest = widest_band(norm, centers)
    rows = min(len(x), tile_rows(centers.count))
    tile = np.empty((rows, centers.count), np.float32)
    for start in range(0, len(x), max(1, rows)):
        part = slice(start, min(start + rows, len(x)))
        score = multiply(small[part], centers.minus2, tile[: part.stop - start])
        score += centers.sq
        yield part, lambda part=part, score=score: _take_nearest(score, x[part], small[part], centers, widest)  # type: ignore[misc]
