"""Mean and scatter of blocks of rows, in float64, their merge, and the check that refuses NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import InvalidDataError
from bigcluster.kernels.linalg.types import Float64Array


@dataclass(frozen=True)
class Moments:
    """Total weight, mean and weighted sum of squared deviations of some rows; mean, scatter : (n_columns,) float64."""

    weight: float
    mean: Float64Array
    scatter: Float64Array

    def merge(self, other: Moments) -> Moments:
        """Both together (Chan, Golub and LeVeque 1979). The order of merging shows in the last bits."""
        weight = self.weight + other.weight
        if weight == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.weight / weight)
        scatter = self.scatter + other.scatter + delta**2 * (self.weight * other.weight / weight)
        return Moments(weight, mean, scatter)


def block_moments(x: NDArray[Any], sample_weight: Float64Array | None = None) -> Moments:
    """Moments of finite rows. x : (n_rows >= 1, n_columns). sample_weight : (n_rows,) float64, not negative."""
    wide = np.asarray(x, dtype=np.float64)
    if sample_weight is None:
        mean = wide.mean(axis=0)
        centered = wide - mean
        return Moments(float(len(wide)), mean, np.einsum("ij,ij->j", centered, centered))
    weight = float(sample_weight.sum())
    if weight == 0:
        return Moments(0.0, np.zeros(x.shape[1]), np.zeros(x.shape[1]))
    mean = np.einsum("i,ij->j", sample_weight, wide) / weight
    centered = wide - mean
    return Moments(weight, mean, np.einsum("i,ij,ij->j", sample_weight, centered, centered))


_REMEDY = "holds NaN or infinity; remove the row or fill its gaps"


def refuse_bad_rows(x: NDArray[Any], first: int, fault: str = _REMEDY) -> None:
    """Raise InvalidDataError where x, (n_rows, n_columns), holds NaN or infinity. first : its first row's number."""
    if not np.issubdtype(x.dtype, np.floating):
        return
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise InvalidDataError(f"row {first + int(np.argmin(finite))} {fault}")
