"""The silhouettes of several restarts, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import two_nearest
from bigcluster.kernels.kmeans.centers import Centers
from bigcluster.kernels.kmeans.metrics import silhouette_sq, simplified_silhouette
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.solvers.kmeans.restarts import Restart


@dataclass(frozen=True)
class Scored:
    """What scoring needs of each restart: centers and means, (k, r) float64, and counts and scatter about the means,
    (k,)."""

    centers: list[Floats]
    means: list[Floats]
    counts: list[NDArray[np.int64]]
    scatter: list[Floats]

    @classmethod
    def of(cls, restarts: Sequence[Restart]) -> Scored:
        """Return it for finalized restarts."""
        means = [restart.sums / np.maximum(restart.counts, 1)[:, None] for restart in restarts]
        # scatter is about the centers; about the means it is less by n |mean - center|^2
        scatter = [
            np.maximum(restart.scatter - restart.counts * ((mean - restart.centers) ** 2).sum(axis=1), 0)
            for restart, mean in zip(restarts, means, strict=True)
        ]
        return cls([restart.centers for restart in restarts], means, [restart.counts for restart in restarts], scatter)


def score_block(x: NDArray[Any], prepared: Sequence[Centers], scored: Scored) -> Floats:
    """Sum over the rows of a block, for each restart: (simplified silhouette, silhouette on squared distances)."""
    out = np.zeros((len(prepared), 2))
    for index, centers in enumerate(prepared):
        two = two_nearest(x, centers)
        if centers.count > 1:
            out[index, 0] = simplified_silhouette(np.sqrt(two.sq), np.sqrt(two.runner_up_sq)).sum()
        means, counts, scatter = scored.means[index], scored.counts[index], scored.scatter[index]
        out[index, 1] = silhouette_sq(x, two.labels, means, counts, scatter).sum()
    return out
