"""Symmetric products slab by slab: the same sums for any threads, panels and pauses; errors end it at once."""

from __future__ import annotations

import time
from itertools import chain, cycle, pairwise
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.errors import DamagedError
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca.operands import Operands
from bigcluster.solvers.pca.products import BlockedProducts
from bigcluster.store.row_source import ArrayRows


def zeros(cuts: list[int], first: int, last: int, dtype: type[np.generic]) -> dict[tuple[int, int], np.ndarray]:
    sizes = [b - a for a, b in pairwise(cuts)]
    return {(j, i): np.zeros((sizes[j], sizes[i]), dtype) for i in range(first, last) for j in range(i, len(sizes))}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(1, 90), terms=st.integers(1, 40), threads=st.integers(1, 5))
def test_any_threads_panels_and_pauses_give_the_same_sums(data, k, terms, threads):
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    cuts = [0, *np.cumsum(sizes).tolist()]
    first = data.draw(st.integers(0, len(sizes) - 1))
    last = data.draw(st.integers(first + 1, len(sizes)))
    start = data.draw(st.integers(0, k - 1))
    pauses = data.draw(st.lists(st.booleans(), min_size=1, max_size=5))
    exact = data.draw(st.booleans())
    random = np.random.default_rng(k)
    x = random.integers(0, 256, (cuts[-1], k), np.uint8) if exact else random.normal(size=(cuts[-1], k))

    def run(n_threads: int, pauses: list[bool]) -> tuple[dict[tuple[int, int], np.ndarray], list[int]]:
        sums = zeros(cuts, first, last, np.int32 if exact else np.float64)
        operands = Operands(ArrayRows(x), Gemm(), None, by_row=True)
        slabs = BlockedProducts(operands, list(pairwise(cuts)), terms, sums)
        done, stops, asked = start, [], []

        def should_pause(stop: int) -> bool:
            asked.append(stop)
            return pauses[len(asked) % len(pauses)]

        while done < k:
            for stop in slabs.add(done, EmbeddedRuntime(n_threads), should_pause):
                done = stop
                stops.append(stop)
        assert asked == stops
        return sums, stops

    sums, stops = run(threads, pauses)
    assert stops == [*range(start + terms, k, terms), k]
    undisturbed, _ = run(1, [False])
    values = x[:, start:].astype(int) - 128 if exact else x[:, start:]
    for (j, i), tile in sums.items():
        np.testing.assert_array_equal(*(np.tril(s[j, i]) if i == j else s[j, i] for s in (sums, undisturbed)))
        expected = values[cuts[j] : cuts[j + 1]] @ values[cuts[i] : cuts[i + 1]].T
        np.testing.assert_allclose(*(np.tril(m) if i == j else m for m in (tile, expected)), rtol=1e-12, atol=1e-9)


class Sleepy(ArrayRows):
    """Reads take milliseconds, the first one longest: long enough for loads to overtake each other."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values)
        self._pauses = chain([0.03], cycle([0.002, 0.008, 0.0]))

    def read(self, *where, spent=None):
        time.sleep(next(self._pauses))
        return super().read(*where, spent=spent)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_a_block_never_takes_the_place_of_one_that_is_still_needed(n, threads):
    """With few units and many threads, several slabs are on their way at once."""
    x = np.random.default_rng(n).integers(0, 256, (8 * n, 130), np.uint8)
    cuts = list(range(0, 8 * n + 1, 8))
    sums = zeros(cuts, 0, n, np.int32)
    slabs = BlockedProducts(Operands(Sleepy(x), Gemm(), None, by_row=True), list(pairwise(cuts)), 20, sums)
    stops: list[int] = []
    adding = Thread(target=lambda: stops.extend(slabs.add(0, EmbeddedRuntime(threads), lambda _: False)), daemon=True)
    adding.start()
    adding.join(timeout=30)
    assert not adding.is_alive(), "a task waits for something that never comes"
    assert stops == [20, 40, 60, 80, 100, 120, 130]
    whole = x.astype(int) - 128
    for (j, i), tile in sums.items():
        expected = whole[cuts[j] : cuts[j + 1]] @ whole[cuts[i] : cuts[i + 1]].T
        np.testing.assert_array_equal(*(np.tril(m) if i == j else m for m in (tile, expected)))


class Breaking(ArrayRows):
    """Rows of which one read fails."""

    def __init__(self, values: np.ndarray, fails_at: int) -> None:
        super().__init__(values)
        self._left = fails_at

    def read(self, *where, spent=None):
        self._left -= 1
        if self._left == 0:
            raise DamagedError("a chunk is damaged")
        return super().read(*where, spent=spent)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("fails_at", [1, 2, 4, 5, 9, 12])
def test_a_read_that_fails_ends_it_and_nobody_waits_for_the_block(threads, fails_at):
    rows = Breaking(np.zeros((40, 60), np.uint8), fails_at)
    cuts = [0, 10, 20, 30, 40]
    sums = zeros(cuts, 0, 4, np.int32)
    slabs = BlockedProducts(Operands(rows, Gemm(), None, by_row=True), list(pairwise(cuts)), 20, sums)
    with pytest.raises(DamagedError, match="a chunk is damaged"):
        for _ in slabs.add(0, EmbeddedRuntime(threads), lambda _: False):
            pass


@pytest.mark.parametrize("threads", [1, 3])
def test_whoever_stops_listening_in_the_middle_is_let_go(threads):
    x = np.zeros((40, 600), np.uint8)
    cuts = [0, 10, 20, 30, 40]
    sums = zeros(cuts, 0, 4, np.int32)
    slabs = BlockedProducts(Operands(ArrayRows(x), Gemm(), None, by_row=True), list(pairwise(cuts)), 20, sums)
    steps = slabs.add(0, EmbeddedRuntime(threads), lambda _: False)
    assert next(steps) == 20
    steps.close()
