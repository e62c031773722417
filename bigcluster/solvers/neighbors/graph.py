"""The exact nearest neighbors of every row, found for one group of rows after the other, on all workers of a cluster.

search.py says how a worker finds them. No bit depends on groups, parts, blocks, budget or threads. Finished groups are
saved as they come, so that a killed search goes on with the group after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ConfigError, TooFewSamplesError, UsageError
from bigcluster.kernels.linalg.moments import refuse_bad_rows
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Int32Array
from bigcluster.kernels.neighbors import NO_NEIGHBOR
from bigcluster.runtime.cluster import Cluster, Forget, Local, Worker
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.neighbors.search import SEARCH, FindNeighbors, NearestRows, Search
from bigcluster.solvers.progress import FitProgress, OnProgress
from bigcluster.solvers.unit_length import ref_of
from bigcluster.store.row_source import RowSource, spans
from bigcluster.units import MIB

METRICS = ("cosine", "euclidean")
"""The names of the distances."""
_LEAST_PARTS = 8
"""Parts for each worker, at least, so that workers of different speed end at about the same time."""
_PART_UNITS = 4
"""Groups of one thread in a part, at most, where there are more parts: finished parts are saved. Chosen, not
measured."""
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
    cluster: Cluster | None = None,
) -> NeighborGraph:
    """Find the exact nearest neighbors of every row. A row is no neighbor of itself, but rows equal to it are.

    rows : (n_rows, n_columns) float32. metric : "cosine", where a row of zeros has the distance 1 from every row, or
    "euclidean".
    workspace_bytes : bytes that rows kept between groups may take, None for no limit. It decides speed, never a result.
    checkpoints : where finished groups are saved, so that a killed search goes on from there.
    cluster : the workers that search; by default this process, with the threads of `runtime`.

    Raises UsageError for fewer than 1 neighbor and rows of another dtype, ConfigError for an unknown metric,
    InvalidDataError for NaN or infinity, TooFewSamplesError where there are no rows.
    """
    _check(rows, n_neighbors, metric)
    n_rows, n_columns = rows.shape
    runtime = runtime or EmbeddedRuntime()
    cluster = cluster or Embedded(Worker(runtime, 0))
    k = min(n_neighbors, n_rows - 1)
    ids, distances = np.empty((n_rows, k), np.int32), np.empty((n_rows, k), np.float32)
    saved = _Saved(checkpoints, ids, distances)
    first = saved.load()

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(FitProgress(done, n_rows))

    def take(start: int, nearest: NearestRows, *, reported: bool = False) -> None:
        stop = start + len(nearest[0])
        ids[start:stop], distances[start:stop] = nearest
        if not reported:
            report(stop)
        saved.save(stop)

    report(first)
    group = group_rows(n_rows, n_columns)
    unit = group * runtime.threads  # so that each thread of a worker has a group
    n_units = -(-(n_rows - first) // unit)
    job = FindNeighbors(
        rows=ref_of(rows),
        cosine=metric == "cosine",
        n_neighbors=k,
        first=first,
        unit_rows=unit,
        group_rows=group,
        workspace_bytes=workspace_bytes,
        name=uuid4().hex,
        take=Local(take),
    )
    per_worker = max(_LEAST_PARTS, n_units // (_PART_UNITS * cluster.n_workers))
    passes = n_bytes = 0
    all_here = True
    for found in cluster.spread(job, cluster.parts(n_units, per_worker)):
        passes += found.n_groups + (found.first_passes if passes == 0 else 0)
        n_bytes += found.bytes_read
        if found.nearest is not None:  # a worker of another process reports what it does
            take(found.start, found.nearest, reported=True)
            all_here = False
    if not all_here:
        report(n_rows)
    for _ in cluster.spread(Forget(SEARCH), cluster.parts(n_units, 1)):
        pass
    return NeighborGraph(ids, distances, metric, passes, n_bytes)


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
    search = Search(rows, runtime or EmbeddedRuntime(), workspace_bytes, metric == "cosine", queries)
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
