"""Scores of new rows by stored components, which may be larger than memory: a slab of columns after the other."""

from __future__ import annotations

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.kernels.pca import round_to_step
from bigcluster.store.row_source import RowSource, spans

SLAB_COLUMNS = 8192


def transform(
    rows: AnyArray, mean: Float64Array, components: RowSource, n_components: int, step: float
) -> Float32Array:
    """(rows - mean) components', on the grid that the scores of the fit lie on.

    rows : (m, d) uint8 or float; components : (r, d) float32, of which the first `n_components` rows count;
    step : the fit's score_step, or 0 for none. Returns (m, n_components) float32.
    """
    scores = np.zeros((len(rows), n_components), np.float32)
    for start, stop in spans(rows.shape[1], SLAB_COLUMNS):
        centered = np.subtract(rows[:, start:stop], mean[start:stop], dtype=np.float64, order="C").astype(np.float32)
        slab = components.read(0, n_components, slice(start, stop))  # (r, w)
        scores += float_product(centered, np.ascontiguousarray(slab.T))
    return round_to_step(scores, step) if step > 0 else scores
