"""Quality on the same footing: recomputed here from what a peer saved, never taken from its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8192


def explained_variance(scores: NDArray[Any], total_variance: float) -> float:
    """Share of the pixels' variance that the scores hold.

    Components are orthonormal, so the variance of the scores is the variance that they capture.
    """
    mean = scores.mean(axis=0, dtype=np.float64)
    scatter = sum(float(((block - mean) ** 2).sum()) for block in _blocks(scores))
    return scatter / (len(scores) - 1) / total_variance


def label_inertia(x: NDArray[Any], labels: NDArray[Any]) -> float:
    """Sum of squared distances of rows to the mean of their own cluster, float64."""
    known = labels >= 0
    centers = np.zeros((int(labels.max()) + 1, x.shape[1]))
    counts = np.bincount(labels[known], minlength=len(centers))
    np.add.at(centers, labels[known], x[known])
    centers /= np.maximum(counts, 1)[:, None]
    total = 0.0
    for start in range(0, len(x), BLOCK_ROWS):
        rows, own = x[start : start + BLOCK_ROWS], labels[start : start + BLOCK_ROWS]
        near = own >= 0
        total += float(((rows[near] - centers[own[near]]) ** 2).sum())
    return total


def center_inertia(x: NDArray[Any], centers: NDArray[Any]) -> float:
    """Sum of squared distances of rows to the nearest center; the nearest by float32, its distance in float64."""
    centers64 = centers.astype(np.float64)
    narrow = np.ascontiguousarray(centers.T, np.float32)
    center_sq = (centers64**2).sum(axis=1).astype(np.float32)
    total = 0.0
    for block in _blocks(x):
        labels = np.argmin(center_sq - 2 * (block.astype(np.float32) @ narrow), axis=1)
        total += float(((block - centers64[labels]) ** 2).sum())
    return total


def agreement(labels: NDArray[Any], others: Any) -> float:
    """Adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(others, labels))


def shared_neighbors(ids: NDArray[Any], others: NDArray[Any]) -> float:
    """The share of the neighbors in `ids`, (n, k) row numbers, that `others` has for the same row, in any order."""
    shared = sum(len(np.intersect1d(row, other)) for row, other in zip(ids, others, strict=True))
    return shared / ids.size


def load(out: Path, name: str) -> NDArray[Any] | None:
    """What a peer saved under that name, or None."""
    file = out / f"{name}.npy"
    return np.load(file) if file.is_file() else None


def _blocks(x: NDArray[Any]) -> list[NDArray[Any]]:
    return [x[start : start + BLOCK_ROWS] for start in range(0, len(x), BLOCK_ROWS)]
