"""A search for nearest neighbors in one process, and the jobs by which the workers of a cluster share one.

A task takes a group of consecutive rows, the queries, and reads all rows block by block: kernels/neighbors.py says how
their neighbors are found and why no bit depends on groups, blocks, budget or threads. Each worker reads all rows once
before its first group, for their scale and a sample of them, and keeps what it found until the search is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Scaler, fit_scaler
from bigcluster.kernels.linalg.moments import block_moments, refuse_bad_rows
from bigcluster.kernels.linalg.types import Float32Array, Int32Array
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.kernels.neighbors import Nearest, Points, points
from bigcluster.runtime.cluster import Local, Part, Worker
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.kmeans.blocks import Blocks, summarize
from bigcluster.solvers.unit_length import UnitLengthRows
from bigcluster.store.refs import RowSourceRef
from bigcluster.store.row_source import RowSource, spans

NearestRows = tuple[Int32Array, Float32Array]
"""The ids and the distances of the neighbors of some rows, (n, k) each."""
SEARCH = "the search for neighbors"
"""The name of what workers keep between the jobs of a search."""
SAMPLE_ROWS = 512
"""Number of rows, spread evenly over all, whose distances give the first limits. More of them cost more than they
save."""


class Search:
    """What all groups of a search share: the rows in blocks, their scale, and a sample of them."""

    def __init__(
        self,
        rows: RowSource,
        runtime: Runtime,
        workspace_bytes: int | None,
        cosine: bool,
        queries: Float32Array | None = None,
    ) -> None:
        """Read all rows once. queries : the rows whose neighbors are searched for; None for the rows themselves.

        Raises InvalidDataError for NaN or infinity.
        """
        self._cosine, self._queries = cosine, queries
        n_rows, n_columns = rows.shape
        cache_bytes = 4 * n_rows * n_columns if workspace_bytes is None else workspace_bytes
        self.blocks = Blocks(UnitLengthRows(rows) if cosine else rows, runtime, cache_bytes)
        if cosine:
            self._scaler = Scaler(None, 1.0)
            _refuse_bad_rows(Blocks(rows, runtime))
        else:
            moments = summarize(self.blocks, None).moments
            if queries is not None and len(queries):  # new rows may lie far from the known ones
                moments = moments.merge(block_moments(queries))
            self._scaler = fit_scaler(moments)
        numbers = np.unique(np.linspace(0, n_rows - 1, min(n_rows, SAMPLE_ROWS)).astype(np.int64))
        self._sample = self._points(self.blocks.take(numbers), 0)
        self.first_passes = self.blocks.passes
        """The number of times that all rows were read here."""
        self._bytes_told = 0

    def take_bytes_read(self) -> int:
        """Return the bytes that came from the source since the last call."""
        before, self._bytes_told = self._bytes_told, self.blocks.bytes_read
        return self._bytes_told - before

    def _points(self, rows: Float32Array, first: int) -> Points:
        return points(rows, first, self._scaler, directions=self._cosine)

    def _unit(self, rows: Float32Array) -> Float32Array:
        return to_unit_length(rows) if self._cosine else rows

    def nearest(self, groups: list[tuple[int, int]], n_neighbors: int) -> Iterator[NearestRows]:
        """Yield the ids and distances of the queries start .. stop - 1 of each group, in order.

        Threads work on several groups at the same time.
        """

        def of_group(group: tuple[int, int]) -> NearestRows:
            if self._queries is None:
                queries = self._points(self.blocks.rows.read(*group), group[0])
            else:  # they are numbered after the known rows, so that no known row is left out as the query itself
                queries = self._points(self._unit(self._queries[slice(*group)]), self.blocks.n_rows)
            nearest = Nearest(queries, n_neighbors, self._scaler, self._sample)
            for number in range(self.blocks.count):
                nearest.look_at(self._points(self.blocks.read(number), self.blocks.row_slice(number).start))
            distances = nearest.sq / 2 if self._cosine else np.sqrt(nearest.sq)
            return nearest.ids, distances.astype(np.float32)

        for ids_and_distances in self.blocks.runtime.map(of_group, groups):
            self.blocks.passes += 1
            yield ids_and_distances


def _refuse_bad_rows(blocks: Blocks) -> None:
    def check(number: int, rows: NDArray[Any]) -> None:
        refuse_bad_rows(rows, blocks.row_slice(number).start)

    for _ in blocks.map(check):
        pass


@dataclass(frozen=True)
class Found:
    """What a job has found for the rows of one part."""

    start: int
    """The number of the first row."""
    nearest: NearestRows | None
    """None where each group was handed over as it was found."""
    n_groups: int
    first_passes: int
    """The number of times that all rows are read before the first group."""
    bytes_read: int


@dataclass(frozen=True)
class FindNeighbors:
    """Find the nearest neighbors of some rows. The units are runs of `unit_rows` rows, from the row `first` on."""

    rows: RowSourceRef
    cosine: bool
    n_neighbors: int
    first: int
    unit_rows: int
    group_rows: int
    workspace_bytes: int | None
    name: str
    """The name under which workers keep what belongs to this search."""
    take: Local[Callable[[int, NearestRows], None]] = field(default_factory=Local, compare=False, repr=False)
    """Is called with the first row and the neighbors of each group, in order, in the process that asks."""

    def __call__(self, worker: Worker, part: Part) -> Found:
        rows = self.rows.open(worker)
        search = worker.cached(
            SEARCH, self.name, lambda: Search(rows, worker.runtime, self.workspace_bytes, self.cosine)
        )
        start = self.first + part.start * self.unit_rows
        stop = min(self.first + part.stop * self.unit_rows, rows.shape[0])
        groups = [(start + begin, start + end) for begin, end in spans(stop - start, self.group_rows)]
        if self.n_neighbors == 0:
            groups = []
        collected: list[NearestRows] = []
        take = self.take.value
        for (begin, end), nearest in zip(groups, search.nearest(groups, self.n_neighbors), strict=True):
            if take is not None:
                take(begin, nearest)
            else:
                collected.append(nearest)
                worker.progress.advance(end - begin)
        found: NearestRows | None = None
        if collected:
            ids, distances = zip(*collected, strict=True)
            found = np.concatenate(ids), np.concatenate(distances)
        return Found(start, found, len(groups), search.first_passes, search.take_bytes_read())
