"""The map of the report: the places of a sample of the images in two dimensions, and the libraries that compute them.

The libraries for t-SNE and UMAP are optional. They are imported only where the setting `report.map` names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import MANIFOLDS
from bigcluster.report.model import Model
from bigcluster.report.thumbnails import Thumbnails
from bigcluster.solvers.manifold import check_library, import_library
from bigcluster.stages.features import Features
from bigcluster.stages.manifold import places as places_of_all
from bigcluster.stages.novelty_jobs import SCORE_ROWS
from bigcluster.store import Store, StoredRows
from bigcluster.store.row_source import RowSource, spans


def check_kind(kind: str) -> None:
    """Raise ConfigError where the library that `kind` needs is not installed. This is called before a run begins."""
    if kind in MANIFOLDS:
        check_library(kind, f"report.map = {kind}", _OTHERWISE)


def import_for(kind: str) -> Any:
    """Import and return the library of a kind of map. Raises ConfigError where it cannot be imported."""
    return import_library(kind, f"report.map = {kind}", _OTHERWISE)


_OTHERWISE = "report.map = pca"
GRID = 10_000
"""Places are whole numbers from 0 to GRID, which is finer than any screen."""
_FEWEST_EMBEDDED = 10
"""With fewer images than this, t-SNE and UMAP have too few neighbours; the principal axes are shown instead."""
_EMBEDDED_COLUMNS = 50
"""Columns of the scores that are embedded. With more, neighbours hardly change, but the time grows."""
_TINY = 16
"""Where there are no scores, a picture is a grid of at most this many values a side, and other features are as many as
the grid has. Chosen, not measured."""
_TINY_ROWS = 256
"""Thumbnails that are read at once, at most 10 MiB in color. Chosen, not measured."""

Points = NDArray[np.float64]

EXPLAINED = {
    "pca": "The first two principal components: far apart means different; near may still differ in the others.",
    "tsne": "t-SNE of the scores: neighbours are alike; distances between groups say little.",
    "umap": "UMAP of the scores: neighbours are alike; distances between groups say little.",
}


def place(
    kind: str,
    store: Store,
    model: Model,
    features: Features,
    thumbnails: Thumbnails,
    rows: NDArray[np.int64],
    threads: int,
) -> Points:
    """Return (n, 2) float64, the places of the images: whole numbers from 0 to GRID, with one scale on both axes.

    kind : pca, tsne or umap. features : of the run. rows : (n,), ascending good rows. threads : for t-SNE.
    Raises ConfigError where `kind` needs a library that is not installed.
    """
    if model.has_places and kind == model.reduction:  # the places that were clustered; of UMAP's, their principal axes
        return _scaled(_first_axes(_read_rows(places_of_all(store), rows, places_of_all(store).shape[1])))
    if model.variance_ratio is None:
        vectors = _tiny_pictures(thumbnails, rows) if features.are_pixels else _some_features(features.rows, rows)
    else:
        n_columns = 2 if kind == "pca" else min(_EMBEDDED_COLUMNS, int(model.summary["n_components"]))
        vectors = _read_rows(StoredRows(store.array("scores")), rows, n_columns)
    if kind == "pca" or len(rows) < _FEWEST_EMBEDDED:
        points = _first_axes(vectors)
    else:
        points = _EMBEDDINGS[kind](vectors, int(model.summary["settings"].get("seed", 0)), threads)
    return _scaled(points)


def _scaled(points: Points) -> Points:
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    middle = (low + high) / 2
    scaled: Points = np.rint((points - middle) / span * GRID + GRID / 2).clip(0, GRID)
    return scaled


def _read_rows(source: RowSource, rows: NDArray[np.int64], n_columns: int) -> NDArray[np.float32]:
    """Return the first columns of some rows of the scores, (len(rows), n_columns)."""
    n_columns = min(n_columns, source.shape[1])
    selected = np.empty((len(rows), n_columns), np.float32)
    for start, stop in spans(source.shape[0], SCORE_ROWS):
        first, last = np.searchsorted(rows, [start, stop]).tolist()
        if last > first:
            selected[first:last] = source.read(start, stop, slice(0, n_columns))[rows[first:last] - start]
    return selected


def _tiny_pictures(thumbnails: Thumbnails, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (n, n_values) for a run without scores: every thumbnail as a grid of at most 16 x 16 of its pixels."""
    height, width = thumbnails.shape[:2]
    down, across = -(-height // _TINY), -(-width // _TINY)
    parts = (thumbnails.read(rows[a:b])[:, ::down, ::across] for a, b in spans(len(rows), _TINY_ROWS))
    return np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float32)


def _some_features(source: StoredRows, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (n, up to 256) of some rows for a run without scores: as many features as a tiny picture has pixels, at
    equal distances. A stored chunk is in memory at a time."""
    n_rows, n_features = source.shape
    height, width = source.chunks
    columns = np.arange(0, n_features, -(-n_features // _TINY**2))
    selected = np.empty((len(rows), len(columns)), np.float32)
    for start, stop in spans(n_rows, height):
        first, last = np.searchsorted(rows, [start, stop]).tolist()
        for left, right in spans(n_features, width):
            a, b = np.searchsorted(columns, [left, right]).tolist()
            if last > first and b > a:
                block = source.read(start, stop, slice(left, right))
                selected[first:last, a:b] = block[np.ix_(rows[first:last] - start, columns[a:b] - left)]
    return selected


def _first_axes(vectors: NDArray[np.float32]) -> Points:
    """Return vectors of at most two columns as they are, and others on the two principal axes of the sample."""
    points = np.zeros((len(vectors), 2))
    if vectors.shape[1] <= 2:
        points[:, : vectors.shape[1]] = vectors
        return points
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, :-3:-1]  # (d, 2), largest first
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)  # eigh leaves the sign open
    return np.asarray(centered @ axes)


def _tsne(vectors: NDArray[np.float32], seed: int, threads: int) -> Points:
    perplexity = min(30, (len(vectors) - 1) // 3)
    embed = import_for("tsne").TSNE(
        perplexity=perplexity,
        random_state=seed,
        n_jobs=threads,
        initialization="pca",
        negative_gradient_method="fft",
    )
    return np.asarray(embed.fit(vectors.astype(np.float64)), np.float64)


def _umap(vectors: NDArray[np.float32], seed: int, threads: int) -> Points:
    del threads  # the same seed gives the same map with one thread only
    embed = import_for("umap").UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1)
    return np.asarray(embed.fit_transform(vectors), np.float64)


_EMBEDDINGS: dict[str, Callable[[NDArray[np.float32], int, int], Points]] = {"tsne": _tsne, "umap": _umap}
