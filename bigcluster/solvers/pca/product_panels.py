"""The sums of products of a fit on a cluster: block column by block column, and in rounds that are saved.

A round sums some of k on all workers. Where it is not the last one of a block column, one worker adds its sums to those
of the rounds before and saves them, so that a killed run repeats a round at most. Where there is one block column, the
sums of the last round go to the job of the fit. Where there are several, each is put into a folder of tiles, of which
the fit reads them: between block columns no sums stay in memory. One process alone sums in the same way, in one round,
and saves its sums itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np

from bigcluster.errors import StoreError
from bigcluster.files.layout import OURS
from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.runtime.cluster import Cluster, Handle, Local, Part, Worker
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.pca.covariance import center_tiles, shifted_sums
from bigcluster.solvers.pca.eigen import TiledMatrix
from bigcluster.solvers.pca.gram import sum_tiles
from bigcluster.solvers.pca.operands import work_dtype
from bigcluster.solvers.pca.product_parts import Steps, SumProducts, add_sums, fit_steps
from bigcluster.solvers.pca.products import (
    Pair,
    ProductPlan,
    Span,
    Sums,
    SumsCheckpoint,
    TileSums,
    accumulator_dtype,
    complete_tiles,
    plan_products,
)
from bigcluster.solvers.pca.result import Target
from bigcluster.solvers.progress import FitProgress, OnProgress
from bigcluster.solvers.spill import FolderTiles, GivenTiles, SpillBuffer, Tiles
from bigcluster.store import StageCheckpoints
from bigcluster.store.checkpoints import COST_FACTOR, MOST_SECONDS
from bigcluster.store.refs import CheckpointsRef, RowsRef, StoreRef
from bigcluster.store.row_io import StoredRows
from bigcluster.store.row_source import RowSource
from bigcluster.units import MIB

BY_ROW = {"gram": True, "covariance": False}
"""The solvers of products, and whether the product is X X'."""
ASSUMED_RATE = 2 * 10**11
"""Multiply-adds of a worker in a second that are assumed before the first round is timed: those of one thread. Chosen,
not measured."""
SAVED_BYTES = 100 * MIB
"""Bytes of sums that are assumed to be saved in a second: they are read, added and written. Chosen, not measured."""


@dataclass(frozen=True)
class Panel:
    """The tiles of one block column that a job has put into a folder, and what a fit needs to know of them."""

    folder: str
    """The name of the folder, inside the one of the fit."""
    pairs: tuple[Pair, ...]
    summed: TileSums


@dataclass(frozen=True)
class Products:
    """The sums of products of a fit: of its only block column, or in folders of tiles."""

    sums: Handle[Sums] | None
    saved: SavedSums | None
    """The sums of an earlier part of k, which `sums` lack."""
    panels: tuple[Panel, ...]
    n_steps: int
    """Of how many steps of the fit they are."""


@dataclass(frozen=True)
class SavedSums:
    """The sums that earlier rounds have saved of one block column."""

    plan: ProductPlan
    panel: Span
    k: int
    """They hold k up to here. 0 : there are none."""

    def added_to(self, sums: Sums | None, checkpoints: CheckpointStore) -> Sums:
        """Return the saved sums with these, which may be changed. Raises StoreError where other sums are saved."""
        plan = self.plan
        if self.k == 0:
            assert sums is not None
            return sums
        saved = SumsCheckpoint(checkpoints, plan.block_columns, plan.k, accumulator_dtype(work_dtype_of(plan), plan.k))
        if saved.k_saved(self.panel[0]) != self.k:
            raise StoreError("the saved sums of products are not those of this run any more; run again")
        spans = plan.tile_spans
        for j, i in plan.pairs(self.panel):
            tile = saved.tile(j, i, (spans[j][1] - spans[j][0], spans[i][1] - spans[i][0]))
            if sums is not None:
                tile = tile + sums[j, i]
            sums = {} if sums is None else sums
            sums[j, i] = tile
        assert sums is not None
        return sums


def work_dtype_of(plan: ProductPlan) -> np.dtype[np.generic]:
    """Return the dtype of the work of sums in parts, which are those of uint8 rows."""
    return work_dtype(np.dtype(np.uint8), plan.n)


