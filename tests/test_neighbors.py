"""Laws of the graph of nearest neighbors: brute force finds the same, bit for bit, however the work is cut."""

from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Sent
from conftest import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigcluster.errors import ConfigError, InvalidDataError, TooFewSamplesError, UsageError
from bigcluster.kernels import neighbors as kernel
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.kmeans import blocks as kmeans_blocks
from bigcluster.solvers.neighbors import METRICS, NeighborGraph, graph, nearest_to, neighbor_graph, search
from bigcluster.solvers.neighbors.footprint import project_neighbors_bytes
from bigcluster.solvers.progress import FitProgress
from bigcluster.store import StageCheckpoints, Store, StoredRows
from bigcluster.store.row_source import ArrayRows

Array = NDArray[Any]


def by_definition(queries: Array, x: Array, metric: str) -> Array:
    """Squared distances in float64, (n_queries, n_rows)."""
    one, other = (to_unit_length(y) if metric == "cosine" else y for y in (queries, x))
    one, other = one.astype(np.float64), other.astype(np.float64)
    sq = np.empty((len(one), len(other)))
    for row in range(len(one)):
        difference = one[row] - other
        sq[row] = np.einsum("ij,ij->i", difference, difference)
    if metric == "cosine":
        sq[~one.any(axis=1)], sq[:, ~other.any(axis=1)] = 2, 2
    return sq


def brute_force(x: Array, k: int, metric: str) -> tuple[Array, Array]:
    """The definition: float64 sums of squared differences, of equal ones the smaller number first."""
    sq = by_definition(x, x, metric)
    np.fill_diagonal(sq, np.inf)
    return nearest_by_sorting(sq, min(k, len(x) - 1), metric)


