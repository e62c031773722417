"""Block Krylov iteration on the workers of a cluster: passes over parts, and the algebra of the basis on one worker.

An application of A to a block V of the basis takes two passes, which all workers share:

    sketches    the k blocks of Z = X'V, quantized     a part is a run of k blocks
    products    the rows of Y = X Z                    a part is a run of rows of Y, summed over all k blocks in order

So every sum is formed in the order of one process, and no bit depends on parts. One worker then takes V, Z and Y into
the basis, saves the state, and computes the next block. The state is that of a fit in one process: what ends here is a
state that such a fit continues, to its scores. V, Z and Y are in folders of tiles, one for each attempt at a job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np

from bigcluster.files.layout import OURS
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.quantize import Quantized
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array
from bigcluster.runtime.cluster import Cluster, Part, Worker
from bigcluster.solvers.checkpoint import Checkpoint, Facts
from bigcluster.solvers.pca.krylov import LEAST_APPLICATIONS, Krylov
from bigcluster.solvers.pca.moments import exact_center
from bigcluster.solvers.pca.operator import CovarianceOperator, Span
from bigcluster.solvers.pca.result import ExactSums, Target
from bigcluster.solvers.pca.schedule import K_BLOCK, block_width
from bigcluster.solvers.pca.subspace import TakeProjected, ritz_vectors
from bigcluster.solvers.progress import FitProgress, OnProgress, StepCounter
from bigcluster.solvers.spill import FolderTiles, SpillBuffer
from bigcluster.store import StageCheckpoints
from bigcluster.store.refs import CheckpointsRef, RowsRef, StoreRef
from bigcluster.store.row_source import spans

SPREAD_FROM = 10**11
"""Multiply-adds of one application of A from which on all workers share it: half a second on two cores. Sharing costs
some 200 ms for each application. Chosen, not measured."""
_ROWS, _COLUMNS = 1024, 8192
"""Rows and columns of X in one unit of the second pass. Storage chunks are not cut in two."""


@dataclass(frozen=True)
class Streamed:
    """What all jobs of a fit know: the rows, and the folder in OUT for what passes between them."""

    store: StoreRef
    rows: RowsRef
    square_sum: int
    """The sum of all squared values of the rows, which are uint8."""
    kernel: str
    scratch: str

    def center(self, worker: Worker) -> ExactSums:
        """Return the exact sums of the rows."""
        return ExactSums(self.store.open(worker).load("column_sums"), self.square_sum)

    def operator(self, worker: Worker) -> CovarianceOperator:
        """Return A in this process."""
        rows = self.rows.open(worker)
        return CovarianceOperator(rows, exact_center(self.center(worker), rows.shape[0]).mean, Gemm(self.kernel))

    def folder(self, worker: Worker, name: str) -> FolderTiles:
        """Return the folder of an attempt at a job."""
        return FolderTiles(self.path(worker) / name)

    def path(self, worker: Worker) -> Path:
        """Return the folder of the fit."""
        return self.store.open(worker).out / OURS / self.scratch


def _put(tiles: FolderTiles, name: str, quantized: Quantized) -> None:
    tiles.put(f"{name}/values", quantized.values)
    tiles.put(f"{name}/scale", quantized.scale)


def _get(tiles: FolderTiles, name: str) -> Quantized:
    return Quantized(tiles.get(f"{name}/values"), tiles.get(f"{name}/scale"))


@dataclass(frozen=True)
class Pending:
    """A block of the basis to which A has to be applied."""

    number: int
    """The number of complete blocks before it."""
    folder: str
    """The folder of its tiles."""
    groups: tuple[Span, ...]
    """The columns to which A is applied at once."""
    k_blocks: int
    """The number of k blocks that are read together."""


@dataclass(frozen=True)
class Sketched:
    """The k blocks of X'V that one part has made, and their shares of c' Z."""

    folder: str
    numbers: range
    shares: tuple[Float64Array, ...]


@dataclass(frozen=True)
class SketchBlocks:
    """Compute X'V of some k blocks, for one group of columns of V. The units are runs of k blocks read together."""

    streamed: Streamed
    pending: Pending
    group: int

    def __call__(self, worker: Worker, part: Part) -> Sketched:
        operator, pending = self.streamed.operator(worker), self.pending
        vectors = self.streamed.folder(worker, pending.folder)
        columns = pending.groups[self.group]
        V = [_get(vectors, f"vectors/{t}").columns(*columns) for t in range(len(operator.tile_spans))]
        folder = uuid4().hex
        tiles, shares = self.streamed.folder(worker, folder), []
        start, stop = part.start * pending.k_blocks, min(part.stop * pending.k_blocks, len(operator.k_spans))
        for number, XtV, share in operator.sketches(V, pending.k_blocks, worker.runtime, range(start, stop)):
            _put(tiles, f"sketch/{number}", XtV)
            shares.append(share)
        return Sketched(folder, range(start, stop), tuple(shares))


