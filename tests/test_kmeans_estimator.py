"""bc.KMeans keeps scikit-learn's conventions, on numpy and on dask arrays."""

from __future__ import annotations

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
        KMeans(8, algorithm="elkan").fit(blobs(100))


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
