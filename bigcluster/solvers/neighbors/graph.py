"""The exact nearest neighbors of every row, found for one group of rows after the other.

A task takes a group of consecutive rows, the queries, and reads all rows block by block: kernels/neighbors.py says how
their neighbors are found and why no bit depends on groups, blocks, budget or threads. Finished groups are saved as they
come, so that a killed search goes on with the group after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ConfigError, TooFewSamplesError, UsageError
from bigcluster.kernels.kmeans.centers import Scaler, fit_scaler
from bigcluster.kernels.linalg.moments import block_moments, refuse_bad_rows
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Int32Array
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.kernels.neighbors import NO_NEIGHBOR, Nearest, Points, points
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.kmeans.blocks import Blocks, summarize
from bigcluster.solvers.progress import FitProgress, OnProgress
from bigcluster.solvers.unit_length import UnitLengthRows
from bigcluster.store.row_source import RowSource, spans
from bigcluster.units import MIB

METRICS = ("cosine", "euclidean")
"""The names of the distances."""
SAMPLE_ROWS = 512
"""Number of rows, spread evenly over all, whose distances give the first limits. More of them cost more than they
save."""
_MOST_ROWS, _LEAST_ROWS = 4_096, 256
"""Number of rows of a group, at most and at least: every group reads all rows once more, and products of fewer rows are
slow. Chosen, not measured."""
_GROUP_BYTES = 32 * MIB
"""Bytes of the rows of a group as float32, at most, where it still has `_LEAST_ROWS` rows. Chosen, not measured."""
_GROUPS = 16
"""Number of groups of small data, at least, so that each thread has some. Chosen, not measured."""


@dataclass(frozen=True)
class NeighborGraph:
    """The nearest other rows of every row, nearest first; of equal distances the smaller number comes first."""

    ids: Int32Array
    """Row numbers, (n_rows, k); k is smaller than requested where there are not so many other rows."""
    distances: Float32Array
    """Distances, (n_rows, k): Euclidean ones in the units of the rows, or 1 - cosine, from 0 to 2."""
    metric: str
    passes: int
    """The number of times that all rows were read."""
    bytes_read: int
    """Bytes that came from the source; blocks that stayed in memory are not counted again."""


def neighbor_graph(
    rows: RowSource,
    n_neighbors: int,
    *,
    metric: str = "cosine",
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointStore = NO_CHECKPOINTS,
) -> NeighborGraph:
    """Find the exact nearest neighbors of every row. A row is no neighbor of itself, but rows equal to it are.

    rows : (n_rows, n_columns) float32. metric : "cosine", where a row of zeros has the distance 1 from every row, or
    "euclidean".
    workspace_bytes : bytes that rows kept between groups may take, None for no limit. It decides speed, never a result.
    checkpoints : where finished groups are saved, so that a killed search goes on from there.

    Raises UsageError for fewer than 1 neighbor and rows of another dtype, ConfigError for an unknown metric,
    InvalidDataError for NaN or infinity, TooFewSamplesError where there are no rows.
    """
    _check(rows, n_neighbors, metric)
    n_rows, n_columns = rows.shape
    search = _Search(rows, runtime or EmbeddedRuntime(), workspace_bytes, metric == "cosine")
    k = min(n_neighbors, n_rows - 1)
    ids, distances = np.empty((n_rows, k), np.int32), np.empty((n_rows, k), np.float32)
    saved = _Saved(checkpoints, ids, distances)
    first = saved.load()
    groups = [(first + start, first + stop) for start, stop in spans(n_rows - first, group_rows(n_rows, n_columns))]

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(FitProgress(done, n_rows))

    report(first)
    if k:
        for (start, stop), nearest in zip(groups, search.nearest(groups, k), strict=True):
            ids[start:stop], distances[start:stop] = nearest
            report(stop)
            saved.save(stop)
    return NeighborGraph(ids, distances, metric, search.blocks.passes, search.blocks.bytes_read)


def nearest_to(
    queries: Float32Array,
    rows: RowSource,
    n_neighbors: int,
    *,
    metric: str = "cosine",
    runtime: Runtime | None = None,
    workspace_bytes: int | None = None,
) -> tuple[Int32Array, Float32Array]:
    """Find the exact nearest known rows of new ones, nearest first; of equal distances the smaller number first.

    queries : (n_queries, n_columns) float32, the new rows. rows : (n_rows, n_columns) float32, the known ones. Other
    arguments, and errors, as of `neighbor_graph`; UsageError also where the numbers of columns differ.
    Returns ids and distances, (n_queries, k) int32 and float32; k is at most the number of known rows. A known row that
    is searched for is its own nearest one, unless a row before it is equal.
    """
    _check(rows, n_neighbors, metric)
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise UsageError(f"queries of {queries.dtype} {queries.shape} do not fit rows of float32 {rows.shape}")
    refuse_bad_rows(queries, 0)
    search = _Search(rows, runtime or EmbeddedRuntime(), workspace_bytes, metric == "cosine", queries)
    k = min(n_neighbors, rows.shape[0])
    ids, distances = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    groups = list(spans(len(queries), group_rows(*queries.shape)))
    for (start, stop), nearest in zip(groups, search.nearest(groups, k), strict=True):
        ids[start:stop], distances[start:stop] = nearest
    return ids, distances


def _check(rows: RowSource, n_neighbors: int, metric: str) -> None:
    """Raise UsageError, ConfigError or TooFewSamplesError for wrong arguments of `neighbor_graph`."""
    n_rows, n_columns = rows.shape
    if n_neighbors < 1:
        raise UsageError(f"n_neighbors must be at least 1, not {n_neighbors}")
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    if rows.dtype != np.float32:
        raise UsageError(f"the neighbors of {rows.dtype} rows cannot be found; convert them to float32")
    if not 0 < n_rows < NO_NEIGHBOR or not n_columns:
        raise TooFewSamplesError(
            f"a graph of neighbors needs from 1 to {NO_NEIGHBOR - 1} rows, and a column; got {n_rows} x {n_columns}"
        )


def group_rows(n_rows: int, n_columns: int) -> int:
    """Choose the rows of a group: a power of two, from 256 to 4,096."""
    most = max(1, min(_MOST_ROWS, _GROUP_BYTES // (4 * n_columns), n_rows // _GROUPS))
    return max(_LEAST_ROWS, 1 << (most.bit_length() - 1))


class _Search:
    """The state that all groups of a search share: the rows in blocks, their scale, and a sample of them."""

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

    def _points(self, rows: Float32Array, first: int) -> Points:
        return points(rows, first, self._scaler, directions=self._cosine)

    def _unit(self, rows: Float32Array) -> Float32Array:
        return to_unit_length(rows) if self._cosine else rows

    def nearest(self, groups: list[tuple[int, int]], n_neighbors: int) -> Iterator[tuple[Int32Array, Float32Array]]:
        """Yield the ids and distances of the queries start .. stop - 1 of each group, in order.

        Threads work on several groups at the same time.
        """

        def of_group(group: tuple[int, int]) -> tuple[Int32Array, Float32Array]:
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


class _Saved:
    """The finished rows of a graph in the checkpoints. Each save adds the rows that were finished since the last."""

    def __init__(self, checkpoints: CheckpointStore, ids: Int32Array, distances: Float32Array) -> None:
        """ids, distances : (n_rows, k), the arrays that are saved and loaded into."""
        self._checkpoints = checkpoints
        self._arrays: dict[str, NDArray[Any]] = {"ids": ids, "distances": distances}
        self._ends = [0]

    def load(self) -> int:
        """Fill in the saved rows and return their number. Raises ValueError where they do not fit this graph."""
        state = self._checkpoints.load()
        if state is None:
            return 0
        self._ends = [0, *state.facts["ends"]]
        for start, stop in zip(self._ends, self._ends[1:], strict=False):
            for name, array in self._arrays.items():
                part = state.get(f"{name}/{start}")
                if part.shape != array[start:stop].shape or part.dtype != array.dtype or not start < stop:
                    raise ValueError(f"{name} of rows {start} to {stop} are {part.dtype} {part.shape}")
                array[start:stop] = part
        ids = self._arrays["ids"][: self._ends[-1]]
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= len(self._arrays["ids"]):
            raise ValueError("a neighbor is no row")
        return self._ends[-1]

    def save(self, stop: int) -> None:
        """Save the rows up to `stop` where the checkpoints are due."""
        start = self._ends[-1]
        new = {f"{name}/{start}": array[start:stop] for name, array in self._arrays.items()}
        if not self._checkpoints.should_save(sum(part.nbytes for part in new.values())):
            return
        keep = [f"{name}/{begin}" for begin in self._ends[:-1] for name in self._arrays]
        self._ends.append(stop)
        parts: Iterator[tuple[str, AnyArray]] = iter(new.items())
        self._checkpoints.save({"ends": self._ends[1:]}, parts, keep)
