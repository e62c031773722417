"""The products of a Gram or a covariance matrix in parts: each worker multiplies its share of k into all tiles.

    X X'   k is the columns of X          X' X   k is the rows of X

Every value of X is read once by one worker, and what travels is one triangle of integer sums from each. Such sums are
exact, so they are added in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.cluster import Cluster, Handle, Local, Part, Worker
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.lanczos import lanczos_steps
from bigcluster.solvers.pca.operands import Operands, work_dtype
from bigcluster.solvers.pca.products import (
    ProductPlan,
    Sums,
    SumsCheckpoint,
    accumulator_dtype,
    plan_products,
    sum_panel,
)
from bigcluster.solvers.pca.result import Target
from bigcluster.solvers.progress import FitProgress, OnProgress, StepCounter
from bigcluster.store.refs import RowsRef
from bigcluster.store.row_io import StoredRows
from bigcluster.store.row_source import RowSource

BY_ROW = {"gram": True, "covariance": False}
"""The solvers of products, and whether the product is X X'."""


def fit_steps(plan: ProductPlan, target: Target) -> int:
    """Return about how many steps a fit by products has, for its progress."""
    return plan.steps + lanczos_steps(target, plan.n) + 1


@dataclass(frozen=True)
class Steps:
    """What a fit saves and reports in the process that called it."""

    checkpoints: CheckpointStore
    on_progress: OnProgress | None
    n_steps: int


@dataclass(frozen=True)
class SumProducts:
    """Sum the products of all tiles over a part of k. The units are runs of `unit` values of k."""

    rows: RowsRef
    kernel: str
    by_row: bool
    plan: ProductPlan
    """It has one block column."""
    unit: int
    steps: Local[Steps] = field(default_factory=Local, compare=False, repr=False)

    def __call__(self, worker: Worker, part: Part) -> Sums:
        plan, steps = self.plan, self.steps.value
        operands = Operands(self.rows.open(worker), Gemm(self.kernel), None, by_row=self.by_row)
        k_span = part.start * self.unit, min(part.stop * self.unit, plan.k)
        (panel,) = plan.block_columns
        dtype = accumulator_dtype(operands.dtype, plan.k)
        if steps is not None and k_span == (0, plan.k):  # the whole sum, which may be saved
            progress = StepCounter(steps.n_steps, steps.on_progress)
            saved = SumsCheckpoint(steps.checkpoints, plan.block_columns, plan.k, dtype)
            return sum_panel(operands, plan, panel, worker.runtime, progress, saved)
        saved = SumsCheckpoint(NO_CHECKPOINTS, plan.block_columns, plan.k, dtype)
        return sum_panel(operands, plan, panel, worker.runtime, StepCounter(plan.steps, None), saved, k_span)


def add_sums(one: Sums, other: Sums) -> Sums:
    """Add the sums of two parts of k, tile by tile."""
    return {pair: tile + other[pair] for pair, tile in one.items()}


def products_in_parts(
    solver: str,
    rows: RowSource,
    *,
    target: Target,
    cluster: Cluster,
    threads: int,
    workspace_bytes: int,
    kernel: str,
    on_progress: OnProgress | None,
    checkpoints: CheckpointStore,
) -> tuple[Handle[Sums], int] | None:
    """Sum the products that a fit by `gram` or `covariance` needs, on all workers.

    threads, workspace_bytes : of each worker; the fit gets the same ones. The other arguments are those of fit_pca.
    Returns the sums, and of how many steps of the fit they are. None where the fit sums them itself: float products
    depend on their order, and sums that do not fit into the workspace go to the disk column by column.
    """
    if solver not in BY_ROW or rows.dtype != np.uint8:
        return None
    by_row = BY_ROW[solver]
    n, k = rows.shape if by_row else rows.shape[::-1]
    plan = plan_products(n, k, work_dtype(rows.dtype, n), threads, workspace_bytes)
    if len(plan.block_columns) > 1:
        return None
    unit = plan.k_block
    if isinstance(rows, StoredRows):  # no chunk is read by two workers
        unit = rows.chunks[1] if by_row else rows.chunks[0]
    n_steps = fit_steps(plan, target)
    steps = Local(Steps(checkpoints, on_progress, n_steps))
    job = SumProducts(RowsRef.of(rows), kernel, by_row, plan, unit, steps)
    sums = cluster.merged(job, cluster.parts(-(-k // unit), per_worker=1), add_sums)
    if on_progress is not None:
        on_progress(FitProgress(plan.steps, n_steps))
    return sums, plan.steps
