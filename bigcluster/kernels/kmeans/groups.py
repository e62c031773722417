"""Divides k centers (k, r) into groups of neighbours, and lays them out group by group for the filters of bounds.py.

One lower bound stands for all centers of a group (Ding et al. 2015, "Yinyang K-Means", section 3). The bound holds for
whatever grouping, because it is loosened by the largest drift in the group; so the grouping decides speed, never a
label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Centers
from bigcluster.kernels.kmeans.sums import Floats, Floats32

GROUP = 64
"""Most centers of a group: their scores take 256 bytes for each row of a tile."""
_LEAST_GROUPS = 8
"""Fewest groups: a center that drifts far loosens the bounds of its own group alone."""
ROUND_UP = np.float32(1 + 2.0**-21)
"""Factor that makes a float32 result an upper bound: 8 roundings (2^-24 each), more than any expression here has."""


@dataclass(frozen=True)
class Groups:
    """The division of k centers into groups of equal width.

    slots : (n_groups, width) int32 center numbers, -1 where a slot is empty. group, slot : (k,) int32, the group of
    each center and its slot there.
    """

    slots: NDArray[np.int32]
    group: NDArray[np.int32]
    slot: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.slots)

    @property
    def width(self) -> int:
        """Slots of a group."""
        return int(self.slots.shape[1])


def group_count(n_clusters: int) -> int:
    """Choose the number of groups: a power of two, at least 8, with at most GROUP centers in each."""
    count = _LEAST_GROUPS
    while -(-n_clusters // count) > GROUP:
        count *= 2
    return count


def group_centers(centers: Floats) -> Groups:
    """Group centers, (k, r) float64, by halving each group along the column in which it is widest."""
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
    """The centers of one pass in the layouts that the filters multiply with; float32, in scaled units.

    minus2 : (n_groups, r, width), -2 c group by group, 0 in empty slots. sq : (n_groups, width), |c|^2, infinite in
    empty slots. flat, flat_sq, numbers : (r, width * n_groups) and (width * n_groups,), the same centers and their
    numbers, slot after slot with all groups side by side, so that the minimum of each group is a fold of long runs.
    norms : (n_groups,) the largest |c| of each group. drift : (k,) how far each center has moved since the bounds were
    updated, rounded up (Ding et al. 2015 call it so). group_drift : (n_groups,) the largest drift of each group.
    leading : (n_leading + 1, width * n_groups), the first rows of `flat`, and below them -2 |rest of the center|,
    rounded away from zero.
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
    """Lay out the centers by group, with their drift.

    before : (k, r) float64, the centers for which the bounds were last updated; None where there are no bounds yet.
    """
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
    """Choose how many leading columns the cheap lower bound uses: a quarter, since PCA scores come by falling variance.

    At least 8, which is one AVX register of float32.
    """
    return min(n_columns, max(8, n_columns // 4))


def _leading(flat: Floats32, n_leading: int) -> Floats32:
    """The first rows of `flat`, and below them -2 |rest of the center|: (n_leading + 1, width * n_groups)."""
    rest = np.sqrt(np.einsum("ij,ij->j", flat[n_leading:], flat[n_leading:], dtype=np.float64))
    return np.concatenate([flat[:n_leading], -(rest * (1 + 1e-6)).astype(np.float32)[None]])


def group_minima(score: Floats32, n_groups: int) -> Floats32:
    """Take the minimum of each group by folding its slots: (n_rows, width * n_groups) -> (n_rows, n_groups)."""
    width = score.shape[1] // n_groups
    while width > 1:
        half = (width + 1) // 2  # of an odd width the middle slot meets itself, which leaves the minimum as it is
        score = np.minimum(score[:, : half * n_groups], score[:, (width - half) * n_groups : width * n_groups])
        width = half
    return score
