"""The rows of a fit, opened: their blocks and moments, and what makes the passes over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from numpy.typing import NDArray

from bigcluster.kernels.kmeans.sums import Floats
from bigcluster.runtime.cluster import Cluster, Forget
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.solvers.kmeans.blocks import Blocks, Summary, check_size, check_weights, summarize
from bigcluster.solvers.kmeans.footprint import share_workspace
from bigcluster.solvers.kmeans.lloyd import Lloyd
from bigcluster.solvers.kmeans.seeding import Begin, Keys
from bigcluster.solvers.kmeans.spread import SpreadLloyd, survey
from bigcluster.solvers.kmeans.spread_jobs import FIT_STATE, Fitting, OnRows
from bigcluster.store.refs import ArrayRef, RowSourceRef
from bigcluster.store.row_source import RowSource


@dataclass(frozen=True)
class Spread:
    """What a fit needs so that all workers of a cluster make its passes.

    rows : the rows of the fit, whose sums must be exact: uint8 values, or scores on their grid. row_keys : the keys of
    random numbers, (n_rows,) uint64.
    """

    cluster: Cluster
    rows: RowSourceRef
    row_keys: ArrayRef


class Opened(Protocol):
    """Opened rows. spread : whether workers of a cluster make the passes."""

    blocks: Blocks
    summary: Summary
    spread: bool

    def begin(self, begin: Begin, keys: Keys, **options: Any) -> tuple[list[Floats], bool]:
        """Choose initial centers; see `seeding.Begin`. keys : (n_rows,) uint64. options : its other arguments."""

    def once(self, function: Callable[..., Any], keys: Keys, **options: Any) -> Any:
        """Return what a function finds that takes the same arguments as a `seeding.Begin`."""

    def lloyd(self) -> Lloyd:
        """Return what makes passes over the rows."""

    def close(self) -> None:
        """Free what is kept of the rows."""


class OpenedHere:
    """Rows that this process reads."""

    spread = False

    def __init__(self, blocks: Blocks, summary: Summary, weights: Floats | None) -> None:
        self.blocks, self.summary, self.weights = blocks, summary, weights

    def begin(self, begin: Begin, keys: Keys, **options: Any) -> tuple[list[Floats], bool]:
        return begin(self.blocks, self.summary.scaler, keys, self.weights, **options)

    def once(self, function: Callable[..., Any], keys: Keys, **options: Any) -> Any:
        return function(self.blocks, self.summary.scaler, keys, self.weights, **options)

    def lloyd(self) -> Lloyd:
        return Lloyd(self.blocks, self.summary, self.weights)

    def close(self) -> None:
        pass


class OpenedOnWorkers:
    """Rows that the workers of a cluster read. blocks : of the same rows, to count passes; nothing is read of them."""

    spread = True

    def __init__(self, blocks: Blocks, spread: Spread, cache_bytes: int) -> None:
        check_size(blocks)
        self._spread = spread
        self._fitting = Fitting(spread.rows, uuid4().hex, cache_bytes)
        self.blocks, self.summary = blocks, survey(blocks, self._fitting, spread.cluster)

    def begin(self, begin: Begin, keys: Keys, **options: Any) -> tuple[list[Floats], bool]:
        centers, short = self.once(begin, keys, **options)
        return centers, short

    def once(self, function: Callable[..., Any], keys: Keys, **options: Any) -> Any:
        del keys  # the worker has them from the store
        job = OnRows(self._fitting, function, self.summary.scaler, self._spread.row_keys, options)
        found, passes, n_bytes = self._spread.cluster.once(job)
        self.blocks.passes += passes
        self.blocks.bytes_read += n_bytes
        return found

    def lloyd(self) -> Lloyd:
        return SpreadLloyd(self.blocks, self.summary, self._fitting, self._spread.cluster)

    def close(self) -> None:
        for _ in self._spread.cluster.spread(Forget(FIT_STATE), self._spread.cluster.parts(self.blocks.count)):
            pass


def open_fit(
    rows: RowSource,
    sample_weight: NDArray[Any] | None,
    runtime: Runtime | None,
    workspace_bytes: int | None,
    n_clusters: int,
    n_restarts: int,
    spread: Spread | None = None,
) -> Opened:
    """Open the rows and take their summary, one pass. As many blocks stay in memory as the workspace leaves room for.

    spread : where the passes are made; by default in this process. It is for rows without weights.
    Raises as `check_weights` and `summarize` do.
    """
    _, cache_bytes = share_workspace(workspace_bytes, *rows.shape, n_clusters, n_restarts)
    weights = check_weights(sample_weight, rows.shape[0])
    return open_rows(rows, weights, runtime, cache_bytes, spread)


def open_rows(
    rows: RowSource, weights: Floats | None, runtime: Runtime | None, cache_bytes: int, spread: Spread | None
) -> Opened:
    """Open the rows as `open_fit` does. cache_bytes : the bytes of rows that a process may keep in memory."""
    blocks = Blocks(rows, runtime or EmbeddedRuntime(), cache_bytes)
    if spread is not None:
        assert weights is None
        return OpenedOnWorkers(blocks, spread, cache_bytes)
    return OpenedHere(blocks, summarize(blocks, weights), weights)
