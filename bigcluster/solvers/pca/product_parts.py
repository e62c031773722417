"""The products of a Gram or a covariance matrix in parts: each worker multiplies its share of k into all tiles.

    X X'   k is the columns of X          X' X   k is the rows of X

Every value of X is read once by one worker, and what travels is one triangle of integer sums from each. Such sums are
exact, so they are added in any order. Sums that do not fit into the memory of a worker are made one block column after
the other (panels.py): each reads X once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.cluster import Local, Part, Worker
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS
from bigcluster.solvers.pca.lanczos import lanczos_steps
from bigcluster.solvers.pca.operands import Operands
from bigcluster.solvers.pca.products import ProductPlan, Span, Sums, SumsCheckpoint, accumulator_dtype, sum_panel
from bigcluster.solvers.pca.result import Target
from bigcluster.solvers.progress import OnProgress, StepCounter, advancing
from bigcluster.store import StageCheckpoints
from bigcluster.store.refs import CheckpointsRef, RowsRef

SUM_DTYPE = np.dtype(np.uint8)
"""The dtype of the rows whose sums of products are exact."""


def fit_steps(plan: ProductPlan, target: Target) -> int:
    """Return about how many steps a fit by products has, for its progress."""
    return plan.steps + lanczos_steps(target, plan.n) + 1


@dataclass(frozen=True)
class Steps:
    """What a fit reports in the process that called it."""

    on_progress: OnProgress | None
    n_steps: int
    n_done: int


@dataclass(frozen=True)
class SumProducts:
    """Sum the products of the tiles of one block column over a part of k. The units are runs of `unit` values of k."""

    rows: RowsRef
    kernel: str
    by_row: bool
    plan: ProductPlan
    panel: Span
    """The tile columns of the block column."""
    unit: int
    begin: int
    """How much of k has been summed before."""
    alone: bool
    """Whether one job sums all that is left of k. It then goes on from the saved sums, which it includes, and saves its
    own meanwhile."""
    checkpoints: CheckpointsRef
    steps: Local[Steps] = field(default_factory=Local, compare=False, repr=False)

    def __call__(self, worker: Worker, part: Part) -> Sums:
        plan, steps = self.plan, self.steps.value
        operands = Operands(self.rows.open(worker), Gemm(self.kernel), None, by_row=self.by_row)
        if steps is not None:
            progress = StepCounter(steps.n_steps, steps.on_progress, steps.n_done)
        else:
            progress = StepCounter(plan.steps + 1, advancing(worker.progress))
        dtype = accumulator_dtype(operands.dtype, plan.k)

        def all_that_is_left(checkpoints: StageCheckpoints) -> Sums:
            saved = SumsCheckpoint(checkpoints, plan.block_columns, plan.k, dtype)
            return sum_panel(operands, plan, self.panel, worker.runtime, progress, saved)

        if self.alone:
            return self.checkpoints.fit(worker, all_that_is_left)
        k_span = max(self.begin, part.start * self.unit), min(part.stop * self.unit, plan.k)
        saved = SumsCheckpoint(NO_CHECKPOINTS, plan.block_columns, plan.k, dtype)
        return sum_panel(operands, plan, self.panel, worker.runtime, progress, saved, k_span)


def add_sums(one: Sums, other: Sums) -> Sums:
    """Add the sums of two parts of k, tile by tile."""
    return {pair: tile + other[pair] for pair, tile in one.items()}
