"""k-means on many workers: any parts, any tree of merges and any loss of what workers keep give the same bits."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Sent, sent_away
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigcluster.runtime.cluster import Cluster, Worker
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.kmeans import KMeansFit, fit, fit_minibatch, fit_two_level, sweep
from bigcluster.solvers.kmeans import blocks as blocks_module
from bigcluster.solvers.kmeans.opened import Spread
from bigcluster.solvers.kmeans.spread_jobs import PassSums, StartSums, merge_sums
from bigcluster.solvers.kmeans.spread_labels import RowLabels, tied_rows, write_labels
from bigcluster.solvers.progress import FitProgress
from bigcluster.stages.cluster_jobs import Saving, fit_on_cluster
from bigcluster.store import StageCheckpoints, Store, StoredRows, chunk_grid
from bigcluster.store.refs import ArrayRef, RowsRef, StoreRef

SOLVERS = {"lloyd": fit, "minibatch": fit_minibatch, "two-level": fit_two_level}


def scores(seed: int, n_rows: int, n_columns: int, n_distinct: int) -> NDArray[np.float32]:
    """Rows on a grid of 1/8, in clumps, with equal rows among them."""
    rng = np.random.default_rng(seed)
    distinct = np.round((rng.normal(size=(n_distinct, n_columns)) * 3 + rng.integers(-9, 9, (n_distinct, 1))) * 8) / 8
    return distinct[rng.integers(0, n_distinct, n_rows)].astype(np.float32)


def stored(out: Path, x: NDArray[Any]) -> Store:
    store = Store(out)
    store.save("scores", x, (64, x.shape[1]))
    store.save("row_keys", np.random.default_rng(1).integers(0, 2**63, len(x)).astype(np.uint64))
    return store


def fitted(store: Store, solver: str, k: int, cluster: Cluster | None, **options: Any) -> KMeansFit:
    rows, keys = StoredRows(store.array("scores")), store.load("row_keys")
    spread = None
    if cluster is not None:
        spread = Spread(cluster, RowsRef.of(rows), ArrayRef(StoreRef.of(store), "row_keys", keys))
    return SOLVERS[solver](
        rows,
        k,
        row_keys=keys,
        runtime=EmbeddedRuntime(2),
        max_iter=8,
        workspace_bytes=1 << 26,
        spread=spread,
        **options,
    )


def bits(done: KMeansFit, store: Store, cluster: Cluster | None = None) -> dict[str, Any]:
    """What a fit has found. cluster : whose workers have the labels and write them into the store."""
    if cluster is None:
        assert done.rows is not None
        rows = vars(done.rows)
    else:
        assert (done.rows, done.labeling is None) == (None, False)
        numbers = np.arange(len(done.centers) + 1, dtype=np.int32)
        numbers[-1] = -1
        digests = write_labels(done.labeling, cluster, store, numbers)
        rows = {name: store.load(name) for name in RowLabels._fields}
        assert set(digests) == {f"store.zarr/{name}/c/{i}" for name in rows for i in range(store.array(name).nchunks)}
    arrays = {**rows, "centers": done.centers, "counts": done.counts}
    numbers = (done.inertia, done.inertias, done.inertia_path, done.n_iter, done.converged, done.reason, done.notes)
    return {**{name: array.tobytes() for name, array in arrays.items()}, "numbers": numbers}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few rows, so that little data has many of them."""
    monkeypatch.setattr(blocks_module, "_MIN_ROWS", 32)
    monkeypatch.setattr(blocks_module, "_MAX_ROWS", 32)
    monkeypatch.setattr(chunk_grid, "MOST_ROWS", 80)  # two blocks and a half


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("k", "n_distinct"), [(5, 500), (30, 25), (200, 400)], ids=["few", "too many", "bounds"])
def test_a_fit_has_the_same_bits_on_any_cluster(
    tmp_path: Path, small_blocks: None, solver: str, k: int, n_distinct: int
) -> None:
    store = stored(tmp_path, scores(k, 900, 4, n_distinct))
    options: dict[str, Any] = {"n_init": 3} if solver == "lloyd" else {}
    here = fitted(store, solver, k, None, **options)
    one = Embedded(Worker(EmbeddedRuntime(2), 1 << 30))
    embedded = fitted(store, solver, k, one, **options)
    assert bits(embedded, store, one) == bits(here, store)
    assert (embedded.passes, embedded.bytes_read) == (here.passes, here.bytes_read)
    for seed in range(2):
        workers = Sent(seed)
        assert bits(fitted(store, solver, k, workers, **options), store, workers) == bits(here, store)
        assert {"LloydPass", "LabelBlocks", "OnRows", "Survey", "WriteLabels", "Forget"} <= set(workers.jobs)


class KilledError(Exception):
    pass


