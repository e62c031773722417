"""Float data in any unit: a power of two rescales data whose squares would leave the range of float32, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigcluster.errors import InvalidDataError
from bigcluster.kernels.linalg.types import AnyArray, Float32Array
from bigcluster.solvers.pca.result import Center, PCAFit, Sink
from bigcluster.store.row_source import RowSource

_PLAIN = 1e-4, 1e8
"""Spreads that need no rescaling; the spread is the root of the sum of all squared deviations. The subspace solver sums
squares of A V, which are fourth powers of the data: here those of the smallest components keep all digits of
float32."""
_REPRESENTABLE = 1e-30, 1e30
"""Spreads whose scores float32 holds with the digits that matter; no score is larger than the spread."""


def unit_exponent(center: Center, n_rows: int) -> int:
    """The exponent of the power of two that the data must be multiplied by; usually 0.

    Raises InvalidDataError where float32 cannot hold the scores.
    """
    spread = math.sqrt(center.total_variance) * math.sqrt(n_rows - 1)
    if spread == 0 or _PLAIN[0] < spread < _PLAIN[1]:
        return 0
    if not _REPRESENTABLE[0] < spread < _REPRESENTABLE[1]:
        raise InvalidDataError(
            f"the rows lie {spread:.1e} from their mean, taken together, and PCA works between "
            f"{_REPRESENTABLE[0]:g} and {_REPRESENTABLE[1]:g}; use another unit"
        )
    return -round(math.log2(spread))


@dataclass(frozen=True)
class RescaledRows:
    """A RowSource: float rows times 2^exponent."""

    rows: RowSource
    exponent: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_columns)."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        return self.rows.dtype

    def read(self, start: int, stop: int, columns: slice = slice(None), *, spent: AnyArray | None = None) -> AnyArray:
        read: AnyArray = np.ldexp(self.rows.read(start, stop, columns, spent=spent), self.exponent)
        return read

    def dask(self) -> Any:
        """The rescaled rows as a dask array."""
        return self.rows.dask().map_blocks(np.ldexp, self.exponent, dtype=self.dtype)


def rescaled_center(center: Center, exponent: int) -> Center:
    """The center of the data times 2^exponent."""
    return Center(np.ldexp(center.mean, exponent), math.ldexp(center.total_variance, 2 * exponent))


def rescaled_fit(fit: PCAFit, exponent: int) -> PCAFit:
    """The fit of the data times 2^exponent; its components are the same."""
    center = rescaled_center(Center(fit.mean, fit.total_variance), exponent)

    def write_scores(sink: Sink) -> None:
        fit.write_scores(_RescaledSink(sink, exponent))

    return replace(
        fit,
        mean=center.mean,
        total_variance=center.total_variance,
        eigenvalues=np.ldexp(fit.eigenvalues, 2 * exponent),
        score_step=math.ldexp(fit.score_step, exponent),
        _write_scores=write_scores,
        _write_dual_coef=None,  # components are made of the data in its other unit
        dual_coef_dtype=None,
    )


@dataclass(frozen=True)
class _RescaledSink:
    """Writes blocks times 2^exponent to another sink."""

    sink: Sink
    exponent: int

    def write(self, start: int, block: Float32Array) -> None:
        self.sink.write(start, np.ldexp(block, self.exponent))
