"""t-SNE by openTSNE: the places of fitted rows, and of rows that are placed among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array

ITERATIONS = (250, 500)
"""Iterations with early exaggeration, and after it: openTSNE's defaults."""
_NEW_PERPLEXITY = 5
"""The perplexity of a row that is placed among fitted ones: openTSNE's default. It has 3 neighbors for each unit."""
_REPORTED = 10
"""Iterations between two reports of progress. Chosen, not measured."""


def fit(
    library: Any,
    ids: Int32Array,
    distances: Float32Array,
    perplexity: float,
    start: Float64Array,
    seed: int,
    on_iteration: Callable[[int], None],
) -> Float64Array:
    """Return the places of rows, (n, 2) float64, on one thread.

    library : openTSNE. ids, distances : (n, k) the nearest other rows of each row. start : (n, 2) the first places.
    on_iteration : is called with the number of iterations that are done.
    """
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    done = 0

    def report(iteration: int, error: float, places: NDArray[Any]) -> bool:
        nonlocal done
        del iteration, error, places
        done += _REPORTED
        on_iteration(min(done, sum(ITERATIONS)))
        return False

    neighbors = PrecomputedNeighbors(ids, distances.astype(np.float64))
    tsne = library.TSNE(
        perplexity=perplexity,
        early_exaggeration_iter=ITERATIONS[0],
        n_iter=ITERATIONS[1],
        initialization=start,
        random_state=seed,
        n_jobs=1,
        callbacks=report,
        callbacks_every_iters=_REPORTED,
    )
    affinities = PerplexityBasedNN(perplexity=perplexity, knn_index=neighbors, n_jobs=1)
    return np.asarray(tsne.fit(affinities=affinities), np.float64)


class Fitted:
    """Fitted rows, among which openTSNE's transform places new ones.

    The place of a new row does not depend on the other new ones: each interacts with the fitted rows alone, through a
    grid that is made of their places once.
    """

    def __init__(self, library: Any, places: Float32Array) -> None:
        """library : openTSNE. places : (n, 2) of the fitted rows."""
        from openTSNE.affinity import Affinities, joint_probabilities_nn
        from scipy.sparse import csr_matrix

        class ToFitted(Affinities):  # type: ignore[misc]  # openTSNE has no types
            """The affinities of new rows to the fitted ones; those among the fitted rows, P, are not needed."""

            def __init__(self) -> None:
                self.P = csr_matrix((len(places), len(places)))
                self.ids = np.empty((0, 0), np.int32)
                self.distances = np.empty((0, 0))

            def to_new(self, data: Any, perplexity: float, return_distances: bool = True) -> Any:
                del data, return_distances
                affinities = joint_probabilities_nn(
                    self.ids,
                    self.distances,
                    [min(perplexity, max(1.0, self.ids.shape[1] / 3))],
                    symmetrize=False,
                    normalization="point-wise",
                    n_reference_samples=len(places),
                    n_jobs=1,
                )
                return affinities, self.ids, self.distances

        middle = (places.max(axis=0) + places.min(axis=0)).astype(np.float64) / 2
        self._middle: Float64Array = middle  # transform moves the places by it
        self._affinities = ToFitted()
        self._fitted = library.TSNEEmbedding(
            places - middle, self._affinities, negative_gradient_method="fft", n_jobs=1
        )

    def place(self, ids: Int32Array, distances: Float32Array) -> Float64Array:
        """Return the places of new rows, (n_new, 2) float64.

        ids, distances : (n_new, k) the nearest fitted rows of each new row.
        """
        self._affinities.ids, self._affinities.distances = ids, distances.astype(np.float64)
        placed = self._fitted.transform(np.empty((len(ids), 0)), perplexity=_NEW_PERPLEXITY, k=ids.shape[1])
        return np.asarray(placed, np.float64) + self._middle
