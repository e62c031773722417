"""Laws of the k-means solvers: right against scikit-learn, and the same bits however the rows are stored or read."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans as SklearnKMeans

from bigcluster.errors import ConfigError, InvalidDataError, TooFewSamplesError, UsageError
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.kmeans import KMeansFit, fit, fit_minibatch, fit_two_level, predict
from bigcluster.solvers.kmeans.seeding import uniforms
from bigcluster.solvers.kmeans.two_level import shares
from bigcluster.solvers.progress import FitProgress
from bigcluster.store.row_source import ArrayRows, DaskRows

Array = NDArray[Any]


def blobs(n: int = 3000, r: int = 6, centers: int = 12, seed: int = 0, spread: float = 3.0) -> Array:
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((centers, r)) * spread
    return (places[rng.integers(0, centers, n)] + rng.standard_normal((n, r))).astype(np.float32)


def labels_of(result: KMeansFit) -> Array:
    assert result.rows is not None
    return result.rows.labels


def assert_same(one: KMeansFit, other: KMeansFit) -> None:
    """Bit for bit, everything that a run writes."""
    assert one.rows is not None
    assert other.rows is not None
    for name in ("labels", "distance", "runner_up", "runner_up_distance"):
        np.testing.assert_array_equal(getattr(one.rows, name), getattr(other.rows, name))
    np.testing.assert_array_equal(one.centers, other.centers)
    assert one.inertia == other.inertia
    assert one.n_iter == other.n_iter
    assert one.inertia_path == other.inertia_path


@pytest.mark.parametrize("k", [1, 2, 10, 60, 300])
def test_from_the_same_centers_scikit_learn_gets_the_same(k: int) -> None:
    x = blobs()
    ours = fit(ArrayRows(x), k, init=x[:k], tol=0)
    theirs = SklearnKMeans(k, init=x[:k], n_init=1, tol=0).fit(x)
    np.testing.assert_array_equal(labels_of(ours), theirs.labels_)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, rtol=1e-3, atol=1e-3)


def test_inertia_is_what_the_labels_and_centers_give() -> None:
    x = blobs()
    result = fit(ArrayRows(x), 15, max_iter=3)
    assert result.rows is not None
    sq = ((x[:, None].astype(np.float64) - result.centers) ** 2).sum(axis=2)
    order = np.argsort(sq, axis=1, kind="stable")
    np.testing.assert_array_equal(result.rows.labels, order[:, 0])
    np.testing.assert_array_equal(result.rows.runner_up, order[:, 1])
    np.testing.assert_allclose(result.rows.distance**2, sq.min(axis=1), rtol=1e-9)
    assert result.inertia == pytest.approx(sq.min(axis=1).sum(), rel=1e-12)
    np.testing.assert_array_equal(result.counts, np.bincount(result.rows.labels, minlength=15))


@pytest.mark.parametrize("k", [12, 100, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_chunks_budget_and_threads_do_not_show(k: int, dtype: type) -> None:
    x = blobs(20_000, 40)
    x = np.clip(x * 8 + 128, 0, 255).astype(np.uint8) if dtype is np.uint8 else x.astype(dtype)
    reference = fit(ArrayRows(x), k, n_init=2, max_iter=5, runtime=EmbeddedRuntime(1))
    for chunk, workspace, threads in [(20_000, None, 2), (777, 0, 3), (4096, 2_000_000, 1), (1, 0, 2)]:
        if chunk == 1:
            rows: Any = ArrayRows(x)
        else:
            rows = DaskRows(da.from_array(x, chunks=(chunk, 7)))
        other = fit(rows, k, n_init=2, max_iter=5, workspace_bytes=workspace, runtime=EmbeddedRuntime(threads))
        assert_same(reference, other)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 1500),
    r=st.integers(1, 9),
    k=st.integers(1, 40),
    chunk=st.integers(1, 1500),
    workspace=st.integers(0, 50_000),
    threads=st.integers(1, 4),
    weighted=st.booleans(),
    seed=st.integers(0, 20),
)
def test_any_storage_gives_the_same_bits(
    n: int, r: int, k: int, chunk: int, workspace: int, threads: int, weighted: bool, seed: int
) -> None:
    x = blobs(n, r, seed=seed)
    weights = np.random.default_rng(seed).random(n) + 0.01 if weighted else None
    one = fit(ArrayRows(x), k, n_init=2, seed=seed, sample_weight=weights, runtime=EmbeddedRuntime(1))
    rows = DaskRows(da.from_array(x, chunks=(max(chunk, n // 20 + 1), r)))
    other = fit(
        rows, k, n_init=2, seed=seed, sample_weight=weights, workspace_bytes=workspace, runtime=EmbeddedRuntime(threads)
    )
    assert_same(one, other)


@pytest.mark.parametrize("k", [8, 300])
def test_rows_within_the_workspace_are_read_once(k: int) -> None:
    x = blobs(20_000, 40)
    kept = fit(DaskRows(da.from_array(x, chunks=(5000, 40))), k, n_init=2, max_iter=5)
    streamed = fit(DaskRows(da.from_array(x, chunks=(5000, 40))), k, n_init=2, max_iter=5, workspace_bytes=0)
    assert kept.bytes_read == x.nbytes
    assert x.nbytes * 5 < streamed.bytes_read <= x.nbytes * streamed.passes


def test_starts_share_passes() -> None:
    x = blobs()
    one = fit(ArrayRows(x), 10, n_init=1, max_iter=4, tol=0)
    four = fit(ArrayRows(x), 10, n_init=4, max_iter=4, tol=0)
    assert four.passes == one.passes + 1  # one start is settled by the final pass
    assert four.inertia == min(four.inertias) <= one.inertia


@pytest.mark.parametrize("k", [10, 300])
def test_inertia_never_rises(k: int) -> None:
    x = blobs()
    seen: list[FitProgress] = []
    result = fit(ArrayRows(x), k, init=x[:k], tol=0, on_progress=seen.append)
    path = np.array(result.inertia_path)
    assert (np.diff(path) <= 1e-9 * path[0]).all()
    assert result.inertia <= path[-1] * (1 + 1e-9)
    assert [event.inertia for event in seen] == list(path)
    assert result.converged


@pytest.mark.parametrize("k", [10, 300])
def test_permutation_scale_and_translation_leave_the_inertia(k: int) -> None:
    x = blobs().astype(np.float64)
    init = x[:k]
    base = fit(ArrayRows(x), k, init=init).inertia
    order = np.random.default_rng(0).permutation(len(x))
    assert fit(ArrayRows(x[order]), k, init=init).inertia == pytest.approx(base, rel=1e-5)
    for scale in (1e-4, 1e4, 1e-30, 1e30):
        assert fit(ArrayRows(x * scale), k, init=init * scale).inertia == pytest.approx(base * scale**2, rel=1e-5)
    for offset in (1e4, -1e6):
        assert fit(ArrayRows(x + offset), k, init=init + offset).inertia == pytest.approx(base, rel=1e-5)


def test_small_units_do_not_stop_it_early() -> None:
    x = blobs()
    assert fit(ArrayRows(x * np.float32(2.0**-20)), 12).n_iter == fit(ArrayRows(x), 12).n_iter > 1


def test_repeated_rows_are_integer_weights() -> None:
    x = blobs(500)
    weights = np.random.default_rng(0).integers(0, 4, 500)
    weighted = fit(ArrayRows(x), 7, init=x[:7], sample_weight=weights)
    repeated = fit(ArrayRows(np.repeat(x, weights, axis=0)), 7, init=x[:7])
    np.testing.assert_allclose(weighted.centers, repeated.centers, rtol=1e-6, atol=1e-6)
    assert weighted.inertia == pytest.approx(repeated.inertia, rel=1e-9)


def test_rows_of_no_weight_never_become_centers() -> None:
    x = np.concatenate([blobs(300), np.full((5, 6), 1e4, np.float32)])
    weights = np.append(np.ones(300), np.zeros(5))
    result = fit(ArrayRows(x), 20, sample_weight=weights)
    assert np.abs(result.centers).max() < 100
    assert result.n_clusters == 20


def test_emptied_clusters_take_the_farthest_rows() -> None:
    x = blobs(2000, centers=5, spread=20.0)
    far = np.full((5, 6), 1000.0) + np.eye(5, 6)
    result = fit(ArrayRows(x), 5, init=far)
    best = SklearnKMeans(5, n_init=10, random_state=0).fit(x).inertia_
    assert result.n_clusters == 5
    assert not result.reason
    assert result.inertia <= best * 1.3


@pytest.mark.parametrize("max_iter", [1, 2, 20])
@pytest.mark.parametrize("n_init", [1, 2])
def test_no_cluster_is_lost_while_there_are_distinct_rows(max_iter: int, n_init: int) -> None:
    x = blobs(2000, 4, centers=400, spread=10.0)
    if n_init == 1:
        result = fit(ArrayRows(x), 500, init=x[:500], max_iter=max_iter, tol=0)
    else:
        result = fit(ArrayRows(x), 500, n_init=2, max_iter=max_iter, tol=0)
    assert result.n_clusters == 500
    assert result.counts.min() >= 1
    assert not result.reason
    assert result.inertia <= result.inertia_path[-1] * (1 + 1e-9)
    twelve = np.repeat(np.arange(24, dtype=np.float64).reshape(12, 2) ** 2, 20, axis=0)
    start = np.full((12, 2), 1e6) + np.arange(24).reshape(12, 2)
    assert fit(ArrayRows(twelve), 12, init=start, max_iter=max_iter).n_clusters == 12


@pytest.mark.parametrize("max_iter", [5, 50])
def test_emptied_clusters_are_placed_as_scikit_learn_does(max_iter: int) -> None:
    x = blobs(6000, 20, centers=300, spread=2.0)
    init = x[:400].copy()
    init[300:320] += 50  # twenty clusters are empty at once
    ours = fit(ArrayRows(x), 400, init=init, tol=0, max_iter=max_iter)
    theirs = SklearnKMeans(400, init=init, n_init=1, tol=0, max_iter=max_iter).fit(x)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)


def test_two_hundred_clusters_leave_no_dead_center() -> None:
    x = blobs(4000, 10, centers=200, spread=6.0)
    result = fit(ArrayRows(x), 200)
    theirs = SklearnKMeans(200, n_init=4, random_state=0).fit(x).inertia_
    assert result.counts.min() >= 1
    assert np.linalg.norm(result.centers, axis=1).min() > 0.5
    assert result.inertia <= theirs * 1.02


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_seeding_is_as_good_as_the_best_known(init: str) -> None:
    x = blobs(5000, 8, centers=30, spread=5.0)
    theirs = SklearnKMeans(30, n_init=4, random_state=0).fit(x).inertia_
    assert fit(ArrayRows(x), 30, init=init).inertia <= theirs * 1.05


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_luck_follows_the_row_not_its_place(init: str) -> None:
    x = blobs(1000, 4)
    keys = np.random.default_rng(0).integers(0, 2**63, 1000).astype(np.uint64)
    order = np.random.default_rng(1).permutation(1000)
    one = fit(ArrayRows(x), 8, n_init=1, max_iter=1, init=init, row_keys=keys)
    other = fit(ArrayRows(x[order]), 8, n_init=1, max_iter=1, init=init, row_keys=keys[order])
    assert other.inertia == pytest.approx(one.inertia, rel=1e-9)


def test_hashes_are_even_and_differ_by_seed_and_purpose() -> None:
    keys = np.arange(100_000, dtype=np.uint64)
    u = uniforms(keys, 3, "first")
    assert abs(u.mean() - 0.5) < 0.005
    assert np.histogram(u, 10, (0, 1))[0].min() > 9_500
    for other in (uniforms(keys, 4, "first"), uniforms(keys, 3, "sample")):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.02


@pytest.mark.parametrize("k", [3, 300])
def test_fewer_distinct_rows_than_clusters_is_said(k: int) -> None:
    x = np.repeat(np.eye(2, 4, dtype=np.float32), 200, axis=0)
    result = fit(ArrayRows(x), k)
    assert result.n_clusters == 2
    assert result.n_requested == k
    assert "2 distinct" in result.reason
    assert result.inertia == 0


def test_one_row_and_identical_rows() -> None:
    for x in (np.array([[1.0, 2.0]]), np.ones((50, 3), np.float32), np.zeros((50, 3), np.uint8)):
        result = fit(ArrayRows(x), 1)
        assert result.inertia == 0
        assert not result.reason
        assert result.rows is not None
        assert (result.rows.runner_up == -1).all()
        assert fit(ArrayRows(x), 4).n_clusters == 1


def test_a_distinct_row_that_the_sample_misses_is_found() -> None:
    x = np.zeros((40_000, 2), np.float32)
    x[39_999] = 1
    x[20_000] = 2
    result = fit(ArrayRows(x), 3)
    assert result.n_clusters == 3
    assert result.inertia == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_bad_row_is_named(bad: float) -> None:
    x = blobs(30_000, 40)
    x[23_456, 7] = bad
    with pytest.raises(InvalidDataError, match="row 23456"):
        fit(ArrayRows(x), 3)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n_clusters": 0}, UsageError),
        ({"n_init": 0}, UsageError),
        ({"tol": -1.0}, UsageError),
        ({"init": "best"}, ConfigError),
        ({"init": np.zeros((2, 6))}, UsageError),
        ({"init": np.full((3, 6), np.nan)}, UsageError),
        ({"init": np.full((3, 6), 1e30)}, UsageError),
        ({"sample_weight": np.full(100, -1.0)}, UsageError),
        ({"sample_weight": np.zeros(100)}, UsageError),
        ({"sample_weight": np.ones(99)}, UsageError),
        ({"sample_weight": np.full(100, np.nan)}, UsageError),
        ({"row_keys": np.zeros(3, np.uint64)}, UsageError),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    arguments: dict[str, Any] = {"n_clusters": 3, **change}
    with pytest.raises(error):
        fit(ArrayRows(blobs(100)), **arguments)


def test_no_rows_are_refused() -> None:
    with pytest.raises(TooFewSamplesError):
        fit(ArrayRows(np.zeros((0, 3), np.float32)), 1)


@pytest.mark.parametrize("solve", [fit_two_level, fit_minibatch])
@pytest.mark.parametrize("k", [5, 300])
def test_the_other_algorithms_end_with_exact_labels_and_the_same_bits(solve: Any, k: int) -> None:
    x = blobs(9000, 40, centers=100)
    one = solve(ArrayRows(x), k, runtime=EmbeddedRuntime(1))
    other = solve(DaskRows(da.from_array(x, chunks=(1234, 9))), k, workspace_bytes=0, runtime=EmbeddedRuntime(3))
    assert_same(one, other)
    assert one.n_clusters == k
    assert one.inertia == pytest.approx((one.rows.distance**2).sum(), rel=1e-9)
    assert one.inertia <= 1.15 * fit(ArrayRows(x), k, n_init=1).inertia
    np.testing.assert_array_equal(labels_of(one), nearest_of(x, one.centers))


def nearest_of(x: Array, centers: Array) -> Array:
    found = predict(ArrayRows(x), centers)
    assert found is not None
    return found.labels


@pytest.mark.parametrize("solve", [fit, fit_two_level, fit_minibatch])
def test_every_algorithm_says_when_rows_run_out(solve: Any) -> None:
    x = np.repeat(np.arange(12, dtype=np.uint8).reshape(6, 2), 50, axis=0)
    result = solve(ArrayRows(x), 20)
    assert result.n_clusters == 6
    assert "6 distinct" in result.reason


@given(counts=st.lists(st.integers(1, 1000), min_size=1, max_size=30), total=st.integers(1, 5000))
def test_shares_are_within_their_counts_and_add_up(counts: list[int], total: int) -> None:
    out = shares(np.array(counts), max(total, len(counts)))
    assert (out >= 1).all()
    assert (out <= counts).all()
    assert out.sum() == min(max(total, len(counts)), sum(counts))


def test_predicting_the_training_rows_gives_their_labels_back() -> None:
    x = blobs(5000, 7)
    result = fit(ArrayRows(x), 20)
    again = predict(DaskRows(da.from_array(x, chunks=(700, 7))), result.centers)
    assert again is not None
    assert result.rows is not None
    for name in ("labels", "distance", "runner_up", "runner_up_distance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result.rows, name))
    np.testing.assert_array_equal(
        nearest_of(x[:3] + 1e6, result.centers), [nearest_of(x[:1] + 1e6, result.centers)[0]] * 3
    )
    with pytest.raises(UsageError, match="columns"):
        predict(ArrayRows(x[:, :3]), result.centers)
