"""PCA of float data does not depend on the unit: kilometres or nanometres, the same directions and shares."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigcluster.errors import InvalidDataError
from bigcluster.estimators.pca import PCA
from bigcluster.solvers.pca import SOLVERS

NAMES = sorted(SOLVERS)


def data(dtype: str, shape: tuple[int, int] = (90, 40)) -> NDArray[Any]:
    """A falling spectrum around a mean that is not zero, in values that float32 holds exactly."""
    rng = np.random.default_rng(5)
    x = 3 + rng.standard_normal(shape) * np.linspace(2, 0.1, shape[1])
    return x.astype("f4").astype(dtype)


def fitted(x: Any, solver: str) -> tuple[PCA, Any]:
    estimator = PCA(4, solver=solver, random_state=0)
    return estimator, np.asarray(estimator.fit_transform(x))


@settings(max_examples=40, deadline=None)
@given(
    solver=st.sampled_from(NAMES),
    dtype=st.sampled_from(["f4", "f8"]),
    exponent=st.integers(-90, 90),
    lazy=st.booleans(),
)
def test_a_power_of_two_changes_nothing_but_the_unit(solver: str, dtype: str, exponent: int, lazy: bool) -> None:
    x = data(dtype)
    y = np.ldexp(x, exponent)
    wanted, scores = fitted(x, solver)
    found, found_scores = fitted(da.from_array(y, chunks=(17, 40)) if lazy else y, solver)
    np.testing.assert_array_equal(found.components_, wanted.components_)
    np.testing.assert_array_equal(found.explained_variance_ratio_, wanted.explained_variance_ratio_)
    np.testing.assert_array_equal(found.explained_variance_, np.ldexp(wanted.explained_variance_, 2 * exponent))
    np.testing.assert_array_equal(found.mean_, np.ldexp(wanted.mean_, exponent))
    np.testing.assert_array_equal(found_scores, np.ldexp(scores, exponent))
    near = np.ldexp(1e-5 * np.abs(scores).max(), exponent)
    np.testing.assert_allclose(found.transform(y), found_scores, rtol=0, atol=near)
    np.testing.assert_allclose(
        found.inverse_transform(found_scores), np.ldexp(wanted.inverse_transform(scores), exponent), rtol=0, atol=near
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e-200, 1e-34, 1e33, 1e150, 1e200])
def test_units_that_float32_cannot_hold_are_refused_in_one_line(name: str, factor: float) -> None:
    with pytest.raises(InvalidDataError, match="use another unit") as refusal:
        PCA(2, solver=name).fit(data("f8") * factor)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.1, 1e-20, 1e25])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_equal_rows_have_no_variance_whatever_their_mean_rounds_to(name: str, value: float, dtype: str) -> None:
    estimator, scores = fitted(np.full((3000, 7), value, dtype), name)
    assert not estimator.explained_variance_.any()
    assert not scores.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_column_has_no_part_in_any_component(name: str) -> None:
    x = data("f8")
    x[:, 11] = 0.1
    estimator, _ = fitted(x, name)
    assert estimator.mean_[11] == 0.1
    np.testing.assert_allclose(estimator.components_[:, 11], 0, atol=1e-6)
