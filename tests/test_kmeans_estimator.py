"""bc.KMeans keeps scikit-learn's conventions, on numpy and on dask arrays."""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from bigcluster.errors import ConfigError, InvalidDataError, UsageError
from bigcluster.estimators.kmeans import KMeans
from bigcluster.estimators.pca import PCA
from bigcluster.solvers.kmeans.seeding import random_rows

EXPECTED_FAILURES = {
    # Seeds are drawn from rows by a hash of the row's number: repeating rows draws others, as scikit-learn's own does.
    "check_sample_weight_equivalence_on_dense_data": "other rows, other random seeds; both are local optima",
}


def expected_failures(_estimator: Any) -> dict[str, str]:
    return EXPECTED_FAILURES


@parametrize_with_checks([KMeans(random_state=0, n_init=2)], expected_failed_checks=expected_failures)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def blobs(n: int = 2000, r: int = 5, centers: int = 8) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((centers, r))[rng.integers(0, centers, n)] * 5 + rng.standard_normal((n, r))).astype(
        "f4"
    )


@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "minibatch", "two-level"])
def test_dask_and_numpy_agree_bit_for_bit(algorithm: str) -> None:
    x = blobs()
    lazy = da.from_array(x, chunks=(333, 2))
    one = KMeans(8, random_state=3, algorithm=algorithm).fit(x)
    other = KMeans(8, random_state=3, algorithm=algorithm, workspace_bytes=0).fit(lazy)
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    np.testing.assert_array_equal(one.predict(x), one.labels_)
    assert isinstance(other.predict(lazy), da.Array)
    np.testing.assert_array_equal(other.predict(lazy).compute(), one.labels_)
    assert isinstance(other.transform(lazy), da.Array)
    assert other.transform(lazy).dtype == np.float32
    np.testing.assert_array_equal(other.transform(lazy).compute(), one.transform(x))
    np.testing.assert_array_equal(one.transform(x).argmin(axis=1), one.labels_)
    assert one.inertia_ == other.inertia_
    assert one.score(x) == pytest.approx(-one.inertia_, rel=1e-12) == other.score(lazy)


def test_dask_ml_stays_selectable() -> None:
    x = blobs(600)
    model = KMeans(8, random_state=0, algorithm="dask-ml").fit(x)
    best = KMeans(8, random_state=0).fit(x)
    sq = ((x[:, None].astype(np.float64) - model.cluster_centers_) ** 2).sum(axis=2)
    assert model.algorithm_ == "dask-ml"
    np.testing.assert_array_equal(model.labels_, sq.argmin(axis=1))
    assert model.inertia_ == pytest.approx(sq.min(axis=1).sum(), rel=1e-9)
    assert model.inertia_ < 3 * best.inertia_


def test_no_auto_choice_is_dask_ml_and_unknown_names_fail() -> None:
    assert KMeans(8, random_state=0).fit(blobs(100)).algorithm_ == "lloyd"
    with pytest.raises(ConfigError, match="two-level"):
        KMeans(8, algorithm="hamerly").fit(blobs(100))


def test_elkan_is_lloyd() -> None:
    x = blobs(400)
    one, other = (KMeans(8, random_state=0, algorithm=name).fit(x) for name in ("lloyd", "elkan"))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    assert (other.algorithm, other.algorithm_) == ("elkan", "lloyd")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("algorithm", ["auto", "minibatch", "two-level", "dask-ml"])
def test_fewer_rows_than_clusters_are_refused(lazy: bool, algorithm: str) -> None:
    x: Any = blobs(150)
    with pytest.raises(ValueError, match="n_samples = 150 should be >= n_clusters = 999"):
        KMeans(999, algorithm=algorithm).fit(da.from_array(x, chunks=(40, -1)) if lazy else x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_clusters": range(2, 5)}, {"n_clusters": "3"}, {"n_clusters": 3.5}, {"n_clusters": 0}, {"n_init": "x"},
        {"max_iter": "a"}, {"tol": "a"}, {"tol": -1}, {"workspace_bytes": "1GiB"}, {"algorithm": ["lloyd"]},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_of_another_kind_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"^{name} must be [^\n]+$"):
        KMeans(**wrong).fit(blobs(100))


def test_fewer_distinct_rows_are_said_aloud() -> None:
    x = np.repeat(np.eye(3), 4, axis=0)
    with pytest.warns(ConvergenceWarning, match="3 distinct"):
        model = KMeans(5, random_state=0).fit(x)
    assert model.cluster_centers_.shape == (3, 3)
    assert model.transform(x).shape == (12, 3)


@pytest.mark.parametrize("lazy", [False, True])
def test_bad_rows_are_named_when_fitting_and_predicting(lazy: bool) -> None:
    x = blobs(500)
    model = KMeans(3, random_state=0).fit(x)
    x[321, 1] = np.nan
    bad: Any = da.from_array(x, chunks=(200, 3)) if lazy else x
    with pytest.raises(InvalidDataError, match="row 321 "):
        clone(model).fit(bad)
    for asked in (model.predict, model.transform):
        with pytest.raises(InvalidDataError, match="row 321 "):
            np.asarray(asked(bad))


