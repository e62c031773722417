"""Centers laid out in groups, as the bounded k-means pass wants them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Centers
from bigcluster.kernels.kmeans.sums import Floats, Floats32

GROUP = 64  # most centers per group: 256 bytes a row of a tile
_LEAST_GROUPS = 8  # one center that goes far spoils the bounds of its group alone
ROUND_UP = np.float32(1 + 2.0**-21)


@dataclass(frozen=True)
class Groups:
    """Center numbers in groups of equal width, by halving along the widest column.

    slots : (n_groups, width) int32 center numbers, -1 where padded. group, slot : (k,) the way back.
    """

    slots: NDArray[np.int32]
    group: NDArray[np.int32]
    slot: NDArray[np.int32]

    @property
    def count(self) -> int:
        return len(self.slots)

    @property
    def width(self) -> int:
        return int(self.slots.shape[1])


def group_count(n_clusters: int) -> int:
    """A power of two, so that groups come by halving: at least 8, of at most GROUP centers each."""
    count = _LEAST_GROUPS
    while -(-n_clusters // count) > GROUP:
        count *= 2
    return count


def group_centers(centers: Floats) -> Groups:
    """centers : (k, r) float64. The grouping decides speed only, never a label."""
    parts = [np.arange(len(centers))]
    while len(parts) < group_count(len(centers)):
        halves = []
        for part in parts:
            column = int(np.argmax(np.ptp(centers[part], axis=0))) if len(part) > 1 else 0
            order = part[np.argsort(centers[part, column], kind="stable")]
            halves += [order[: len(order) // 2], order[len(order) // 2 :]]
        parts = halves
    slots = np.full((len(parts), max(len(part) for part in parts)), -1, np.int32)
    group = np.empty(len(centers), np.int32)
    slot = np.empty(len(centers), np.int32)
    for number, part in enumerate(parts):
        slots[number, : len(part)] = part
        group[part] = number
        slot[part] = np.arange(len(part))
    return Groups(slots, group, slot)


@dataclass(frozen=True)
class GroupedCenters:
    """Centers laid out by group. minus2 : (n_groups, r, width), sq : (n_groups, width) float32, +inf where padded.

    flat : (r, width * n_groups), flat_sq and numbers : (width * n_groups,) the same centers slot by slot, a slot of
    every group side by side, so that minima per group are folds of long runs. norms : (n_groups,) the largest of each
    group. drift, group_drift : how far each center, and the farthest of each group, went since the bounds were last
    brought up to date; scaled units, rounded up. leading : (n_leading + 1, width * n_groups), the first columns of flat
    and below them -2 |rest of the center|, rounded away from zero.
    """

    centers: Centers
    groups: Groups
    flat: Floats32
    flat_sq: Floats32
    numbers: NDArray[np.int32]
    minus2: Floats32
    sq: Floats32
    norms: Floats32
    drift: Floats32
    group_drift: Floats32
    leading: Floats32


def arrange(centers: Centers, groups: Groups, before: Floats | None) -> GroupedCenters:
    """before : (k, r) float64, the centers that the bounds know, or None when there are no bounds yet."""
    k, r = centers.exact.shape
    padded = groups.slots < 0
    index = np.where(padded, 0, groups.slots)
    columns = np.where(padded, np.float32(0), centers.minus2.T[:, index])  # (r, n_groups, width)
    sq = np.where(padded, np.float32(np.inf), centers.sq[index])
    flat = np.ascontiguousarray(columns.transpose(0, 2, 1)).reshape(r, -1)
    norms = np.where(padded, np.float32(0), centers.norms[index]).max(axis=1)
    drift = np.zeros(k, np.float32)
    if before is not None:
        step = np.linalg.norm(centers.exact - before, axis=1) * centers.scaler.scale
        drift = step.astype(np.float32) * ROUND_UP
    group_drift = np.where(padded, np.float32(0), drift[index]).max(axis=1)
    return GroupedCenters(
        centers=centers,
        groups=groups,
        flat=flat,
        flat_sq=np.ascontiguousarray(sq.T).ravel(),
        numbers=np.ascontiguousarray(groups.slots.T).ravel(),
        minus2=np.ascontiguousarray(columns.transpose(1, 0, 2)),
        sq=sq,
        norms=norms,
        drift=drift,
        group_drift=group_drift,
        leading=_leading(flat, leading_columns(r)),
    )


def leading_columns(n_columns: int) -> int:
    """How many leading columns the cheap lower bound looks at: a quarter. Scores come ordered by energy."""
    return min(n_columns, max(8, n_columns // 4))


def _leading(flat: Floats32, n_leading: int) -> Floats32:
    rest = np.sqrt(np.einsum("ij,ij->j", flat[n_leading:], flat[n_leading:], dtype=np.float64))
    return np.concatenate([flat[:n_leading], -(rest * (1 + 1e-6)).astype(np.float32)[None]])


def group_minima(score: Floats32, n_groups: int) -> Floats32:
    """(rows, width * n_groups) -> (rows, n_groups): halves of the slots are folded onto each other, long runs first."""
    width = score.shape[1] // n_groups
    while width > 1:
        half = (width + 1) // 2  # of an odd width the middle slot meets itself, which a minimum does not mind
        score = np.minimum(score[:, : half * n_groups], score[:, (width - half) * n_groups : width * n_groups])
        width = half
    return score