@dataclass(frozen=True)
class KeepSums:
    """Keep the sums of a round, with those of the rounds before: save them, or put them into a folder of tiles."""

    store: StoreRef
    checkpoints: CheckpointsRef
    saved: SavedSums
    """What earlier rounds have saved."""
    k_done: int
    """How much of k the sums hold together with those."""
    by_row: bool
    scratch: str
    """The folder of the fit in OUT, for what does not fit into memory."""
    shifted: Float64Array | None
    """X'X only: the column sums of x - 128, (n_columns,)."""

    def __call__(self, worker: Worker, sums: Sums | None = None) -> Panel | None:
        plan, panel = self.saved.plan, self.saved.panel
        checkpoints = self.checkpoints.open(worker)
        sums = self.saved.added_to(sums, checkpoints)
        is_last = panel == plan.block_columns[-1]
        if not (self.k_done == plan.k and is_last):
            dtype = accumulator_dtype(work_dtype_of(plan), plan.k)
            saver = SumsCheckpoint(checkpoints, plan.block_columns, plan.k, dtype)
            if saver.k_saved(panel[0]) < self.k_done:  # a job that summed alone has saved its sums itself
                saver.save(sums, panel[0], self.k_done)
        if self.k_done < plan.k:
            return None
        folder = uuid4().hex
        tiles = FolderTiles(self.store.open(worker).out / OURS / self.scratch / folder)
        matrix = TiledMatrix(plan.tile_spans, SpillBuffer(tiles, 0))
        pairs = plan.pairs(panel)
        products = complete_tiles(sums, pairs)
        if self.by_row:
            summed = sum_tiles(products, matrix, worker.runtime, exact=True)
        else:
            assert self.shifted is not None
            summed = center_tiles(products, matrix, self.shifted, plan.k, exact=True)
        return Panel(folder, tuple(pairs), summed)


def with_panels(own: Tiles, scratch: Path, panels: tuple[Panel, ...]) -> Tiles:
    """Return the tiles of one attempt at a fit: its own ones, and those of panels that were summed before.

    scratch : the folder of the fit, in which the folders of the panels are.
    """
    given: Mapping[str, Tiles] = {
        f"matrix/{j}/{i}": FolderTiles(scratch / panel.folder) for panel in panels for j, i in panel.pairs
    }
    return GivenTiles(own, given) if given else own


class _Rounds:
    """Decides how much of k a round sums, so that it takes about as long as the checkpoints allow."""

    def __init__(self, plan: ProductPlan, panel: Span, cluster: Cluster, unit: int) -> None:
        values = sum(
            (plan.tile_spans[j][1] - plan.tile_spans[j][0]) * (plan.tile_spans[i][1] - plan.tile_spans[i][0])
            for j, i in plan.pairs(panel)
        )
        n_bytes = values * accumulator_dtype(work_dtype_of(plan), plan.k).itemsize
        self._seconds = min(MOST_SECONDS, COST_FACTOR * n_bytes / SAVED_BYTES)
        self._per_second = ASSUMED_RATE * cluster.n_workers / (values * unit)

    def n_units(self) -> int:
        """Return the number of units of the next round."""
        return max(1, int(self._per_second * self._seconds))

    def took(self, n_units: int, seconds: float) -> None:
        """Note how long a round took."""
        self._per_second = n_units / max(seconds, 1e-3)