def nearest_by_sorting(sq: Array, k: int, metric: str) -> tuple[Array, Array]:
    """Ids and distances, (n_queries, k), of squared distances, (n_queries, n_rows)."""
    ids = np.argsort(sq, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(sq, ids, axis=1)
    return ids, (nearest / 2 if metric == "cosine" else np.sqrt(nearest)).astype(np.float32)


def data(kind: str, n: int, r: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, r))
    if kind == "ties":
        x = rng.integers(-1, 2, (n, r))
    elif kind == "equal":
        x[:] = x[0]
    elif kind == "duplicates":
        x = x[rng.integers(0, max(1, n // 8), n)]
    elif kind == "zeros":
        x[rng.random(n) < 0.3] = 0
    elif kind == "offset":
        x = x * 0.01 + 10_000
    elif kind == "far apart":
        x += rng.integers(0, 2, (n, 1)) * 1e6
    elif kind == "outlier":
        x[rng.integers(0, n)] *= 1e20
    elif kind == "tiny":
        x *= 1e-30
    elif kind == "huge":
        x *= 1e25
    elif kind == "sorted":
        x = x[np.argsort(-np.abs(x).sum(axis=1))]
    return x.astype(np.float32)


KINDS = (
    *("plain", "ties", "equal", "duplicates", "zeros", "offset", "far apart", "outlier", "tiny", "huge", "sorted"),
)


def assert_same(found: NeighborGraph, ids: Array, distances: Array) -> None:
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.distances, distances)
    assert (found.ids.dtype, found.distances.dtype) == (np.int32, np.float32)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(METRICS),
    n=st.integers(1, 150),
    r=st.integers(1, 12),
    k=st.integers(1, 20),
    seed=st.integers(0, 1000),
    block=st.integers(1, 64),
    group=st.integers(1, 64),
    tile=st.tuples(st.integers(1, 16), st.integers(1, 24)),
    waiting=st.integers(1, 4),
    sample=st.integers(1, 40),
    threads=st.integers(1, 3),
    workspace=st.integers(0, 4000),
)
def test_brute_force_finds_the_same_however_the_work_is_cut(
    kind: str, metric: str, n: int, r: int, k: int, seed: int, block: int, group: int, tile: tuple[int, int],
    waiting: int, sample: int, threads: int, workspace: int,
) -> None:  # fmt: skip
    x = data(kind, n, r, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_blocks, "block_rows", lambda n_columns: block)
        patch.setattr(graph, "group_rows", lambda n_rows, n_columns: group)
        patch.setattr(search, "SAMPLE_ROWS", sample)
        for name, value in zip(("TILE_ROWS", "TILE_COLUMNS", "WAITING_ROWS"), (*tile, waiting), strict=True):
            patch.setattr(kernel, name, value)
        runtime = EmbeddedRuntime(threads)
        found = neighbor_graph(ArrayRows(x), k, metric=metric, runtime=runtime, workspace_bytes=workspace)
    assert_same(found, *brute_force(x, k, metric))


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(METRICS),
    n=st.integers(1, 120),
    group=st.integers(1, 64),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_any_parts_on_any_workers_find_the_same(
    tmp_path_factory: pytest.TempPathFactory, kind: str, metric: str, n: int, group: int, threads: int, seed: int
) -> None:
    x = data(kind, n, 5, seed)
    store = Store(tmp_path_factory.mktemp("store"))
    store.save("scores", x, (17, 5))
    expected = neighbor_graph(ArrayRows(x), 6, metric=metric, runtime=EmbeddedRuntime(threads))
    workers, saves = Sent(seed, threads=threads), seed % 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "group_rows", lambda n_rows, n_columns: group)
        options: dict[str, Any] = {"metric": metric, "runtime": EmbeddedRuntime(threads), "cluster": workers}
        rows = StoredRows(store.array("scores"))
        with suppress(KilledError):  # of the process that asks; what its workers found is saved
            neighbor_graph(rows, 6, checkpoints=Everytime(StageCheckpoints(store, "neighbors", "f"), saves), **options)
        found = neighbor_graph(rows, 6, checkpoints=StageCheckpoints(store, "neighbors", "f"), **options)
    assert_same(found, expected.ids, expected.distances)
    assert set(workers.jobs) == {"FindNeighbors", "Forget"}
    assert workers.largest_bytes < 10_000


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(METRICS),
    n=st.integers(1, 60),
    n_queries=st.integers(0, 40),
    known=st.booleans(),
    r=st.integers(1, 9),
    k=st.integers(1, 12),
    seed=st.integers(0, 1000),
    block=st.integers(1, 32),
    sample=st.integers(1, 40),
)
def test_brute_force_finds_the_same_for_new_rows(
    kind: str, metric: str, n: int, n_queries: int, known: bool, r: int, k: int, seed: int, block: int, sample: int
) -> None:
    x = data(kind, n, r, seed)
    queries = x[np.arange(n_queries) % n] if known else data(kind, max(1, n_queries), r, seed + 1)[:n_queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_blocks, "block_rows", lambda n_columns: block)
        patch.setattr(graph, "group_rows", lambda n_rows, n_columns: 16)
        patch.setattr(search, "SAMPLE_ROWS", sample)
        ids, distances = nearest_to(queries, ArrayRows(x), k, metric=metric)
    expected = nearest_by_sorting(by_definition(queries, x, metric), min(k, n), metric)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(distances, expected[1])


def test_new_rows_must_fit_the_known_ones() -> None:
    x = data("plain", 20, 3, 0)
    for queries in (x[:, :2], x.astype(np.float64), x[0]):
        with pytest.raises(UsageError, match="do not fit rows of float32"):
            nearest_to(queries, ArrayRows(x), 3)
    queries = x.copy()
    queries[4] = np.nan
    with pytest.raises(InvalidDataError, match="row 4"):
        nearest_to(queries, ArrayRows(x), 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "duplicates", "far apart", "sorted"])
def test_brute_force_finds_the_same_of_more_rows_than_a_tile(kind: str, metric: str) -> None:
    x = data(kind, 1_500, 40, 0)
    assert_same(neighbor_graph(ArrayRows(x), 15, metric=metric), *brute_force(x, 15, metric))


