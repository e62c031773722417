"""Eigenpairs of matrices whose basis does not converge before it reaches its limit."""

from __future__ import annotations

import numpy as np
from conftest import MemoryTiles

from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.solvers.pca import Components
from bigcluster.solvers.pca.basis import TiledBasis
from bigcluster.solvers.pca.eigen import TiledMatrix
from bigcluster.solvers.pca.lanczos import lanczos_limit, leading_eigenpairs
from bigcluster.solvers.pca.operands import DENSE_LIMIT
from bigcluster.solvers.progress import StepCounter
from bigcluster.solvers.spill import SpillBuffer
from bigcluster.store.row_source import spans

N = DENSE_LIMIT + 164
TARGET = Components(40)


def test_the_basis_of_noise_restarts_at_its_limit_and_converges(monkeypatch):
    x = np.random.default_rng(0).standard_normal((N, 2000))
    gram = (x @ x.T).astype(np.float32)
    tile_spans = list(spans(N, 1024))
    buffer = SpillBuffer(MemoryTiles(), 0)
    matrix = TiledMatrix(tile_spans, buffer)
    for j, i in matrix.pairs():
        matrix.put(j, i, np.ascontiguousarray(gram[slice(*tile_spans[j]), slice(*tile_spans[i])]))
    sizes, restarts = [], []
    append, empty_like = TiledBasis.append, TiledBasis.empty_like
    monkeypatch.setattr(TiledBasis, "append", lambda self, blocks: (append(self, blocks), sizes.append(self.size))[0])
    monkeypatch.setattr(TiledBasis, "empty_like", lambda self: (empty_like(self), restarts.append(self))[0])
    total = float(np.trace(gram.astype(np.float64)))
    runtime, progress = EmbeddedRuntime(2), StepCounter(1, None)
    pairs = leading_eigenpairs(
        matrix, total, TARGET, buffer=buffer, runtime=runtime, seed=0, progress=progress, with_products=True
    )
    assert restarts
    assert max(sizes) <= lanczos_limit(TARGET, N)
    expected = np.linalg.eigvalsh(gram.astype(np.float64))[::-1][: TARGET.n]
    captured = pairs.values[: TARGET.n].sum()
    assert expected.sum() - 2e-3 * total <= captured <= expected.sum() * (1 + 1e-5)
    tiles = range(len(tile_spans))
    vectors = np.concatenate([pairs.vectors(np.ones(TARGET.n))(t) for t in tiles])
    products = np.concatenate([pairs.products(np.eye(TARGET.n))(t) for t in tiles])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(40), atol=1e-4)
    np.testing.assert_allclose(products, gram @ vectors, atol=1e-4 * expected[0])
    pairs.close()
