"""The slabs of a symmetric product, one after the other, without a pause between them.

    slab     some terms of all units, in blocks: what is in memory at once
    order    column by column of the triangle; a block is loaded anew, for the next slab, when its last pair is through

           0,0  1,0  2,0 [0]   1,1  2,1 [1]   2,2 [2]   0,0  1,0 ...        [x]: block x of the next slab

Threads load and multiply side by side, and none waits for the others at the end of a slab. Those that multiply at once
have a block in common, which stays in the cache that they share. A tile's slabs are added in order, since a pair needs
both of its blocks, and they are only loaded when that tile of the slab before is through.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bigcluster.rows import spans
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.operands import Array, Block, Operands

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
