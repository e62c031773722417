"""X X' or X' X in tiles, each product once: the lower triangle, in panels that fit the workspace.

      units ->
    u  [ 0,0 ]                       one panel = some columns of tiles, all kept in memory while the data
    n  [ 1,0  1,1 ]                  streams by once; panels = 1 where the triangle fits
    i  [ 2,0  2,1 | 2,2 ]
    t  [ 3,0  3,1 | 3,2  3,3 ]
    s    panel 0    panel 1

Integer sums do not depend on their order, so for uint8 data the panels and the length of a contraction block follow
the workspace. For float data the contraction blocks are fixed, and blocks are added in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from bigcluster.kernels.gemm import MAX_TERMS
from bigcluster.rows import spans
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.operands import STRIP, Array, Operands
from bigcluster.solvers.pca.result import Progress
from bigcluster.solvers.pca.saved_sums import SavedSums
from bigcluster.solvers.pca.slabs import Slabs
from bigcluster.solvers.saving import Saving

TILE = 1024
_TERMS_CHOICES = (8192, 4096, 2048)  # for integers, longest first: fewer additions of whole tiles
_FLOAT_TERMS = 2048  # fixed: one float32 sum is this long, everything beyond is added in float64
_SMALLEST_TERMS = 1024


def accumulator_dtype(dtype: np.dtype[np.generic], n_terms: int) -> np.dtype[np.generic]:
    """int32 where every entry fits it, else int64; float64 for float data."""
    if dtype != np.uint8:
        return np.dtype(np.float64)
    return np.dtype(np.int32 if n_terms <= MAX_TERMS else np.int64)


@dataclass(frozen=True)
class ProductPlan:
    """How a symmetric product is scheduled. panels : (first, last + 1) tile columns of each pass over the data."""

    n_units: int
    n_terms: int
    terms: int
    panels: tuple[tuple[int, int], ...]
    projected_bytes: int

    @property
    def unit_spans(self) -> list[tuple[int, int]]:
        return list(spans(self.n_units, TILE))

    @property
    def steps(self) -> int:
        return len(self.panels) * -(-self.n_terms // self.terms)


def plan_products(
    n_units: int, n_terms: int, dtype: np.dtype[np.generic], threads: int, workspace_bytes: int
) -> ProductPlan:
    """The plan with the fewest passes, then the longest contraction blocks, within the workspace where one exists."""
    item = accumulator_dtype(dtype, n_terms).itemsize
    choices = _TERMS_CHOICES if dtype == np.uint8 else (_FLOAT_TERMS,)
    tails = (_SMALLEST_TERMS,) if dtype == np.uint8 else ()
    plans = [_plan(n_units, n_terms, terms, item, dtype.itemsize, threads, workspace_bytes) for terms in choices]
    fitting = [plan for plan in plans if plan.projected_bytes <= workspace_bytes]
    if not fitting:
        plans = [_plan(n_units, n_terms, terms, item, dtype.itemsize, threads, workspace_bytes) for terms in tails]
        fitting = [*plans, _plan(n_units, n_terms, choices[-1], item, dtype.itemsize, threads, 0)][:1]
    return min(fitting, key=lambda plan: len(plan.panels))


def _plan(
    n_units: int, n_terms: int, terms: int, accumulator_item: int, item: int, threads: int, workspace_bytes: int
) -> ProductPlan:
    terms = min(terms, n_terms)
    sizes = [stop - start for start, stop in spans(n_units, TILE)]
    scratch_bytes = threads * (TILE * STRIP * 8 + TILE * terms * item * 2)
    panels: list[tuple[int, int]] = []
    largest, first = 0, 0
    while first < len(sizes):
        last, held_bytes = first, 0
        while last < len(sizes):
            wanted = _panel_bytes(sizes, first, last + 1, terms, accumulator_item, item) + scratch_bytes
            if last > first and wanted > workspace_bytes:
                break
            last, held_bytes = last + 1, wanted
        panels.append((first, last))
        largest, first = max(largest, held_bytes), last
    return ProductPlan(n_units, n_terms, terms, tuple(panels), largest)


def _panel_bytes(sizes: list[int], first: int, last: int, terms: int, accumulator_item: int, item: int) -> int:
    triangle = sum(sizes[i] * sum(sizes[i:]) for i in range(first, last)) * accumulator_item
    return triangle + terms * item * (sum(sizes[first:]) + sum(sizes[first:last]))


def symmetric_products(
    operands: Operands, plan: ProductPlan, runtime: Runtime, progress: Progress, saving: Saving
) -> Iterator[tuple[int, int, Array]]:
    """(j, i, tile) of the lower triangle, i <= j: the sums of left[j] right[i] over the whole contraction.

    Diagonal tiles come out symmetric and complete. A tile belongs to the caller.
    """
    dtype = accumulator_dtype(operands.dtype, plan.n_terms)
    unit_spans = plan.unit_spans
    saved = SavedSums(saving, plan.panels, plan.n_terms, dtype)
    for first, last in plan.panels:
        pairs = [(j, i) for i in range(first, last) for j in range(i, len(unit_spans))]

        def begin(pair: tuple[int, int]) -> Array:
            j, i = pair
            return saved.tile(j, i, (_length(unit_spans[j]), _length(unit_spans[i])))

        sums = dict(zip(pairs, runtime.map(begin, pairs), strict=True))
        slabs = Slabs(operands, unit_spans, plan.terms, sums)
        done = saved.done_terms(first)
        while done < plan.n_terms:
            for stop in slabs.add(done, runtime, partial(saved.is_due, sums, first)):
                done = stop
                progress.step()
            if saved.is_due(sums, first, done):
                saved.save(sums, first, done)
        del slabs
        for j, i in pairs:
            tile = sums.pop((j, i))
            if i == j:
                _mirror(tile)
            yield j, i, tile


def _mirror(tile: Array) -> None:
    """Fill what a diagonal tile leaves out: everything above its diagonal, block by block."""
    for start, stop in spans(len(tile), STRIP):
        square = tile[start:stop, start:stop]
        upper = np.triu_indices(len(square), 1)
        square[upper] = square.T[upper]
        tile[start:stop, stop:] = tile[stop:, start:stop].T


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
