"""A growing basis of R^n, or its images, kept transposed and in tiles, so that both of its products read it as it lies.

    tile t holds Q[t]' (m, rows_t): blocks of new columns of Q are appended as rows
    project:  Q[t] ' W[t]      (m, rows_t) (rows_t, b)
    expand:   Q[t] C           (m, rows_t)' (m, b)

The rows of a tile come in chunks of CHUNK basis vectors; full chunks are on the shelf, which may spill them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.gemm import float_product
from bigcluster.rows import spans
from bigcluster.solvers.tiles import Shelf

Floats = NDArray[np.float32]
CHUNK = 512


class TiledBasis:
    """name : prefix of the shelf's names; unit_spans : the rows of every tile."""

    def __init__(self, name: str, unit_spans: list[tuple[int, int]], shelf: Shelf) -> None:
        self.unit_spans = unit_spans
        self.size = 0
        self._name = name
        self._shelf = shelf
        self._open: dict[int, Floats] = {}

    def empty_like(self) -> TiledBasis:
        """Another one for the same rows, beside this one on the shelf."""
        return TiledBasis(f"{self._name}+", self.unit_spans, self._shelf)

    def append(self, blocks: list[Floats]) -> None:
        """blocks : one (rows_t, b) float32 per tile, the new columns."""
        n_new = blocks[0].shape[1]
        for t, block in enumerate(blocks):
            taken = 0
            while taken < n_new:
                at = (self.size + taken) % CHUNK
                if at == 0:
                    self._open[t] = np.empty((CHUNK, len(block)), np.float32)
                n_fitting = min(CHUNK - at, n_new - taken)
                self._open[t][at : at + n_fitting] = block[:, taken : taken + n_fitting].T
                taken += n_fitting
                if at + n_fitting == CHUNK:
                    chunk = (self.size + taken) // CHUNK - 1
                    self._shelf.put(self._chunk_name(t, chunk), self._open.pop(t))
        self.size += n_new

    def _chunk_name(self, t: int, chunk: int) -> str:
        return f"{self._name}/{t}/{chunk}"

    def chunks(self, t: int) -> Iterator[tuple[int, int, Floats]]:
        """(start, stop, (stop - start, rows_t)) of the basis vectors of tile t."""
        for start, stop in spans(self.size, CHUNK):
            if stop - start == CHUNK:
                yield start, stop, self._shelf.get(self._chunk_name(t, start // CHUNK))
            else:
                yield start, stop, self._open[t][: stop - start]

    def project(self, t: int, block: Floats) -> Floats:
        """Tile t's share of Q' W: (size, b)."""
        return np.concatenate([float_product(chunk, block) for _, _, chunk in self.chunks(t)])

    def expand(self, t: int, coefficients: NDArray[Any]) -> Floats:
        """Rows of tile t of Q C: (rows_t, b), from C (size, b), C-contiguous float32."""
        parts = (
            float_product(chunk, coefficients[start:stop], transpose_left=True) for start, stop, chunk in self.chunks(t)
        )
        total = next(parts)
        for part in parts:
            total += part
        return total

    def delete(self) -> None:
        for t in range(len(self.unit_spans)):
            for chunk in range(self.size // CHUNK):
                self._shelf.delete(self._chunk_name(t, chunk))
        self._open.clear()