@dataclass(frozen=True)
class MultiplyRows:
    """Compute rows of A V of X'V, and return the folder of them and their spans. The units are runs of rows of A."""

    streamed: Streamed
    sketched: tuple[Sketched, ...]
    """X'V of all k blocks, in order."""
    shift: Float64Array
    """c' Z, (width,)."""
    k_blocks: int
    unit: int

    def __call__(self, worker: Worker, part: Part) -> tuple[str, tuple[Span, ...]]:
        operator = self.streamed.operator(worker)
        folders = {i: self.streamed.folder(worker, one.folder) for one in self.sketched for i in one.numbers}
        start, stop = part.start * self.unit, min(part.stop * self.unit, operator.n)
        n_spans = [(start + a, start + b) for a, b in spans(stop - start, self.unit)]
        AV = operator.products(
            n_spans, lambda i: _get(folders[i], f"sketch/{i}"), self.shift, self.k_blocks, worker.runtime
        )
        folder = uuid4().hex
        tiles = self.streamed.folder(worker, folder)
        for (first, _), product in zip(n_spans, AV, strict=True):
            tiles.put(f"product/{first}", product)
        return folder, tuple(n_spans)


@dataclass(frozen=True)
class ProjectBlocks:
    """Compute X U of some k blocks, for the Ritz vectors U in a folder. The units are k blocks."""

    streamed: Streamed
    vectors: str

    def __call__(self, worker: Worker, part: Part) -> tuple[str, range]:
        operator, vectors = self.streamed.operator(worker), self.streamed.folder(worker, self.vectors)
        U = [_get(vectors, f"vectors/{t}") for t in range(len(operator.tile_spans))]
        folder = uuid4().hex
        tiles = self.streamed.folder(worker, folder)
        for number, block in zip(part.units, operator.rmatmat(U, worker.runtime, part.units), strict=True):
            tiles.put(f"projected/{number}", block)
        return folder, part.units


@dataclass(frozen=True)
class Projected:
    """The folders in which X U of all k blocks is, for a fit by column."""

    blocks: tuple[tuple[str, range], ...]

    def take_from(self, scratch: Path) -> TakeProjected:
        """Return what gets the rows of a k block. scratch : the folder of the fit."""
        folders = {number: FolderTiles(scratch / folder) for folder, numbers in self.blocks for number in numbers}
        return lambda number: folders[number].get(f"projected/{number}")


@dataclass(frozen=True)
class Applied:
    """A block, and the folders in which A V and X'V of each group of its columns are."""

    pending: Pending
    sketched: tuple[tuple[Sketched, ...], ...]
    multiplied: tuple[tuple[tuple[str, tuple[Span, ...]], ...], ...]


class _Block:
    """An `Applied` as Krylov takes it."""

    def __init__(self, applied: Applied, streamed: Streamed, worker: Worker) -> None:
        self._applied, self._streamed, self._worker = applied, streamed, worker
        self.n_groups = len(applied.pending.groups)

    def _folder(self, name: str) -> FolderTiles:
        return self._streamed.folder(self._worker, name)

    def vectors(self, t: int) -> Quantized:
        return _get(self._folder(self._applied.pending.folder), f"vectors/{t}")

    def sketch(self, group: int, i: int) -> Quantized:
        (folder,) = (one.folder for one in self._applied.sketched[group] if i in one.numbers)
        return _get(self._folder(folder), f"sketch/{i}")

    def product(self, group: int, start: int, stop: int) -> Float32Array:
        parts = []
        for folder, n_spans in self._applied.multiplied[group]:
            for first, last in n_spans:
                if first < stop and start < last:
                    rows = self._folder(folder).get(f"product/{first}")
                    parts.append(rows[max(0, start - first) : stop - first])
        return np.concatenate(parts)


class _Always:
    """The checkpoints of a stage, which save whenever they are asked: the state goes to another process."""

    def __init__(self, inner: StageCheckpoints) -> None:
        self._inner = inner

    def load(self) -> Checkpoint | None:
        return self._inner.load()

    def should_save(self, n_bytes: int) -> bool:
        del n_bytes
        return True

    def save(self, facts: Facts, arrays: Iterable[tuple[str, AnyArray]], keep: Collection[str] = ()) -> None:
        self._inner.save(facts, arrays, keep)


