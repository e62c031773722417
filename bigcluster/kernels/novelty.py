"""How unusual a picture is beside those of a model, of which 5 % count as unusual.

Three numbers of a picture decide: its distance to its cluster, how far it is from the mean picture (its norm), and how
much of that lies outside of the components (its residual). A picture is unusual where its distance is larger than in
its cluster, and as well where norm and residual are together larger, or smaller, than there: photographs have less
detail than any drawing, and lie nearer to the mean of drawings.

A fit adapts to its own pictures: with many components and few pictures they lie nearer to the components than new ones
of the same kind. What is usual is therefore known twice, for the model's own pictures as they are and for each of them
as if it had been left out of the fit; a picture counts as the one beside which it is less unusual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.types import Float64Array

UNUSUAL_PERCENTILE = 95
LEAST_IMAGES = 20
"""Of fewer images no one is the 5 % that are most unusual, and each is too much of what is usual among them."""
DISTANCE_PERCENTILE = 99
"""A distance beyond that of 99 % of the cluster is unusual by itself: few enough of them to leave room for the rest."""
SHARED_ROWS = 5
"""What all clusters have in common weighs as much as so many pictures: a cluster of one picture says little by itself,
and one whose pictures are all alike does not make every other picture unusual."""
LEAST_DEVIATION = 0.05
"""Norms and residuals that differ by less than 5 % are alike, even where those of the model differ by nothing."""
LEAST_LENGTH = 1.0
"""One grey level in one pixel: shorter than any difference between two pictures."""
LEAST_FREEDOM = 1e-3
"""Of one minus the leverage: below, left-out residuals are rounding errors divided by rounding errors."""
_ROWS_AT_ONCE = 64
"""Of 8,192 columns in float64: 4 MiB."""


def squared_norms(x: NDArray[Any], mean: Float64Array) -> Float64Array:
    """(n_rows,) |x - mean|^2 in float64, of uint8 or float rows x : (n_rows, d). mean : (d,)."""
    found = np.empty(len(x))
    for start in range(0, len(x), _ROWS_AT_ONCE):
        centered = np.subtract(x[start : start + _ROWS_AT_ONCE], mean, dtype=np.float64)
        found[start : start + _ROWS_AT_ONCE] = np.einsum("ij,ij->i", centered, centered)
    return found


@dataclass(frozen=True)
class Traits:
    """What decides, by picture: (n_rows,) each."""

    labels: NDArray[np.int32]
    distance: Float64Array
    """To the center of its cluster, in score units."""
    residual: Float64Array
    """|x - mean| outside of the components; 0 where nothing was reduced."""
    norm: Float64Array
    """|x - mean|."""


def residual_of(norm_sq: Float64Array, scores_sq: Float64Array) -> Float64Array:
    """The part of |x - mean| that the components do not hold. norm_sq, scores_sq : (n_rows,) squared lengths."""
    found: Float64Array = np.sqrt(np.maximum(norm_sq - scores_sq, 0))
    return found


def left_out(
    own: Traits,
    scores_sq: Float64Array | None,
    leverage: Float64Array | None,
    center_sq: Float64Array,
    counts: NDArray[np.int64],
    runner_up_distance: Float64Array,
) -> Traits:
    """The traits of the model's own pictures, each as if it had been left out of the fit.

    scores_sq : (n_rows,) |scores|^2; leverage : (n_rows,) the share of each picture's deviation that the fit owes to
    the picture itself; both None where nothing was reduced. center_sq, counts : (k,) |center|^2 and pictures of the
    clusters. runner_up_distance : (n_rows,) to the next center, where a picture goes that was alone in its cluster.
    Source: leave-one-out residuals of least squares, e / (1 - h).
    """
    of_cluster = counts[own.labels].astype(np.float64)
    others = np.maximum(of_cluster - 1, 1)
    if scores_sq is None or leverage is None:
        distance = own.distance * of_cluster / others
        return Traits(own.labels, np.where(of_cluster > 1, distance, runner_up_distance), own.residual, own.norm)
    residual = np.minimum(own.residual / np.maximum(1 - leverage, LEAST_FREEDOM), own.norm)
    # Its norm stays, so its scores shrink by this factor, and its center is the mean of the others.
    shrunk = np.sqrt(np.maximum(own.norm**2 - residual**2, 0) / np.maximum(scores_sq, LEAST_LENGTH**2))
    squares = center_sq[own.labels]
    product = (scores_sq + squares - own.distance**2) / 2  # score times center
    center = (of_cluster**2 * squares - 2 * of_cluster * product + scores_sq) / others**2
    product = (of_cluster * product - scores_sq) / others
    distance = np.sqrt(np.maximum(shrunk**2 * scores_sq - 2 * shrunk * product + center, 0))
    return Traits(own.labels, np.where(of_cluster > 1, distance, runner_up_distance), residual, own.norm)


@dataclass(frozen=True)
class Usual:
    """What is usual among some pictures, by cluster."""

    middle: Float64Array
    """(k, 2) the mean logarithms of residual and norm."""
    reach: Float64Array
    """(k,) the distance that 99 % do not exceed."""
    precision: Float64Array
    """(k, 2, 2) the inverse covariance of these logarithms, such that 5 % of the pictures are beyond 1."""

    @classmethod
    def among(cls, traits: Traits, n_clusters: int) -> Usual:
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
        """(n_rows,) how far each picture is out, relative to what is usual; infinite where no distance at all is."""
        off = _logs(traits) - self.middle[traits.labels]
        reach = self.reach[traits.labels]
        far = np.divide(traits.distance, reach, out=np.where(traits.distance > 0, np.inf, 0.0), where=reach > 0)
        return np.maximum(np.sqrt(_quadratic(off, self.precision[traits.labels])), far)


@dataclass(frozen=True)
class Novelty:
    """What is usual among a model's pictures."""

    own: Usual
    new: Usual
    """Of each picture as if it had been left out."""
    limit: float
    """The 95th percentile of the model's own pictures."""

    @classmethod
    def among(cls, own: Traits, left: Traits, n_clusters: int) -> Novelty:
        """own, left : the model's pictures as they are, and as `left_out` has them."""
        both = cls(Usual.among(own, n_clusters), Usual.among(left, n_clusters), 1.0)
        limit = float(np.percentile(both.of(own), UNUSUAL_PERCENTILE))
        return cls(both.own, both.new, limit if limit > 0 else 1.0)

    def of(self, traits: Traits) -> Float64Array:
        """(n_rows,) above 1 where a picture is more unusual than 95 % of the model's own."""
        found: Float64Array = np.minimum(self.own.beyond(traits), self.new.beyond(traits)) / self.limit
        return found


def _logs(traits: Traits) -> Float64Array:
    """(n_rows, 2): twice the difference is twice as unusual at any length."""
    return np.log(np.maximum(np.stack([traits.residual, traits.norm], axis=1), LEAST_LENGTH))


def _quadratic(off: Float64Array, precision: Float64Array) -> Float64Array:
    """(n_rows,) squared Mahalanobis distances. off : (n_rows, 2). precision : (n_rows, 2, 2)."""
    found: Float64Array = np.einsum("ij,ijk,ik->i", off, precision, off)
    return found