def test_misuse_is_refused() -> None:
    x = blobs(100)
    with pytest.raises(NotFittedError):
        KMeans().predict(x)
    with pytest.raises(UsageError, match="5 features"):
        KMeans(3, random_state=0).fit(x).predict(da.from_array(x[:, :4], chunks=50))
    with pytest.raises(UsageError, match="dask-ml"):
        KMeans(3, algorithm="dask-ml").fit(x, sample_weight=np.ones(100))
    with pytest.raises(UsageError, match="init"):
        KMeans(3, algorithm="minibatch", init=x[:3]).fit(x)


def test_random_centers_are_rows_drawn_by_weight() -> None:
    x = np.arange(400, dtype=np.float64).reshape(-1, 1)
    weights = np.where(np.arange(400) < 40, 9.0, 1.0)
    weights[::2] = 0
    keys = np.arange(400, dtype=np.uint64)
    drawn = [random_rows(keys, weights, 10, seed) for seed in range(300)]
    assert all(len(set(rows)) == 10 and (rows % 2 == 1).all() for rows in drawn)
    early = np.mean([(rows < 40).sum() for rows in drawn])
    assert 3.5 < early < 5.5, "of 10: half of the weight is there, less what is not put back"
    assert len(random_rows(keys[:6], weights[:6], 10, 0)) == 3
    model = KMeans(10, init="random", random_state=0).fit(x)
    assert len(model.cluster_centers_) == 10
    np.testing.assert_array_equal(
        model.labels_, KMeans(10, init="random", random_state=0).fit(da.from_array(x, chunks=(33, 1))).labels_
    )


@pytest.mark.parametrize("lazy", [False, True])
def test_a_callable_makes_the_centers_of_each_start(lazy: bool) -> None:
    x = blobs(500)
    given: Any = da.from_array(x, chunks=(90, 3)) if lazy else x
    asked = []

    def init(X: Any, n_clusters: int, random_state: Any) -> NDArray[Any]:
        rows = random_state.choice(len(X), n_clusters, replace=False)
        asked.append(np.asarray(X[rows]))
        return asked[-1]

    model = KMeans(8, init=init, n_init=3, random_state=0).fit(given)
    assert len(asked) == 3
    alone = [KMeans(8, init=centers, random_state=0).fit(given) for centers in asked]
    assert model.inertia_ == min(one.inertia_ for one in alone)
    with pytest.raises(UsageError, match="needed"):
        KMeans(8, init=lambda X, n_clusters, random_state: X[:2]).fit(x)
    with pytest.raises(UsageError, match="n_init"):
        KMeans(8, init=init, n_init=0).fit(x)
    for algorithm in ("minibatch", "two-level", "dask-ml"):
        with pytest.raises(UsageError, match=r"use (algorithm )?lloyd"):
            KMeans(8, init=init, algorithm=algorithm).fit(x)


def test_centers_that_are_drawn_are_no_choice_of_algorithms_that_choose() -> None:
    for algorithm in ("minibatch", "two-level"):
        with pytest.raises(UsageError, match="chooses its own centers"):
            KMeans(8, init="random", algorithm=algorithm).fit(blobs(100))


@pytest.mark.parametrize(("tol", "end"), [(0.0, "strict convergence"), (1e-1, "center shift is within tolerance 0.1")])
def test_iterations_are_printed_where_that_is_asked_for(
    tol: float, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    KMeans(8, random_state=0, tol=tol).fit(blobs(500))
    assert capsys.readouterr().out == ""
    model = KMeans(8, random_state=0, tol=tol, n_init=1, verbose=1, copy_x=False).fit(blobs(500))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Initialization complete."
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"Iteration {i + 1}" for i in range(model.n_iter_)]
    assert end in lines[-1]
    KMeans(8, random_state=0, max_iter=1, n_init=1, verbose=1).fit(blobs(500))
    assert capsys.readouterr().out.splitlines()[-1] == "Stopped after 1 iterations."


@pytest.mark.parametrize("estimator", [KMeans, PCA])
def test_the_examples_of_an_estimator_run(estimator: type) -> None:
    (found,) = [test for test in doctest.DocTestFinder(recurse=False).find(estimator) if test.examples]
    assert doctest.DocTestRunner().run(found).failed == 0


@pytest.mark.parametrize("estimator", [KMeans, PCA])
def test_an_estimator_describes_its_parameters_and_attributes_in_numpydoc_form(estimator: type) -> None:
    sections = dict(re.findall(r"^(\w+)\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", inspect.getdoc(estimator) or "", re.M | re.S))
    assert list(sections) == ["Parameters", "Attributes", "Notes", "Examples"]
    parameters = [name for name in inspect.signature(estimator).parameters if name != "self"]
    assert re.findall(r"^(\w+) : ", sections["Parameters"], re.M) == parameters
    model = estimator(2).fit(np.random.default_rng(0).random((9, 3)))
    fitted = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    assert fitted <= set(re.findall(r"^(\w+) : ", sections["Attributes"], re.M))
