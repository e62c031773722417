"""Laws of the sweep over k, of the choice of an algorithm, and of the memory that a plan projects."""

from __future__ import annotations

import tracemalloc
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import silhouette_score

from bigcluster.errors import UsageError
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.kmeans import choose, fit, sweep
from bigcluster.solvers.kmeans.footprint import project_bounds_bytes, project_centers_bytes, project_lloyd_bytes
from bigcluster.solvers.kmeans.result import check_algorithm
from bigcluster.solvers.kmeans.sweep import suggest
from bigcluster.store.row_source import ArrayRows, DaskRows

Array = NDArray[Any]


def blobs(n: int = 3000, r: int = 6, centers: int = 12, seed: int = 0, spread: float = 3.0) -> Array:
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((centers, r)) * spread
    return (places[rng.integers(0, centers, n)] + rng.standard_normal((n, r))).astype(np.float32)


@pytest.mark.slow
def test_a_sweep_of_a_k_is_a_fit_of_that_k_from_its_seeds() -> None:
    x = blobs(6000, 5, centers=9, spread=6.0)
    found = sweep(ArrayRows(x), range(5, 17), n_init=2)
    for row in found.rows:
        alone = fit(ArrayRows(x), row.k, init=found.orders[row.start][: row.k])
        assert alone.inertia == row.inertia
        np.testing.assert_array_equal(alone.centers, row.centers)
        assert alone.rows is not None
        assert row.silhouette_sq == pytest.approx(
            silhouette_score(x, alone.rows.labels, metric="sqeuclidean"), rel=1e-9
        )
        simple = 1 - alone.rows.distance / alone.rows.runner_up_distance
        assert row.simplified_silhouette == pytest.approx(simple.mean(), rel=1e-9)
        assert (row.smallest, row.largest) == (alone.counts.min(), alone.counts.max())
        assert row.inertia <= SklearnKMeans(row.k, n_init=3, random_state=0).fit(x).inertia_ * 1.01
    assert found.suggestion.k in (8, 9, 10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_race_of_starts_keeps_a_good_one(seed: int) -> None:
    """Where there are clusters, two starts alone would be up to a third worse than the best of four."""
    x = blobs(4000, 16, centers=14, seed=1)
    found = sweep(ArrayRows(x), range(11, 18), seed=seed, n_init=4)
    for row in found.rows:
        four = [fit(ArrayRows(x), row.k, init=order[: row.k]).inertia for order in found.orders]
        assert row.inertia == four[row.start]
        assert row.inertia <= 1.005 * min(four)


def test_a_sweep_of_fewer_passes_than_the_race_takes() -> None:
    x = blobs(500)
    found = sweep(ArrayRows(x), [4, 9], max_iter=2)
    for row in found.rows:
        assert row.inertia == fit(ArrayRows(x), row.k, init=found.orders[row.start][: row.k], max_iter=2).inertia
    assert found.passes < 20


def test_a_sweep_reads_what_its_longest_fit_reads() -> None:
    x = blobs(20_000, 40, centers=7, spread=5.0)  # two canonical blocks
    rows = DaskRows(da.from_array(x, chunks=(10_000, 40)))
    found = sweep(rows, range(5, 10), n_init=2, workspace_bytes=0)
    alone = [
        fit(rows, row.k, init=found.orders[turn][: row.k], workspace_bytes=0) for row in found.rows for turn in range(2)
    ]
    seeding_and_halves = 3 * x.nbytes
    assert found.bytes_read <= 1.2 * max(one.bytes_read for one in alone) + seeding_and_halves


def test_sweeps_do_not_depend_on_storage() -> None:
    x = blobs(9000, 40)
    one = sweep(ArrayRows(x), [3, 9, 17, 300], n_init=2, runtime=EmbeddedRuntime(1))
    other = sweep(
        DaskRows(da.from_array(x, chunks=(1000, 11))), [300, 3, 17, 9], n_init=2, workspace_bytes=0,
        runtime=EmbeddedRuntime(3),
    )  # fmt: skip
    assert [row.k for row in one.rows] == [3, 9, 17, 300]
    for a, b in zip(one.rows, other.rows, strict=True):
        np.testing.assert_array_equal(a.centers, b.centers)
        assert (a.inertia, a.simplified_silhouette, a.silhouette_sq, a.stability) == (
            b.inertia, b.simplified_silhouette, b.silhouette_sq, b.stability,
        )  # fmt: skip
    assert one.suggestion == other.suggestion


def test_no_elbow_is_made_up() -> None:
    ks = list(range(5, 60, 5))
    smooth = [1000 / k for k in ks]
    assert suggest(ks, smooth, [smooth, smooth]).k is None
    assert "no clear elbow" in suggest(ks, smooth, [smooth, smooth]).reason
    bent = [1000 - 100 * k if k <= 9 else 100 - k for k in range(2, 21)]
    assert suggest(list(range(2, 21)), bent, [bent, bent]).k == 9
    assert suggest(list(range(2, 21)), bent, [bent, []]).k is None
    assert suggest([1, 2], [2.0, 1.0], [[], []]).k is None
    noise = np.random.default_rng(0).standard_normal((3000, 20)).astype(np.float32)
    assert sweep(ArrayRows(noise), range(5, 15), n_init=1, max_iter=20).suggestion.k is None


@pytest.mark.parametrize(("ks", "n_init"), [([], 1), ([0, 3], 1), ([3], 0)])
def test_an_empty_or_impossible_sweep_is_refused(ks: list[int], n_init: int) -> None:
    with pytest.raises(UsageError):
        sweep(ArrayRows(blobs(100)), ks, n_init=n_init)


def test_a_sweep_leaves_out_what_the_rows_cannot_fill() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    found = sweep(ArrayRows(x), [2, 3, 4, 5])
    assert [row.k for row in found.rows] == [2, 3]
    assert "4, 5" in found.reason
    assert found.rows[1].inertia == 0


def test_the_choice_is_by_shape_alone() -> None:
    assert choose(8190, 800, 10)[0] == "lloyd"
    assert choose(1_000_000, 64, 1000)[0] == "lloyd"
    assert choose(1_000_000, 64, 40_000)[0] == "two-level"
    assert choose(10**9, 128, 1000)[0] == "minibatch"
    for name in ("lloyd", "two-level", "minibatch", "dask-ml", "auto"):
        assert check_algorithm(name) == name


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200),
    r=st.integers(1, 200),
    k=st.integers(1, 30_000),
    more=st.integers(0, 10**9),
    starts=st.integers(1, 8),
)
def test_projections_grow_with_rows_and_clusters(n: int, r: int, k: int, more: int, starts: int) -> None:
    base = project_lloyd_bytes(n, r, k, n_restarts=starts)
    assert base <= project_lloyd_bytes(n + more, r, k, n_restarts=starts)
    assert base <= project_lloyd_bytes(n, r, k, n_restarts=starts, threads=3)
    assert project_bounds_bytes(n, k) <= project_bounds_bytes(n, k + more) or more == 0
    assert project_centers_bytes(r, k, 1) < project_centers_bytes(r, k + 1, 1)


@pytest.mark.parametrize("k", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_measured_allocations_stay_below_the_projection(k: int) -> None:
    x = blobs(60_000, 32, centers=50)
    rows = DaskRows(da.from_array(x, chunks=(10_000, 32)))
    fit(rows, k, n_init=1, max_iter=2, workspace_bytes=0)  # imports and caches are not the fit's
    tracemalloc.start()
    fit(rows, k, n_init=2, max_iter=4, workspace_bytes=0, runtime=EmbeddedRuntime(2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sink_and_sources = 24 * len(x) + 4 * 10_000 * 32 * 4  # what the rows hand out is the source's
    assert peak <= project_lloyd_bytes(*x.shape, k, n_restarts=2, threads=2) + sink_and_sources
    assert project_lloyd_bytes(*x.shape, k, n_restarts=2, threads=2) < 12 * peak
