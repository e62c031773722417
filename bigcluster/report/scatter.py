"""The optional libraries behind `report.map`, looked for without loading what makes pages.

The map: where a sample of the images lies in two dimensions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ConfigError
from bigcluster.report.model import Model
from bigcluster.report.thumbnails import Thumbnails
from bigcluster.store import Store, StoredRows
from bigcluster.store.row_source import spans

_LIBRARIES = {"tsne": "openTSNE", "umap": "umap"}


def check_kind(kind: str) -> None:
    """Raise ConfigError where the library that `kind` needs is not installed: before anything is done."""
    if kind in _LIBRARIES and importlib.util.find_spec(_LIBRARIES[kind]) is None:
        raise ConfigError(f"report.map = {kind} needs {_LIBRARIES[kind]}; {_remedy(kind)}")


def import_for(kind: str) -> Any:
    """The library of a kind. Raises ConfigError where it cannot be imported."""
    try:
        return importlib.import_module(_LIBRARIES[kind])
    except ImportError as error:  # a part of it is missing
        raise ConfigError(
            f"report.map = {kind}: {_LIBRARIES[kind]} cannot be imported ({error}); {_remedy(kind)}"
        ) from error


def _remedy(kind: str) -> str:
    return f"pip install 'bigcluster[{kind}]', or use report.map = pca"


GRID = 10_000
"""Places are whole numbers of 0 .. GRID: finer than any screen."""
_FEWEST_EMBEDDED = 10
_EMBEDDED_COLUMNS = 50
"""Of the scores: neighbours hardly change with more, the time does."""
_TINY = 16

Points = NDArray[np.float64]

EXPLAINED = {
    "pca": "The first two principal components: far apart means different; near may still differ in the others.",
    "tsne": "t-SNE of the scores: neighbours are alike; distances between groups say little.",
    "umap": "UMAP of the scores: neighbours are alike; distances between groups say little.",
}


def place(
    kind: str, store: Store, model: Model, thumbnails: Thumbnails, rows: NDArray[np.int64], threads: int
) -> Points:
    """(n, 2) whole numbers of 0 .. GRID, one scale on both axes. rows : ascending good rows.

    Raises ConfigError where `kind` needs a library that is not there.
    """
    if model.variance_ratio is None:
        vectors = _tiny_pictures(thumbnails, rows)
    else:
        wanted = 2 if kind == "pca" else min(_EMBEDDED_COLUMNS, int(model.summary["n_components"]))
        vectors = _read_rows(StoredRows(store.array("scores")), rows, wanted)
    if kind == "pca" or len(rows) < _FEWEST_EMBEDDED:
        points = _first_axes(vectors)
    else:
        points = _EMBEDDINGS[kind](vectors, int(model.summary["settings"].get("seed", 0)), threads)
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    middle = (low + high) / 2
    scaled: Points = np.rint((points - middle) / span * GRID + GRID / 2).clip(0, GRID)
    return scaled


def _read_rows(source: StoredRows, rows: NDArray[np.int64], n_columns: int) -> NDArray[np.float32]:
    """Some rows of the scores, read block by block: a chunk holds many rows."""
    n_columns = min(n_columns, source.shape[1])
    found = np.empty((len(rows), n_columns), np.float32)
    for start, stop in spans(source.shape[0], 8192):
        first, last = np.searchsorted(rows, [start, stop]).tolist()
        if last > first:
            found[first:last] = source.read(start, stop, slice(0, n_columns))[rows[first:last] - start]
    return found


def _tiny_pictures(thumbnails: Thumbnails, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Where no scores are: every picture as a grid of at most 16 x 16 of its values."""
    height, width = thumbnails.shape[:2]
    down, across = -(-height // _TINY), -(-width // _TINY)
    parts = (thumbnails.read(rows[a:b])[:, ::down, ::across] for a, b in spans(len(rows), 256))
    return np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float32)


def _first_axes(vectors: NDArray[np.float32]) -> Points:
    """The first two columns where these are scores already; else the first two principal axes of the sample."""
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
    del threads  # one, for the same seed gives the same map only then
    embed = import_for("umap").UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1)
    return np.asarray(embed.fit_transform(vectors), np.float64)


_EMBEDDINGS: dict[str, Callable[[NDArray[np.float32], int, int], Points]] = {"tsne": _tsne, "umap": _umap}
