"""X X' or X' X in (TILE, TILE) tiles, each product once: the lower triangle, in block columns that fit the workspace.

         n ->
    n  [ 0,0 ]                       one block column = some columns of tiles, all kept in memory while
    |  [ 1,0  1,1 ]                  the data is read once; there is one where the triangle fits
    v  [ 2,0  2,1 | 2,2 ]
       [ 3,0  3,1 | 3,2  3,3 ]
        column 0    column 1

The contraction axis k is cut into k blocks. For one k block, pairs of tiles are multiplied column by column of the
triangle, and an operand is loaded for the next k block as soon as its last pair is done:

    0,0  1,0  2,0 [0]   1,1  2,1 [1]   2,2 [2]   0,0  1,0 ...        [x]: operand x of the next k block

So threads load and multiply side by side, and none waits for the others at the end of a k block. Pairs that are
multiplied at the same time share an operand, which stays in the cache. The k blocks of a tile are added in order: a
pair needs both of its operands, and they are loaded only after their pairs of the k block before.

Integer sums do not depend on their order, so for uint8 data the block columns and the length of a k block follow the
workspace. For float data k blocks have a fixed length, and they are added in order.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bigcluster.kernels.linalg.gemm import MAX_K
from bigcluster.kernels.linalg.types import AnyArray
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.checkpoint import NO_CHECKPOINTS, CheckpointStore
from bigcluster.solvers.pca.operands import COLUMN_BLOCK, Block, Operands
from bigcluster.solvers.progress import StepCounter
from bigcluster.store.row_source import spans

Sums = dict[tuple[int, int], AnyArray]


@dataclass(frozen=True)
class TileSums:
    """What a fit needs to know of tiles that were summed and put away: sums of whole rows and the diagonal, (n,) each.

    They are 0 where a tile does not contribute, so that those of some tiles are added.
    """

    rows: AnyArray
    diagonal: AnyArray
    passes: int = 1
    """How many times the data was read for them."""

    def __add__(self, other: TileSums) -> TileSums:
        return TileSums(self.rows + other.rows, self.diagonal + other.diagonal, self.passes + other.passes)


class SumsCheckpoint:
    """Saves the sums of a symmetric product and finds them again after a kill.

    The arrays are the tiles "j/i" of the block columns begun so far. A checkpoint serves only a plan with the same
    block columns.
    """

    def __init__(
        self, checkpoints: CheckpointStore, block_columns: Sequence[tuple[int, int]], k: int, dtype: np.dtype[Any]
    ) -> None:
        self._checkpoints, self._dtype, self._k = checkpoints, dtype, k
        self._block_columns = [list(columns) for columns in block_columns]
        self._finished: set[str] = set()  # tiles of finished block columns
        self._checkpoint = checkpoints.load()
        # First tile column of the block column that was in work, and how much of k its sums hold.
        self._first = self._k_saved = 0
        if self._checkpoint is not None and self._checkpoint.facts["panels"] == self._block_columns:
            self._first, self._k_saved = self._checkpoint.facts["first"], self._checkpoint.facts["terms"]
        else:
            self._checkpoint = None
        if self._checkpoint is not None:
            self._finished = {
                f"{j}/{i}"
                for first, last in block_columns
                for i in range(first, last)
                for j in range(i, block_columns[-1][1])
                if self.k_saved(first) == k
            }

    def tile(self, j: int, i: int, shape: tuple[int, int]) -> AnyArray:
        """The saved sums of a tile; zeros where nothing was saved."""
        first = next(first for first, last in self._block_columns if first <= i < last)
        if self._checkpoint is None or first > self._first:
            # Zeros that are written now: pages that the system only promises cost a second fault at the first addition,
            # and a page fault interrupts all threads.
            return np.full(shape, 0, self._dtype)
        return self._checkpoint.get(f"{j}/{i}")

    def k_saved(self, first: int) -> int:
        """How much of k the saved sums hold in the block column that begins at tile column `first`."""
        if first == self._first:
            return self._k_saved
        return self._k if first < self._first else 0

    def should_pause(self, sums: Sums, first: int, k_done: int) -> bool:
        """Whether to save once the sums hold k_done of k: also when a block column is finished and others follow."""
        return self._follows(first, k_done) or self._checkpoints.should_save(sum(tile.nbytes for tile in sums.values()))

    def save(self, sums: Sums, first: int, k_done: int) -> None:
        """Save the sums of the block column that begins at tile column `first`; they hold k_done of k."""
        facts = {"panels": self._block_columns, "first": first, "terms": k_done}
        self._checkpoints.save(facts, ((f"{j}/{i}", tile) for (j, i), tile in sums.items()), keep=self._finished)
        if self._follows(first, k_done):
            self._finished |= {f"{j}/{i}" for j, i in sums}

    def _follows(self, first: int, k_done: int) -> bool:
        """Whether this block column is finished and another one follows."""
        return k_done == self._k and first != self._block_columns[-1][0]


Pair = tuple[int, int]
Span = tuple[int, int]


class BlockedProducts:
    """Adds products to `sums`, the tiles (j, i) of one block column, one k block after the other."""

    def __init__(self, operands: Operands, tile_spans: list[Span], k_block: int, sums: Mapping[Pair, AnyArray]) -> None:
        self._operands, self._tile_spans, self._k_block, self._sums = operands, tile_spans, k_block, sums
        self._pairs = sorted(sums, key=lambda pair: (pair[1], pair[0]))  # column by column
        self._rights = {i for _, i in sums}
        self._n_uses = Counter(tile for pair in sums for tile in set(pair))
        last_pair = {tile: pair for pair in self._pairs for tile in sorted(pair)}
        self._freed = {pair: [tile for tile in self._n_uses if last_pair[tile] == pair] for pair in self._pairs}
        self._changed = threading.Condition()
        self._blocks: dict[int, tuple[Span, Block]] = {}  # tile index -> its k block, and its operand
        self._users: Counter[int] = Counter()  # pairs that still need the operand
        self._broken = False

    def add(
        self, start: int, runtime: Runtime, should_pause: Callable[[int], bool], stop: int | None = None
    ) -> Iterator[int]:
        """Add the products of k from `start` on; yields after each k block how much of k the sums hold.

        should_pause(stop) : whether to end early, with the sums of k up to `stop`. A later call goes on from there.
        stop : where to end; by default at the end of k.
        """
        tasks = self._tasks((start, self._operands.k if stop is None else stop), runtime.threads, should_pause)
        for done in runtime.map(lambda task: task(), tasks, in_flight=2 * runtime.threads):  # the next one is at hand
            if done is not None:
                yield done

    def _tasks(
        self, span: Span, n_threads: int, should_pause: Callable[[int], bool]
    ) -> Iterator[Callable[[], int | None]]:
        k_blocks = [(span[0] + a, span[0] + b) for a, b in spans(span[1] - span[0], self._k_block)]
        for tile in self._n_uses:
            if not self._holds(tile, k_blocks[0]):
                yield partial(self._load, tile, k_blocks[0], None)
        freed: deque[tuple[int, Callable[[], None], int]] = deque()  # after how many pairs to load a block, and whose
        n_pairs = 0
        for k_block, after in zip(k_blocks, [*k_blocks[1:], None], strict=True):
            for pair in self._pairs:
                while freed and (freed[0][0] <= n_pairs or any(tile in pair for _, _, tile in freed)):
                    yield freed.popleft()[1]
                yield partial(self._multiply, pair, k_block)
                n_pairs += 1
                if after is not None:  # as many pairs later, no thread is at this one any more
                    freed.extend(
                        (n_pairs + n_threads, partial(self._load, tile, after, k_block), tile)
                        for tile in self._freed[pair]
                    )
            if should_pause(k_block[1]):
                return

    def _load(self, tile: int, k_block: Span, before: Span | None) -> None:
        """Load a tile's operand of a k block in place of that of the k block before, once no pair needs it any more."""
        if not self._wait_until(lambda: (before is None or self._holds(tile, before)) and not self._users[tile]):
            return
        try:
            unused = self._blocks.pop(tile, (None, None))[1] if self._operands.reuses_memory else None
            self._blocks.pop(tile, None)  # memory that is not used again is freed before the load
            right = tile in self._rights
            block = self._operands.load(self._tile_spans[tile], k_block, left=True, right=right, out=unused)
        except BaseException:
            with self._changed:  # waiting tasks leave; this task raises the error
                self._broken = True
                self._changed.notify_all()
            raise
        with self._changed:
            self._blocks[tile] = k_block, block
            self._users[tile] = self._n_uses[tile]
            self._changed.notify_all()

    def _multiply(self, pair: Pair, k_block: Span) -> int | None:
        """Add the product of one tile. Returns the end of the k block where this is its last pair, else None."""
        j, i = pair
        # Both loads are earlier tasks, so some thread is at them.
        if not self._wait_until(lambda: self._holds(j, k_block) and self._holds(i, k_block)):
            return None
        try:
            self._operands.add_product(self._sums[pair], self._blocks[j][1], self._blocks[i][1], diagonal=i == j)
        finally:
            with self._changed:
                self._users.subtract({j, i})
                self._changed.notify_all()
        return k_block[1] if pair == self._pairs[-1] else None

    def _holds(self, tile: int, k_block: Span) -> bool:
        return tile in self._blocks and self._blocks[tile][0] == k_block

    def _wait_until(self, holds: Callable[[], bool]) -> bool:
        """Wait until `holds()`. False where a load failed: this k block cannot be finished then."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or holds())
            return not self._broken


TILE = 1024
"""Rows and columns of one tile: 4 MiB of int32, which a thread adds to while its operands stay in the cache."""
_K_BLOCKS = (8192, 4096, 2048)
"""Lengths of a k block of integers, the longest first: the longer, the fewer additions of whole tiles."""
_SMALLEST_K_BLOCK = 1024
"""Length of a k block of integers where no other fits the workspace."""
_FLOAT_K_BLOCK = 2048
"""Length of a k block of floats. Fixed, since one float32 sum is this long, and k blocks are added in float64."""


def accumulator_dtype(dtype: np.dtype[np.generic], k: int) -> np.dtype[np.generic]:
    """The dtype of sums over k: int32 where every sum of uint8 products fits, else int64; float64 for float data."""
    if dtype != np.uint8:
        return np.dtype(np.float64)
    return np.dtype(np.int32 if k <= MAX_K else np.int64)


@dataclass(frozen=True)
class ProductPlan:
    """How an (n, n) product over k is scheduled.

    k_block : length of one k block; block_columns : (first, last + 1) tile columns of each pass over the data;
    projected_bytes : the most memory that it holds.
    """

    n: int
    k: int
    k_block: int
    block_columns: tuple[tuple[int, int], ...]
    projected_bytes: int

    @property
    def tile_spans(self) -> list[tuple[int, int]]:
        """(start, stop) of the rows of each tile."""
        return list(spans(self.n, TILE))

    def pairs(self, panel: tuple[int, int]) -> list[Pair]:
        """The tiles (j, i) of one block column, column by column of the triangle."""
        return [(j, i) for i in range(*panel) for j in range(i, len(self.tile_spans))]

    @property
    def steps(self) -> int:
        """The number of k blocks of all passes, for the progress of a fit."""
        return len(self.block_columns) * -(-self.k // self.k_block)


def plan_products(n: int, k: int, dtype: np.dtype[np.generic], threads: int, workspace_bytes: int) -> ProductPlan:
    """The plan with the fewest passes, then the longest k blocks, that fits the workspace; else the smallest plan.

    dtype : that of the work (see work_dtype).
    """
    item = accumulator_dtype(dtype, k).itemsize
    choices = _K_BLOCKS if dtype == np.uint8 else (_FLOAT_K_BLOCK,)
    tails = (_SMALLEST_K_BLOCK,) if dtype == np.uint8 else ()
    plans = [_plan(n, k, k_block, item, dtype.itemsize, threads, workspace_bytes) for k_block in choices]
    fitting = [plan for plan in plans if plan.projected_bytes <= workspace_bytes]
    if not fitting:
        plans = [_plan(n, k, k_block, item, dtype.itemsize, threads, workspace_bytes) for k_block in tails]
        fitting = [*plans, _plan(n, k, choices[-1], item, dtype.itemsize, threads, 0)][:1]
    return min(fitting, key=lambda plan: len(plan.block_columns))


def _plan(
    n: int, k: int, k_block: int, accumulator_item: int, item: int, threads: int, workspace_bytes: int
) -> ProductPlan:
    k_block = min(k_block, k)
    sizes = [stop - start for start, stop in spans(n, TILE)]
    scratch_bytes = threads * (TILE * COLUMN_BLOCK * 8 + TILE * k_block * item * 2)
    block_columns: list[tuple[int, int]] = []
    largest, first = 0, 0
    while first < len(sizes):
        last, column_bytes = first, 0
        while last < len(sizes):
            needed_bytes = _block_column_bytes(sizes, first, last + 1, k_block, accumulator_item, item) + scratch_bytes
            if last > first and needed_bytes > workspace_bytes:
                break
            last, column_bytes = last + 1, needed_bytes
        block_columns.append((first, last))
        largest, first = max(largest, column_bytes), last
    return ProductPlan(n, k, k_block, tuple(block_columns), largest)


def _block_column_bytes(sizes: list[int], first: int, last: int, k_block: int, accumulator_item: int, item: int) -> int:
    triangle = sum(sizes[i] * sum(sizes[i:]) for i in range(first, last)) * accumulator_item
    return triangle + k_block * item * (sum(sizes[first:]) + sum(sizes[first:last]))


def symmetric_products(
    operands: Operands,
    plan: ProductPlan,
    runtime: Runtime,
    progress: StepCounter,
    checkpoints: CheckpointStore,
    given: Sums | None = None,
) -> Iterator[tuple[int, int, AnyArray]]:
    """Yield (j, i, tile) of the lower triangle, i <= j: the product of rows j and rows i, summed over all of k.

    tile : (rows of tile j, rows of tile i), dtype as accumulator_dtype says. Diagonal tiles are complete and symmetric.
    The caller may write into a tile. Raises whatever a read of the rows raises.
    given : the sums of `sum_panel`, where there is one block column and they are known; they are taken out.
    """
    dtype = accumulator_dtype(operands.dtype, plan.k)
    saved = SumsCheckpoint(checkpoints if given is None else NO_CHECKPOINTS, plan.block_columns, plan.k, dtype)
    for panel in plan.block_columns:
        sums = given if given is not None else sum_panel(operands, plan, panel, runtime, progress, saved)
        yield from complete_tiles(sums, plan.pairs(panel))


def complete_tiles(sums: Sums, pairs: Sequence[Pair]) -> Iterator[tuple[int, int, AnyArray]]:
    """Yield (j, i, tile) in the order of the pairs, with complete diagonal tiles. They are taken out of the sums."""
    for j, i in pairs:
        tile = sums.pop((j, i))
        if i == j:
            _mirror(tile)
        yield j, i, tile


def sum_panel(
    operands: Operands,
    plan: ProductPlan,
    panel: tuple[int, int],
    runtime: Runtime,
    progress: StepCounter,
    saved: SumsCheckpoint,
    k_span: Span | None = None,
) -> Sums:
    """Sum the products of the tiles of one block column over all of k, or over a part of it.

    saved : sums up to some k, from which it continues; k_span : of a part, for which nothing is saved. Diagonal tiles
    are complete in their lower triangle only. Sums of integers are exact, so those of parts may be added in any order.
    """
    first, stop = panel[0], plan.k if k_span is None else k_span[1]

    def begin(pair: Pair) -> AnyArray:
        j, i = pair
        return saved.tile(j, i, (_length(plan.tile_spans[j]), _length(plan.tile_spans[i])))

    pairs = plan.pairs(panel)
    sums = dict(zip(pairs, runtime.map(begin, pairs), strict=True))
    products = BlockedProducts(operands, plan.tile_spans, plan.k_block, sums)
    done = saved.k_saved(first) if k_span is None else k_span[0]
    while done < stop:
        for k_done in products.add(done, runtime, partial(saved.should_pause, sums, first), stop):
            done = k_done
            progress.step()
        if saved.should_pause(sums, first, done):
            saved.save(sums, first, done)
    return sums


def _mirror(tile: AnyArray) -> None:
    """Fill a diagonal tile above its diagonal, which products leave out, block by block."""
    for start, stop in spans(len(tile), COLUMN_BLOCK):
        square = tile[start:stop, start:stop]
        upper = np.triu_indices(len(square), 1)
        square[upper] = square.T[upper]
        tile[start:stop, stop:] = tile[stop:, start:stop].T


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
