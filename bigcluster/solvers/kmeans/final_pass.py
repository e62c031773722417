"""The final pass of k-means: the label, the distances and the runner-up of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.assign import TwoNearest, two_nearest
from bigcluster.kernels.kmeans.centers import Centers
from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.solvers.kmeans.blocks import Blocks
from bigcluster.solvers.kmeans.result import RowSink


@dataclass(frozen=True)
class Written:
    """What the final pass has counted.

    counts : (k,) int64, rows of each cluster. filled : whether each cluster holds a row of positive weight. inertia :
    the weighted sum of squared distances.
    """

    counts: NDArray[np.int64]
    filled: bool
    inertia: float


@dataclass(frozen=True)
class LabeledBlock:
    """The two nearest centers of the rows of one block, and of each cluster the weight and the weighted sum of squared
    distances in this block, (k,) float64."""

    two: TwoNearest
    weight: Floats
    sq: Floats


def label_block(x: NDArray[Any], centers: Centers, weights: Floats | None) -> LabeledBlock:
    """Label the rows of one block. x : (block rows, r). weights : (block rows,) or None."""
    two = two_nearest(x, centers)
    weights = np.ones(len(x)) if weights is None else weights
    weight = np.bincount(two.labels, weights, minlength=centers.count).astype(np.float64)
    sq = np.bincount(two.labels, two.sq * weights, minlength=centers.count).astype(np.float64)
    return LabeledBlock(two, weight, sq)


def write_rows(blocks: Blocks, centers: Centers, sink: RowSink, sample_weight: Floats | None = None) -> Written:
    """Make one pass that writes the labels, distances and runners-up of all rows to `sink`, in order."""

    def label(number: int, x: NDArray[Any]) -> LabeledBlock:
        return label_block(x, centers, None if sample_weight is None else sample_weight[blocks.row_slice(number)])

    counts, weights, scatter = np.zeros(centers.count, np.int64), np.zeros(centers.count), np.zeros(centers.count)
    for number, block in blocks.map(label):
        two = block.two
        first_row = blocks.row_slice(number).start
        sink.write(first_row, two.labels, np.sqrt(two.sq), two.runner_up, np.sqrt(two.runner_up_sq))
        counts += np.bincount(two.labels, minlength=centers.count)
        weights += block.weight
        scatter += block.sq
    return Written(counts, bool((weights > 0).all()), float(scatter.sum()))
