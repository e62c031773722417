"""The arrays that a run makes, and whether they have the sizes that the marks say: looked at before any is read.

Anybody can write the metadata of an array, as well as a mark. Where an array has not the length that follows from the
pixels and from the mark of its stage, that mark does not hold, and the stage is computed anew. So a plan made of the
numbers of images, values, components and clusters holds for all arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bigcluster.store.marks import Mark

KINDS = {
    **dict.fromkeys(("pixels", "retired"), "uint8"),
    "sums": "uint32",
    "ok": "bool",
    **dict.fromkeys(("row_keys", "label_keys"), "uint64"),
    "column_sums": "int64",
    **dict.fromkeys(("scores", "components", "embedding"), "float32"),
    "embedding_rows": "int64",
    **dict.fromkeys(("left", "features", "retired_features"), ""),
    **dict.fromkeys(("classes", "retired_classes"), "float32"),
    **dict.fromkeys(("feature_mean", "mean", "explained_variance", "norms", "usual", "sweep_centers"), "float64"),
    **dict.fromkeys(("centers", "distance", "runner_up_distance", "margin"), "float64"),
    **dict.fromkeys(("labels", "runner_up", "neighbor_ids"), "int32"),
    "neighbor_distances": "float32",
}
"""By name of an array, the dtype of its values; "" where solvers differ. A run makes no other arrays: everything else
in a store stays untouched, whatever a mark says of it."""

Find = Callable[[str], Any]
"""A function from the name of an array to the zarr array, or None where there is none."""


class _Misfit(Exception):  # noqa: N818 - it never leaves this module
    """An array is missing or has another shape or type."""


def agree(stage: str, mark: Mark, find: Find, ingested: Mark | None) -> bool:
    """Whether the arrays of a stage have the shapes that follow from its mark and from the pixels.

    find : see `Find`. ingested : the mark of the ingest, for stages that use its images; else None.
    """
    check = _CHECKS.get(stage)
    try:
        if check is not None:
            check(_Shapes(find), mark.payload, ingested is not None and ingested.fingerprint)
    except _Misfit:
        return False
    return True


class _Shapes:
    def __init__(self, find: Find) -> None:
        self._find = find

    def of(self, name: str, n_axes: int) -> tuple[int, ...]:
        array = self._find(name)
        if array is None or len(array.shape) != n_axes or KINDS[name] not in ("", array.dtype.name):
            raise _Misfit
        shape: tuple[int, ...] = array.shape
        return shape

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def need(self, name: str, *shape: int) -> None:
        if self.of(name, len(shape)) != shape:
            raise _Misfit

    def dtype(self, name: str) -> str:
        return str(self._find(name).dtype.name)

    def chunk_rows(self, name: str) -> int:
        rows: int = self._find(name).chunks[0]
        return rows


def _recipe(shapes: _Shapes, payload: dict[str, Any], _: object) -> None:
    channels = 3 if payload.get("color") else 1
    n_listed, n_values = shapes.of("pixels", 2)
    if n_values != payload["width"] * payload["height"] * channels:
        raise _Misfit
    embedding = payload.get("embedding")
    if embedding is None:
        return
    shapes.need("features", n_listed, embedding["n_features"])
    if shapes.dtype("features") != embedding["dtype"]:
        raise _Misfit
    if embedding["n_classes"]:
        shapes.need("classes", n_listed, 2 * embedding["n_classes"])


def _ingest(shapes: _Shapes, payload: dict[str, Any], _: object) -> None:
    n_listed, n_values = shapes.of("pixels", 2)
    shapes.need("ok", n_listed)
    shapes.need("column_sums", n_values)
    if shapes.of("row_keys", 1)[0] > n_listed or payload["n_blocks"] != -(-n_listed // shapes.chunk_rows("pixels")):
        raise _Misfit


def _features(shapes: _Shapes, _: dict[str, Any], __: object) -> None:
    shapes.need("feature_mean", shapes.of("features", 2)[1])


def _reduce(shapes: _Shapes, payload: dict[str, Any], images: object) -> None:
    n_rows, n_columns = shapes.of("scores", 2)
    if images == payload["images"]:
        shapes.need("row_keys", n_rows)
    if n_columns != payload["n_components"]:
        raise _Misfit
    shapes.need("explained_variance", payload["rank"])
    (n_values,) = shapes.of("mean", 1)
    if payload["rank"] > max(n_rows, n_values):
        raise _Misfit
    if payload["components"] == "stored":
        shapes.need("components", n_columns, n_values)
    else:
        shapes.need("left", n_rows, n_columns)


def _components(shapes: _Shapes, _: dict[str, Any], __: object) -> None:
    shapes.need("components", shapes.of("left", 2)[1], *shapes.of("mean", 1))


def _manifold(shapes: _Shapes, payload: dict[str, Any], images: object) -> None:
    n_rows, n_columns = shapes.of("embedding", 2)
    if images == payload["images"]:
        shapes.need("row_keys", n_rows)
    shapes.need("embedding_rows", payload["n_fitted"])
    if n_columns != payload["n_dimensions"] or payload["n_fitted"] > n_rows:
        raise _Misfit
    if payload["n_columns"] > shapes.of("scores", 2)[1]:
        raise _Misfit


def _neighbors(shapes: _Shapes, payload: dict[str, Any], images: object) -> None:
    if payload["n_neighbors"] == 0:  # of a single image nothing is stored
        shapes.need("row_keys", 1)
        return
    n_rows, n_neighbors = shapes.of("neighbor_ids", 2)
    shapes.need("neighbor_distances", n_rows, n_neighbors)
    if images == payload["images"]:
        shapes.need("row_keys", n_rows)
    if n_neighbors != payload["n_neighbors"] or n_neighbors >= n_rows:
        raise _Misfit


def _cluster(shapes: _Shapes, payload: dict[str, Any], images: object) -> None:
    n_clusters, (n_rows,) = payload["n_clusters"], shapes.of("labels", 1)
    shapes.need("centers", n_clusters, payload["n_columns"])
    if images == payload["images"]:
        shapes.need("row_keys", n_rows)
        clustered = {"none": "features" if shapes.has("features") else "pixels", "pca": "scores"}
        n_most = shapes.of(clustered.get(payload["reduction"], "embedding"), 2)[1]
        if payload["n_columns"] > n_most or n_clusters > n_rows:
            raise _Misfit
    of_communities = ("margin",) if payload.get("algorithm") == "leiden" else ()
    for name in ("distance", "runner_up", "runner_up_distance", *of_communities):
        shapes.need(name, n_rows)
    if len(payload["nearest_previous"] or ()) not in (0, n_clusters):
        raise _Misfit


def _novelty(shapes: _Shapes, _: dict[str, Any], __: object) -> None:
    shapes.need("usual", 2, shapes.of("centers", 2)[0], 7)


def _norms(shapes: _Shapes, _: dict[str, Any], __: object) -> None:
    shapes.need("norms", *shapes.of("row_keys", 1))


def _sweep(shapes: _Shapes, payload: dict[str, Any], _: object) -> None:
    n_rows, n_columns = shapes.of("sweep_centers", 2)
    sources = ("pixels", "features", "embedding")
    n_most = max((shapes.of(name, 2)[1] for name in sources if shapes.has(name)), default=0)
    if n_rows != math.fsum(row["k"] for row in payload["rows"]) or n_columns > n_most:
        raise _Misfit


_CHECKS: dict[str, Callable[[_Shapes, dict[str, Any], object], None]] = {
    "recipe": _recipe,
    "ingest": _ingest,
    "features": _features,
    "reduce": _reduce,
    "manifold": _manifold,
    "components": _components,
    "neighbors": _neighbors,
    "cluster": _cluster,
    "novelty": _novelty,
    "norms": _norms,
    "sweep": _sweep,
}
