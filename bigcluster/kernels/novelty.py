"""Computes how unusual a picture is compared with the pictures of a model, of which 5 % count as unusual.

Three numbers of a picture decide: its distance to its cluster, its distance to the mean picture (the norm), and the
part of that outside the components (the residual). A picture is unusual if its distance is larger than is usual in its
cluster, or if its norm and residual together are larger or smaller than is usual there: photographs have less detail
than any drawing, and lie nearer to the mean of drawings.

A fit adapts to its own pictures: with many components and few pictures, they lie nearer to the components than new
pictures of the same kind. So there are two models of what is usual, one of the model's own pictures as they are, and
one of each of them as if it had been left out of the fit. A picture is as unusual as the milder of the two says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float64Array

UNUSUAL_PERCENTILE = 95
"""Percentile of the model's own pictures beyond which a picture is unusual."""
LEAST_IMAGES = 20
"""Fewest images of a model: 5 % of fewer are less than one, and each has too large a share in what is usual."""
DISTANCE_PERCENTILE = 99
"""Percentile of the distances in a cluster beyond which a distance is unusual by itself; it leaves 4 of the 5 % to the
norm and the residual."""
SHARED_ROWS = 5
"""Pictures that the common part of all clusters counts as: a cluster of one picture says little by itself, and one
whose pictures are all alike must not make every other picture unusual."""
LEAST_DEVIATION = 0.05
"""Relative difference of norms and residuals that is added to their spread, for models whose own do not differ."""
LEAST_LENGTH = 1.0
"""Length of one grey level in one pixel: shorter than any difference between two pictures."""
LEAST_FREEDOM = 1e-3
"""Least value of one minus the leverage: below, left-out residuals would be quotients of rounding errors."""
_ROWS_AT_ONCE = 64
"""Rows whose norms are computed at once: 4 MiB of 8,192 columns in float64."""


def squared_norms(x: NDArray[Any], mean: Float64Array) -> Float64Array:
    """Compute |x - mean|^2 of rows x, (n_rows, d) uint8 or float, in float64: (n_rows,). mean : (d,)."""
    norms = np.empty(len(x))
    for start in range(0, len(x), _ROWS_AT_ONCE):
        centered = np.subtract(x[start : start + _ROWS_AT_ONCE], mean, dtype=np.float64)
        norms[start : start + _ROWS_AT_ONCE] = np.einsum("ij,ij->i", centered, centered)
    return norms


@dataclass(frozen=True)
class Traits:
    """The numbers that decide, for each picture: (n_rows,) each; lengths in grey levels."""

    labels: NDArray[np.int32]
    distance: Float64Array
    """Distance to the center of its cluster, in score units."""
    residual: Float64Array
    """The part of |x - mean| outside the components; 0 where no components were computed."""
    norm: Float64Array
    """|x - mean|."""


def residual_of(norm_sq: Float64Array, scores_sq: Float64Array) -> Float64Array:
    """Compute the part of |x - mean| outside the components: (n_rows,) float64.

    norm_sq, scores_sq : (n_rows,) float64, squared lengths of x - mean and of its scores.
    """
    found: Float64Array = np.sqrt(np.maximum(norm_sq - scores_sq, 0))
    return found


def left_out(
    own: Traits,
    scores_sq: Float64Array | None,
    leverage: Float64Array | None,
    center_sq: Float64Array,
    counts: NDArray[np.int64],
    runner_up_distance: Float64Array,
    *,
    unit_length: bool = False,
    among_scores: bool = True,
) -> Traits:
    """Compute the traits of the model's own pictures, each as if it had been left out of the fit.

    own : the traits as they are. scores_sq : (n_rows,) |scores|^2. leverage : (n_rows,) the leverage h of each picture
    in the fit. Both are None where no components were computed. center_sq, counts : (k,) |center|^2 and number of
    pictures of each cluster. runner_up_distance : (n_rows,) distance to the second nearest center, which takes a
    picture that was alone in its cluster. unit_length : whether scores were scaled to the length 1 before they were
    clustered, so that distances and centers are among scaled ones; `scores_sq` is of those before. among_scores :
    whether distances and centers are among the scores, and not among places that were made of them. Source:
    leave-one-out residuals of least squares, e / (1 - h); Cook and Weisberg 1982, "Residuals and influence in
    regression", chapter 2.
    """
    of_cluster = counts[own.labels].astype(np.float64)
    others = np.maximum(of_cluster - 1, 1)
    without_own = np.where(of_cluster > 1, own.distance * of_cluster / others, runner_up_distance)
    if scores_sq is None or leverage is None:
        return Traits(own.labels, without_own, own.residual, own.norm)
    residual = np.minimum(own.residual / np.maximum(1 - leverage, LEAST_FREEDOM), own.norm)
    if not among_scores:
        return Traits(own.labels, without_own, residual, own.norm)
    # Its norm stays, so its scores shrink by this factor, and its center is the mean of the others.
    shrunk = np.sqrt(np.maximum(own.norm**2 - residual**2, 0) / np.maximum(scores_sq, LEAST_LENGTH**2))
    if unit_length:
        scores_sq, shrunk = np.minimum(scores_sq / np.maximum(scores_sq, LEAST_LENGTH**2), 1), np.ones_like(shrunk)
    squares = center_sq[own.labels]
    product = (scores_sq + squares - own.distance**2) / 2  # score times center
    center = (of_cluster**2 * squares - 2 * of_cluster * product + scores_sq) / others**2
    product = (of_cluster * product - scores_sq) / others
    distance = np.sqrt(np.maximum(shrunk**2 * scores_sq - 2 * shrunk * product + center, 0))
    return Traits(own.labels, np.where(of_cluster > 1, distance, runner_up_distance), residual, own.norm)


