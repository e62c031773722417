"""Variances that PCA tells are shares of what there is, however degenerate the data: a law over all solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bigcluster.errors import InvalidDataError
from bigcluster.estimators.pca import PCA
from bigcluster.solvers.pca.result import within_total

Doubles = NDArray[np.float64]
SOLVERS = ("gram", "covariance", "subspace")

KINDS = ("one value", "one row", "one column", "one zero", "constant columns", "two rows", "two values", "few values")


def degenerate(kind: str, n: int, d: int, seed: int) -> Doubles:
    """(n, d) within [0, 1], of a rank of 2 or 3 at most, but for `few values`."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, d))
    row, column = rng.integers(n), rng.integers(d)
    if kind == "one value":
        x[row, column] = 1
    elif kind == "one row":
        x[row] = rng.random(d)
    elif kind == "one column":
        x[:, column] = rng.random(n)
    elif kind == "one zero":
        x += 1
        x[row, column] = 0
    elif kind == "constant columns":
        x[:] = rng.random(d)
        x[:, column] = rng.random(n)
    elif kind == "two rows":
        x[:] = rng.random((2, d))[rng.integers(0, 2, n)]
    elif kind == "two values":
        x[row, column] = x[(row + 1) % n, (column + 1) % d] = 1
    else:
        x[rng.integers(n, size=4), rng.integers(d, size=4)] = rng.random(4)
    return x


@st.composite
def data(draw: Any) -> NDArray[Any]:
    x = degenerate(
        draw(st.sampled_from(KINDS)),
        draw(st.integers(2, 90)),
        draw(st.integers(1, 90)),
        draw(st.integers(0, 2**32 - 1)),
    )
    dtype = draw(st.sampled_from(("u1", "f4", "f8")))
    if dtype == "u1":
        return np.rint(x * draw(st.sampled_from((1, 2, 17, 255)))).astype("u1")
    return (x * 10.0 ** draw(st.integers(-20, 20))).astype(dtype)


@pytest.mark.parametrize("solver", SOLVERS)
@given(data=st.data(), x=data())
def test_shares_are_shares_of_what_there_is(solver: str, data: st.DataObject, x: NDArray[Any]) -> None:
    n, d = x.shape
    n_components = data.draw(st.none() | st.integers(1, min(n, d)))
    estimator = PCA(n_components, solver=solver, random_state=0)
    scores = estimator.fit_transform(x).astype(np.float64)
    shares = estimator.explained_variance_ratio_
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.sum() <= 1 + 1e-12
    assert (np.diff(shares) <= 0).all()
    lengths = np.linalg.norm(estimator.components_.astype(np.float64), axis=1)
    assert ((lengths == 0) | (np.abs(lengths - 1) < 1e-3)).all()
    centered = x.astype(np.float64)
    unit = float(np.abs(centered).max()) or 1.0
    centered = (centered - centered[0]) / unit  # so that rows that are equal have no variance
    centered -= centered.mean(axis=0)
    wanted = np.linalg.svd(centered, compute_uv=False)[: len(shares)] ** 2
    total = (centered**2).sum()
    # 8-bit vectors cost more where only a few of their entries are not zero.
    np.testing.assert_allclose(shares * total, wanted, rtol=0, atol=3e-3 * total)
    np.testing.assert_allclose((scores**2).sum(axis=0) / unit**2, wanted, rtol=0, atol=3e-3 * total)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(1700, 40), (40, 1700), (1650, 1600)])
def test_one_value_has_all_the_variance_beyond_the_dense_limit(solver: str, shape: tuple[int, int]) -> None:
    x = np.zeros(shape, np.uint8)
    x[5, 7] = 1
    estimator = PCA(3, solver=solver, random_state=0).fit(x)
    np.testing.assert_allclose(estimator.explained_variance_ratio_, [1, 0, 0], atol=1e-4)
    assert not estimator.components_[1:].any()


def test_too_large_variances_are_no_rounding() -> None:
    np.testing.assert_array_equal(within_total(np.array([2.0, 1.0, 0.5]), 2, 4), [2, 1, 0.5])
    np.testing.assert_array_equal(within_total(np.array([2.0, 1.0, 0.5, 0.25]), 2, 3.25), [2, 1, 0.25, 0])
    assert within_total(np.array([2.0, 1.0]) * (1 + 1e-6), 2, 3).sum() <= 3
    with pytest.raises(InvalidDataError, match="solver gram"):
        within_total(np.array([2.0, 1.0]), 2, 2.5)
