"""This module plans t-SNE and UMAP. Their libraries know no budget, so the sample that is fitted has to fit it."""

from __future__ import annotations

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import MANIFOLD
from bigcluster.planning.stages import baseline_bytes, names_bytes
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.manifold.fit import (
    LEAST_ROWS,
    NAMES,
    NEIGHBORS_OF,
    NEW_NEIGHBORS,
    PLACED_ROWS,
    n_dimensions,
)
from bigcluster.solvers.manifold.footprint import LIBRARY_BYTES, project_fit_bytes, project_place_bytes
from bigcluster.solvers.neighbors.footprint import project_group_bytes, project_neighbors_bytes
from bigcluster.store.chunk_grid import row_chunks, stored_bytes

SAMPLING_BYTES = 48
"""Bytes for each row while the sample is drawn: its key, a random number, and their order. Counted, not measured."""
UNEQUAL = "the result may differ on other machines and with other versions of the library"
"""What a plan says of the results of the libraries."""


def plan_manifold(settings: Settings, n_images: int, n_columns: int, resources: Resources) -> StagePlan:
    """Return the plan of t-SNE or UMAP of scores of n_columns values.

    Its choice `largest_sample` is the largest sample that fits the budget, 0 where none does; `library_bytes` stay with
    the stages after it.
    """
    method = settings.reduce
    n_fitted = min(settings.manifold.sample, n_images)

    def projected(fitted: int) -> int:
        return (
            baseline_bytes(settings, resources)
            + LIBRARY_BYTES[method]
            + _held_bytes(settings, n_images, fitted, n_columns, resources)
        )

    low, high = 0, n_fitted
    while low < high:  # the largest sample that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if projected(middle) <= resources.budget_bytes else (low, middle - 1)
    dimensions = n_dimensions(method, n_columns)
    placed = f", {n_images - n_fitted:,} placed among them" if n_images > n_fitted else ""
    return StagePlan(
        stage=MANIFOLD,
        solver=NAMES[method],
        why=f"{n_fitted:,} images fitted{placed}; one thread; {UNEQUAL}",
        block_shape=(min(n_images, PLACED_ROWS), n_columns),
        passes="2 over the scores" if placed else "1 over the scores",
        bytes_read=n_images * n_columns * footprint.FLOAT32 * (2 if placed else 1),
        bytes_written=stored_bytes((n_images, dimensions), row_chunks(dimensions, footprint.FLOAT32), footprint.FLOAT32)
        + n_fitted * footprint.FLOAT64,
        projected_bytes=projected(n_fitted),
        choices={
            "fitted": n_fitted,
            "largest_sample": low if low >= LEAST_ROWS else 0,
            "library_bytes": LIBRARY_BYTES[method],
        },
    )


def _held_bytes(settings: Settings, n_images: int, n_fitted: int, n_columns: int, resources: Resources) -> int:
    """Return the bytes of the stage beyond the libraries: names, places, the sample, and the largest of three steps."""
    method, threads = settings.reduce, resources.threads
    n_neighbors = min(max(1, n_fitted - 1), settings.manifold.neighbors * NEIGHBORS_OF[method])
    places = 2 * n_images * n_dimensions(method, n_columns) * footprint.FLOAT32
    whole = names_bytes(n_images, resources) + n_images * SAMPLING_BYTES + places
    sample = n_fitted * n_columns * footprint.FLOAT32
    searching = project_neighbors_bytes(n_fitted, n_columns, n_neighbors, threads=threads)
    fitting = project_fit_bytes(method, n_fitted, n_columns, n_neighbors)
    placing = _place_bytes(method, min(PLACED_ROWS, n_images - n_fitted), n_fitted, n_columns, threads)
    return whole + sample + max(searching, fitting, placing)


def _place_bytes(method: str, n_new: int, n_fitted: int, n_columns: int, threads: int) -> int:
    """Return the bytes of placing rows at once among fitted ones: the rows twice, their neighbors, their places."""
    if n_new <= 0:
        return 0
    rows = 2 * n_new * n_columns * footprint.FLOAT32
    return rows + threads * project_group_bytes(n_fitted, n_columns, NEW_NEIGHBORS) + project_place_bytes(method, n_new)


def project_placer_bytes(method: str, n_fitted: int, n_columns: int, n_new: int, resources: Resources) -> int:
    """Return the bytes that predict adds for placing new rows: the library of t-SNE, the sample, and a block.

    n_fitted : the number of images that the model has fitted. n_columns : of the scores. n_new : the number of new
    images.
    """
    library = LIBRARY_BYTES["tsne"] if method == "tsne" else 0
    sample = n_fitted * (n_columns + n_dimensions(method, n_columns)) * footprint.FLOAT32
    return library + sample + _place_bytes(method, min(PLACED_ROWS, n_new), n_fitted, n_columns, resources.threads)
