"""The target and the result of a PCA fit, and which solver suits which data.

The budget never chooses the solver: it decides where arrays are kept, not the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bigcluster.errors import ConfigError, InvalidDataError, TooFewSamplesError
from bigcluster.kernels.linalg.types import AnyArray, Float32Array, Float64Array

_ROUNDING = 1e-2
"""The most that rounding may add to the total variance, as a share of it: a hundred times what int8 vectors add."""


class Sink(Protocol):
    """Takes the blocks of an array that may be larger than memory, in ascending order, from one thread."""

    def write(self, start: int, block: Float32Array) -> None:
        """Scores: rows start .. start + len(block) - 1. Components: the same of columns, `block` (n_components, w)."""


class DualCoefSink(Protocol):
    """Takes row blocks of dual coefficients, in ascending order, from one thread."""

    def write(self, start: int, block: AnyArray) -> None:
        """Rows start .. start + len(block) - 1, (rows, n_components) float32 or float64."""


@dataclass(frozen=True)
class Components:
    """Exactly this many components."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"components must be at least 1, not {self.n}")


@dataclass(frozen=True)
class Variance:
    """The fewest components that explain this share of the variance; 1 means all that there is."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"variance must be above 0 and at most 1, not {self.share:g}")


Target = Components | Variance


def usual_components(target: Target) -> int:
    """How many components to plan for; for a share of the variance, what large catalogs took: 800."""
    return target.n if isinstance(target, Components) else 800


def check_target(target: Target, shape: tuple[int, int]) -> None:
    """Raise TooFewSamplesError where data of shape (n_rows, n_columns) cannot have the components of `target`."""
    n_rows, n_columns = shape
    if n_rows < 2:
        raise TooFewSamplesError(f"PCA needs at least 2 rows, there {'is' if n_rows == 1 else 'are'} {n_rows}")
    if n_columns < 1:
        raise TooFewSamplesError("PCA needs at least 1 column, there are 0")
    if isinstance(target, Components) and target.n > min(shape):
        raise TooFewSamplesError(
            f"{target.n} components need as many rows and columns, the data has {n_rows} rows and {n_columns} columns; "
            f"use at most {min(shape)} components"
        )


@dataclass(frozen=True)
class ExactSums:
    """Exact sums over the rows of uint8 data, as ingest collects them.

    column_sums : (n_columns,) int64 or uint64, sums of x; total_square_sum : the sum of every x^2, a Python int
    (it passes 2^63 for large data).
    """

    column_sums: AnyArray
    total_square_sum: int


@dataclass(frozen=True)
class Center:
    """The center of the rows and their variance.

    mean : (n_columns,) float64; total_variance : the sum of all column variances, ddof = 1.
    """

    mean: Float64Array
    total_variance: float


@dataclass(frozen=True)
class PCAFit:
    """A fitted PCA. Scores and components are written out in blocks, since either may be larger than memory.

    mean : (n_columns,) float64; total_variance : the sum of all column variances, ddof = 1, exact for uint8 data;
    eigenvalues : (n_computed,) float64, descending explained variances (ddof = 1). The first n_components are the
    fit; those after them are lower bounds of the variances that further components would explain;
    score_step : the power of two that every score is a multiple of; passes : reads of the data by the solver.
    """

    solver: str
    shape: tuple[int, int]
    mean: Float64Array
    total_variance: float
    eigenvalues: Float64Array
    n_components: int
    score_step: float
    passes: float
    _write_scores: Callable[[Sink], None] = field(repr=False)
    _write_components: Callable[[Sink], None] = field(repr=False)
    _close: Callable[[], None] = field(repr=False)
    _write_dual_coef: Callable[[DualCoefSink], None] | None = field(default=None, repr=False)
    dual_coef_dtype: np.dtype[Any] | None = None
    """The dtype of the dual coefficients; None where the solver has its components without another read of the data."""

    @property
    def cumulative_shares(self) -> Float64Array:
        """(n_computed,) float64: the share of the total variance that the first 1, 2, ... components explain."""
        if self.total_variance == 0:
            return np.zeros_like(self.eigenvalues)
        return np.minimum(np.cumsum(self.eigenvalues) / self.total_variance, 1)

    def write_scores(self, sink: Sink) -> None:
        """Write the (n_rows, n_components) float32 scores to `sink` in row blocks. Components without variance score
        0."""
        self._write_scores(sink)

    def write_components(self, sink: Sink) -> None:
        """Write the (n_components, n_columns) float32 components to `sink` in column blocks; a Gram fit reads the data.

        Rows are unit vectors; the row of a component without variance is zero.
        """
        self._write_components(sink)

    def write_dual_coef(self, sink: DualCoefSink) -> None:
        """Write the dual coefficients F, (n_rows, n_components), to `sink` in row blocks; components are F' (X - mean).

        They are float64 for small data, else float32. Raises ValueError where dual_coef_dtype is None.
        """
        if self._write_dual_coef is None:
            raise ValueError(f"the {self.solver} solver has its components at hand; use write_components")
        self._write_dual_coef(sink)

    def close(self) -> None:
        """Delete the tiles behind scores and components; neither can be written afterwards."""
        self._close()


def within_total(eigenvalues: Float64Array, n_components: int, total: float) -> Float64Array:
    """Eigenvalues that add up to no more than the total variance, which is exact: (n_computed,) float64.

    The first n_components, those of the fit, are all scaled down where rounding made their sum too large; those beyond
    share what the first leave. Raises InvalidDataError where the sum is too large for rounding to explain.
    """
    leading, beyond = eigenvalues[:n_components], eigenvalues[n_components:]
    explained = float(leading.sum())
    if explained > (1 + _ROUNDING) * total:
        raise InvalidDataError(
            f"the rows vary too little beside their mean for float32: components were found that explain "
            f"{explained / total:.3g} times the variance; use solver gram or covariance"
        )
    if explained > total:
        leading = np.minimum(leading * (total / explained), total)
    before = np.cumsum(np.concatenate([[leading.sum()], beyond]))[:-1]
    return np.concatenate([leading, np.clip(total - before, 0, beyond)])


GRAM_ROWS = 16_384
"""The most rows of a Gram matrix: its tiles take 512 MiB then, and the multiplication grows with the square of the
rows."""
COVARIANCE_COLUMNS = 8_192
"""The most columns of a covariance matrix: its tiles take 128 MiB then."""


@dataclass(frozen=True)
class Choice:
    """solver : "gram", "covariance" or "subspace"; reason : one clause that the plan shows."""

    solver: str
    reason: str


def choose(n_rows: int, n_columns: int, target: Target) -> Choice:
    """The solver for the shape of the data. `target` appears in the reason only.

    n_rows : the number of listed rows, so that a damaged file does not change the solver.
    """
    asked_for = f"{target.n} components" if isinstance(target, Components) else f"a variance of {target.share:g}"
    shape = f"{n_rows:,} rows of {n_columns:,} values, {asked_for}"
    if n_columns <= COVARIANCE_COLUMNS and n_columns < n_rows:
        return Choice("covariance", f"{shape}: the {n_columns:,} x {n_columns:,} covariance is the smaller product")
    if n_rows <= GRAM_ROWS:
        return Choice("gram", f"{shape}: the {n_rows:,} x {n_rows:,} Gram matrix is exact for any rank")
    return Choice("subspace", f"{shape}: too many of both for one exact product; streamed block iteration")
