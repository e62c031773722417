"""The basis of a streamed block Krylov iteration: V_0, A V_0, A^2 V_0, ..., each block quantized to int8.

A is the covariance operator on the smaller side of the data (bigcluster.solvers.pca.operator). The whole method is
described in bigcluster.solvers.pca.subspace.
Source: Musco and Musco 2015, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Protocol

import numpy as np

from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.quantize import Quantized, quantize
from bigcluster.kernels.linalg.types import Float32Array, Float64Array
from bigcluster.kernels.pca import FLOAT32_NOISE, bordered, ordered_sum, orthonormal_transform, ritz_values_generalised
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.pca.blocks import Blocks
from bigcluster.solvers.pca.eigen import n_dominating, n_needed_for, with_blas_threads
from bigcluster.solvers.pca.operator import CovarianceOperator
from bigcluster.solvers.pca.result import Target
from bigcluster.solvers.pca.schedule import block_width, iteration_schedule, most_applications, rayleigh_ritz_bytes
from bigcluster.solvers.progress import StepCounter
from bigcluster.solvers.spill import SpillBuffer
from bigcluster.store.row_source import spans
from bigcluster.units import show_bytes


class Candidate:
    """The next block of the basis while it is computed: (n, b) float32, in tiles in `buffer`, not yet quantized.

    spans : the rows of each tile.
    """

    def __init__(self, spans: list[tuple[int, int]], buffer: SpillBuffer, runtime: Runtime) -> None:
        self.spans = spans
        self._buffer, self._runtime = buffer, runtime

    def put(self, t: int, block: Float32Array) -> None:
        """Replace tile t by `block`, (rows_t, b)."""
        self._buffer.put(f"block/{t}", np.ascontiguousarray(block))

    def get(self, t: int) -> Float32Array:
        """Tile t, (rows_t, b)."""
        block: Float32Array = self._buffer.get(f"block/{t}")
        return block

    def delete(self, t: int) -> None:
        """Delete tile t, where there is one."""
        self._buffer.delete(f"block/{t}")

    def fill(self, width: int, seed: int) -> None:
        """Make the block of `width` columns of standard normal numbers."""
        for t in range(len(self.spans)):
            self.put(t, np.zeros((self.spans[t][1] - self.spans[t][0], 0), np.float32))
        self.append_random(width, seed)

    def append_random(self, n_more: int, seed: int | list[int]) -> None:
        """Append n_more columns of standard normal numbers."""
        random = np.random.default_rng(seed)
        for t, (start, stop) in enumerate(self.spans):
            more = random.standard_normal((stop - start, n_more), dtype=np.float32)
            self.put(t, np.hstack([self.get(t), more]))

    def transform(self, transform: Float32Array) -> None:
        """Multiply the block by `transform`, (b, b') float32."""

        def task(t: int) -> None:
            self.put(t, float_product(self.get(t), transform))

        for _ in self._runtime.map(task, range(len(self.spans))):
            pass

    def orthonormal(self, block: Callable[[int], Float32Array], floor: float) -> Float32Array:
        """The (b, b') float32 transform that makes the columns of a block orthonormal.

        block(t) : rows of tile t, (rows_t, b). Columns of norm up to `floor` are dropped.
        """

        def square(t: int) -> Float32Array:
            tile = block(t)
            return float_product(tile, tile, transpose_left=True)

        total = ordered_sum(self._runtime.map(square, range(len(self.spans))))
        transform = with_blas_threads(len(total), lambda: orthonormal_transform(total, floor))
        return np.ascontiguousarray(transform, np.float32)


LEAST_APPLICATIONS = 4
"""Blocks before convergence is judged: two gains of captured variance tell how they fall."""
_GAIN_BY_ROW, _GAIN_BY_COLUMN = 7e-4, 3e-4
"""Share of the variance, without eigenvalues that outweigh all others, that another block must promise to be worth its
read of the data. Gains fall geometrically. By row, components are half an application ahead of the basis, and already
hold most of what is promised."""
_LAYOUT = 3
"""Version of the checkpoint; one of another version is not used."""


class AppliedBlock(Protocol):
    """A block of the basis and what A makes of it, computed elsewhere in groups of its columns."""

    n_groups: int

    def vectors(self, t: int) -> Quantized:
        """Tile t of the block."""

    def sketch(self, group: int, i: int) -> Quantized:
        """k block i of X'V of a group."""

    def product(self, group: int, start: int, stop: int) -> Float32Array:
        """Rows start .. stop - 1 of A V of a group."""


class Krylov:
    """The growing basis V, quantized, with its sketch X'V, quantized, and its products A V.

    vectors : V, (n, size). XtV : (k, size) and AV : (n, size) are kept by row only, where components and scores are
    combinations of them. By column only the products of the last block are kept, for the next block.
    inner(name) : (size, size) float64 inner products: V'V "basis" and V'AV "projected"; by row also (X'V)'(X'V)
    "lengths" and (AV)'(AV) "variances".
    total : the sum of squares of the centered data, which is the trace of A.
    """

    def __init__(
        self,
        operator: CovarianceOperator,
        total: float,
        target: Target,
        buffer: SpillBuffer,
        workspace_bytes: int,
        runtime: Runtime,
        progress: StepCounter,
        checkpoints: CheckpointStore,
    ) -> None:
        self.operator, self.total, self.target, self.buffer = operator, total, target, buffer
        self.runtime, self.progress, self.checkpoints = runtime, progress, checkpoints
        item = 1 if operator.exact else 4
        self.schedule, self._iteration_bytes = iteration_schedule(
            target, operator.n, runtime.threads, item, workspace_bytes, by_row=operator.by_row
        )
        buffer.limit(max(0, workspace_bytes - self._iteration_bytes))
        self._workspace_bytes = workspace_bytes
        self.vectors = Blocks("vectors", operator.tile_spans, buffer)
        self.XtV = Blocks("shadows", operator.k_spans, buffer)  # names of checkpoints, which stay
        self.AV = Blocks("images", operator.tile_spans, buffer)
        self.candidate = Candidate(operator.tile_spans, buffer, runtime)
        self._inner_names = ("basis", "projected", *(("lengths", "variances") if operator.by_row else ()))
        for name in self._inner_names:
            buffer.put(f"inner/{name}", np.zeros((0, 0)))
        self.passes = 0.0
        self._values: dict[int, Float64Array] = {}  # Ritz values by the number of basis vectors
        self._complete = False
        self._n_saved = 0  # blocks that the last checkpoint holds

    def run(self, seed: int) -> None:
        """Extend the basis until it holds what the target needs, or all of the variance.

        Raises VarianceNotReachedError where a larger basis does not fit the workspace.
        """
        self.resume()
        while self.begin_block(seed):
            self._apply()
            self._end_block()

    def begin_block(self, seed: int) -> bool:
        """Append another block to the basis; return False where none is needed. The caller applies A to it."""
        if self._complete or len(self.vectors.widths) >= most_applications(self.target) or not self._next_block(seed):
            return False
        self._make_room_to_extend(self.vectors.size)
        self._append()
        return True

    def take_block(self, applied: AppliedBlock) -> None:
        """Append a block to the basis, and what A makes of it, which other processes have computed."""
        self._make_room_to_extend(self.vectors.size)
        for t in self.vectors.tiles:
            self.vectors.put(t, applied.vectors(t))
        self.vectors.complete()
        for group in range(applied.n_groups):
            if self.operator.by_row:
                for i in self.XtV.tiles:
                    self.XtV.put(i, applied.sketch(group, i), group=group)
            for t, (start, stop) in enumerate(self.AV.spans):
                self.AV.put(t, quantize(applied.product(group, start, stop), to_int8=False), group=group)
        self.passes += 2 * applied.n_groups
        self._complete_groups(applied.n_groups)
        self._end_block()

    def _make_room_to_extend(self, size: int) -> None:
        n = self.operator.n
        needed = rayleigh_ritz_bytes(min(n, size + block_width(self.target, n)))
        self.make_room(needed, f"{size} basis vectors do not settle this share of the variance, more")

    def _end_block(self) -> None:
        self._extend_inner()
        self._complete = self._converged()
        self.progress.step()
        self._save()

    def make_room(self, needed_bytes: int, what: str) -> None:
        """Spill arrays until a step of `needed_bytes` fits the workspace; `what` names it in the error.

        Raises VarianceNotReachedError where it cannot fit. A number of components never needs more than was planned.
        """
        if needed_bytes > max(self._iteration_bytes, self._workspace_bytes):
            allowed = self._workspace_bytes
            raise VarianceNotReachedError(
                f"{what} take {show_bytes(needed_bytes)}, and the budget leaves PCA {show_bytes(allowed)}; "
                f"ask for a smaller share, or allow {show_bytes(needed_bytes - allowed)} more"
            )
        self.buffer.limit(max(0, self._workspace_bytes - max(self._iteration_bytes, needed_bytes)))

    def _append(self) -> None:
        """Quantize the candidate and append it to the basis."""

        def task(t: int) -> None:
            self.vectors.put(t, quantize(self.candidate.get(t), to_int8=self.operator.exact))
            self.candidate.delete(t)

        for _ in self.runtime.map(task, self.vectors.tiles):
            pass
        self.vectors.complete()

    def _apply(self) -> None:
        """Compute A V of the last block, and by row its sketch."""
        last = len(self.vectors.widths) - 1
        for group, (start, stop) in enumerate(self.groups):
            part = [self.vectors.quantized(last, t).columns(start, stop) for t in self.vectors.tiles]

            def take_sketch(i: int, quantized: Quantized, group: int = group) -> None:
                self.XtV.put(i, quantized, group=group)

            AV = self.operator.matmat(part, self.schedule, self.runtime, take_sketch if self.operator.by_row else None)
            self.passes += 2 - self.schedule.n_kept / len(self.vectors.tiles)
            for t in self.AV.tiles:
                product, AV[t] = AV[t], np.zeros((0, 0), np.float32)  # freed tile by tile
                self.AV.put(t, quantize(product, to_int8=False), group=group)
        self._complete_groups(len(self.groups))

    def _complete_groups(self, n_groups: int) -> None:
        self.AV.complete(n_groups)
        if self.operator.by_row:
            self.XtV.complete(n_groups)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """The columns of the last block to which A is applied at once."""
        return list(spans(self.vectors.widths[-1], self.schedule.columns))

    def delete(self) -> None:
        """Delete the basis vectors and the inner products; X'V and A V stay."""
        self.vectors.delete_all()
        for t in self.vectors.tiles:
            self.candidate.delete(t)
        for name in self._inner_names:
            self.buffer.delete(f"inner/{name}")

    def inner(self, name: str) -> Float64Array:
        """The (size, size) inner products of this name; see the class."""
        matrix: Float64Array = self.buffer.get(f"inner/{name}")
        return matrix

    def _extend_inner(self) -> None:
        """Append the inner products of the last block, of the quantized vectors and sketches themselves."""
        last = len(self.vectors.widths) - 1

        def projected(t: int) -> Float32Array:
            return self.vectors.project(t, self.AV.get(last, t))

        kinds = {"basis": self.vectors, "lengths": self.XtV, "variances": self.AV}
        for name in self._inner_names:
            if name in kinds:
                columns = kinds[name].last_inner(self.operator.gemm, self.runtime)
            else:
                columns = ordered_sum(self.runtime.map(projected, self.AV.tiles))
            self.buffer.put(f"inner/{name}", bordered(self.inner(name), columns))

    @property
    def _spans_all(self) -> bool:
        """Whether the basis holds all of the variance, as far as rounding tells."""
        size = self.vectors.size
        if self.total == 0 or size == self.operator.n:
            return True
        # With int8 vectors the sum is off by up to a ten-thousandth of the first variance, so it tells nothing.
        return not self.operator.exact and bool(self._ritz_values(size).sum() >= (1 - 1e-7) * self.total)

    def _converged(self) -> bool:
        """Whether the basis holds all of the variance, or another block would add too little to be worth its read."""
        if self._spans_all:
            return True
        size, widths = self.vectors.size, self.vectors.widths
        values = self._ritz_values(size)
        n_needed = n_needed_for(values, self.total, self.target)
        if n_needed is None or len(widths) < LEAST_APPLICATIONS:
            return False
        first = n_dominating(values, self.total)
        # What the last three sizes of the basis captured in the n_needed components, where they were large enough.
        captured: list[float] = []
        while len(captured) < 3 and len(widths) - len(captured) >= LEAST_APPLICATIONS - 1 and size >= 3 * n_needed // 2:
            captured.append(float(self._ritz_values(size)[first:n_needed].sum()))
            size -= widths[-len(captured)]
        if len(captured) < 2:
            return False
        gain, *before = np.subtract(captured[:-1], captured[1:])
        promised = gain * min(1.0, gain / before[0]) if before and before[0] > 0 else gain
        worth = _GAIN_BY_ROW if self.operator.by_row else _GAIN_BY_COLUMN
        return bool(promised <= worth * (self.total - values[:first].sum()))

    def _ritz_values(self, size: int) -> Float64Array:
        """The Ritz values of the first `size` basis vectors, (size,) float64, descending."""
        if size not in self._values:
            # Copies have the same layout whether the matrix has grown since or was read from a checkpoint.
            projected = np.ascontiguousarray(self.inner("projected")[:size, :size])
            basis = np.ascontiguousarray(self.inner("basis")[:size, :size])
            self._values[size] = with_blas_threads(size, lambda: ritz_values_generalised(projected, basis))
        return self._values[size]

    def _next_block(self, seed: int) -> bool:
        """Compute the next candidate: random vectors, or the last A V minus what the basis spans already.

        It is orthonormal up to float32, so each step is done twice. Where columns of A V differ by less than float32
        resolves, because one eigenvalue outweighs the others or all are equal, random vectors fill the block.
        Returns False where the basis spans everything.
        """
        if not self.vectors.widths:
            self.candidate.fill(block_width(self.target, self.operator.n), seed)
            # A random block that is about as wide as long is nearly dependent, which would multiply its rounding.
            for _ in range(2):
                self.candidate.transform(self.candidate.orthonormal(self.candidate.get, 0.0))
            return True
        last = len(self.vectors.widths) - 1
        projected = self.inner("projected")
        floor = FLOAT32_NOISE * float(np.abs(np.diag(projected)).max())
        inner = projected[:, -self.AV.widths[last] :]  # up to rounding, which the second step takes out
        transform = self._projected_out(lambda t: self.AV.get(last, t), inner, floor)
        if not self.operator.by_row:
            self.AV.delete(last)
        self.candidate.transform(transform)
        missing = min(self.vectors.widths[0], self.operator.n - self.vectors.size) - transform.shape[1]
        if missing > 0:
            self.candidate.append_random(missing, [seed, last])
        for least in (0.0, 0.5) if missing > 0 else (0.5,):  # random vectors are projected out twice as well
            shares = self.runtime.map(lambda t: self.vectors.project(t, self.candidate.get(t)), self.vectors.tiles)
            transform = self._projected_out(self.candidate.get, ordered_sum(shares), least)
            self.candidate.transform(transform)
        return bool(transform.shape[1])

    def _projected_out(self, block: Callable[[int], Float32Array], inner: Float64Array, floor: float) -> Float32Array:
        """Make W - V (V'V)^-1 V'W the candidate, and return the transform that makes it orthonormal.

        block(t) : rows of tile t of W; inner : V'W, (size, b) float64; floor : as Candidate.orthonormal.
        """
        coefficients = with_blas_threads(len(inner), lambda: np.linalg.solve(self.inner("basis"), inner))

        def subtract(t: int) -> Float32Array:
            rest = block(t) - self.vectors.expand(t, coefficients)
            self.candidate.put(t, rest)
            return rest

        return self.candidate.orthonormal(subtract, floor)

    def _needed_blocks(self) -> list[tuple[Blocks, int]]:
        """(blocks, number) of every block that the rest of the fit needs."""
        blocks = range(len(self.vectors.widths))
        if self.operator.by_row:
            return [(kind, k) for k in blocks for kind in (self.vectors, self.XtV, self.AV)]
        last = [(self.AV, blocks[-1])] if blocks else []
        return [*((self.vectors, k) for k in blocks), *last]

    def _save(self) -> None:
        """Save a checkpoint where it is time; blocks of the last checkpoint are not written again."""
        widths = self.vectors.widths
        if not self.checkpoints.should_save(self._unsaved_bytes()):
            return
        facts = {
            "layout": _LAYOUT,
            "widths": widths,
            "passes": self.passes,
            "complete": self._complete,
        }
        old = {name for kind, k in self._needed_blocks() if k < self._n_saved for name, _ in kind.saved(k)}
        new = ((name, get()) for kind, k in self._needed_blocks() if k >= self._n_saved for name, get in kind.saved(k))
        inner = ((f"inner/{name}", self.inner(name)) for name in self._inner_names)
        self.checkpoints.save(facts, chain(inner, new), keep=old)
        self._n_saved = len(widths)

    def _unsaved_bytes(self) -> int:
        """Bytes that a save writes: all inner products, and the blocks that are new."""
        operator, widths = self.operator, self.vectors.widths
        new, item = sum(widths[self._n_saved :]), 1 if operator.exact else 4
        inner, vectors = 8 * len(self._inner_names) * sum(widths) ** 2, new * operator.n * item
        if not operator.by_row:
            return inner + vectors + 4 * operator.n * widths[-1]
        return inner + vectors + new * (4 * operator.n + item * operator.k)

    def resume(self) -> None:
        """Continue from a checkpoint, where there is one."""
        checkpoint = self.checkpoints.load()
        if checkpoint is None or checkpoint.facts.get("layout") != _LAYOUT:
            return
        facts = checkpoint.facts
        self.passes, self._complete = facts["passes"], facts["complete"]
        for name in self._inner_names:
            self.buffer.put(f"inner/{name}", checkpoint.get(f"inner/{name}"))
        for kind in (self.vectors, self.XtV, self.AV):
            kind.widths = list(facts["widths"])
        for kind, k in self._needed_blocks():
            kind.restore(k, checkpoint.get)
        self._n_saved = len(self.vectors.widths)
        for _ in self.vectors.widths:
            self.progress.step()