class _Driver:
    """Sums products block column by block column, for `products_in_parts`."""

    def __init__(self, job: SumProducts, keep: KeepSums, cluster: Cluster, steps: Steps) -> None:
        self._job, self._keep, self._cluster, self._steps = job, keep, cluster, steps

    def _report(self, done: int) -> None:
        if self._steps.on_progress is not None:
            self._steps.on_progress(FitProgress(done, self._steps.n_steps))

    def sums(self, panel: Span, k_saved: int, n_done: int) -> tuple[Handle[Sums], SavedSums]:
        """Sum a block column; return the sums of the last round, and what is saved of the rounds before.

        k_saved : how much of k the saved sums hold. n_done : the steps of earlier block columns.
        """
        plan, unit = self._job.plan, self._job.unit
        rounds, done = _Rounds(plan, panel, self._cluster, unit), k_saved
        while True:
            first, end = done // unit, -(-plan.k // unit)
            parts = self._cluster.parts(end - first, per_worker=1) if done < plan.k else [Part(0, 0, 1)]
            if len(parts) > 1:
                end = min(end, first + rounds.n_units())
                parts = self._cluster.parts(end - first, per_worker=1)
            stop = min(end * unit, plan.k)
            alone = len(parts) == 1 and stop == plan.k
            job = replace(
                self._job,
                panel=panel,
                begin=done,
                alone=alone,
                steps=Local(replace(self._steps, n_done=n_done)),
            )
            parts = [Part(part.index, first + part.start, first + part.stop) for part in parts]
            began = time.monotonic()
            handle = self._cluster.merged(job, parts, add_sums)
            saved = SavedSums(plan, panel, 0 if alone else done)
            if stop == plan.k:
                self._report(n_done + -(-plan.k // plan.k_block))
                return handle, saved
            rounds.took(end - first, time.monotonic() - began)
            self._cluster.once(replace(self._keep, saved=saved, k_done=stop), handle)
            done = stop
            self._report(n_done + done // plan.k_block)

    def panels(self, saved: SumsCheckpoint) -> tuple[Panel, ...]:
        """Put all block columns into folders of tiles. saved : the sums that an earlier run has left."""
        plan, n_done = self._job.plan, 0
        panels: list[Panel] = []
        for panel in plan.block_columns:
            k_saved = saved.k_saved(panel[0])
            handles: list[Handle[Sums]] = []
            before = SavedSums(plan, panel, k_saved)
            if k_saved < plan.k:
                handle, before = self.sums(panel, k_saved, n_done)
                handles.append(handle)
            put = self._cluster.once(replace(self._keep, saved=before, k_done=plan.k), *handles)
            assert put is not None
            panels.append(put)
            n_done += -(-plan.k // plan.k_block)
        return tuple(panels)


def products_in_parts(
    solver: str,
    rows: RowSource,
    *,
    target: Target,
    cluster: Cluster,
    threads: int,
    workspace_bytes: int,
    kernel: str,
    mean: Float64Array | None,
    scratch: str,
    on_progress: OnProgress | None,
    checkpoints: StageCheckpoints,
) -> Products | None:
    """Sum the products that a fit by `gram` or `covariance` needs, on all workers.

    threads, workspace_bytes : of each worker. mean : of the columns, where it is known exactly. scratch : the name of a
    folder in OUT for what does not fit into memory; the caller removes it. The other arguments are those of fit_pca.
    Returns None where the fit sums them itself: float products depend on their order.
    """
    if solver not in BY_ROW or rows.dtype != np.uint8:
        return None
    by_row = BY_ROW[solver]
    n, k = rows.shape if by_row else rows.shape[::-1]
    plan = plan_products(n, k, work_dtype(rows.dtype, n), threads, workspace_bytes)
    if len(plan.block_columns) > 1 and not by_row and mean is None:
        return None  # tiles of X'X are centered before they leave memory
    unit = plan.k_block
    if isinstance(rows, StoredRows):  # no chunk is read by two workers
        unit = rows.chunks[1] if by_row else rows.chunks[0]
    steps = Steps(on_progress, fit_steps(plan, target), 0)
    ref = CheckpointsRef.of(checkpoints)
    first = plan.block_columns[0]
    job = SumProducts(RowsRef.of(rows), kernel, by_row, plan, first, unit, 0, False, ref, Local(steps))
    shifted = None if by_row or mean is None else shifted_sums(mean, k)
    keep = KeepSums(ref.store, ref, SavedSums(plan, first, 0), 0, by_row, scratch, shifted)
    driver = _Driver(job, keep, cluster, steps)
    saved = SumsCheckpoint(checkpoints, plan.block_columns, plan.k, accumulator_dtype(work_dtype_of(plan), plan.k))
    if len(plan.block_columns) > 1:
        return Products(None, None, driver.panels(saved), plan.steps)
    handle, before = driver.sums(first, saved.k_saved(first[0]), 0)
    return Products(handle, before, (), plan.steps)
