"""Pictures of the results of PCA and k-means: the mean, the centers, the eigen-images and the reconstructions.

All of them are mixtures of components, A V with V : (r, d). Where the components are stored, A V is computed in blocks
of columns. Else the store holds the dual coefficients F : (n_ok, r) with V = F' (X - mean). The same pictures are then
(A F') (X - mean), which is summed over the blocks of pixels that are read for the thumbnails. The components
themselves, which cost most, are not computed.

Where the features are not the pixels, a center is no picture. The mean picture of its images stands for it, which is
summed over the same blocks of pixels; there are no eigen-images and no reconstructions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.footprint import REPORT_PICTURE_PIXELS
from bigcluster.planning.stage_names import REDUCE
from bigcluster.report.drawing import Block
from bigcluster.report.model import Model
from bigcluster.report.thumbnails import factor_for, shrink, shrunk_shape
from bigcluster.store import Store, StoredRows, read_whole
from bigcluster.store.row_source import spans

EIGEN_IMAGES = 32
"""The most eigen-images that the page on PCA shows. Chosen, not measured."""
REBUILT_ROWS = 4
"""The most images that are rebuilt, the medoids of the largest clusters. Chosen, not measured."""
REBUILT_STEPS = (1, 3, 10, 30, 100, 300, 1000)
"""Numbers of components from which they are rebuilt, besides all: two for every power of ten. Chosen, not measured."""
_COLUMN_BLOCK = 8192
"""Columns of the components that are read at once; 32 KiB for each component. Chosen, not measured."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """The pictures, each (h, w) or (h, w, 3) uint8. Where the components are no pictures, or nothing was reduced,
    `eigen` and `rebuilt` are empty."""

    mean: Pixels
    centers: Pixels
    """(k, ...): the pictures whose scores are those of the centers, or the mean pictures of the clusters."""
    eigen: Pixels
    """(n, ...): grey is zero; each is scaled so that its strongest value is black or white."""
    rebuilt: Pixels
    """(rows, steps, ...): pictures rebuilt from their first 1, 3, 10 ... components."""
    steps: tuple[int, ...]
    """The numbers of components of `rebuilt`."""


@dataclass(frozen=True)
class Mixture:
    """The coefficients A of the pictures: of the centers first, then the eigen-images, then the reconstructions."""

    coefficients: NDArray[np.float64]
    """(m, r), one row per picture."""
    n_centers: int
    n_eigen: int
    steps: tuple[int, ...]
    """As in `Pictures`."""
    factor: int
    """The pictures are shrunk by this whole factor."""

    @classmethod
    def of(cls, store: Store, model: Model, rows: list[int], picture_bytes: int, *, of_pixels: bool) -> Mixture:
        """Choose the pictures.

        rows : the good rows to rebuild. of_pixels : whether the features are the pixels. picture_bytes : the most bytes
        of all pictures together as float32; the factor is made large enough for that.
        """
        centers = store.load("centers")
        n_clusters, rank = centers.shape
        if model.variance_ratio is None or not of_pixels:
            return cls(centers, n_clusters, 0, (), _factor(model.spec, n_clusters, picture_bytes))
        n_eigen = min(EIGEN_IMAGES, rank)
        steps = (*(step for step in REBUILT_STEPS if step < rank), rank)
        scores = StoredRows(store.array("scores"))
        rebuilt = []
        for row in rows:
            score = scores.read(row, row + 1, slice(0, rank))[0].astype(np.float64)
            rebuilt += [np.where(np.arange(rank) < step, score, 0) for step in steps]
        coefficients = np.vstack([centers, np.eye(n_eigen, rank), *rebuilt])
        return cls(coefficients, n_clusters, n_eigen, steps, _factor(model.spec, len(coefficients), picture_bytes))


def _factor(spec: DecodeSpec, n_pictures: int, picture_bytes: int) -> int:
    factor = factor_for(spec, REPORT_PICTURE_PIXELS)
    while n_pictures * int(np.prod(shrunk_shape(spec, factor))) * 4 > picture_bytes and factor < max(
        spec.width, spec.height
    ):
        factor += 1
    return factor


@dataclass(frozen=True)
class DualMixture:
    """Sums (A F') (X - mean) over blocks of shrunk pictures, in float32, which is precise enough for 8-bit pixels."""

    coefficients: NDArray[np.float64]
    """A, (m, r)."""
    mean: NDArray[np.float32]
    """(values of a shrunk picture,)"""
    is_exact: ClassVar[bool] = False

    def zeros(self) -> NDArray[np.float32]:
        """Return sums of nothing, (m, values of a shrunk picture)."""
        return np.zeros((len(self.coefficients), len(self.mean)), np.float32)

    def add(self, store: Store, sums: NDArray[Any], block: Block, pictures: Pixels) -> None:
        """Add a block of shrunk pictures to the sums, as `drawing.Summing.add` does."""
        rank = self.coefficients.shape[1]
        dual_coef = StoredRows(store.array("left")).read(block.start, block.stop, slice(0, rank))  # (rows, r)
        weights = (self.coefficients @ dual_coef.T.astype(np.float64)).astype(np.float32)  # (m, rows)
        sums += weights @ np.subtract(pictures.reshape(len(pictures), -1), self.mean, dtype=np.float32)


@dataclass(frozen=True)
class ClusterMeans:
    """Sums the shrunk pictures of each cluster. The sums are exact for up to 16 million images in a cluster."""

    n_clusters: int
    shape: tuple[int, ...]
    """Of a shrunk picture."""
    is_exact: ClassVar[bool] = True

    def zeros(self) -> NDArray[np.uint32]:
        """Return sums of nothing, (n_clusters, *shape)."""
        return np.zeros((self.n_clusters, *self.shape), np.uint32)

    def add(self, store: Store, sums: NDArray[Any], block: Block, pictures: Pixels) -> None:
        """Add a block of shrunk pictures to the sums of their clusters, as `drawing.Summing.add` does."""
        labels = read_whole(store.array("labels"), slice(block.start, block.stop))
        order = np.argsort(labels, kind="stable")
        present, first = np.unique(labels[order], return_index=True)
        for cluster, members in zip(present.tolist(), np.split(order, first[1:]), strict=True):
            sums[cluster] += pictures[members].sum(axis=0, dtype=np.uint32)

    @staticmethod
    def pictures(sums: NDArray[np.uint32], sizes: NDArray[np.int64]) -> Pixels:
        """Return the mean picture of every cluster, (k, ...) uint8. One cluster at a time is in memory as floats.

        sizes : (k,), the number of images of each cluster.
        """
        means = np.empty(sums.shape, np.uint8)
        for cluster, (total, size) in enumerate(zip(sums, sizes.tolist(), strict=True)):
            means[cluster] = _as_pixels(total / size)
        return means


def needs_pass(store: Store, model: Model) -> bool:
    """Whether the pictures are summed from the pixels, because no components are stored."""
    fit = store.mark(REDUCE)
    return model.variance_ratio is not None and fit is not None and fit.payload["components"] != "stored"


def summed_in_pass(
    store: Store, model: Model, mixture: Mixture, *, of_pixels: bool
) -> DualMixture | ClusterMeans | None:
    """Return what adds up the pictures while the pixels are read; None where they need no pass."""
    if not of_pixels:
        return ClusterMeans(mixture.n_centers, shrunk_shape(model.spec, mixture.factor))
    if not needs_pass(store, model):
        return None
    return DualMixture(mixture.coefficients, _mean(model, mixture.factor).reshape(-1))


def pictures_of(
    store: Store,
    model: Model,
    mixture: Mixture,
    summing: DualMixture | ClusterMeans | None,
    sums: NDArray[Any] | None,
    batch_bytes: int,
) -> Pictures:
    """Return the pictures.

    summing : the result of `summed_in_pass`. sums : of all blocks of pixels. batch_bytes : the most bytes of mixtures
    of full size that are held at a time.
    """
    mean = _mean(model, mixture.factor)
    none = np.empty((0, *mean.shape), np.uint8)
    if isinstance(summing, ClusterMeans):
        assert sums is not None
        return Pictures(_as_pixels(mean), summing.pictures(sums, model.members.sizes), none, none, ())
    if model.variance_ratio is None:
        mixtures = shrink(mixture.coefficients.astype(np.float32), model.spec, mixture.factor)
        return Pictures(_as_pixels(mean), _as_pixels(mixtures), none, none, ())
    if sums is not None:
        mixtures = sums.reshape(-1, *mean.shape)
    else:
        mixtures = _mixed(StoredRows(store.array("components")), mixture, model.spec, batch_bytes)
    n_centers, n_eigen = mixture.n_centers, mixture.n_eigen
    centers, eigen, rebuilt = np.split(mixtures, [n_centers, n_centers + n_eigen])
    return Pictures(
        _as_pixels(mean),
        _as_pixels(centers + mean),
        _as_signed_pixels(eigen),
        _as_pixels(rebuilt + mean).reshape(-1, len(mixture.steps), *mean.shape),
        mixture.steps,
    )


def _mean(model: Model, factor: int) -> NDArray[np.float32]:
    """The mean of all good images, shrunk. It is computed from the exact sums that the ingest stored."""
    mean = (model.ingested.column_sums / model.n_good).astype(np.float32)
    shrunk: NDArray[np.float32] = shrink(mean[np.newaxis], model.spec, factor)[0]
    return shrunk


def _mixed(components: StoredRows, mixture: Mixture, spec: DecodeSpec, batch_bytes: int) -> NDArray[Any]:
    """Return A V, shrunk. Some rows of A are multiplied at a time, block of columns by block of columns."""
    coefficients = mixture.coefficients.astype(np.float32)
    rank, n_values = coefficients.shape[1], components.shape[1]
    mixtures = np.empty((len(coefficients), *shrunk_shape(spec, mixture.factor)), np.float32)
    for first, last in spans(len(coefficients), max(1, batch_bytes // (4 * n_values))):
        full = np.empty((last - first, n_values), np.float32)
        for start, stop in spans(n_values, _COLUMN_BLOCK):
            full[:, start:stop] = coefficients[first:last] @ components.read(0, rank, slice(start, stop))
        mixtures[first:last] = shrink(full, spec, mixture.factor)
    return mixtures


def _as_pixels(values: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def _as_signed_pixels(values: NDArray[np.float32]) -> Pixels:
    axes = tuple(range(1, values.ndim))
    strongest = np.abs(values).max(axis=axes, keepdims=True, initial=0)
    return _as_pixels(128 + 127 * values / np.where(strongest > 0, strongest, 1))
