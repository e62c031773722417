"""dask-ml's IncrementalPCA as a solver, used so that its known faults do not reach a result.

With svd_solver="randomized" its transform fails under scikit-learn 1.9 and with no power iterations its components are
inaccurate (worst principal-angle cosine .873, .9997 with two): "auto" with `iterated_power` is used. The default batch
of 5 x n_features rows would be all images at once: the batch comes from the plan. Scores are projected here.

Source: Ross, Lim, Lin and Yang 2008, Incremental Learning for Robust Visual Tracking, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from bigcluster.rows import RowSource
from bigcluster.runtime import Runtime


@dataclass(frozen=True)
class Basis:
    """Mean (d,) float64, components (rank, d) float32, explained_variance (rank,) float64."""

    mean: NDArray[np.float64]
    components: NDArray[np.float32]
    explained_variance: NDArray[np.float64]


def batches(n_rows: int, batch_rows: int, rank: int) -> list[tuple[int, int]]:
    """Batches of `batch_rows`; a last one smaller than `rank` joins the one before (scikit-learn issue 12234)."""
    starts = list(range(0, n_rows, batch_rows))
    if len(starts) > 1 and n_rows - starts[-1] < rank:
        starts.pop()
    return list(zip(starts, [*starts[1:], n_rows], strict=True))


def fit_incremental(
    rows: RowSource,
    *,
    rank: int,
    batch_rows: int,
    iterated_power: int,
    seed: int,
    threads: int,
    on_progress: Callable[[int], None],
) -> Basis:
    """One pass over the rows; `on_progress(rows_done)`. float64 inside, 7 copies of a batch at the peak."""
    from dask_ml.decomposition import IncrementalPCA

    n_columns = rows.shape[1]
    solver = IncrementalPCA(n_components=rank, svd_solver="auto", iterated_power=iterated_power, random_state=seed)
    for start, stop in batches(rows.shape[0], batch_rows, rank):
        block = da.from_array(rows.read(start, stop).astype(np.float64), chunks=(stop - start, n_columns))
        with warnings.catch_warnings(), dask.config.set(scheduler="threads", num_workers=threads):
            # It divides by the zero rows seen before the first batch.
            warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
            solver.partial_fit(block)
        on_progress(stop)
    variance = np.asarray(solver.explained_variance_, dtype=np.float64)
    return Basis(np.asarray(solver.mean_, dtype=np.float64), np.asarray(solver.components_, np.float32), variance)


def project(
    rows: RowSource,
    basis: Basis,
    *,
    block_rows: int,
    runtime: Runtime,
    write: Callable[[int, NDArray[np.float32]], None],
    on_progress: Callable[[int], None],
) -> None:
    """Scores (x - mean) components' of all rows, block by block in order, in float32."""
    offset = (basis.mean @ basis.components.T.astype(np.float64)).astype(np.float32)  # (rank,)
    n_rows = rows.shape[0]

    def scores_of(start: int) -> tuple[int, NDArray[Any]]:
        block = rows.read(start, min(start + block_rows, n_rows)).astype(np.float32)
        return start, block @ basis.components.T - offset  # (block_rows, rank)

    for start, scores in runtime.map(scores_of, range(0, n_rows, block_rows)):
        write(start, scores)
        on_progress(start + len(scores))
