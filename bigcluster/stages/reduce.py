"""Pixels -> PCA scores in the store: one fit, whose spectrum answers every variance target.

The store holds mean, components, explained variance and scores at the rank that was computed. A target takes the first
columns of the scores; nothing is fitted again for a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster import memory
from bigcluster.chunks import chunk_shape
from bigcluster.config import Settings
from bigcluster.errors import InvalidDataError, TooFewSamplesError, VarianceNotReachedError
from bigcluster.planning import StagePlan
from bigcluster.progress import Progress
from bigcluster.rows import RowSource
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca import incremental
from bigcluster.stages.ingest import Ingested, pixel_rows
from bigcluster.store import Mark, RowWriter, Store, StoredRows, fingerprint

STAGE = "reduce"


@dataclass(frozen=True)
class Reduced:
    """What clustering works on."""

    fingerprint: str
    rows: RowSource
    """(n_ok, n_components) float32."""
    n_components: int
    explained_variance_ratio: NDArray[np.float64] | None
    """(rank,) share of the total variance per computed component; None where nothing was reduced."""
    reused: bool
    facts: dict[str, Any]
    """For summary.json: solver, passes, bytes read, and what the budget settled."""


def reduce(
    store: Store, ingested: Ingested, settings: Settings, plan: StagePlan | None, runtime: Runtime, progress: Progress
) -> Reduced:
    """Bring scores up to date. `plan` is None for reduce = "none": then the pixels are the rows."""
    pixels = pixel_rows(store, ingested.ok)
    if plan is None:
        rows = FloatRows(pixels)
        unreduced = fingerprint(before=ingested.fingerprint, stage=STAGE, reduce="none")
        return Reduced(unreduced, rows, rows.shape[1], None, ingested.reused, {"solver": "none", "passes": 0})
    n_rows, n_values = pixels.shape
    if settings.components is not None and settings.components > min(n_rows, n_values):
        raise TooFewSamplesError(
            f"components = {settings.components} needs as many good images and values per image; "
            f"there are {n_rows} images of {n_values} values: use --components {min(n_rows, n_values)} or fewer"
        )
    wanted = _fit_fingerprint(settings, ingested)
    mark = store.marks.read(STAGE)
    reused = mark is not None and mark.fingerprint == wanted and _suffices(store, mark, settings, plan)
    if mark is None or not reused:
        mark = _fit(store, pixels, ingested, settings, plan, wanted, runtime, progress)
    else:
        progress.reused(STAGE)
    ratio = store.load("explained_variance") / mark.payload["total_variance"]
    n_components = _components_for(ratio, settings)
    scores = StoredRows(store.array("scores"))
    return Reduced(
        fingerprint=fingerprint(before=wanted, n_components=n_components),
        rows=FirstColumns(scores, n_components),
        n_components=n_components,
        explained_variance_ratio=ratio,
        reused=reused,
        facts=mark.payload,
    )


def _fit_fingerprint(settings: Settings, ingested: Ingested) -> str:
    """What the fit depends on. The budget's part (batch, rank) is stored at the first fit and kept, outside of this."""
    return fingerprint(
        before=ingested.fingerprint,
        stage=STAGE,
        solver=settings.pca.solver,
        components=settings.components,
        seed=settings.seed,
        iterated_power=settings.pca.iterated_power,
    )


def _fit(
    store: Store,
    pixels: RowSource,
    ingested: Ingested,
    settings: Settings,
    plan: StagePlan,
    wanted: str,
    runtime: Runtime,
    progress: Progress,
) -> Mark:
    n_rows, n_values = pixels.shape
    total_variance = total_variance_of(ingested, n_rows)
    rank = min(plan.choices["rank"], n_rows, n_values)
    batch_rows = max(rank, min(plan.choices["batch_rows"], n_rows))
    block_rows = max(1, min(n_rows, 16 * 2**20 // (n_values * memory.FLOAT32)))
    store.marks.remove(STAGE)
    with progress.stage(STAGE, 2 * n_rows, "images"):
        basis = incremental.fit_incremental(
            pixels,
            rank=rank,
            batch_rows=batch_rows,
            iterated_power=settings.pca.iterated_power,
            seed=settings.seed,
            threads=runtime.threads,
            on_progress=progress.at,
        )
        scores = RowWriter(store, "scores", n_rows, rank, np.float32)
        incremental.project(
            pixels,
            basis,
            block_rows=block_rows,
            runtime=runtime,
            write=scores.write,
            on_progress=lambda done: progress.at(n_rows + done),
        )
        files = scores.close()
        files += store.save("components", basis.components, chunk_shape(n_values, memory.FLOAT32))
        files += store.save("mean", basis.mean)
        files += store.save("explained_variance", basis.explained_variance)
        payload = {
            "solver": settings.pca.solver,
            "passes": 2,
            "bytes_read": 2 * n_rows * n_values,
            "rank": rank,
            "batch_rows": batch_rows,
            "total_variance": total_variance,
        }
        return store.commit(STAGE, wanted, files, payload)


def _suffices(store: Store, mark: Mark, settings: Settings, plan: StagePlan) -> bool:
    """Whether the stored fit still serves: it reaches the target, or today's budget affords no larger rank either."""
    if settings.variance is None or plan.choices["rank"] <= mark.payload["rank"]:
        return True
    share = float(store.load("explained_variance").sum()) / mark.payload["total_variance"]
    return bool(share >= settings.variance)


def total_variance_of(ingested: Ingested, n_rows: int) -> float:
    """Sum of the variances of all columns (ddof = 1), from exact integer sums.

    Squares of column sums pass 2^63 at a million images: Python's integers do not mind.
    """
    squared_sums = sum(int(s) * int(s) for s in ingested.column_sums)
    scatter = ingested.square_sum * n_rows - squared_sums  # n_rows times the sum of squared deviations
    if scatter == 0:
        raise InvalidDataError(
            f"all {n_rows} good images are the same picture at this size: there is no variance to reduce; "
            "use --set reduce=none or a larger --size"
        )
    return scatter / n_rows / (n_rows - 1)


def _components_for(ratio: NDArray[np.float64], settings: Settings) -> int:
    """The number of components asked for, or the first that reaches the variance target."""
    if settings.components is not None:
        return settings.components
    assert settings.variance is not None, "one of the two is always set"
    cumulative = np.cumsum(ratio)
    reached = np.flatnonzero(cumulative >= settings.variance - 1e-12)
    if len(reached) == 0:
        raise VarianceNotReachedError(
            f"variance {settings.variance:g} was asked for, {len(ratio)} components reach {cumulative[-1]:.4f}; "
            f"use --variance {np.floor(cumulative[-1] * 100) / 100:g}, --components {len(ratio)}, or a larger --memory"
        )
    return int(reached[0]) + 1


class FirstColumns:
    """The first columns of a row source."""

    def __init__(self, rows: RowSource, n_columns: int) -> None:
        self._rows = rows
        self._n_columns = n_columns

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows.shape[0], self._n_columns

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._rows.dtype

    def read(self, start: int, stop: int, columns: slice = slice(None)) -> NDArray[Any]:
        begin, end, step = columns.indices(self._n_columns)
        return np.ascontiguousarray(self._rows.read(start, stop, slice(begin, end, step)))


class FloatRows:
    """A row source as float32, converted at every read."""

    def __init__(self, rows: RowSource) -> None:
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, start: int, stop: int, columns: slice = slice(None)) -> NDArray[Any]:
        return self._rows.read(start, stop, columns).astype(np.float32)
