"""bc.PCA keeps scikit-learn's conventions, on numpy and on dask arrays, and agrees with its PCA."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811 - an acronym
from sklearn.utils.estimator_checks import parametrize_with_checks

from bigcluster.errors import ConfigError, InvalidDataError, TooFewSamplesError, UsageError
from bigcluster.estimators.pca import PCA


# No check is expected to fail.
@parametrize_with_checks([PCA(random_state=0)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def pixels(n: int, d: int) -> NDArray[np.uint8]:
    """(n, d): a few strong directions and noise, so that components are well separated."""
    rng = np.random.default_rng(n * 1000 + d)
    strong = rng.normal(size=(n, 6)) * [60, 40, 25, 15, 10, 6]
    noisy = 128 + strong @ rng.normal(size=(6, d)) / 3 + rng.normal(size=(n, d))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("solver", ["gram", "covariance", "subspace"])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_agrees_with_scikit_learn(solver: str, dtype: str) -> None:
    x = pixels(120, 90).astype(dtype)
    ours = PCA(5, solver=solver, random_state=0)
    scores = ours.fit_transform(x)
    theirs = SklearnPCA(5, svd_solver="full").fit(x.astype("f8"))
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(ours.singular_values_, theirs.singular_values_, rtol=1e-4)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(ours.components_ * theirs.components_, axis=1)), 1, atol=1e-3)
    rebuilt = ours.inverse_transform(scores)
    wanted = theirs.inverse_transform(theirs.transform(x.astype("f8")))
    lost = ((rebuilt - x) ** 2).sum() - ((wanted - x) ** 2).sum()
    assert lost <= 1e-4 * ((x - x.mean(axis=0)) ** 2).sum(), "of the variance, next to the best of that rank"
    if solver != "subspace":  # whose basis is rounded to 8 bits
        np.testing.assert_allclose(rebuilt, wanted, atol=0.3)
    np.testing.assert_allclose(ours.transform(x), scores, atol=1e-3 * float(np.abs(scores).max()))


def test_dask_gives_the_same_bits_in_any_chunks() -> None:
    x = pixels(200, 64)
    wanted = PCA(4, random_state=0).fit_transform(x)
    for chunks in ((200, 64), (33, 17), (7, 64)):
        lazy = da.from_array(x, chunks=chunks)
        estimator = PCA(4, random_state=0, workspace_bytes=1 << 20)
        found = estimator.fit_transform(lazy)
        assert isinstance(found, da.Array)
        np.testing.assert_array_equal(found.compute(), wanted)
        assert isinstance(estimator.transform(lazy), da.Array)
        assert estimator.transform(lazy).compute().shape == wanted.shape
        assert estimator.inverse_transform(found).compute().shape == x.shape


def test_a_share_takes_the_fewest_components_that_reach_it() -> None:
    x = pixels(150, 80)
    shares = np.cumsum(SklearnPCA(svd_solver="full").fit(x.astype("f8")).explained_variance_ratio_)
    for share in (0.3, 0.8, 0.99):
        assert PCA(share, random_state=0).fit(x).n_components_ == int(np.argmax(shares >= share)) + 1


@pytest.mark.parametrize("bad", [0, -1, 0.0, 1.0, 1.5, -0.2, True, "mle", float("nan")])
def test_bad_numbers_of_components_are_refused(bad: Any) -> None:
    with pytest.raises(ConfigError):
        PCA(bad).fit(pixels(20, 10))


@pytest.mark.parametrize(
    "bad",
    [
        {"workspace_bytes": "1GiB"},
        {"workspace_bytes": None},
        {"workspace_bytes": 0},
        {"solver": ["gram"]},
        {"gemm": "int"},
        {"random_state": -1},
        {"whiten": "yes"},
        {"copy": None},
    ],
)
def test_bad_arguments_are_named_in_one_line(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(UsageError, match=f"^{name} must be [^\n]*$"):
        PCA(2, **bad).fit(pixels(20, 10))


def test_what_the_data_cannot_have_is_refused() -> None:
    with pytest.raises(TooFewSamplesError, match="11"):
        PCA(11).fit(pixels(20, 10))
    with pytest.raises(ConfigError, match="gram"):
        PCA(2, solver="grm").fit(pixels(20, 10))
    fitted = PCA(2, random_state=0).fit(pixels(20, 10))
    with pytest.raises(UsageError, match="10 features"):
        fitted.transform(da.from_array(pixels(20, 9), chunks=5))
    for strange in (pixels(20, 10) * 1j, np.full((20, 10), "a")):
        with pytest.raises(UsageError, match="numbers are needed"):
            PCA(2).fit(da.from_array(strange, chunks=5))
    with pytest.raises(UsageError, match="2 components"):
        fitted.inverse_transform(np.zeros((4, 3)))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_named_when_fitting_and_projecting(lazy: bool, bad: float) -> None:
    x = pixels(20, 10).astype("f4")
    fitted = PCA(2, random_state=0).fit(x)
    x[17, 3] = x[18, 0] = bad
    data: Any = da.from_array(x, chunks=(7, 4)) if lazy else x
    for solver in ("auto", "gram", "covariance", "subspace"):
        with pytest.raises(InvalidDataError, match=r"^row 17 holds NaN or infinity"):
            PCA(2, solver=solver).fit(data)
    with pytest.raises(InvalidDataError, match=r"^row 17 holds NaN or infinity"):
        np.asarray(fitted.transform(data))


@pytest.mark.parametrize(("dtype", "scores"), [("u1", "f4"), ("f4", "f4"), ("f8", "f8"), ("i8", "f8"), ("?", "f8")])
def test_types_of_scores_are_those_announced(dtype: str, scores: str) -> None:
    x = (pixels(40, 12) % 2 if dtype == "?" else pixels(40, 12)).astype(dtype)
    lazy = da.from_array(x, chunks=(9, 5))
    for data in (x, lazy):
        estimator = PCA(3, random_state=0)
        fitted = estimator.fit_transform(data)
        for found in (fitted, estimator.transform(data), estimator.inverse_transform(fitted)):
            assert found.dtype == np.asarray(found).dtype == np.dtype(scores)


@pytest.mark.parametrize("kept", [np.arange(40) % 3 > 0, np.arange(40) >= 18], ids=["some", "no chunk of two"])
def test_arrays_of_unknown_length_are_counted_first(kept: NDArray[np.bool_]) -> None:
    x = pixels(40, 12)
    unknown = da.from_array(x, chunks=(9, 12))[da.from_array(kept, chunks=9)]
    estimator = PCA(3, random_state=0)
    found = estimator.fit_transform(unknown)
    np.testing.assert_array_equal(found, PCA(3, random_state=0).fit_transform(x[kept]))
    np.testing.assert_array_equal(estimator.transform(unknown).compute(), estimator.transform(x[kept]))
    assert np.isnan(unknown.shape[0]), "it is its owner's"
    with pytest.raises(UsageError, match="must be known"):
        estimator.fit(unknown.T)


def test_names_of_features_are_those_of_the_last_fit() -> None:
    x = pixels(40, 12)
    estimator = PCA(3, random_state=0).fit(pd.DataFrame(x, columns=[f"pixel {i}" for i in range(12)]))
    assert len(estimator.feature_names_in_) == 12
    estimator.fit(da.from_array(x[:, :5], chunks=9)).transform(x[:, :5])
    assert estimator.n_features_in_ == 5


def test_rows_whose_scores_float32_cannot_hold_are_refused() -> None:
    x = pixels(40, 12).astype("f8")
    estimator = PCA(3, random_state=0).fit(x)
    x[7] = 1e39
    with pytest.raises(InvalidDataError, match="row 7 is too far"):
        estimator.transform(x)


def test_scores_of_new_rows_are_those_of_the_fit_in_any_chunks() -> None:
    x = pixels(200, 64)
    estimator = PCA(4, random_state=0)
    fitted = estimator.fit_transform(x)
    step = np.exp2(np.floor(np.log2(np.abs(fitted).max())) - 16)
    for data in (x, *(da.from_array(x, chunks=chunks) for chunks in ((200, 64), (33, 17), (1, 64)))):
        np.testing.assert_allclose(np.asarray(estimator.transform(data)), fitted, rtol=0, atol=step)


def test_rows_that_are_all_equal_have_no_components() -> None:
    x = np.full((10, 6), 7, np.uint8)
    estimator = PCA(2, random_state=0)
    assert not estimator.fit_transform(x).any()
    assert not estimator.explained_variance_ratio_.any()


@pytest.mark.parametrize("solver", ["gram", "covariance", "subspace"])
@pytest.mark.parametrize("shape", [(120, 30), (30, 120)])
def test_components_are_turned_as_those_of_scikit_learn(solver: str, shape: tuple[int, int]) -> None:
    x = pixels(*shape).astype("f8")
    ours, theirs = PCA(5, solver=solver, random_state=0), SklearnPCA(5, svd_solver="full")
    np.testing.assert_allclose(ours.fit_transform(x), theirs.fit_transform(x), atol=0.5)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=2e-2)
    assert ours.components_.dtype == np.float64
    assert ours.fit(x.astype("f4")).components_.dtype == ours.fit(x.astype("u1")).components_.dtype == np.float32


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_whitened_scores_have_unit_variance_and_lead_back(dtype: str) -> None:
    x = pixels(200, 40).astype(dtype)
    plain, white = (PCA(4, random_state=0, whiten=whiten) for whiten in (False, True))
    scores = white.fit_transform(x)
    np.testing.assert_allclose(scores.std(axis=0, ddof=1), 1, rtol=1e-4)
    np.testing.assert_allclose(white.transform(x), scores, atol=1e-4)
    np.testing.assert_allclose(
        white.inverse_transform(scores), plain.inverse_transform(plain.fit_transform(x)), rtol=1e-4
    )
    lazy = da.from_array(x, chunks=(33, 17))
    for found in (white.fit_transform(lazy), white.transform(lazy)):
        assert found.dtype == scores.dtype
        np.testing.assert_allclose(found.compute(), scores, atol=1e-4)
    assert not PCA(2, whiten=True, random_state=0).fit_transform(np.full((10, 6), 7, np.uint8)).any()


@pytest.mark.parametrize("n_components", [3, 12])
def test_the_distribution_of_the_data_is_that_of_scikit_learn(n_components: int) -> None:
    x, other = pixels(300, 12).astype("f8"), pixels(50, 12).astype("f8")
    ours, theirs = PCA(n_components, random_state=0).fit(x), SklearnPCA(n_components, svd_solver="full").fit(x)
    assert ours.noise_variance_ == pytest.approx(theirs.noise_variance_, rel=1e-4)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-4, atol=0.05)
    np.testing.assert_allclose(ours.get_covariance() @ ours.get_precision(), np.eye(12), atol=1e-9)
    np.testing.assert_allclose(ours.score_samples(other), theirs.score_samples(other), rtol=1e-3)
    lazy = da.from_array(other, chunks=(7, 5))
    np.testing.assert_allclose(ours.score_samples(lazy).compute(), ours.score_samples(other), rtol=1e-12)
    assert ours.score(lazy) == pytest.approx(theirs.score(other), rel=1e-3)
    assert PCA(n_components, random_state=0, whiten=True).fit(x).score(x) == ours.score(x)


def test_there_is_no_density_where_some_direction_has_no_variance() -> None:
    fitted = PCA(random_state=0).fit(pixels(10, 40))
    assert fitted.noise_variance_ == 0
    for asked in (fitted.get_precision, lambda: fitted.score_samples(pixels(5, 40))):
        with pytest.raises(UsageError, match="there is no density; use fewer components"):
            asked()


def test_mle_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match=r'"mle" needs every variance of the data.*use a share between 0 and 1'):
        PCA("mle").fit(pixels(20, 10))
