"""Laws of the k-means kernels: every fast path gives the labels that the definition gives."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import float_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from bigcluster.errors import InvalidDataError
from bigcluster.kernels.kmeans.assign import nearest, two_nearest
from bigcluster.kernels.kmeans.bounds import filtered_assignment, first_assignment
from bigcluster.kernels.kmeans.centers import fit_scaler, prepare
from bigcluster.kernels.kmeans.full_scan import Bounds, scan_all
from bigcluster.kernels.kmeans.groups import arrange, group_centers
from bigcluster.kernels.kmeans.metrics import (
    adjusted_rand,
    contingency,
    silhouette_sq,
    simplified_silhouette,
)
from bigcluster.kernels.kmeans.sums import cluster_sums, exact_sq, moved_sums
from bigcluster.kernels.linalg.moments import block_moments, refuse_bad_rows

Array = NDArray[np.generic]


def brute(x: Array, centers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, k) squared distances from differences in float64."""
    every = [exact_sq(x, centers, np.full(len(x), j)) for j in range(len(centers))]
    return np.stack(every, axis=1)


KINDS = ("normal", "offset", "grid", "repeated", "outlier", "tiny", "huge", "uint8", "float64")


def draw_rows(kind: str, n: int, r: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, r)) * (1 + np.arange(r)) ** -0.5
    if kind == "offset":
        x += 1e4
    elif kind in ("grid", "uint8"):  # many exact ties
        x = rng.integers(0, 3, (n, r)).astype(np.float64)
    elif kind == "repeated":
        x = x[rng.integers(0, max(1, n // 10), n)]
    elif kind == "outlier":
        x[0] *= 1e7
    elif kind == "tiny":
        x *= 1e-25
    elif kind == "huge":
        x *= 1e25
    elif kind == "float64":
        return x + 1e9
    return x.astype(np.uint8 if kind == "uint8" else np.float32)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 200),
    r=st.integers(1, 40),
    k=st.integers(1, 150),
    seed=st.integers(0, 99),
    own=st.booleans(),
)
def test_nearest_is_the_definition_for_every_kind_of_data(
    kind: str, n: int, r: int, k: int, seed: int, own: bool
) -> None:
    x = draw_rows(kind, n, r, seed)
    centers = draw_rows(kind, k, r, seed + 1).astype(np.float64)
    sq = brute(x, centers)
    prepared = prepare(centers, fit_scaler(block_moments(x)))
    expected = sq.argmin(axis=1)
    with float_kernel(own=own):
        two = two_nearest(x, prepared)
        fresh = scan_all(x, prepared.scaler.transform(x), arrange(prepared, group_centers(centers), None))
        labels = nearest(x, [prepared])[0]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(fresh.labels, expected)
    np.testing.assert_array_equal(two.labels, expected)
    np.testing.assert_array_equal(two.sq, sq.min(axis=1))
    if k > 1:
        sq[np.arange(n), expected] = np.inf
        np.testing.assert_array_equal(two.runner_up, sq.argmin(axis=1))
        np.testing.assert_array_equal(two.runner_up_sq, sq.min(axis=1))
    else:
        assert (two.runner_up == -1).all()
        assert np.isinf(two.runner_up_sq).all()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 300),
    r=st.integers(1, 40),
    k=st.integers(1, 300),
    steps=st.lists(st.sampled_from([0.0, 1e-6, 1e-2, 0.3, 3.0]), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_bounds_never_change_a_label_and_always_hold(
    kind: str, n: int, r: int, k: int, steps: list[float], seed: int
) -> None:
    x = draw_rows(kind, n, r, seed)
    centers = draw_rows(kind, k, r, seed + 1).astype(np.float64)
    scaler = fit_scaler(block_moments(x))
    scaled = scaler.transform(x)
    groups = group_centers(centers)
    bounds = first_assignment(x, scaled, arrange(prepare(centers, scaler), groups, None))
    np.testing.assert_array_equal(bounds.labels, brute(x, centers).argmin(axis=1))
    rng = np.random.default_rng(seed)
    spread = centers.std() + 1e-30
    for step in steps:
        before, centers = (
            centers,
            centers + rng.standard_normal(centers.shape) * step * spread * (rng.random((k, 1)) < 0.5),
        )
        filtered_assignment(x, scaled, bounds, arrange(prepare(centers, scaler), groups, before))
        sq = brute(x, centers)
        np.testing.assert_array_equal(bounds.labels, sq.argmin(axis=1))
        check_bounds(bounds, np.sqrt(sq) * scaler.scale, groups.group)


def check_bounds(bounds: Bounds, distance: NDArray[np.float64], group: NDArray[np.int32]) -> None:
    every = np.arange(len(distance))
    assert (bounds.upper >= distance[every, bounds.labels]).all()
    distance[every, bounds.labels] = np.inf
    for number in range(bounds.lower.shape[1]):
        assert (bounds.lower[:, number] <= distance[:, group == number].min(axis=1, initial=np.inf)).all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 400), r=st.integers(1, 300), seed=st.integers(0, 99), cut=st.floats(0, 1))
