"""Pictures of what PCA and k-means found: mean, centers, eigen-images, reconstructions.

All of them are mixtures of components, A V with V : (r, d). Where the components are stored, that is a product by slabs
of columns. Where the fit left F : (n_ok, r) with V = F' (X - mean) instead, the same pictures are (A F') (X - mean),
summed block by block as the pixels pass by for the thumbnails: the components themselves, the costly part, are never
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.decode import DecodeSpec
from bigcluster.planning.footprint import REPORT_PICTURE_PIXELS
from bigcluster.planning.stage_names import REDUCE
from bigcluster.report.model import Model
from bigcluster.report.thumbnails import Block, factor_for, shrink, shrunk_shape
from bigcluster.store import Store, StoredRows
from bigcluster.store.row_source import spans

EIGEN_IMAGES = 32
REBUILT_ROWS = 4
REBUILT_STEPS = (1, 3, 10, 30, 100, 300, 1000)
_SLAB_COLUMNS = 8192

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Each of (h, w) or (h, w, 3); the eigen-images and reconstructions are empty where nothing was reduced."""

    mean: Pixels
    centers: Pixels
    """(k, ...): the picture whose scores are the center's."""
    eigen: Pixels
    """(n, ...): grey is zero, scaled so that the strongest value of each is black or white."""
    rebuilt: Pixels
    """(rows, steps, ...): pictures rebuilt from their first 1, 3, 10 ... components."""
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """What is asked for: rows of A, (m, r) float64, centers first, then eigen-images, then reconstructions."""

    coefficients: NDArray[np.float64]
    n_centers: int
    n_eigen: int
    steps: tuple[int, ...]
    factor: int

    @classmethod
    def of(cls, store: Store, model: Model, rows: list[int], picture_bytes: int) -> Mixture:
        """rows : good rows to rebuild. picture_bytes : what all pictures may take as float32; they shrink to fit."""
        centers = store.load("centers")
        n_clusters, rank = centers.shape
        if model.variance_ratio is None:
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


class MixtureOfLeft:
    """Sums (A F') (X - mean) over blocks of shrunk pictures, in float32: for pictures that is plenty."""

    def __init__(self, store: Store, model: Model, mixture: Mixture) -> None:
        self._left = StoredRows(store.array("left"))
        self._coefficients = mixture.coefficients
        self._mean = _mean(model, mixture.factor).reshape(-1)
        self.found = np.zeros((len(mixture.coefficients), len(self._mean)), np.float32)

    def take(self, block: Block, pictures: Pixels) -> None:
        rank = self._coefficients.shape[1]
        left = self._left.read(block.start, block.stop, slice(0, rank))  # (rows, r)
        weights = (self._coefficients @ left.T.astype(np.float64)).astype(np.float32)  # (m, rows)
        self.found += weights @ np.subtract(pictures.reshape(len(pictures), -1), self._mean, dtype=np.float32)


def needs_pass(store: Store, model: Model) -> bool:
    """Whether the pictures are made as the pixels pass by."""
    fit = store.mark(REDUCE)
    return model.variance_ratio is not None and fit is not None and fit.payload["components"] != "stored"


def pictures_of(store: Store, model: Model, mixture: Mixture, left: MixtureOfLeft | None, batch_bytes: int) -> Pictures:
    """left : after the pass, where one was needed. batch_bytes : of pictures in full size at a time."""
    mean = _mean(model, mixture.factor)
    if model.variance_ratio is None:
        found = shrink(mixture.coefficients.astype(np.float32), model.spec, mixture.factor)
        none = np.empty((0, *mean.shape), np.uint8)
        return Pictures(_shown(mean), _shown(found), none, none, ())
    if left is not None:
        found = left.found.reshape(-1, *mean.shape)
    else:
        found = _mixed(StoredRows(store.array("components")), mixture, model.spec, batch_bytes)
    n_centers, n_eigen = mixture.n_centers, mixture.n_eigen
    centers, eigen, rebuilt = np.split(found, [n_centers, n_centers + n_eigen])
    return Pictures(
        _shown(mean),
        _shown(centers + mean),
        _signed(eigen),
        _shown(rebuilt + mean).reshape(-1, len(mixture.steps), *mean.shape),
        mixture.steps,
    )


def _mean(model: Model, factor: int) -> NDArray[np.float32]:
    """The mean of all good pictures, shrunk: from the exact sums that the ingest took."""
    mean = (model.ingested.column_sums / model.n_good).astype(np.float32)
    shrunk: NDArray[np.float32] = shrink(mean[np.newaxis], model.spec, factor)[0]
    return shrunk


def _mixed(components: StoredRows, mixture: Mixture, spec: DecodeSpec, batch_bytes: int) -> NDArray[Any]:
    """A V by slabs of columns, some rows of A at a time, shrunk before the next ones."""
    coefficients = mixture.coefficients.astype(np.float32)
    rank, n_values = coefficients.shape[1], components.shape[1]
    found = np.empty((len(coefficients), *shrunk_shape(spec, mixture.factor)), np.float32)
    for first, last in spans(len(coefficients), max(1, batch_bytes // (4 * n_values))):
        full = np.empty((last - first, n_values), np.float32)
        for start, stop in spans(n_values, _SLAB_COLUMNS):
            full[:, start:stop] = coefficients[first:last] @ components.read(0, rank, slice(start, stop))
        found[first:last] = shrink(full, spec, mixture.factor)
    return found


def _shown(values: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def _signed(values: NDArray[np.float32]) -> Pixels:
    axes = tuple(range(1, values.ndim))
    strongest = np.abs(values).max(axis=axes, keepdims=True, initial=0)
    return _shown(128 + 127 * values / np.where(strongest > 0, strongest, 1))
