"""The sums of a symmetric product on their way: saved between blocks of terms, found again after a kill.

The slabs of a symmetric product, one after the other, without a pause between them.

    slab     some terms of all units, in blocks: what is in memory at once
    order    column by column of the triangle; a block is loaded anew, for the next slab, when its last pair is through

           0,0  1,0  2,0 [0]   1,1  2,1 [1]   2,2 [2]   0,0  1,0 ...        [x]: block x of the next slab

Threads load and multiply side by side, and none waits for the others at the end of a slab. Those that multiply at once
have a block in common, which stays in the cache that they share. A tile's slabs are added in order, since a pair needs
both of its blocks, and they are only loaded when that tile of the slab before is through.

X X' or X' X in tiles, each product once: the lower triangle, in panels that fit the workspace.

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

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.gemm import MAX_TERMS
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.pca.operands import STRIP, Array, Block, Operands
from bigcluster.solvers.progress import StepCounter
from bigcluster.store.row_source import spans

Sums = dict[tuple[int, int], Array]


class SavedSums:
    """Tiles "j/i" of the panels begun so far. Saved sums are of use to a plan with the same panels alone."""

    def __init__(
        self, checkpoints: CheckpointStore, panels: Sequence[tuple[int, int]], n_terms: int, dtype: np.dtype[Any]
    ) -> None:
        self._checkpoints, self._dtype, self._n_terms = checkpoints, dtype, n_terms
        self._panels = [list(panel) for panel in panels]
        self._kept: set[str] = set()  # tiles of finished panels
        self._found = checkpoints.load()
        # First tile column of the panel that was in work, and how many terms its sums hold already.
        self._first = self._terms = 0
        if self._found is not None and self._found.facts["panels"] == self._panels:
            self._first, self._terms = self._found.facts["first"], self._found.facts["terms"]
        else:
            self._found = None

    def tile(self, j: int, i: int, shape: tuple[int, int]) -> Array:
        """The sums of a tile so far; zeros where nothing was saved."""
        first = next(first for first, last in self._panels if first <= i < last)
        if self._found is None or first > self._first:
            # Zeros that were written: those that the system only promises cost another fault at the first addition,
            # of which all threads hear.
            return np.full(shape, 0, self._dtype)
        if self.done_terms(first) == self._n_terms:
            self._kept.add(f"{j}/{i}")
        return self._found.get(f"{j}/{i}")

    def done_terms(self, first: int) -> int:
        """How many terms the sums of the panel that begins there hold already."""
        if first == self._first:
            return self._terms
        return self._n_terms if first < self._first else 0

    def is_due(self, sums: Sums, first: int, terms: int) -> bool:
        """Whether to save after this many terms. A finished panel is, where others follow: nothing else keeps it."""
        return self._follows(first, terms) or self._checkpoints.should_save(sum(tile.nbytes for tile in sums.values()))

    def save(self, sums: Sums, first: int, terms: int) -> None:
        """The sums of the panel that begins there, which hold this many terms."""
        facts = {"panels": self._panels, "first": first, "terms": terms}
        self._checkpoints.save(facts, ((f"{j}/{i}", tile) for (j, i), tile in sums.items()), keep=self._kept)
        if self._follows(first, terms):
            self._kept |= {f"{j}/{i}" for j, i in sums}

    def _follows(self, first: int, terms: int) -> bool:
        """Whether a panel is finished and another one follows."""
        return terms == self._n_terms and first != self._panels[-1][0]


Pair = tuple[int, int]
Span = tuple[int, int]


class Slabs:
    """Adds products to `sums`, the tiles (j, i) of one panel, by terms of a fixed length."""

    def __init__(self, operands: Operands, unit_spans: list[Span], terms: int, sums: Mapping[Pair, Array]) -> None:
        self._operands, self._unit_spans, self._terms, self._sums = operands, unit_spans, terms, sums
        self._pairs = sorted(sums, key=lambda pair: (pair[1], pair[0]))  # column by column
        self._rights = {i for _, i in sums}
        self._n_uses = Counter(unit for pair in sums for unit in set(pair))
        last_pair = {unit: pair for pair in self._pairs for unit in sorted(pair)}
        self._freed = {pair: [unit for unit in self._n_uses if last_pair[unit] == pair] for pair in self._pairs}
        self._changed = threading.Condition()
        self._blocks: dict[int, tuple[Span, Block]] = {}  # unit -> what it holds, and of which terms
        self._users: Counter[int] = Counter()  # pairs that still need the block that a unit holds
        self._broken = False

    def add(self, start: int, runtime: Runtime, is_due: Callable[[int], bool]) -> Iterator[int]:
        """Add the products of all terms from `start` on; yields how many terms are in, slab by slab.

        is_due(stop) : whether to end early, with the terms up to `stop`. A later call goes on from there.
        """
        tasks = self._tasks(start, runtime.threads, is_due)
        for done in runtime.map(lambda task: task(), tasks, in_flight=2 * runtime.threads):  # the next one is at hand
            if done is not None:
                yield done

    def _tasks(self, start: int, n_threads: int, is_due: Callable[[int], bool]) -> Iterator[Callable[[], int | None]]:
        slabs = [(start + a, start + b) for a, b in spans(self._operands.n_terms - start, self._terms)]
        for unit in self._n_uses:
            if not self._holds(unit, slabs[0]):
                yield partial(self._load, unit, slabs[0], None)
        freed: deque[tuple[int, Callable[[], None], int]] = deque()  # after how many pairs to load a block, and whose
        n_pairs = 0
        for slab, after in zip(slabs, [*slabs[1:], None], strict=True):
            for pair in self._pairs:
                while freed and (freed[0][0] <= n_pairs or any(unit in pair for _, _, unit in freed)):
                    yield freed.popleft()[1]
                yield partial(self._multiply, pair, slab)
                n_pairs += 1
                if after is not None:  # as many pairs later, no thread is at this one any more
                    freed.extend(
                        (n_pairs + n_threads, partial(self._load, unit, after, slab), unit)
                        for unit in self._freed[pair]
                    )
            if is_due(slab[1]):
                return

    def _load(self, unit: int, slab: Span, before: Span | None) -> None:
        """Put a unit's block of a slab in place of the one before, once that has come and nobody needs it any more."""
        if not self._wait_until(lambda: (before is None or self._holds(unit, before)) and not self._users[unit]):
            return
        try:
            spent = self._blocks.pop(unit, (None, None))[1] if self._operands.takes_memory else None
            self._blocks.pop(unit, None)  # what nobody takes goes before its successor comes
            right = unit in self._rights
            block = self._operands.load(self._unit_spans[unit], slab, left=True, right=right, instead=spent)
        except BaseException:
            with self._changed:  # who waits for it, leaves; the error is this task's
                self._broken = True
                self._changed.notify_all()
            raise
        with self._changed:
            self._blocks[unit] = slab, block
            self._users[unit] = self._n_uses[unit]
            self._changed.notify_all()

    def _multiply(self, pair: Pair, slab: Span) -> int | None:
        """Add one tile's product; the end of the slab where this is its last one."""
        j, i = pair
        # Both were asked for earlier, so some thread is at them.
        if not self._wait_until(lambda: self._holds(j, slab) and self._holds(i, slab)):
            return None
        try:
            self._operands.add_product(self._sums[pair], self._blocks[j][1], self._blocks[i][1], diagonal=i == j)
        finally:
            with self._changed:
                self._users.subtract({j, i})
                self._changed.notify_all()
        return slab[1] if pair == self._pairs[-1] else None

    def _holds(self, unit: int, slab: Span) -> bool:
        return unit in self._blocks and self._blocks[unit][0] == slab

    def _wait_until(self, holds: Callable[[], bool]) -> bool:
        """False where a block could not be loaded: nothing comes of this slab then."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or holds())
            return not self._broken


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
    operands: Operands, plan: ProductPlan, runtime: Runtime, progress: StepCounter, checkpoints: CheckpointStore
) -> Iterator[tuple[int, int, Array]]:
    """(j, i, tile) of the lower triangle, i <= j: the sums of left[j] right[i] over the whole contraction.

    Diagonal tiles come out symmetric and complete. A tile belongs to the caller.
    """
    dtype = accumulator_dtype(operands.dtype, plan.n_terms)
    unit_spans = plan.unit_spans
    saved = SavedSums(checkpoints, plan.panels, plan.n_terms, dtype)
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
