"""The growing basis of block Lanczos, in tiles of which some may lie on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import AnyArray, Float32Array
from bigcluster.solvers.spill import SpillBuffer
from bigcluster.store.row_source import spans

CHUNK = 512
"""Basis vectors in one array of a TiledBasis: 2 MiB of float32 for a tile of 1,024 rows."""


class TiledBasis:
    """A growing basis Q, (n, size) float32, or G Q, transposed and in tiles, so that both products read it as it lies.

        tile t holds Q[t]' (size, rows_t): new columns of Q are appended as rows
        project:  Q[t]' W[t]      (size, rows_t) (rows_t, b)
        expand:   Q[t] C          (size, rows_t)' (size, b)

    The rows of a tile come in chunks of CHUNK basis vectors; full chunks are in `buffer`, which may spill them.
    name : prefix of the names in `buffer`; tile_spans : (start, stop) of the rows of each tile.
    """

    def __init__(self, name: str, tile_spans: list[tuple[int, int]], buffer: SpillBuffer) -> None:
        self.tile_spans = tile_spans
        self.size = 0
        self._name = name
        self._buffer = buffer
        self._open: dict[int, Float32Array] = {}

    def empty_like(self) -> TiledBasis:
        """An empty basis for the same rows, with names of its own in the buffer."""
        return TiledBasis(f"{self._name}+", self.tile_spans, self._buffer)

    def append(self, blocks: list[Float32Array]) -> None:
        """Append columns. blocks : one (rows_t, b) float32 for each tile."""
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
                    self._buffer.put(self._chunk_name(t, chunk), self._open.pop(t))
        self.size += n_new

    def _chunk_name(self, t: int, chunk: int) -> str:
        return f"{self._name}/{t}/{chunk}"

    def chunks(self, t: int) -> Iterator[tuple[int, int, Float32Array]]:
        """Yield (start, stop, chunk) of tile t: basis vectors start .. stop - 1, (stop - start, rows_t) float32."""
        for start, stop in spans(self.size, CHUNK):
            if stop - start == CHUNK:
                yield start, stop, self._buffer.get(self._chunk_name(t, start // CHUNK))
            else:
                yield start, stop, self._open[t][: stop - start]

    def project(self, t: int, block: Float32Array) -> Float32Array:
        """What tile t adds to Q' W: (size, b) float32. block : rows of tile t of W, (rows_t, b)."""
        return np.concatenate([float_product(chunk, block) for _, _, chunk in self.chunks(t)])

    def expand(self, t: int, coefficients: AnyArray) -> Float32Array:
        """Rows of tile t of Q C: (rows_t, b) float32. coefficients : C, (size, b) float32, C-contiguous."""
        parts = (
            float_product(chunk, coefficients[start:stop], transpose_left=True) for start, stop, chunk in self.chunks(t)
        )
        total = next(parts)
        for part in parts:
            total += part
        return total

    def delete(self) -> None:
        """Delete all chunks."""
        for t in range(len(self.tile_spans)):
            for chunk in range(self.size // CHUNK):
                self._buffer.delete(self._chunk_name(t, chunk))
        self._open.clear()
