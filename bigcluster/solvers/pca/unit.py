"""Float data in any unit: where squares would leave float32's range, a power of two brings the data back, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigcluster.errors import InvalidDataError
from bigcluster.kernels.linalg.types import AnyArray, Float32Array
from bigcluster.solvers.pca.result import Center, PCAFit, Sink
from bigcluster.store.row_source import RowSource

# Of the spread, the root of the sum of all squared deviations. The subspace solver sums squares of images, which are
# fourth powers of the data: within this those of the smallest components, too, have all digits of float32.
_PLAIN = 1e-4, 1e8
# No score is larger than the spread: float32 holds them up to here, and down to digits that matter.
_HELD = 1e-30, 1e30


def unit_exponent(center: Center, n_rows: int) -> int:
    """Of the power of two that the data is to be multiplied by, 0 as a rule.

    Raises InvalidDataError where float32 cannot hold the scores.
    """
    spread = math.sqrt(center.total_variance) * math.sqrt(n_rows - 1)
    if spread == 0 or _PLAIN[0] < spread < _PLAIN[1]:
        return 0
    if not _HELD[0] < spread < _HELD[1]:
        raise InvalidDataError(
            f"the rows lie {spread:.1e} from their mean, taken together, and PCA works between {_HELD[0]:g} and "
            f"{_HELD[1]:g}; use another unit"
        )
    return -round(math.log2(spread))


@dataclass(frozen=True)
class RescaledRows:
    """Float rows times a power of two."""

    rows: RowSource
    exponent: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def read(self, start: int, stop: int, columns: slice = slice(None), *, spent: AnyArray | None = None) -> AnyArray:
        read: AnyArray = np.ldexp(self.rows.read(start, stop, columns, spent=spent), self.exponent)
        return read


def rescaled_center(center: Center, exponent: int) -> Center:
    """Of the data times 2^exponent."""
    return Center(np.ldexp(center.mean, exponent), math.ldexp(center.total_variance, 2 * exponent))


def rescaled_fit(fit: PCAFit, exponent: int) -> PCAFit:
    """Of the data times 2^exponent; its components are the same."""
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
    """Takes blocks times a power of two."""

    sink: Sink
    exponent: int

    def write(self, start: int, block: Float32Array) -> None:
        self.sink.write(start, np.ldexp(block, self.exponent))
