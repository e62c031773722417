"""The normal distribution that a PCA describes, which scores how likely rows are.

    covariance S = C'(L - s)C + s      C components, L their variances, s the mean of the variances that are left out

Source: Tipping and Bishop 1999, "Probabilistic principal component analysis".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.linalg.types import Float64Array


@dataclass(frozen=True)
class Gaussian:
    """mean : (d,); components : (r, d), about orthonormal; variances : (r,); noise : variance in every other direction.

    All float64. Only covariance and precision take memory for (d, d).
    """

    mean: Float64Array
    components: Float64Array
    variances: Float64Array
    noise: float

    @property
    def covariance(self) -> Float64Array:
        """(d, d)"""
        kept, excess = self._kept
        covariance: Float64Array = (kept.T * excess) @ kept
        covariance.flat[:: len(covariance) + 1] += self.noise
        return covariance

    @property
    def precision(self) -> Float64Array:
        """(d, d), the inverse of the covariance. Raises UsageError where there is none."""
        self._check_density()
        if self.noise == 0:
            return np.asarray(np.linalg.inv(self.covariance))
        kept, _ = self._kept
        precision: Float64Array = -kept.T @ np.linalg.solve(self._inner, kept)
        precision.flat[:: len(precision) + 1] += 1
        precision /= self.noise
        return precision

    def log_likelihood(self, rows: NDArray[np.generic]) -> Float64Array:
        """(n,) natural logarithm of the density at rows (n, d). Raises UsageError where there is none."""
        self._check_density()
        centered = rows.astype(np.float64) - self.mean
        kept, excess = self._kept
        n_features = len(self.mean)
        scores = centered @ kept.T
        if self.noise == 0:
            solved = np.linalg.solve(self.covariance, centered.T).T
            distance = np.einsum("nd,nd->n", centered, solved)
            log_volume = np.linalg.slogdet(self.covariance)[1]
        else:
            within = np.einsum("nr,rn->n", scores, np.linalg.solve(self._inner, scores.T))
            distance = (np.einsum("nd,nd->n", centered, centered) - within) / self.noise
            root = np.sqrt(excess / self.noise)
            spread = np.eye(len(root)) + root[:, None] * (kept @ kept.T) * root
            log_volume = n_features * np.log(self.noise) + np.linalg.slogdet(spread)[1]
        likelihood: Float64Array = -0.5 * (distance + log_volume + n_features * np.log(2 * np.pi))
        return likelihood

    @cached_property
    def _kept(self) -> tuple[Float64Array, Float64Array]:
        """Components that vary more than the noise, and by how much more."""
        more = self.variances > self.noise
        return self.components[more], self.variances[more] - self.noise

    @cached_property
    def _inner(self) -> Float64Array:
        """s (L - s)^-1 + C C', which stands for S in the space of the scores (Woodbury's identity)."""
        kept, excess = self._kept
        inner: Float64Array = kept @ kept.T
        inner.flat[:: len(inner) + 1] += self.noise / excess
        return inner

    def _check_density(self) -> None:
        if self.noise == 0 and len(self._kept[0]) < len(self.mean):
            raise UsageError(
                f"the {len(self._kept[0])} components explain all the variance and leave "
                f"{len(self.mean) - len(self._kept[0])} of {len(self.mean)} directions without any: there is no "
                "density; use fewer components"
            )
