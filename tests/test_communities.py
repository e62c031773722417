"""Laws of the communities of a graph of neighbors: planted groups are found, and a seed decides everything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.solvers.communities import assign, leiden, votes
from bigcluster.solvers.communities.footprint import neighbors_for, project_leiden_bytes
from bigcluster.solvers.communities.leiden import adjacency
from bigcluster.solvers.neighbors import neighbor_graph
from bigcluster.store.row_source import ArrayRows

Array = NDArray[Any]


def blobs(sizes: list[int], r: int = 8, spread: float = 8.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    places = rng.standard_normal((len(sizes), r)) * spread
    return (places[truth] + rng.standard_normal((len(truth), r))).astype(np.float32), truth


def graph_of(x: Array, k: int = 15, metric: str = "euclidean") -> Array:
    return neighbor_graph(ArrayRows(x), k, metric=metric).ids


def test_planted_groups_are_found_and_numbered_by_size() -> None:
    x, truth = blobs([60, 300, 150, 90])
    found = leiden(graph_of(x), resolution=0.3)  # at 1, the largest group has parts that are closer than chance
    assert found.counts.tolist() == [300, 150, 90, 60]
    np.testing.assert_array_equal(found.labels, np.array([3, 0, 1, 2])[truth])
    assert found.modularity > 0.5


def test_groups_of_one_size_are_numbered_by_their_first_row() -> None:
    x, truth = blobs([100, 100, 100])
    found = leiden(graph_of(x))
    order = np.argsort([np.flatnonzero(truth == group)[0] for group in range(3)])
    np.testing.assert_array_equal(found.labels, np.argsort(order)[truth])


@pytest.mark.parametrize("seed", [0, 5, 2**64 + 5])
def test_the_same_seed_gives_the_same_communities(seed: int) -> None:
    x = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)  # no groups: the seed decides
    ids = graph_of(x)
    one, other = leiden(ids, seed=seed), leiden(ids, seed=seed)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.modularity == other.modularity
    assert (one.labels != leiden(ids, seed=seed + 1).labels).any()


def test_resolution_is_a_dial_between_one_and_as_many_as_rows() -> None:
    x, _ = blobs([40, 40])
    ids = graph_of(x, 5)
    counts = [leiden(ids, resolution=r).count for r in (1e-9, 1.0, 4.0, 1e9)]
    assert counts[0] <= 2 <= counts[1] < counts[2] < counts[3] == 80


@pytest.mark.parametrize("resolution", [0.0, -1.0, np.nan, np.inf])
def test_a_resolution_that_is_none_is_refused(resolution: float) -> None:
    with pytest.raises(UsageError, match="resolution must be a number above 0"):
        leiden(np.array([[1], [0]], np.int32), resolution=resolution)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n", [1, 2, 3, 400])
def test_rows_that_are_all_equal_are_one_community(n: int, metric: str) -> None:
    for value in (0, 1):
        found = leiden(graph_of(np.full((n, 3), value, np.float32), metric=metric))
        assert found.counts.tolist() == [n]


def test_rows_equal_to_more_rows_than_neighbors_are_communities() -> None:
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 4)), 100, axis=0).astype(np.float32)
    np.testing.assert_array_equal(leiden(graph_of(x)).labels, np.repeat(np.arange(5), 100))


def test_no_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one row"):
        leiden(np.empty((0, 3), np.int32))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), k=st.integers(1, 8), seed=st.integers(0, 100))
def test_an_edge_leads_both_ways_and_is_there_once(n: int, k: int, seed: int) -> None:
    ids = graph_of(np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32), k)
    starts, columns = adjacency(ids)
    dense = np.zeros((n, n), bool)
    for row in range(n):
        dense[row, ids[row]] = dense[ids[row], row] = True
    for row in range(n):
        np.testing.assert_array_equal(columns[starts[row] : starts[row + 1]], np.flatnonzero(dense[row]))
    assert len(columns) == starts[-1]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20),
    k=st.integers(1, 9),
    n_labels=st.integers(1, 5),
    given_labels=st.booleans(),
    seed=st.integers(0, 100),
)
def test_votes_are_those_that_a_count_gives(n: int, k: int, n_labels: int, given_labels: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    neighbors = rng.integers(0, n_labels, (n, k)).astype(np.int32)
    labels = rng.integers(0, n_labels, n).astype(np.int32) if given_labels else None
    found = votes(neighbors, labels)
    for row in range(n):
        ranked = Counter(neighbors[row].tolist()).most_common()  # of equal counts, the first seen comes first
        own = ranked[0][0] if labels is None else int(labels[row])
        others = [(label, count) for label, count in ranked if label != own]
        second, count = others[0] if others else (-1, 0)
        assert (found.labels[row], found.runner_up[row]) == (own, second)
        assert found.shares[row] == dict(ranked).get(own, 0) / k
        assert found.runner_up_shares[row] == count / k


def test_a_new_row_goes_to_its_neighbors_and_one_equal_to_a_known_row_to_that() -> None:
    labels = np.array([0, 1, 1, 1], np.int32)
    ids = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    distances = np.array([[0, 0.1, 0.2], [0.1, 0.2, 0.3]], np.float32)
    found = assign(ids, distances, labels)
    assert found.labels.tolist() == [0, 1]
    assert found.runner_up.tolist() == [1, 0]
    np.testing.assert_allclose(found.shares - found.runner_up_shares, [-1 / 3, 1 / 3])


def test_the_number_of_neighbors_grows_with_the_data() -> None:
    assert [neighbors_for(n) for n in (1, 36, 50, 200, 900, 10**6)] == [3, 3, 4, 7, 15, 15]


_MEASURED = """
import json, sys
import numpy as np
import graspologic_native
from bigcluster.solvers.communities import leiden
n, k = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
steps = rng.integers(1, 120, (n, k)) * rng.choice([-1, 1], (n, k))
ids = ((np.arange(n)[:, None] + steps) % n).astype(np.int32)
leiden(ids[:50] % 50)
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = field("VmRSS")
leiden(ids)
print(json.dumps(field("VmHWM") - before))
"""


@pytest.mark.parametrize(("n", "k"), [(20_000, 15), (20_000, 3)])
def test_memory_stays_within_what_is_projected(n: int, k: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(n), str(k)], env=environment(), capture_output=True, text=True, check=True
    )
    held = json.loads(done.stdout)
    assert project_leiden_bytes(n, k) / 3 < held < project_leiden_bytes(n, k)
