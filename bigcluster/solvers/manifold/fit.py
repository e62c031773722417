"""Fits t-SNE or UMAP on rows in memory, and places other rows among them.

The nearest neighbors are ours, and exact: they do not depend on threads. Everything after them runs on one thread.
The same seed on the same machine with the same versions of the libraries gives the same bytes; other machines and
versions may round differently.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bigcluster.errors import TooFewSamplesError, UsageError
from bigcluster.kernels.linalg.types import Float32Array, Float64Array
from bigcluster.runtime.blas import blas_threads
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.manifold import tsne, umap
from bigcluster.solvers.manifold.libraries import import_library
from bigcluster.solvers.neighbors import nearest_to, neighbor_graph
from bigcluster.store.row_source import ArrayRows, spans

DIMENSIONS = {"tsne": 2, "umap": 10}
"""Dimensions of the places. Barnes-Hut's t-SNE is made for 2. On 2,060 photographs of clothing, k-means on UMAP in 10
dimensions found better groups than in 2 (NMI .594 to .560), and in 50 the same."""
LEAST_ROWS = 4
"""Rows of the smallest fit: t-SNE has three neighbors for each unit of the perplexity."""
NEIGHBORS_OF = {"tsne": 3, "umap": 1}
"""Neighbors that are searched for each one that the setting asks for. Source for t-SNE: van der Maaten 2014,
"Accelerating t-SNE using tree-based algorithms", section 4.1."""
PLACED_ROWS = 4096
"""Rows that are placed among fitted ones at a time: as many as a group of the search for neighbors has. Chosen, not
measured."""
_START_SPREAD = 1e-4
"""Standard deviation of the first places of t-SNE. Source: Kobak and Berens 2019, "The art of using t-SNE for
single-cell transcriptomics"."""
_JITTER = 1e-2
"""Standard deviation of the noise that is added to the first places, as a share of theirs: rows that are equal would
never part, and a column without variance would have no range. Chosen, not measured."""


def effective_neighbors(method: str, n_rows: int, neighbors: int) -> int:
    """Return the number of neighbors (of t-SNE, the perplexity) for a fit of n_rows rows: at most what they allow.

    Raises TooFewSamplesError for fewer than LEAST_ROWS rows.
    """
    if n_rows < LEAST_ROWS:
        raise TooFewSamplesError(
            f"{NAMES[method]} needs at least {LEAST_ROWS} good images, and there "
            f"{'is' if n_rows == 1 else 'are'} {n_rows}; use --set reduce=pca"
        )
    return min(neighbors, (n_rows - 1) // NEIGHBORS_OF[method])


NEW_NEIGHBORS = 15
"""Neighbors of a row that is placed among fitted ones: three times openTSNE's default perplexity for that, 5."""
_SAME = 1e-3
"""The distance from the nearest fitted row, as a share of that from the last neighbor, up to which a new row counts as
that row and takes its place: scores that are computed again differ by rounding, about 1e-6. Chosen, not measured."""
NAMES = {"tsne": "t-SNE", "umap": "UMAP"}
"""The names of the methods, as texts show them."""


def n_dimensions(method: str, n_columns: int) -> int:
    """Return the dimensions of the places of rows of n_columns values: UMAP has no more than those."""
    return DIMENSIONS["tsne"] if method == "tsne" else min(DIMENSIONS[method], n_columns)


def fit_manifold(
    method: str,
    rows: Float32Array,
    *,
    neighbors: int,
    seed: int,
    runtime: Runtime,
    on_progress: Callable[[float], None],
) -> Float32Array:
    """Fit rows, and return their places, (n_rows, n_dimensions) float32.

    method : "tsne" or "umap". rows : (n_rows, n_columns), best in the order of principal components: the first places
    are the first columns. neighbors : the perplexity of t-SNE, or UMAP's n_neighbors; at least 2 for UMAP.
    on_progress : is called with the share of the fit that is done.

    Raises ConfigError where the library is not there, TooFewSamplesError for fewer than LEAST_ROWS rows.
    """
    library = import_library(method, f"reduce = {method}", "reduce = pca")
    neighbors = effective_neighbors(method, len(rows), neighbors)
    n_others = 3 * neighbors if method == "tsne" else max(1, neighbors - 1)  # UMAP counts the row itself
    graph = neighbor_graph(ArrayRows(rows), n_others, metric="euclidean", runtime=runtime)
    start = _start(rows, n_dimensions(method, rows.shape[1]), seed)
    total = sum(tsne.ITERATIONS)
    with blas_threads(1):
        if method == "tsne":
            places = tsne.fit(
                library,
                graph.ids,
                graph.distances,
                neighbors,
                start * _START_SPREAD,
                seed % (1 << 32),
                lambda done: on_progress(done / total),
            )
        else:
            places = umap.fit(library, rows, graph.ids, graph.distances, start, seed)
    middle = (places.max(axis=0) + places.min(axis=0)) / 2
    centered: Float32Array = (places - middle).astype(np.float32)
    return centered


def _start(rows: Float32Array, n_columns: int, seed: int) -> Float64Array:
    """Return the first places, (n_rows, n_columns): the first columns, of which the first has the deviation 1."""
    start = np.zeros((len(rows), n_columns))
    used = min(n_columns, rows.shape[1])
    start[:, :used] = rows[:, :used]
    start -= start.mean(axis=0)
    start /= start[:, 0].std() or 1.0
    start += np.random.default_rng(seed).normal(0, _JITTER, start.shape)
    return start


class Placer:
    """Places new rows among fitted ones. The place of a row depends neither on the other new rows nor on threads."""

    def __init__(self, method: str, rows: Float32Array, places: Float32Array, runtime: Runtime) -> None:
        """rows : (n_rows, n_columns), the fitted rows. places : (n_rows, n_dimensions), their places."""
        self._rows, self._places, self._runtime = ArrayRows(rows), places, runtime
        self._fitted: tsne.Fitted | None = None
        if method == "tsne":
            self._fitted = tsne.Fitted(import_library(method, f"reduce = {method}", "reduce = pca"), places)

    def place(self, rows: Float32Array) -> Float32Array:
        """Return the places of new rows, (n_new, n_dimensions) float32.

        rows : (n_new, n_columns) float32, at most PLACED_ROWS of which are worked on at a time.
        """
        if rows.shape[1] != self._rows.shape[1]:
            raise UsageError(f"rows of {rows.shape[1]} columns do not fit those of {self._rows.shape[1]}")
        parts = [self._placed(rows[start:stop]) for start, stop in spans(len(rows), PLACED_ROWS)]
        return np.concatenate([np.empty((0, self._places.shape[1]), np.float32), *parts])

    def _placed(self, rows: Float32Array) -> Float32Array:
        ids, distances = nearest_to(rows, self._rows, NEW_NEIGHBORS, metric="euclidean", runtime=self._runtime)
        with blas_threads(1):
            if self._fitted is not None:
                placed = self._fitted.place(ids, distances)
            else:
                placed = umap.place(ids, distances, self._places)
        same = distances[:, 0] <= _SAME * distances[:, -1]
        placed[same] = self._places[ids[same, 0]]
        return placed.astype(np.float32)
