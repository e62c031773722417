"""Scores from components: (X - mean) V, of the rows of a fit and of new rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.kernels.pca import round_to_step
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.moments import block_rows
from bigcluster.solvers.pca.result import Sink
from bigcluster.store.row_source import RowSource, spans

TRANSFORM_COLUMNS = 8192
"""Columns of one read of stored components, which may be larger than memory. Fixed, since the sums follow it."""
COMPONENT_COLUMNS = 1024
"""Columns of one block of components. Fixed, since a float32 product of another width may round otherwise."""


@dataclass(frozen=True)
class Projection:
    """The scores and components of a fit whose components fit in memory.

    rows : (n_rows, n_columns); mean : (n_columns,) float64; vectors : (n_columns, n_components) float32, with their
    signs, zero where there is no variance; step : the grid of the scores, 0 for none.
    """

    rows: RowSource
    mean: Float64Array
    vectors: Float32Array
    step: float
    runtime: Runtime

    def write_scores(self, sink: Sink, span: tuple[int, int] | None = None) -> None:
        """Write (rows - mean) vectors in row blocks, (n_rows, n_components) float32; reads the data once.

        span : the rows (start, stop) to write; by default all. Products are of the same row blocks for any span.
        """
        n_rows, n_columns = self.rows.shape
        first, last = (0, n_rows) if span is None else span

        def task(span: tuple[int, int]) -> Float32Array:
            return _on_grid(float_product(_centered(self.rows.read(*span), self.mean), self.vectors), self.step)

        blocks = [(a, b) for a, b in spans(n_rows, block_rows(n_columns)) if a < last and b > first]
        for (start, _), block in zip(blocks, self.runtime.map(task, blocks), strict=True):
            sink.write(max(start, first), block[max(first - start, 0) : last - start])

    def write_components(self, sink: Sink) -> None:
        """Write the (n_components, n_columns) float32 components in column blocks."""
        for start, stop in spans(len(self.vectors), COMPONENT_COLUMNS):
            sink.write(start, np.ascontiguousarray(self.vectors[start:stop].T))


def transform(
    rows: AnyArray, mean: Float64Array, components: RowSource, n_components: int, step: float
) -> Float32Array:
    """(rows - mean) components', on the grid of the scores of the fit: (m, n_components) float32.

    rows : (m, n_columns) uint8 or float; components : (r, n_columns) float32, of which the first `n_components` rows
    count, read in column blocks; step : the fit's score_step, or 0 for none.
    """
    scores = np.zeros((len(rows), n_components), np.float32)
    for start, stop in spans(rows.shape[1], TRANSFORM_COLUMNS):
        block = components.read(0, n_components, slice(start, stop))  # (n_components, w)
        scores += float_product(_centered(rows[:, start:stop], mean[start:stop]), np.ascontiguousarray(block.T))
    return _on_grid(scores, step)


def _centered(rows: AnyArray, mean: Float64Array) -> Float32Array:
    """rows - mean, computed in float64, as float32."""
    centered: Float32Array = np.subtract(rows, mean, dtype=np.float64, order="C").astype(np.float32)
    return centered


def _on_grid(scores: Float32Array, step: float) -> Float32Array:
    return round_to_step(scores, step) if step > 0 else scores
