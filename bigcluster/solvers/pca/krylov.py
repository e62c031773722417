"""The next block of a Krylov basis while it is in work: float32, not yet rounded, orthonormal in the end.

The basis of the streamed block Krylov iteration: V_0, A V_0, A^2 V_0, ..., each block rounded to 8 bits.

Described in bigcluster.solvers.pca.subspace.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.quantize import Code, encode
from bigcluster.kernels.pca import bordered, ordered_sum, orthonormal_transform, ritz_values_generalised
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.pca.blocks import Blocks
from bigcluster.solvers.pca.eigen import FLOAT32_NOISE, alone, n_dominating, wanted
from bigcluster.solvers.pca.operator import (
    Side,
    apply,
    block_width,
    iteration_pass,
    most_applications,
    ritz_bytes,
)
from bigcluster.solvers.pca.result import Doubles, Target
from bigcluster.solvers.progress import StepCounter
from bigcluster.solvers.spill import SpillBuffer
from bigcluster.store.row_source import spans
from bigcluster.units import show_bytes

Floats = NDArray[np.float32]


class Work:
    """(n, b), tile by tile in `buffer`: it is as long as the smaller side of the data."""

    def __init__(self, spans: list[tuple[int, int]], buffer: SpillBuffer, runtime: Runtime) -> None:
        self.spans = spans
        self._buffer, self._runtime = buffer, runtime

    def put(self, t: int, block: Floats) -> None:
        self._buffer.put(f"block/{t}", np.ascontiguousarray(block))

    def get(self, t: int) -> Floats:
        block: Floats = self._buffer.get(f"block/{t}")
        return block

    def delete(self, t: int) -> None:
        self._buffer.delete(f"block/{t}")

    def fill(self, width: int, seed: int) -> None:
        """With standard normal numbers."""
        for t in range(len(self.spans)):
            self.put(t, np.zeros((self.spans[t][1] - self.spans[t][0], 0), np.float32))
        self.widen(width, seed)

    def widen(self, n_more: int, seed: int | list[int]) -> None:
        """By columns of standard normal numbers."""
        random = np.random.default_rng(seed)
        for t, (start, stop) in enumerate(self.spans):
            more = random.standard_normal((stop - start, n_more), dtype=np.float32)
            self.put(t, np.hstack([self.get(t), more]))

    def transform(self, transform: Floats) -> None:
        """Times (b, b')."""

        def task(t: int) -> None:
            self.put(t, float_product(self.get(t), transform))

        for _ in self._runtime.map(task, range(len(self.spans))):
            pass

    def orthonormal(self, block: Callable[[int], Floats], floor: float) -> Floats:
        """The transform that makes the columns of a block orthonormal, given tile by tile; those of norm up to `floor`
        are dropped."""

        def square(t: int) -> Floats:
            tile = block(t)
            return float_product(tile, tile, transpose_left=True)

        total = ordered_sum(self._runtime.map(square, range(len(self.spans))))
        transform = alone(len(total), lambda: orthonormal_transform(total, floor))
        return np.ascontiguousarray(transform, np.float32)


LEAST_APPLICATIONS = 4
# Another application is worth its read of the data while it promises more than this share of the variance, beside such
# as dwarfs the rest; gains fall geometrically. By row, components are half an application ahead of the basis and have
# most of what is promised.
_GAIN_BY_ROW, _GAIN_BY_COLUMN = 7e-4, 3e-4
_LAYOUT = 3  # of a saved state; one of another layout counts as none


class Krylov:
    """The growing basis V, rounded, its rounded shadows Z = X_c' V (X_c V by column) and their images W = X_c Z.

    vectors V : (units, size); shadows Z : (terms, size) and images W : (units, size), kept by row alone, where they are
    the components and scores to choose from. By column only the images of the last block are kept, for the next one.
    inner(name) : (size, size) float64: V'V "basis" and V'AV "projected"; by row also Z'Z "lengths", W'W "variances".
    """

    def __init__(
        self,
        side: Side,
        total: float,
        target: Target,
        buffer: SpillBuffer,
        workspace_bytes: int,
        runtime: Runtime,
        progress: StepCounter,
        checkpoints: CheckpointStore,
    ) -> None:
        self.side, self.total, self.target, self.buffer = side, total, target, buffer
        self.runtime, self.progress, self.checkpoints = runtime, progress, checkpoints
        item = 1 if side.exact else 4
        self._pass, self._held_bytes = iteration_pass(
            target, side.n_units, runtime.threads, item, workspace_bytes, by_row=side.by_row
        )
        buffer.limit(max(0, workspace_bytes - self._held_bytes))
        self._workspace_bytes = workspace_bytes
        self.vectors = Blocks("vectors", side.unit_spans, buffer)
        self.shadows = Blocks("shadows", side.term_spans, buffer)
        self.images = Blocks("images", side.unit_spans, buffer)
        self.work = Work(side.unit_spans, buffer, runtime)
        self._inner_names = ("basis", "projected", *(("lengths", "variances") if side.by_row else ()))
        for name in self._inner_names:
            buffer.put(f"inner/{name}", np.zeros((0, 0)))
        self.passes = 0.0
        self._values: dict[int, Doubles] = {}  # of the first so many basis vectors
        self._complete = False
        self._n_saved = 0  # applications that the last state holds

    def run(self, seed: int) -> None:
        """Extend the basis until it holds what the target needs, or all there is."""
        self._resume()
        while not self._complete and len(self.vectors.widths) < most_applications(self.target):
            if not self._next_block(seed):
                break
            size, n_units = self.vectors.size, self.side.n_units
            needed = ritz_bytes(min(n_units, size + block_width(self.target, n_units)))
            self.make_room(needed, f"{size} basis vectors do not settle this share of the variance, more")
            self._append()
            self._apply()
            self._extend_inner()
            self._complete = self._converged()
            self.progress.step()
            self._save()

    def make_room(self, needed_bytes: int, what: str) -> None:
        """For a step that needs so much; a number of components never takes more than was reckoned with."""
        if needed_bytes > max(self._held_bytes, self._workspace_bytes):
            allowed = self._workspace_bytes
            raise VarianceNotReachedError(
                f"{what} take {show_bytes(needed_bytes)}, and the budget leaves PCA {show_bytes(allowed)}; "
                f"ask for a smaller share, or allow {show_bytes(needed_bytes - allowed)} more"
            )
        self.buffer.limit(max(0, self._workspace_bytes - max(self._held_bytes, needed_bytes)))

    def _append(self) -> None:
        """Round the block in work and keep it."""

        def task(t: int) -> None:
            self.vectors.put(t, encode(self.work.get(t), rounded=self.side.exact))
            self.work.delete(t)

        for _ in self.runtime.map(task, self.vectors.tiles):
            pass
        self.vectors.complete()

    def _apply(self) -> None:
        """Images of the last block, and by row its shadows."""
        last = len(self.vectors.widths) - 1
        groups = list(spans(self.vectors.widths[-1], self._pass.columns))
        for group, (start, stop) in enumerate(groups):
            part = [self.vectors.code(last, t).columns(start, stop) for t in self.vectors.tiles]

            def keep(i: int, code: Code, group: int = group) -> None:
                self.shadows.put(i, code, group=group)

            images = apply(self.side, part, self._pass, self.runtime, keep if self.side.by_row else None)
            self.passes += 2 - self._pass.n_kept / len(self.vectors.tiles)
            for t in self.images.tiles:
                image, images[t] = images[t], np.zeros((0, 0), np.float32)  # given up tile by tile
                self.images.put(t, encode(image, rounded=False), group=group)
        self.images.complete(len(groups))
        if self.side.by_row:
            self.shadows.complete(len(groups))

    def delete(self) -> None:
        """All but shadows and images: vectors and inner products."""
        self.vectors.delete_all()
        for t in self.vectors.tiles:
            self.work.delete(t)
        for name in self._inner_names:
            self.buffer.delete(f"inner/{name}")

    def inner(self, name: str) -> Doubles:
        matrix: Doubles = self.buffer.get(f"inner/{name}")
        return matrix

    def _extend_inner(self) -> None:
        """By what the rounded vectors and shadows really are."""
        last = len(self.vectors.widths) - 1

        def projected(t: int) -> Floats:
            return self.vectors.project(t, self.images.get(last, t))

        kinds = {"basis": self.vectors, "lengths": self.shadows, "variances": self.images}
        for name in self._inner_names:
            if name in kinds:
                columns = kinds[name].last_inner(self.side.gemm, self.runtime)
            else:
                columns = ordered_sum(self.runtime.map(projected, self.images.tiles))
            self.buffer.put(f"inner/{name}", bordered(self.inner(name), columns))

    @property
    def _spans_all(self) -> bool:
        """Whether there is no variance outside of the basis, as far as can be told."""
        size = self.vectors.size
        if self.total == 0 or size == self.side.n_units:
            return True
        # Of 8-bit vectors the sum is off by up to a ten-thousandth of the first variance: it tells nothing.
        return not self.side.exact and bool(self._ritz_values(size).sum() >= (1 - 1e-7) * self.total)

    def _converged(self) -> bool:
        """Whether the basis holds all there is, or the last block added next to nothing to the components wanted."""
        if self._spans_all:
            return True
        size, widths = self.vectors.size, self.vectors.widths
        values = self._ritz_values(size)
        n_wanted = wanted(values, self.total, self.target)
        if n_wanted is None or len(widths) < LEAST_APPLICATIONS:
            return False
        first = n_dominating(values, self.total)
        # As far back as a basis is large enough to tell; what it captured is asked for as many components as today's.
        captured: list[float] = []
        while len(captured) < 3 and len(widths) - len(captured) >= LEAST_APPLICATIONS - 1 and size >= 3 * n_wanted // 2:
            captured.append(float(self._ritz_values(size)[first:n_wanted].sum()))
            size -= widths[-len(captured)]
        if len(captured) < 2:
            return False
        gain, *before = np.subtract(captured[:-1], captured[1:])
        promised = gain * min(1.0, gain / before[0]) if before and before[0] > 0 else gain
        worth = _GAIN_BY_ROW if self.side.by_row else _GAIN_BY_COLUMN
        return bool(promised <= worth * (self.total - values[:first].sum()))

    def _ritz_values(self, size: int) -> Doubles:
        """Descending, of the space of the first `size` basis vectors."""
        if size not in self._values:
            # In memory alike whether the matrix has grown since or was read back.
            projected = np.ascontiguousarray(self.inner("projected")[:size, :size])
            basis = np.ascontiguousarray(self.inner("basis")[:size, :size])
            self._values[size] = alone(size, lambda: ritz_values_generalised(projected, basis))
        return self._values[size]

    def _next_block(self, seed: int) -> bool:
        """Put the next block to work: random vectors, or the last images minus what the basis spans already.

        Orthonormal up to float32, hence twice each. Images that differ by less than float32 tells, as where one
        variance dwarfs the others or all are alike, leave room to random vectors. False if the basis spans everything.
        """
        if not self.vectors.widths:
            self.work.fill(block_width(self.target, self.side.n_units), seed)
            # A random block about as wide as long is nearly dependent, which would multiply the rounding.
            for _ in range(2):
                self.work.transform(self.work.orthonormal(self.work.get, 0.0))
            return True
        last = len(self.vectors.widths) - 1
        projected = self.inner("projected")
        floor = FLOAT32_NOISE * float(np.abs(np.diag(projected)).max())
        inner = projected[:, -self.images.widths[last] :]  # but for rounding, which the second time takes out
        transform = self._projected_out(lambda t: self.images.get(last, t), inner, floor)
        if not self.side.by_row:
            self.images.delete(last)
        self.work.transform(transform)
        missing = min(self.vectors.widths[0], self.side.n_units - self.vectors.size) - transform.shape[1]
        if missing > 0:
            self.work.widen(missing, [seed, last])
        for least in (0.0, 0.5) if missing > 0 else (0.5,):  # random vectors are projected out twice as well
            shares = self.runtime.map(lambda t: self.vectors.project(t, self.work.get(t)), self.vectors.tiles)
            transform = self._projected_out(self.work.get, ordered_sum(shares), least)
            self.work.transform(transform)
        return bool(transform.shape[1])

    def _projected_out(self, block: Callable[[int], Floats], inner: Doubles, floor: float) -> Floats:
        """Put W - V (V'V)^-1 V'W to work, and return the transform that makes it orthonormal; inner : V'W."""
        coefficients = alone(len(inner), lambda: np.linalg.solve(self.inner("basis"), inner))

        def subtract(t: int) -> Floats:
            rest = block(t) - self.vectors.expand(t, coefficients)
            self.work.put(t, rest)
            return rest

        return self.work.orthonormal(subtract, floor)

    def _kept(self) -> list[tuple[Blocks, int]]:
        """The blocks that the rest of the fit needs."""
        blocks = range(len(self.vectors.widths))
        if self.side.by_row:
            return [(kind, k) for k in blocks for kind in (self.vectors, self.shadows, self.images)]
        last = [(self.images, blocks[-1])] if blocks else []
        return [*((self.vectors, k) for k in blocks), *last]

    def _save(self) -> None:
        """Between two applications: what is kept, of which older blocks are saved already."""
        widths = self.vectors.widths
        if not self.checkpoints.should_save(self._unsaved_bytes()):
            return
        facts = {
            "layout": _LAYOUT,
            "widths": widths,
            "passes": self.passes,
            "complete": self._complete,
        }
        old = {name for kind, k in self._kept() if k < self._n_saved for name, _ in kind.saved(k)}
        new = ((name, get()) for kind, k in self._kept() if k >= self._n_saved for name, get in kind.saved(k))
        inner = ((f"inner/{name}", self.inner(name)) for name in self._inner_names)
        self.checkpoints.save(facts, chain(inner, new), keep=old)
        self._n_saved = len(widths)

    def _unsaved_bytes(self) -> int:
        """What a save writes: inner products anew, blocks that are new."""
        side, widths = self.side, self.vectors.widths
        new, item = sum(widths[self._n_saved :]), 1 if side.exact else 4
        inner, vectors = 8 * len(self._inner_names) * sum(widths) ** 2, new * side.n_units * item
        if not side.by_row:
            return inner + vectors + 4 * side.n_units * widths[-1]
        return inner + vectors + new * (4 * side.n_units + item * side.n_terms)

    def _resume(self) -> None:
        """Go on from a saved state where there is one."""
        found = self.checkpoints.load()
        if found is None or found.facts.get("layout") != _LAYOUT:
            return
        facts = found.facts
        self.passes, self._complete = facts["passes"], facts["complete"]
        for name in self._inner_names:
            self.buffer.put(f"inner/{name}", found.get(f"inner/{name}"))
        for kind in (self.vectors, self.shadows, self.images):
            kind.widths = list(facts["widths"])
        for kind, k in self._kept():
            kind.restore(k, found.get)
        self._n_saved = len(self.vectors.widths)
        for _ in self.vectors.widths:
            self.progress.step()
