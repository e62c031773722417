"""A pytest plugin (`-p substitute`) that puts bc.PCA and bc.KMeans into scikit-learn's own tests of its estimators.

Their test modules are imported while scikit-learn's names are ours, so that estimators that they make at once are ours
too. Each test says in its property "ours" whether it made any. Without a random_state ours take 0, so that no outcome
is luck.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sklearn.cluster
import sklearn.decomposition

from bigcluster.estimators.kmeans import KMeans as OurKMeans
from bigcluster.estimators.pca import PCA as OurPCA  # noqa: N811 - an acronym
from bigcluster.units import GIB

# Their solvers are others than ours; each stands for the one that does the same.
SOLVERS = {
    "auto": "auto",
    "full": "auto",
    "covariance_eigh": "covariance",
    "arpack": "subspace",
    "randomized": "subspace",
}

made = 0  # estimators of ours, in this process


@contextmanager
def seeded(estimator: Any) -> Iterator[None]:
    given = estimator.random_state
    estimator.random_state = 0 if given is None else given
    try:
        yield
    finally:
        estimator.random_state = given


class PCA(OurPCA):
    """bc.PCA with the parameters of scikit-learn's, of which those of its solvers do nothing."""

    gemm = "auto"
    workspace_bytes = GIB

    def __init__(
        self,
        n_components: Any = None,
        *,
        copy: bool = True,
        whiten: bool = False,
        svd_solver: str = "auto",
        tol: float = 0.0,
        iterated_power: Any = "auto",
        n_oversamples: int = 10,
        power_iteration_normalizer: str = "auto",
        random_state: Any = None,
    ) -> None:
        global made
        made += 1
        self.n_components = n_components
        self.copy = copy
        self.whiten = whiten
        self.svd_solver = svd_solver
        self.tol = tol
        self.iterated_power = iterated_power
        self.n_oversamples = n_oversamples
        self.power_iteration_normalizer = power_iteration_normalizer
        self.random_state = random_state

    @property
    def solver(self) -> str:
        return SOLVERS[self.svd_solver]

    def _fit(self, *args: Any, **options: Any) -> Any:
        with seeded(self):
            return super()._fit(*args, **options)


class KMeans(OurKMeans):
    """bc.KMeans with the parameters of scikit-learn's."""

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
    ) -> None:
        global made
        made += 1
        super().__init__(
            n_clusters,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            verbose=verbose,
            random_state=random_state,
            copy_x=copy_x,
            algorithm=algorithm,
        )

    def _solve(self, *args: Any, **options: Any) -> Any:
        with seeded(self):
            return super()._solve(*args, **options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = made
    np.random.seed(0)  # noqa: NPY002 - their tests draw from it
    try:
        return (yield)
    finally:
        item.user_properties.append(("ours", made > before))


with mock.patch.object(sklearn.decomposition, "PCA", PCA), mock.patch.object(sklearn.cluster, "KMeans", KMeans):
    importlib.import_module("sklearn.decomposition.tests.test_pca")
    importlib.import_module("sklearn.cluster.tests.test_k_means")