def test_the_library_that_multiplies_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data("plain", 1_100, 20, 0)
    expected = neighbor_graph(ArrayRows(x), 10)

    def by_numpy(a: Array, b: Array, **options: Any) -> Array:
        return float_product(a, b, own=False, **options)

    monkeypatch.setattr(kernel, "float_product", by_numpy)
    assert_same(neighbor_graph(ArrayRows(x), 10), expected.ids, expected.distances)


def test_cosine_distance_is_one_minus_the_cosine() -> None:
    x = data("plain", 300, 10, 0) * 7
    found = neighbor_graph(ArrayRows(x), 5)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = np.einsum("ij,ikj->ik", unit, unit[found.ids])
    np.testing.assert_allclose(found.distances, 1 - cosine, atol=3e-7)


def test_rows_equal_to_more_rows_than_neighbors_are_not_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with enough neighbors at distance 0 is done: otherwise every pair would need an exact distance."""
    pairs = 0
    exact = kernel.pair_sq

    def counted(queries: Any, row: Array, candidates: Any, column: Array) -> Array:
        nonlocal pairs
        pairs += len(row)
        return exact(queries, row, candidates, column)

    monkeypatch.setattr(kernel, "pair_sq", counted)
    n = 6_000
    found = neighbor_graph(ArrayRows(np.ones((n, 3), np.float32)), 4, metric="euclidean")
    np.testing.assert_array_equal(found.ids[5:], np.tile(np.arange(4, dtype=np.int32), (n - 5, 1)))
    np.testing.assert_array_equal(found.ids[2], [0, 1, 3, 4])
    assert pairs < n * n / 8


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_are_refused_with_their_row(metric: str, bad: float) -> None:
    x = data("plain", 50, 3, 0)
    x[17, 1] = bad
    with pytest.raises(InvalidDataError, match="row 17"):
        neighbor_graph(ArrayRows(x), 3, metric=metric)


def test_arguments_are_checked() -> None:
    x = data("plain", 20, 3, 0)
    with pytest.raises(UsageError, match="n_neighbors must be at least 1, not 0"):
        neighbor_graph(ArrayRows(x), 0)
    with pytest.raises(ConfigError, match="cosine, euclidean"):
        neighbor_graph(ArrayRows(x), 3, metric="hamming")
    with pytest.raises(UsageError, match="float64"):
        neighbor_graph(ArrayRows(x.astype(np.float64)), 3)
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(TooFewSamplesError, match="a column; got"):
            neighbor_graph(ArrayRows(np.empty(shape, np.float32)), 3)


class KilledError(Exception):
    """Stands for the end of a process."""


class Everytime:
    """A CheckpointStore that saves whenever it is asked to, until the process ends after some saves."""

    def __init__(self, inner: StageCheckpoints, most_saves: int) -> None:
        self.inner, self.left = inner, most_saves

    def load(self) -> Any:
        return self.inner.load()

    def should_save(self, n_bytes: int) -> bool:
        if not self.left:
            raise KilledError
        return True

    def save(self, facts: dict[str, Any], arrays: Iterable[tuple[str, Array]], keep: Collection[str] = ()) -> None:
        self.left -= 1
        self.inner.save(facts, arrays, keep)


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    x = data("plain", 2_000, 8, 0)  # eight groups
    expected = neighbor_graph(ArrayRows(x), 7)
    store = Store(tmp_path / "store.zarr")
    for saves in (1, 2, 3):
        with pytest.raises(KilledError):
            neighbor_graph(ArrayRows(x), 7, checkpoints=Everytime(StageCheckpoints(store, "neighbors", "f"), saves))
    seen: list[FitProgress] = []
    checkpoints = StageCheckpoints(store, "neighbors", "f")
    found = neighbor_graph(ArrayRows(x), 7, checkpoints=checkpoints, on_progress=seen.append)
    assert [event.done for event in seen] == [1536, 1792, 2000]
    assert_same(found, expected.ids, expected.distances)


_SEARCH = """
import sys
from pathlib import Path
import numpy as np
from bigcluster.solvers.neighbors import neighbor_graph
from bigcluster.store import StageCheckpoints, Store, StoredRows
from bigcluster.store.row_source import ArrayRows
class Everytime(StageCheckpoints):
    def should_save(self, n_bytes):
        return True
