"""UMAP by umap-learn: the places of fitted rows, and of rows that are placed among them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array


def fit(
    library: Any, rows: Float32Array, ids: Int32Array, distances: Float32Array, start: Float64Array, seed: int
) -> Float64Array:
    """Return the places of rows, (n, n_dimensions) float64, on one thread.

    library : umap. rows : (n, r). ids, distances : (n, k) the nearest other rows of each row; UMAP counts the row
    itself as its first neighbor. start : (n, n_dimensions) the first places.
    """
    n = len(ids)
    own = np.arange(n, dtype=np.int32)[:, None]
    neighbors = np.hstack([own, ids]), np.hstack([np.zeros((n, 1), np.float32), distances])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap tells that it cannot transform and runs on one thread: both are wanted
        umap = library.UMAP(
            n_neighbors=ids.shape[1] + 1,
            n_components=start.shape[1],
            min_dist=0.0,
            init=start.astype(np.float32),
            random_state=seed % (1 << 32),
            n_jobs=1,
            precomputed_knn=(*neighbors, None),
        )
        return np.asarray(umap.fit_transform(rows), np.float64)


def place(ids: Int32Array, distances: Float32Array, places: Float32Array) -> Float64Array:
    """Return the places of new rows among fitted ones, (n_new, n_dimensions) float64.

    ids, distances : (n_new, k) the nearest fitted rows of each new row, nearest first. places : (n, n_dimensions) of
    the fitted rows. Each place is the mean of those of the neighbors, weighted as UMAP weighs edges: by
    exp(-(d - d_1) / s), where d_1 is the distance of the nearest one, and s makes the weights add up to log2(k). UMAP's
    own transform begins there. What it does after that depends on the new rows together, so that the place of a row
    would depend on the others; and it needs the fitted object, which only a pickle keeps. Source: McInnes, Healy and
    Melville 2018, "UMAP: uniform manifold approximation and projection", sections 3.1 and 3.2.
    """
    weights = _weights(distances.astype(np.float64))
    weights /= weights.sum(axis=1)[:, None]
    means: Float64Array = np.einsum("nk,nkd->nd", weights, places[ids].astype(np.float64))
    return means


_HALVINGS = 64
"""Steps of the bisection for s: as many as halve any interval of float64 values down to rounding."""


def _weights(distances: Float64Array) -> Float64Array:
    beyond = distances - distances[:, :1]
    target = max(1.0, np.log2(distances.shape[1]))
    low, high = np.zeros(len(distances)), np.full(len(distances), max(1e-30, float(beyond.max(initial=0)) * 1e3))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        weights = np.exp(-beyond / np.maximum(middle, 1e-300)[:, None])
        too_wide = weights.sum(axis=1) > target
        high = np.where(too_wide, middle, high)
        low = np.where(too_wide, low, middle)
    final: Float64Array = np.exp(-beyond / np.maximum(high, 1e-300)[:, None])
    return final