@dataclass(frozen=True)
class ExtendBasis:
    """Take a block to which A was applied into the basis, save the state, and return the next block.

    Where the basis is complete, it returns the folder of the Ritz vectors to which the data is applied, or "" where
    scores need no other read of the data.
    """

    streamed: Streamed
    target: Target
    seed: int
    workspace_bytes: int
    checkpoints: CheckpointsRef
    applied: Applied | None = None

    def __call__(self, worker: Worker) -> Pending | str:
        own = self.streamed.folder(worker, uuid4().hex)
        try:
            return self.checkpoints.fit(worker, lambda saved: self._extend(worker, own, saved))
        finally:
            own.clear()

    def _extend(self, worker: Worker, own: FolderTiles, checkpoints: StageCheckpoints) -> Pending | str:
        operator, applied = self.streamed.operator(worker), self.applied
        n_rows = self.streamed.rows.shape[0]
        total = exact_center(self.streamed.center(worker), n_rows).total_variance * (n_rows - 1)
        steps = StepCounter(LEAST_APPLICATIONS + 2, None)
        krylov = Krylov(
            operator,
            total,
            self.target,
            SpillBuffer(own, 0),
            self.workspace_bytes,
            worker.runtime,
            steps,
            _Always(checkpoints),
        )
        krylov.resume()
        # A job that is done a second time finds its block in the state.
        if applied is not None and applied.pending.number == len(krylov.vectors.widths):
            krylov.take_block(_Block(applied, self.streamed, worker))
        number = len(krylov.vectors.widths)
        is_complete = not krylov.begin_block(self.seed)
        if is_complete and operator.by_row:
            return ""
        folder = uuid4().hex
        tiles = self.streamed.folder(worker, folder)
        if is_complete:
            for t, quantized in enumerate(ritz_vectors(krylov)[0]):
                _put(tiles, f"vectors/{t}", quantized)
            return folder
        for t in krylov.vectors.tiles:
            _put(tiles, f"vectors/{t}", krylov.vectors.quantized(number, t))
        return Pending(number, folder, tuple(krylov.groups), krylov.schedule.k_blocks)


def is_spread(shape: tuple[int, int], target: Target) -> bool:
    """Return whether all workers share the applications of A for rows of this shape."""
    n, k = sorted(shape)
    return 2 * n * k * block_width(target, n) >= SPREAD_FROM


def extend_on_workers(job: ExtendBasis, cluster: Cluster, on_progress: OnProgress) -> Projected | None:
    """Extend the basis on all workers until it is complete. The saved state is then all that a fit needs.

    Returns X U, by column only. Where there is one worker, or little to do, nothing is done here: one worker makes the
    whole fit, without a word to others in between.
    """
    streamed = job.streamed
    if cluster.n_workers == 1 or not is_spread(streamed.rows.shape, job.target):
        return None
    pending = cluster.once(job)
    while isinstance(pending, Pending):
        applied = _apply(pending, streamed, cluster)
        n_done = pending.number + 1
        pending = cluster.once(replace(job, applied=applied))
        for folder in _folders(applied):
            FolderTiles(streamed.store.out / OURS / streamed.scratch / folder).clear()
        on_progress(FitProgress(n_done, max(n_done + 1, LEAST_APPLICATIONS + 2)))
    if not pending:
        return None
    parts = cluster.parts(-(-max(streamed.rows.shape) // K_BLOCK))
    return Projected(tuple(cluster.spread(ProjectBlocks(streamed, pending), parts)))


def _apply(pending: Pending, streamed: Streamed, cluster: Cluster) -> Applied:
    """Apply A to a block on all workers."""
    by_row = streamed.rows.shape[0] <= streamed.rows.shape[1]
    n, k = streamed.rows.shape if by_row else streamed.rows.shape[::-1]
    unit = _ROWS if by_row else _COLUMNS
    sketched, multiplied = [], []
    for group in range(len(pending.groups)):
        parts = cluster.parts(-(-k // (K_BLOCK * pending.k_blocks)))
        found = tuple(cluster.spread(SketchBlocks(streamed, pending, group), parts))
        shift = np.zeros(len(found[0].shares[0]))
        for one in found:
            for share in one.shares:
                shift += share
        job = MultiplyRows(streamed, found, shift, pending.k_blocks, unit)
        multiplied.append(tuple(cluster.spread(job, cluster.parts(-(-n // unit)))))
        sketched.append(found)
    return Applied(pending, tuple(sketched), tuple(multiplied))


def _folders(applied: Applied) -> list[str]:
    """Return the folders of an application, which nobody reads once it is in the basis."""
    sketched = [one.folder for group in applied.sketched for one in group]
    return [applied.pending.folder, *sketched, *(folder for group in applied.multiplied for folder, _ in group)]
