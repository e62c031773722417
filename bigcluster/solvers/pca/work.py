"""The next block of a Krylov basis while it is in work: float32, not yet rounded, orthonormal in the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.gemm import float_product
from bigcluster.kernels.pca import ordered_sum, orthonormal_transform
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.eigen import alone
from bigcluster.solvers.tiles import Shelf

Floats = NDArray[np.float32]


class Work:
    """(n, b), tile by tile on the shelf: it is as long as the smaller side of the data."""

    def __init__(self, spans: list[tuple[int, int]], shelf: Shelf, runtime: Runtime) -> None:
        self.spans = spans
        self._shelf, self._runtime = shelf, runtime

    def put(self, t: int, block: Floats) -> None:
        self._shelf.put(f"block/{t}", np.ascontiguousarray(block))

    def get(self, t: int) -> Floats:
        block: Floats = self._shelf.get(f"block/{t}")
        return block

    def delete(self, t: int) -> None:
        self._shelf.delete(f"block/{t}")

    def fill(self, width: int, seed: int) -> None:
        """With standard normal numbers."""
        for t in range(len(self.spans)):
            self.put(t, np.zeros((self.spans[t][1] - self.spans[t][0], 0), np.float32))
        self.widen(width, seed)

    def widen(self, n_more: int, seed: int | list[int]) -> None:
        """By columns of standard normal numbers."""
        random = np.random.default_rng(seed)
        for t, (start, stop) in enumerate(self.spans):
            more = random.standard_normal((stop - start, n_more), dtype=np.float32)
            self.put(t, np.hstack([self.get(t), more]))

    def transform(self, transform: Floats) -> None:
        """Times (b, b')."""

        def task(t: int) -> None:
            self.put(t, float_product(self.get(t), transform))

        for _ in self._runtime.map(task, range(len(self.spans))):
            pass

    def orthonormal(self, block: Callable[[int], Floats], floor: float) -> Floats:
        """The transform that makes the columns of a block orthonormal, given tile by tile; those of norm up to `floor`
        are dropped."""

        def square(t: int) -> Floats:
            tile = block(t)
            return float_product(tile, tile, transpose_left=True)

        total = ordered_sum(self._runtime.map(square, range(len(self.spans))))
        transform = alone(len(total), lambda: orthonormal_transform(total, floor))
        return np.ascontiguousarray(transform, np.float32)