folder = Path(sys.argv[1])
x = np.load(folder / "x.npy")
checkpoints = Everytime(Store(folder / "store.zarr"), "neighbors", "f")
tell = lambda event: print(event.done, flush=True)
found = neighbor_graph(ArrayRows(x), 7, checkpoints=checkpoints, on_progress=tell)
np.savez(folder / "found.npz", ids=found.ids, distances=found.distances)
"""


@pytest.mark.slow
def test_killed_processes_find_the_same_in_the_end(tmp_path: Path) -> None:
    """Killed by a real signal after the first, or the second, group that it finds."""
    x = data("plain", 2_000, 8, 0)  # eight groups
    np.save(tmp_path / "x.npy", x)
    begun: list[int] = []
    for kill in range(5):
        command = [sys.executable, "-c", _SEARCH, str(tmp_path)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun.append(int(process.stdout.readline()))
            for _ in range(1 + kill % 2):
                process.stdout.readline()
            process.kill()
        assert process.returncode == -signal.SIGKILL
    subprocess.run([sys.executable, "-c", _SEARCH, str(tmp_path)], env=environment(), check=True, capture_output=True)
    assert begun == sorted(begun)
    assert begun[-1] > 0  # what was found before a kill is not searched for again
    found = np.load(tmp_path / "found.npz")
    expected = neighbor_graph(ArrayRows(x), 7)
    assert_same(expected, found["ids"], found["distances"])


@pytest.mark.parametrize("spoil", ["shape", "number", "ends"])
def test_a_state_of_another_search_is_begun_anew(tmp_path: Path, spoil: str) -> None:
    x = data("plain", 600, 8, 0)
    expected = neighbor_graph(ArrayRows(x), 7)
    ids, distances = expected.ids[:256].copy(), expected.distances[:256]
    ends = [256] if spoil != "ends" else [256, 100]
    if spoil == "number":
        ids[3, 3] = 600
    if spoil == "shape":
        ids = ids[:, :5]
    checkpoints = StageCheckpoints(Store(tmp_path / "store.zarr"), "neighbors", "f")
    arrays = [("ids/0", ids), ("distances/0", distances), ("ids/256", ids), ("distances/256", distances)]
    checkpoints.save({"ends": ends}, arrays)
    told: list[str] = []
    found = checkpoints.resume_or_restart(lambda: neighbor_graph(ArrayRows(x), 7, checkpoints=checkpoints), told.append)
    assert len(told) == 1
    assert_same(found, expected.ids, expected.distances)


class CopiedRows(ArrayRows):
    """Rows that take memory when they are read, as those of a store do."""

    def read(self, start: int, stop: int, columns: slice = slice(None), **options: Any) -> Array:
        return super().read(start, stop, columns, **options).copy()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "n", "r"), [("plain", 6_000, 64), ("equal", 6_000, 8), ("plain", 1_200, 2_000)])
def test_memory_stays_within_what_is_projected(kind: str, n: int, r: int, metric: str) -> None:
    rows = CopiedRows(data(kind, n, r, 0))
    neighbor_graph(CopiedRows(data(kind, 10, r, 0)), 2, metric=metric, runtime=EmbeddedRuntime(2))
    runtime = EmbeddedRuntime(2)
    tracemalloc.start()
    try:
        neighbor_graph(rows, 15, metric=metric, runtime=runtime, workspace_bytes=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < project_neighbors_bytes(n, r, 15, threads=2)
