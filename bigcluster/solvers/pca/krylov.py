"""The basis of the streamed block Krylov iteration: V0, A V0, A^2 V0, ..., each block rounded to 8 bits.

Described in bigcluster.solvers.pca.subspace.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np

from bigcluster.errors import VarianceNotReachedError
from bigcluster.kernels.gemm import float_product
from bigcluster.kernels.pca import (
    bordered,
    choose_rank,
    nonzero_rank,
    ordered_sum,
    orthonormal_transform,
    ritz_generalised,
    ritz_values_generalised,
)
from bigcluster.kernels.quantize import Code, encode
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.eigen import FLOAT32_NOISE, alone
from bigcluster.solvers.pca.passes import block_width, plan_passes
from bigcluster.solvers.pca.result import (
    Components,
    Doubles,
    Progress,
    Target,
)
from bigcluster.solvers.pca.sides import Floats, KeepCode, Side, apply
from bigcluster.solvers.saving import Saving
from bigcluster.solvers.tiles import Shelf

LEAST_APPLICATIONS = 4
MOST_APPLICATIONS = 16
# Another application is worth its read of the data while it promises more than this share of the variance. Gains fall
# geometrically, and the last application, the one that gives the scores, is half an application more than the basis.
_GAIN = 7e-4
# A share that is short by no more than this after all that can be computed is taken as reached.
_SHORTFALL = 1e-3


class Krylov:
    """The growing basis: codes on the shelf as "krylov/k/t" (values) with their scales here."""

    def __init__(
        self,
        side: Side,
        total: float,
        target: Target,
        shelf: Shelf,
        workspace_bytes: int,
        runtime: Runtime,
        progress: Progress,
        saving: Saving,
    ) -> None:
        self.side, self.total, self.target, self.shelf = side, total, target, shelf
        self.runtime, self.progress, self.saving = runtime, progress, saving
        self._saved: set[str] = set()  # names of the basis that the last state holds
        self._complete = False
        item = 1 if side.exact else 4
        self._passes = plan_passes(target, side.n_units, runtime.threads, item, workspace_bytes, by_row=side.by_row)
        self._spare_bytes = workspace_bytes - self._passes.held_bytes
        self.leave_room(0)
        self.passes = 0
        self._captured = self._gain = 0.0
        self.tiles = range(len(side.unit_spans))
        self._scales: list[list[Floats]] = []  # per block, per tile
        self._widths: list[int] = []
        self._inner = np.zeros((0, 0))  # V'V
        self._projected = np.zeros((0, 0))  # V'AV

    @property
    def size(self) -> int:
        return sum(self._widths)

    def leave_room(self, n_bytes: int) -> None:
        """The shelf keeps so many bytes less in memory than an application leaves: somebody else holds them."""
        self.shelf.limit(max(0, self._spare_bytes - n_bytes))

    def run(self, seed: int) -> tuple[Doubles, Doubles]:
        """All Ritz values, and the coefficients (size, n_wanted) of the Ritz vectors that the target needs."""
        if not self._resume():
            self._begin(seed)
        for application in range(len(self._widths) + 1, MOST_APPLICATIONS + 1):
            if self._complete:
                break
            self._append()
            self.image([self._code(len(self._widths) - 1, t) for t in self.tiles])
            self._extend_projected()
            self.progress.step()
            converged = application >= LEAST_APPLICATIONS - 1 and self._converged()
            # without a next block, the basis spans all that the data reaches
            self._complete = (converged and application >= LEAST_APPLICATIONS) or not self._next_block()
            self._save()
        values, vectors = alone(self.size, lambda: ritz_generalised(self._projected, self._inner))
        # What float32 cannot tell from zero has no direction: its vector is rounding, and so is all made of it.
        n_vectors = min(self._n_vectors(values), max(1, nonzero_rank(values, FLOAT32_NOISE)))
        return values, np.ascontiguousarray(vectors[:, :n_vectors])

    def _begin(self, seed: int) -> None:
        width = block_width(self.target, self.side.n_units)
        random = np.random.default_rng(seed)
        for t, (start, stop) in enumerate(self.side.unit_spans):
            self._put(t, random.standard_normal((stop - start, width), dtype=np.float32))
        # A random block about as wide as long is nearly dependent, which would multiply the rounding.
        for _ in range(2):
            self._transform(self._orthonormal(self._block, 0.0))

    def _save(self) -> None:
        """Between two applications: the basis, of which older blocks are saved already, and the next block."""
        n_bytes = self.side.n_units * self._widths[-1] * (1 if self._complete else 5)
        if not self.saving.due(n_bytes):
            return
        facts = {
            "widths": self._widths,
            "passes": self.passes,
            "captured": self._captured,
            "gain": self._gain,
            "complete": self._complete,
        }
        blocks = [] if self._complete else [f"block/{t}" for t in self.tiles]
        basis = [f"krylov/{k}/{t}" for k in range(len(self._widths)) for t in self.tiles]
        new = [name for name in [*basis, *blocks] if name not in self._saved]
        scales = ((f"scale/{k}/{t}", self._scales[k][t]) for k in range(len(self._widths)) for t in self.tiles)
        arrays = ((name, self.shelf.get(name)) for name in new)
        small = (("inner", self._inner), ("projected", self._projected))
        self.saving.save(facts, chain(small, scales, arrays), keep=self._saved)
        self._saved = set(basis)

    def _resume(self) -> bool:
        """Go on from a saved state; False where there is none."""
        found = self.saving.load()
        if found is None:
            return False
        facts = found.facts
        self._widths, self._complete = list(facts["widths"]), facts["complete"]
        self.passes, self._captured, self._gain = facts["passes"], facts["captured"], facts["gain"]
        self._inner, self._projected = found.get("inner"), found.get("projected")
        blocks = range(len(self._widths))
        self._scales = [[found.get(f"scale/{k}/{t}") for t in self.tiles] for k in blocks]
        self._saved = {f"krylov/{k}/{t}" for k in blocks for t in self.tiles}
        for name in [*self._saved, *([] if self._complete else [f"block/{t}" for t in self.tiles])]:
            self.shelf.put(name, found.get(name))
        for _ in blocks:
            self.progress.step()
        return True

    def _converged(self) -> bool:
        """Whether the last block added next to nothing to the components that are wanted."""
        values = alone(self.size, lambda: ritz_values_generalised(self._projected, self._inner))
        n_wanted = self._n_wanted(values)
        if n_wanted is None or 3 * n_wanted // 2 > self.size:
            return False
        before, self._captured = self._captured, float(values[:n_wanted].sum())
        if self._captured >= (1 - 1e-7) * self.total:
            return True
        if before == 0:  # nothing to compare with yet
            return False
        gain = self._captured - before
        promised = gain * min(1.0, gain / self._gain) if self._gain > 0 else gain
        self._gain = gain
        return promised <= _GAIN * self.total

    def _n_wanted(self, values: Doubles) -> int | None:
        """How many of these the target takes; None where it needs more."""
        if isinstance(self.target, Components):
            return self.target.n if len(values) >= self.target.n else None
        return choose_rank(values, self.total, self.target.share)

    def _n_vectors(self, values: Doubles) -> int:
        """How many Ritz vectors go into the last application: for a share a few more, since rounding moves it."""
        if isinstance(self.target, Components):
            return min(self.target.n, len(values))
        n_wanted = choose_rank(values, self.total, self.target.share)
        if n_wanted is None and values.sum() < (self.target.share - _SHORTFALL) * self.total:
            share = values.sum() / self.total
            raise VarianceNotReachedError(f"{len(values)} components explain {share:.4f} of the variance; ask for less")
        n_wanted = n_wanted or len(values)
        return min(len(values), n_wanted + max(8, n_wanted // 16))

    def _put(self, t: int, block: Floats) -> None:
        """The block in work, tile by tile on the shelf: it is as long as the smaller side of the data."""
        self.shelf.put(f"block/{t}", np.ascontiguousarray(block))

    def _block(self, t: int) -> Floats:
        block: Floats = self.shelf.get(f"block/{t}")
        return block

    def image(self, codes: list[Code], keep: Callable[[int], KeepCode] | None = None) -> None:
        """The block in work becomes A V; keep(group) takes the rounded X_c' V of each group of columns."""
        width = codes[0].values.shape[1]
        plan = self._passes.of(width)
        starts = range(0, width, plan.columns)
        for group, start in enumerate(starts):
            part = [code.columns(start, min(width, start + plan.columns)) for code in codes]
            images = apply(self.side, part, plan, self.runtime, None if keep is None else keep(group))
            self.passes += 1 if plan.keep_tiles else 2
            for t in self.tiles:
                self.shelf.put(f"image/{group}/{t}", np.ascontiguousarray(images[t]))
            del images
        for t in self.tiles:
            self._put(t, np.concatenate([self.shelf.get(f"image/{group}/{t}") for group in range(len(starts))], axis=1))
            for group in range(len(starts)):
                self.shelf.delete(f"image/{group}/{t}")

    def _append(self) -> None:
        """Round the block in work and keep it; extend V'V by what the rounded vectors really are."""

        def task(t: int) -> tuple[Floats, Floats]:
            code = encode(self._block(t), rounded=self.side.exact)
            self.shelf.put(f"krylov/{len(self._widths)}/{t}", code.values)
            decoded = code.decode()
            older = self.project(t, decoded)
            return code.scale, np.concatenate([older, float_product(decoded, decoded, transpose_left=True)])

        scales, shares = zip(*self.runtime.map(task, self.tiles), strict=True)
        self._scales.append(list(scales))
        self._inner = bordered(self._inner, ordered_sum(shares))
        self._widths.append(len(scales[0]))

    def _code(self, k: int, t: int) -> Code:
        return Code(self.shelf.get(f"krylov/{k}/{t}"), self._scales[k][t])

    def project(self, t: int, block: Floats) -> Floats:
        """Tile t's share of V'W: (size, b)."""
        empty = [np.zeros((0, block.shape[1]), np.float32)]
        codes = (self._code(k, t) for k in range(len(self._widths)))
        return np.concatenate([*empty, *(float_product(code.decode(), block, transpose_left=True) for code in codes)])

    def expand(self, t: int, coefficients: Doubles | Floats) -> Floats:
        """Rows of tile t of V C: (units, b), from C (size, b)."""
        start, stop = self.side.unit_spans[t]
        total = np.zeros((stop - start, coefficients.shape[1]), np.float32)
        at = 0
        for k, width in enumerate(self._widths):
            part = np.ascontiguousarray(coefficients[at : at + width], np.float32)
            total += float_product(self._code(k, t).decode(), part)
            at += width
        return total

    def take_block(self, t: int) -> Floats:
        block = self._block(t)
        self.shelf.delete(f"block/{t}")
        return block

    def delete_basis(self) -> None:
        for k in range(len(self._widths)):
            for t in self.tiles:
                self.shelf.delete(f"krylov/{k}/{t}")

    def _extend_projected(self) -> None:
        shares = list(self.runtime.map(lambda t: self.project(t, self._block(t)), self.tiles))
        self._projected = bordered(self._projected, ordered_sum(shares))

    def _next_block(self) -> bool:
        """The block in work minus what the basis already spans, twice, orthonormal; False if nothing is left."""
        floor = FLOAT32_NOISE * float(np.abs(np.diag(self._projected)).max())
        for floor_of_round in (floor, 0.5):
            transform = self._projected_out(floor_of_round)
            if transform.shape[1] == 0:
                return False
            self._transform(transform)
        return True

    def _transform(self, transform: Floats) -> None:
        """The block in work times (b, b')."""

        def task(t: int) -> None:
            self._put(t, float_product(self._block(t), transform))

        for _ in self.runtime.map(task, self.tiles):
            pass

    def _projected_out(self, floor: float) -> Floats:
        """W - V (V'V)^-1 V'W in place of the block, and the transform that makes it orthonormal."""
        inner = ordered_sum(list(self.runtime.map(lambda t: self.project(t, self._block(t)), self.tiles)))
        coefficients = alone(self.size, lambda: np.linalg.solve(self._inner, inner))

        def subtract(t: int) -> Floats:
            block = self._block(t) - self.expand(t, coefficients)
            self._put(t, block)
            return block

        return self._orthonormal(subtract, floor)

    def _orthonormal(self, block: Callable[[int], Floats], floor: float) -> Floats:
        """The transform that makes the columns of a block orthonormal, given tile by tile."""

        def square(t: int) -> Floats:
            tile = block(t)
            return float_product(tile, tile, transpose_left=True)

        total = ordered_sum(list(self.runtime.map(square, self.tiles)))
        transform = alone(len(total), lambda: orthonormal_transform(total, floor))
        return np.ascontiguousarray(transform, np.float32)