def test_exact_distances_do_not_depend_on_the_neighbours(n: int, r: int, seed: int, cut: float) -> None:
    x = draw_rows("normal", n, r, seed)
    centers = draw_rows("normal", 7, r, seed + 1).astype(np.float64)
    labels = np.random.default_rng(seed).integers(0, 7, n)
    middle = int(cut * n)
    whole = exact_sq(x, centers, labels)
    parts = [exact_sq(x[:middle], centers, labels[:middle]), exact_sq(x[middle:], centers, labels[middle:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    shuffled = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(whole[shuffled], exact_sq(x[shuffled], centers, labels[shuffled]))


@pytest.mark.parametrize("k", [2, 3, 64, 127, 128, 129])
@pytest.mark.parametrize("r", [1, 2, 30])
def test_rows_halfway_between_two_centers_are_settled_exactly(k: int, r: int) -> None:
    rng = np.random.default_rng(k * r)
    centers = rng.standard_normal((k, r))
    pairs = rng.integers(0, k, (4000, 2))
    halfway = centers[pairs].mean(axis=1)
    x = (halfway * (1 + rng.choice([0, 1e-7, -1e-7, 1e-5, -1e-5], (4000, 1)))).astype(np.float32)
    two = two_nearest(x, prepare(centers, fit_scaler(block_moments(x))))
    sq = brute(x, centers)
    np.testing.assert_array_equal(two.labels, sq.argmin(axis=1))
    sq[np.arange(len(x)), two.labels] = np.inf
    np.testing.assert_array_equal(two.runner_up, sq.argmin(axis=1))


def test_several_sets_of_centers_at_once_give_what_each_gives_alone() -> None:
    x = draw_rows("normal", 3000, 12, 0)
    scaler = fit_scaler(block_moments(x))
    sets = [prepare(draw_rows("normal", k, 12, k).astype(np.float64), scaler) for k in (1, 5, 17, 40, 100, 128)]
    for together, alone in zip(nearest(x, sets), [nearest(x, [one])[0] for one in sets], strict=True):
        np.testing.assert_array_equal(together, alone)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), k=st.integers(1, 20), seed=st.integers(0, 99), weighted=st.booleans())
def test_cluster_sums_are_sums(n: int, k: int, seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    x = draw_rows("normal", n, 6, seed)
    labels = rng.integers(0, k, n)
    weights = rng.integers(0, 4, n).astype(np.float64) if weighted else np.ones(n)
    sums = cluster_sums(x, labels, weights if weighted else None)
    for place, number in enumerate(sums.ids):
        mine = labels == number
        np.testing.assert_allclose(
            sums.sums[place], (weights[mine, None] * x[mine]).sum(axis=0), rtol=1e-12, atol=1e-12
        )
        assert sums.weights[place] == weights[mine].sum()
        assert sums.counts[place] == (weights[mine] > 0).sum()


def test_moved_rows_join_one_side_and_leave_the_other() -> None:
    x = np.random.default_rng(0).integers(-50, 50, (200, 5)).astype(np.float32)  # integers: sums exact in any order
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 9, (2, 200)).astype(np.int32)
    dense = np.zeros((9, 5))
    for part in (cluster_sums(x, before), moved_sums(x, before, after, np.flatnonzero(before != after))):
        dense[part.ids] += part.sums
    expected = np.zeros((9, 5))
    np.add.at(expected, after, x)
    np.testing.assert_array_equal(dense, expected)


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 2000), r=st.integers(1, 8), seed=st.integers(0, 9))
def test_groups_hold_every_center_once(k: int, r: int, seed: int) -> None:
    groups = group_centers(np.random.default_rng(seed).standard_normal((k, r)))
    real = groups.slots[groups.slots >= 0]
    np.testing.assert_array_equal(np.sort(real), np.arange(k))
    np.testing.assert_array_equal(groups.slots[groups.group, groups.slot], np.arange(k))


def test_moments_of_parts_merge_to_the_whole() -> None:
    x = draw_rows("offset", 1000, 5, 0)
    weights = np.random.default_rng(0).integers(0, 3, 1000).astype(np.float64)
    whole = block_moments(np.repeat(x, weights.astype(int), axis=0))
    merged = block_moments(x[:300], weights[:300]).merge(block_moments(x[300:], weights[300:]))
    assert merged.weight == whole.weight
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_named(bad: float) -> None:
    x = np.zeros((9, 4), np.float32)
    refuse_bad_rows(x, 0)
    x[5, 2] = x[7, 0] = bad
    with pytest.raises(InvalidDataError, match="row 105 "):
        refuse_bad_rows(x, 100)
    refuse_bad_rows(np.zeros((9, 4), np.uint8), 0)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 120), k=st.integers(1, 12), seed=st.integers(0, 99), offset=st.sampled_from([0.0, 1e5]))
def test_silhouettes_are_scikit_learns(n: int, k: int, seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4)) + offset
    labels = rng.integers(0, k, n)
    sums = cluster_sums(x, labels)
    means, counts, scatter = np.zeros((k, 4)), np.zeros(k, np.int64), np.zeros(k)
    means[sums.ids], counts[sums.ids] = sums.sums / sums.weights[:, None], sums.counts
    scatter[:] = np.bincount(labels, exact_sq(x, means, labels), minlength=k)
    ours = silhouette_sq(x, labels, means, counts, scatter)
    if 2 <= len(sums.ids) < n:
        theirs = silhouette_samples(x - offset, labels, metric="sqeuclidean")
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    elif len(sums.ids) == 1:
        assert (ours == 0).all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), a=st.integers(1, 8), b=st.integers(1, 8), seed=st.integers(0, 99))
def test_adjusted_rand_is_scikit_learns(n: int, a: int, b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, a, n), rng.integers(0, b, n)
    assert adjusted_rand(contingency(one, other, a, b)) == pytest.approx(adjusted_rand_score(one, other), abs=1e-12)


def test_simplified_silhouette() -> None:
    np.testing.assert_allclose(simplified_silhouette(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, 0.0])