class Memory:
    """A CheckpointStore that saves before every pass."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def get(self, name: str) -> NDArray[Any]:
        return self.arrays[name].copy()

    def load(self) -> Memory | None:
        return self if self.facts else None

    def should_save(self, n_bytes: int) -> bool:
        return True

    def save(self, facts: dict[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]], keep: Any = ()) -> None:
        self.facts, self.arrays = json.loads(json.dumps(facts)), {name: array.copy() for name, array in arrays}


@pytest.mark.parametrize("k", [5, 200])
def test_a_fit_that_was_killed_goes_on_with_the_same_bits_on_another_cluster(
    tmp_path: Path, small_blocks: None, k: int
) -> None:
    store = stored(tmp_path, scores(k, 900, 4, 400))
    here = fitted(store, "lloyd", k, None, n_init=2)
    for first, then in ((Sent(1), Sent(2)), (Sent(3), Embedded(Worker(EmbeddedRuntime(2), 1 << 30)))):
        memory = Memory()

        def stop(progress: FitProgress) -> None:
            if progress.done == 3:
                raise KilledError

        with pytest.raises(KilledError):
            fitted(store, "lloyd", k, first, n_init=2, checkpoints=memory, on_progress=stop)
        assert memory.facts["iterations"] == 2
        assert not any(name.startswith("labels") for name in memory.arrays), "labels stay on the workers"
        assert bits(fitted(store, "lloyd", k, then, n_init=2, checkpoints=memory), store, then) == bits(here, store)


@pytest.mark.parametrize("n_distinct", [600, 6])
def test_a_sweep_has_the_same_bits_on_any_cluster(tmp_path: Path, small_blocks: None, n_distinct: int) -> None:
    store = stored(tmp_path, scores(n_distinct, 700, 3, n_distinct))
    rows, keys = StoredRows(store.array("scores")), store.load("row_keys")

    def swept(cluster: Cluster | None) -> tuple[Any, ...]:
        spread = None
        if cluster is not None:
            spread = Spread(cluster, RowsRef.of(rows), ArrayRef(StoreRef.of(store), "row_keys", keys))
        done = sweep(rows, range(2, 11), row_keys=keys, runtime=EmbeddedRuntime(2), max_iter=9, spread=spread)
        table = [{**vars(row), "centers": row.centers.tobytes()} for row in done.rows]
        return table, done.suggestion, [order.tobytes() for order in done.orders], done.reason

    here = swept(None)
    assert swept(Embedded(Worker(EmbeddedRuntime(2), 1 << 30))) == here
    workers = Sent(9)
    assert swept(workers) == here
    assert {"CompareLabels", "ScoreBlocks", "OnRows", "LloydPass"} <= set(workers.jobs)


def test_an_empty_cluster_takes_the_farthest_row_on_any_cluster(tmp_path: Path, small_blocks: None) -> None:
    x = scores(3, 700, 3, 600)
    store, far = stored(tmp_path, x), np.full((4, 3), 1e4)
    far[0] = x[0]
    here = fitted(store, "lloyd", 4, None, init=far)
    workers = Sent(7)
    assert bits(fitted(store, "lloyd", 4, workers, init=far), store, workers) == bits(here, store)
    assert "FindFarthest" in workers.jobs


@pytest.mark.parametrize("exact", [True, False], ids=["in passes", "whole on one worker"])
def test_labels_go_from_workers_to_the_store_and_not_through_this_process(tmp_path: Path, exact: bool) -> None:
    n_rows = 20_000
    store = stored(tmp_path, scores(4, n_rows, 3, 600))
    here = fitted(store, "lloyd", 4, None, n_init=2)
    workers, keys = Sent(3), store.load("row_keys")
    if exact:
        found = fitted(store, "lloyd", 4, workers, n_init=2)
    else:
        saving = Saving.of(keys, StageCheckpoints(store, "cluster", ""), lambda _: None)
        rows, options = StoredRows(store.array("scores")), {"n_init": 2, "max_iter": 8, "workspace_bytes": 1 << 26}
        found = fit_on_cluster(workers, EmbeddedRuntime(1), rows, "lloyd", 4, options, saving, exact=False)
    assert bits(found, store, workers) == bits(here, store)
    assert found.labeling is not None
    ((tied, labels),) = [
        tuple(map(np.concatenate, zip(*tied_rows(found.labeling, workers)(np.array([1, 0, 1, 0], bool)), strict=True)))
    ]
    assert here.rows is not None
    np.testing.assert_array_equal(tied, np.flatnonzero(here.rows.labels % 2 == 0))
    np.testing.assert_array_equal(labels, here.rows.labels[tied])
    assert {name for name, n_bytes in workers.result_bytes.items() if n_bytes > n_rows} == {"TiedRows"}


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(20, 400), st.integers(1, 30))
def test_any_data_has_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, seed: int, k: int, n_rows: int, n_distinct: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "_MIN_ROWS", 16)
        patch.setattr(blocks_module, "_MAX_ROWS", 16)
        patch.setattr(chunk_grid, "MOST_ROWS", 40)
        store = stored(tmp_path_factory.mktemp("store"), scores(seed, n_rows, 3, n_distinct))
        here = fitted(store, "lloyd", k, None, n_init=2, seed=seed)
        workers = Sent(seed)
        assert bits(fitted(store, "lloyd", k, workers, n_init=2, seed=seed), store, workers) == bits(here, store)


@given(st.integers(1, 7), st.integers(0, 99), st.randoms(use_true_random=False))
def test_sums_of_a_pass_merge_in_any_tree(n_parts: int, seed: int, order: random.Random) -> None:
    rng = np.random.default_rng(seed)

    def some(block: int) -> PassSums:
        sums = np.round(rng.normal(size=(3, 2)) * 1000) / 8
        scatter = [(block, rng.random(3))]
        return PassSums([StartSums(sums, sums[:, 0] * 2, rng.integers(0, 9, 3), block, scatter)], block)

    parts = [some(block) for block in range(n_parts)]
    straight = sent_away(parts[0])
    for part in parts[1:]:
        straight = merge_sums(straight, part)
    found = list(parts)
    while len(found) > 1:
        i, j = order.sample(range(len(found)), 2)
        merged = merge_sums(found[i], found[j])
        found = [merged, *(part for at, part in enumerate(found) if at not in (i, j))]
    (one,), (other,) = straight.starts, found[0].starts
    for name in ("sums", "weights", "counts"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert [block for block, _ in other.scatter] == list(range(n_parts))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in itertools.zip_longest(one.scatter, other.scatter))
    assert (one.n_moved, straight.n_bytes) == (other.n_moved, found[0].n_bytes)