@dataclass(frozen=True)
class Usual:
    """What is usual among some pictures, for each cluster."""

    middle: Float64Array
    """(k, 2) mean logarithms of residual and norm."""
    reach: Float64Array
    """(k,) distance that 99 % of the pictures of the cluster do not exceed."""
    precision: Float64Array
    """(k, 2, 2) inverse covariances of these logarithms, scaled so that 5 % of the pictures are beyond 1."""

    @classmethod
    def among(cls, traits: Traits, n_clusters: int) -> Usual:
        """Estimate what is usual among the pictures of these traits."""
        logs = _logs(traits)
        members = np.bincount(traits.labels, minlength=n_clusters)
        sums = np.stack([np.bincount(traits.labels, column, n_clusters) for column in logs.T], axis=1)
        middle = (sums + SHARED_ROWS * logs.mean(axis=0)) / (members + SHARED_ROWS)[:, np.newaxis]
        order = np.argsort(traits.labels, kind="stable")
        every = np.percentile(traits.distance, DISTANCE_PERCENTILE) ** 2
        reach = np.empty(n_clusters)
        edges = np.cumsum(members)[:-1]
        for number, rows in enumerate(np.split(order, edges)):
            own = np.percentile(traits.distance[rows], DISTANCE_PERCENTILE) ** 2 if len(rows) else 0.0
            reach[number] = np.sqrt((len(rows) * own + SHARED_ROWS * every) / (len(rows) + SHARED_ROWS))
        off = logs - middle[traits.labels]
        common, own_spread = off.T @ off / len(off), np.empty((n_clusters, 2, 2))
        for number, rows in enumerate(np.split(order, edges)):
            spread = off[rows].T @ off[rows] + SHARED_ROWS * common
            own_spread[number] = spread / (len(rows) + SHARED_ROWS) + LEAST_DEVIATION**2 * np.eye(2)
        precision = np.linalg.inv(own_spread).astype(np.float64)
        limit = float(np.percentile(_quadratic(off, precision[traits.labels]), UNUSUAL_PERCENTILE))
        return cls(middle, reach, precision / limit if limit > 0 else precision)

    def beyond(self, traits: Traits) -> Float64Array:
        """Compute how far each picture lies from what is usual: (n_rows,), 1 at the limit.

        It is infinite for a picture off its center in a cluster whose pictures all lie on it.
        """
        off = _logs(traits) - self.middle[traits.labels]
        reach = self.reach[traits.labels]
        far = np.divide(traits.distance, reach, out=np.where(traits.distance > 0, np.inf, 0.0), where=reach > 0)
        return np.maximum(np.sqrt(_quadratic(off, self.precision[traits.labels])), far)


@dataclass(frozen=True)
class Novelty:
    """What is usual among the pictures of a model, by which new pictures are scored."""

    own: Usual
    """Of the model's own pictures as they are."""
    new: Usual
    """Of each of them as if it had been left out of the fit."""
    limit: float
    """The 95th percentile of the scores of the model's own pictures."""

    @classmethod
    def among(cls, own: Traits, left_out: Traits, n_clusters: int) -> Novelty:
        """Estimate it from the model's pictures as they are, and as `left_out` computes them."""
        both = cls(Usual.among(own, n_clusters), Usual.among(left_out, n_clusters), 1.0)
        limit = float(np.percentile(both.of(own), UNUSUAL_PERCENTILE))
        return cls(both.own, both.new, limit if limit > 0 else 1.0)

    def of(self, traits: Traits) -> Float64Array:
        """Score pictures: (n_rows,) float64, above 1 where a picture is more unusual than 95 % of the model's own."""
        found: Float64Array = np.minimum(self.own.beyond(traits), self.new.beyond(traits)) / self.limit
        return found


def _logs(traits: Traits) -> Float64Array:
    """The logarithms of residual and norm, (n_rows, 2): relative differences count, whatever the length."""
    return np.log(np.maximum(np.stack([traits.residual, traits.norm], axis=1), LEAST_LENGTH))


def _quadratic(off: Float64Array, precision: Float64Array) -> Float64Array:
    """Compute squared Mahalanobis distances: (n_rows,). off : (n_rows, 2). precision : (n_rows, 2, 2)."""
    found: Float64Array = np.einsum("ij,ijk,ik->i", off, precision, off)
    return found
