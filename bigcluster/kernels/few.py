"""The nearest of a few centers, 128 at most: scores lie center by center, and minima are taken down the columns.

      score   (k, rows)      |c|^2 - 2 x.c, float32
      keys    (k, rows)      the same, with the number of the center in the lowest bits

A minimum over keys says how near and who, at the speed of memory, where an argmin along short rows takes several times
as long as the product before it. The bits that the numbers take are an error like any other: they widen the band
within which rows are settled exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.centers import Centers, error_band, largest_norm, settle, widest_band
from bigcluster.kernels.kmeans import Floats32, Labels, row_sq
from bigcluster.kernels.product import multiply_transposed

MOST = 128
"""Centers of one set: seven bits of the 24 of a float32 are theirs."""
_ROWS = 2048  # of a tile; with MOST centers it is 1 MiB, a second-level cache


class Keys:
    """Keys of some rows to one set of centers. values : (k, n_rows) float32; they are used up."""

    def __init__(self, values: Floats32, n_bits: int, centers: Centers, norm: float) -> None:
        self._values, self._n_bits, self._centers = values, n_bits, centers
        longest = float(centers.norms.max())
        self._widest = np.float32(widest_band(norm, centers) + self._truncation(np.float32(norm), longest))

    def _truncation(self, norm: NDArray[np.float32] | np.float32, longest: float) -> NDArray[np.float32]:
        """How far the key of a center may be from its score."""
        share = np.float32(1.01 * 2.0 ** (self._n_bits - 23))
        return np.asarray(share * (np.float32(longest**2) + np.float32(2 * longest) * norm), np.float32)

    def take_nearest(self, x: NDArray[np.generic], small: Floats32) -> NDArray[np.int32]:
        """Exact argmin (n_rows,); its keys become +inf. x, small : the rows, as they are and in the frame."""
        keys, centers = self._values, self._centers
        every = np.arange(keys.shape[1])
        value: Floats32 = keys.min(axis=0)
        best: NDArray[np.int32] = value.view(np.int32) & np.int32((1 << self._n_bits) - 1)
        keys[best, every] = np.inf
        gap = keys.min(axis=0) - value  # to the second best
        close = np.flatnonzero(gap <= 2 * self._widest)
        if close.size:
            x_norms = np.sqrt(row_sq(np.take(small, close, axis=0))) * np.float32(1 + 1e-4)
            near = best[close]
            band = error_band(x_norms, value[close], centers.norms[near], centers.norms, x.shape[1])
            band += self._truncation(x_norms, float(centers.norms.max()))
            inside = gap[close] <= 2 * band
            close, band = close[inside], band[inside]
        if close.size:
            keys[best[close], close] = value[close]
            candidates = np.take(keys, close, axis=1) <= value[close] + 2 * band  # (k, close)
            best[close] = settle(np.take(x, close, axis=0), centers.exact, np.ascontiguousarray(candidates.T))
            keys[best[close], close] = np.inf
        return best


def keys_by_tile(small: Floats32, several: Sequence[Centers], norm: float) -> Iterator[tuple[int, slice, Keys]]:
    """(set, rows, their keys) for every set of centers and every tile of rows, one product for as many as fit MOST.

    small : (n_rows, r) in the frame of all sets; norm : at least the largest of their norms. Keys hold until the next.
    """
    n_bits = max(1, max(centers.count - 1 for centers in several).bit_length())
    rows = min(len(small), _ROWS)
    groups = [_stack(several, group) for group in _groups(several)]
    tile = np.empty(max(len(sq) for _, sq, _, _ in groups) * rows, np.float32)
    for start in range(0, len(small), max(1, rows)):
        near = small[start : start + rows]
        for minus2, sq, numbers, places in groups:
            score = multiply_transposed(minus2, near, tile[: len(sq) * len(near)].reshape(len(sq), len(near)))
            score += sq
            bits = score.view(np.int32)
            bits &= np.int32(-1 << n_bits)
            bits |= numbers
            for place, first, last in places:
                yield place, slice(start, start + len(near)), Keys(score[first:last], n_bits, several[place], norm)


def _groups(several: Sequence[Centers]) -> list[list[int]]:
    """Sets that are multiplied together: up to MOST centers."""
    groups: list[list[int]] = [[]]
    for place, centers in enumerate(several):
        if groups[-1] and sum(several[other].count for other in groups[-1]) + centers.count > MOST:
            groups.append([])
        groups[-1].append(place)
    return groups


def _stack(
    several: Sequence[Centers], group: list[int]
) -> tuple[Floats32, Floats32, NDArray[np.int32], list[tuple[int, int, int]]]:
    """-2 c (K, r), |c|^2 (K, 1) and numbers (K, 1) of a group, and where each of its sets begins and ends."""
    ends = np.cumsum([several[place].count for place in group]).tolist()
    places = [(place, end - several[place].count, end) for place, end in zip(group, ends, strict=True)]
    minus2 = np.concatenate([several[place].small * np.float32(-2) for place in group])
    sq = np.concatenate([several[place].sq for place in group])[:, None]
    numbers = np.concatenate([np.arange(several[place].count, dtype=np.int32) for place in group])[:, None]
    return minus2, sq, numbers, places


def nearest(x: NDArray[np.generic], several: Sequence[Centers], norm: float | None = None) -> list[Labels]:
    """As `assign.nearest`, for sets of at most MOST centers."""
    small = several[0].frame.rows(x)
    out = [np.empty(len(x), np.int32) for _ in several]
    if len(x):
        for place, part, keys in keys_by_tile(small, several, largest_norm(small) if norm is None else norm):
            out[place][part] = keys.take_nearest(x[part], small[part])
    return out
