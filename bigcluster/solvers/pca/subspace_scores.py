"""The last application of the subspace solver: scores and components that agree with each other.

The Ritz vectors U, rounded, are applied once more. By row, Z = X_c' U are components and Y = X_c Z their scores; by
column, U are components and Z = X_c U their scores. Either way the components are the rounded vectors, so the scores
are theirs exactly, and one generalised Rayleigh-Ritz step with the inner products of both makes the components
orthonormal and the scores uncorrelated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.gemm import float_product
from bigcluster.kernels.pca import (
    choose_rank,
    column_extremes,
    column_signs,
    merge_extremes,
    nonzero_rank,
    ritz_generalised,
    round_to_step,
    score_step,
)
from bigcluster.kernels.quantize import Code, encode
from bigcluster.runtime import Runtime
from bigcluster.solvers.pca.eigen import FLOAT32_NOISE, alone
from bigcluster.solvers.pca.krylov import Krylov
from bigcluster.solvers.pca.result import Components, Doubles, Sink, Variance
from bigcluster.solvers.pca.sides import project_terms
from bigcluster.solvers.tiles import Shelf

Floats = NDArray[np.float32]
Spans = list[tuple[int, int]]

# Components of Ritz vectors are nearly orthogonal; those that are not are made of rounding alone.
_DEPENDENT = 1e-3


@dataclass(frozen=True)
class Blocks:
    """A (total, l) array in row blocks and column groups on the shelf, as float32 or as codes."""

    name: str
    spans: Spans
    shelf: Shelf
    scales: dict[tuple[int, int], Floats]

    def put(self, group: int, i: int, code: Code) -> None:
        self.scales[group, i] = code.scale
        self.shelf.put(f"{self.name}/{group}/{i}", code.values)

    def get(self, i: int) -> Floats:
        groups = sorted(group for group, block in self.scales if block == i)
        parts = (Code(self.shelf.get(f"{self.name}/{group}/{i}"), self.scales[group, i]) for group in groups)
        return np.concatenate([part.decode() for part in parts], axis=1)


@dataclass(frozen=True)
class SubspaceScores:
    """Scores and components before their common rotation (l, n_components)."""

    values: Doubles
    n_components: int
    rotation: Floats
    step: float
    scores: Blocks
    components: Blocks
    runtime: Runtime

    def write(self, sink: Sink) -> None:
        def task(i: int) -> Floats:
            return round_to_step(float_product(self.scores.get(i), self.rotation), self.step)

        blocks = range(len(self.scores.spans))
        for i, block in zip(blocks, self.runtime.map(task, blocks), strict=True):
            sink.write(self.scores.spans[i][0], block)

    def write_components(self, sink: Sink) -> None:
        def task(i: int) -> Floats:
            return np.ascontiguousarray(float_product(self.components.get(i), self.rotation).T)

        blocks = range(len(self.components.spans))
        for i, block in zip(blocks, self.runtime.map(task, blocks), strict=True):
            sink.write(self.components.spans[i][0], block)


def subspace_scores(krylov: Krylov, vectors: Doubles) -> SubspaceScores:
    """vectors : (size, l) coefficients of the Ritz vectors. The basis is given up."""
    side, runtime, shelf = krylov.side, krylov.runtime, krylov.shelf
    codes = list(runtime.map(lambda t: encode(krylov.expand(t, vectors), rounded=side.exact), krylov.tiles))
    krylov.delete_basis()
    krylov.leave_room(2 * sum(code.values.nbytes for code in codes))  # they stay here, and groups of them are copied
    units = Blocks("units", side.unit_spans, shelf, {})
    terms = Blocks("terms", side.term_spans, shelf, {})
    if side.by_row:
        krylov.image(codes, lambda group: lambda i, code: terms.put(group, i, code))
        for t in krylov.tiles:
            block = krylov.take_block(t)
            units.put(0, t, Code(block, np.ones(block.shape[1], np.float32)))
        scores, components = units, terms
    else:
        for t, code in enumerate(codes):
            units.put(0, t, code)
        krylov.passes += 1
        for i, block in enumerate(project_terms(side, codes, runtime)):
            terms.put(0, i, Code(block, np.ones(block.shape[1], np.float32)))
        scores, components = terms, units
    return _rotated(krylov, scores, components)


def _rotated(krylov: Krylov, scores: Blocks, components: Blocks) -> SubspaceScores:
    """The rotation that makes components orthonormal and scores uncorrelated, signs, and the choice of how many."""
    runtime, target, total = krylov.runtime, krylov.target, krylov.total
    variances, lengths = _inner(scores, runtime), _inner(components, runtime)
    values, rotation = alone(len(variances), lambda: ritz_generalised(variances, lengths, _DEPENDENT))
    values[nonzero_rank(values, FLOAT32_NOISE) :] = 0
    n_components = len(values)
    if isinstance(target, Variance):  # the values have grown: fewer may do
        n_components = choose_rank(values, total, target.share) or n_components
    kept = np.ascontiguousarray(rotation[:, :n_components] * (values[:n_components] > 0), np.float32)
    extremes = np.zeros(n_components, np.float32)
    for found in runtime.map(lambda i: column_extremes(float_product(scores.get(i), kept)), range(len(scores.spans))):
        extremes = merge_extremes(extremes, found)
    kept *= column_signs(extremes)
    if isinstance(target, Components) and target.n > n_components:  # fewer directions than that hold any variance
        kept = np.pad(kept, ((0, 0), (0, target.n - n_components)))
        values, n_components = np.pad(values, (0, target.n - n_components)), target.n
    step = score_step(scores.spans[-1][1], float(np.sqrt(values[0])))
    return SubspaceScores(values, n_components, kept, step, scores, components, runtime)


def _inner(blocks: Blocks, runtime: Runtime) -> Doubles:
    """B'B, (l, l), summed in float64 in block order."""

    def task(i: int) -> Floats:
        block = blocks.get(i)
        return float_product(block, block, transpose_left=True)

    total: Doubles | None = None
    for share in runtime.map(task, range(len(blocks.spans))):
        total = share.astype(np.float64) if total is None else np.add(total, share, out=total)
    assert total is not None
    return total
