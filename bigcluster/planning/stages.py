"""This module plans ingest, the reduction and the output: what the budget decides, and how much memory each holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigcluster.catalog.manifest_rows import parquet_child_bytes
from bigcluster.config import Settings
from bigcluster.kernels.linalg import panels
from bigcluster.planning import footprint
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.plan import Pictures, StagePlan
from bigcluster.planning.stage_names import INGEST, OUTPUT, REDUCE
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.manifold.footprint import LIBRARY_BYTES
from bigcluster.solvers.pca.footprint import (
    project_application_bytes,
    project_bytes,
    project_panels,
    project_scratch_bytes,
    project_sums_bytes,
)
from bigcluster.solvers.pca.result import Components, Target, Variance, choose
from bigcluster.solvers.pca.subspace_jobs import is_spread
from bigcluster.store.chunk_grid import matrix_chunks, pixel_chunks, row_chunks, stored_bytes
from bigcluster.units import MIB

DECODE_FLOOR_BYTES = 32 * MIB
"""Bytes for each decoding thread for which every plan leaves room: a picture of several megapixels of any kind."""
SMALL_DECODE_BYTES = 8 * MIB
"""Bytes for each decoding thread where there is no room for more and for a decoding child. A plan with less than this
has no decoding child. Chosen, not measured."""
BLOCKS_IN_FLIGHT = 2
"""Number of row blocks at a time: one is decoded while another is written."""
MARK_BYTES = 330
"""Bytes on the disk of one row in the marks of the pixels: its record as JSON."""
TABLE_BYTES = 400
"""Bytes on the disk of one row of labels.csv and of images.csv, and of its entry among the links."""

CLASS_ROW_BYTES = 100
"""Bytes on the disk of one row of classes.csv: a path, a class and its probability. Chosen, not measured."""


def baseline_bytes(settings: Settings, resources: Resources, *, products: bool = True) -> int:
    """Return the bytes of the processes of a run before they hold any data. products : whether ONNX Runtime is
    loaded."""
    dask_ml = settings.kmeans.algorithm == "dask-ml" or (settings.has_pca and settings.pca.solver == "incremental")
    if resources.coordinates:  # it multiplies nothing itself, but opens the network to see what it is
        n_bytes = footprint.SUPERVISOR_BYTES + footprint.WORKER_BYTES + footprint.COORDINATOR_BYTES
        return n_bytes + (0 if settings.has_pixel_features else footprint.PRODUCTS_BYTES)
    if resources.joined:
        n_bytes = footprint.DASK_WORKER_BYTES
    else:
        n_bytes = footprint.SUPERVISOR_BYTES + footprint.WORKER_BYTES
    if products and not (resources.starts_workers and settings.has_pixel_features and is_own_kernel(settings)):
        n_bytes += footprint.PRODUCTS_BYTES
    return n_bytes + (footprint.DASK_ML_BYTES if dask_ml and products else 0)


def clustering_baseline_bytes(settings: Settings, resources: Resources) -> int:
    """Return the same as `baseline_bytes` from clustering on, where ONNX Runtime is loaded only if PCA has used it, and
    the library of t-SNE or UMAP stays loaded."""
    products = settings.has_pca
    n_bytes = baseline_bytes(settings, resources, products=products)
    n_bytes += LIBRARY_BYTES[settings.reduce] if settings.has_manifold and not resources.coordinates else 0
    if products or resources.coordinates or settings.kmeans.algorithm != "dask-ml":
        return n_bytes
    return n_bytes + footprint.DASK_ML_BYTES


def is_own_kernel(settings: Settings) -> bool:
    """Return whether our own kernels multiply on this machine, so that ONNX Runtime is not loaded for products."""
    return settings.gemm.kernel != "float32" and panels.available()


def without_library(settings: Settings) -> Settings:
    """Return the settings with which a command is planned that needs no library of t-SNE or UMAP: places are stored."""
    return replace(settings, reduce="pca") if settings.has_manifold else settings


def charts_bytes(settings: Settings, resources: Resources) -> int:
    """Return the bytes of the libraries that stay loaded after a sweep. Workers of a cluster draw no charts."""
    return footprint.CHARTS_BYTES if len(settings.ks) > 1 and not resources.joined else 0


def share_of(n_rows: int, resources: Resources) -> int:
    """Return the number of rows of one worker."""
    return -(-n_rows // resources.workers)


def names_bytes(n_images: int, resources: Resources) -> int:
    """Return the bytes of the names of all images in a process. On a cluster every worker has all of them."""
    return n_images * (footprint.SENT_NAME_BYTES if resources.joined else footprint.NAME_BYTES)


def manifest_bytes(settings: Settings, resources: Resources) -> int:
    """Return the bytes of the child that reads a Parquet manifest again while its cells are written into a table."""
    least = baseline_bytes(settings, resources, products=False)
    return parquet_child_bytes(settings.images, resources.budget_bytes - least)


def plan_ingest(
    settings: Settings, n_images: int, n_values: int, features: FeatureShape, resources: Resources, pictures: Pictures
) -> StagePlan:
    """Return the plan of ingest. The budget decides the blocks in flight and the largest decode."""
    rows, columns = pixel_chunks(n_values)
    rows_used = min(rows, n_images)
    n_blocks = -(-n_images // rows)
    names = names_bytes(n_images, resources) + footprint.project_names_bytes(n_images)
    baseline = baseline_bytes(settings, resources, products=not features.of_pixels) + names + features.shared_bytes

    def projected(in_flight: int, decode_bytes: int) -> int:
        return baseline + footprint.project_ingest_bytes(
            block_rows=rows_used,
            n_values=n_values,
            row_bytes=n_values + features.stored_bytes,
            in_flight=in_flight,
            threads=resources.threads,
            decode_bytes=decode_bytes + features.thread_bytes,
        )

    def spare(in_flight: int) -> int:
        return resources.budget_bytes - projected(in_flight, 0)

    # native: every picture must fit. Else those that the budget leaves no room for become too_large, if not all do.
    least = pictures.largest_bytes if settings.size == "native" else pictures.working_bytes[0]
    in_flight = min(BLOCKS_IN_FLIGHT, n_blocks)
    # On a cluster every file is decoded in a child, so that no file ends a worker of dask.
    least_children = resources.threads if resources.joined else 1
    enough = resources.threads * max(least, DECODE_FLOOR_BYTES) + least_children * footprint.DECODING_CHILD_BYTES
    while in_flight > 1 and enough > spare(in_flight):
        in_flight -= 1
    children = decoding_children(spare(in_flight), resources.threads, least, isolated=pictures.isolated)
    children = max(children, resources.threads) if resources.joined else children
    held_by_children = children * footprint.DECODING_CHILD_BYTES
    decode_bytes = max(least, (spare(in_flight) - held_by_children) // resources.threads)
    described_by = settings.features if settings.has_pixel_features else f"features of {settings.features}, pixels"
    return StagePlan(
        stage=INGEST,
        solver="decode",
        why=f"{described_by} {settings.size}, fit {settings.image.fit}, normalize {settings.image.normalize}",
        block_shape=(rows, columns),
        passes="1 over the files",
        bytes_read=int(n_images * pictures.file_bytes),
        bytes_written=stored_bytes((n_images, n_values), (rows, columns), 1)
        + stored_bytes((n_images, features.stored_bytes), (rows, max(1, features.stored_bytes)), 1)
        + n_images * MARK_BYTES
        + n_blocks * n_values * 4,  # the blocks' column sums
        # The decode limit is what the rest leaves; what is projected is what the pictures take.
        projected_bytes=projected(in_flight, max(least, pictures.largest_within(decode_bytes))) + held_by_children,
        choices={"in_flight": in_flight, "decode_bytes": decode_bytes, "children": children},
        n_busy=min(resources.workers, n_blocks),
    )


def decoding_children(spare_bytes: int, threads: int, least_bytes: int, *, isolated: bool) -> int:
    """Return how many children may decode at once, in addition to the decodes of all threads.

    Where some pictures need a child, there is one for each thread if the memory suffices. Otherwise one child is
    planned for files whose headers were not read, but only where decodes of `least_bytes` still fit.
    isolated : whether some pictures need a child, without which they could not be decoded.
    """
    for decode_bytes in (max(least_bytes, DECODE_FLOOR_BYTES), max(least_bytes, SMALL_DECODE_BYTES)):
        room = (spare_bytes - threads * decode_bytes) // footprint.DECODING_CHILD_BYTES
        if room >= 1:
            return min(threads, room) if isolated else 1
    return 1 if isolated else 0


def target_of(settings: Settings, n_rows: int, n_features: int) -> Target:
    """Return the target of the reduction of a matrix: a number of components or a share of the variance."""
    if settings.components is not None:
        return Components(settings.components)
    if settings.variance is not None:
        return Variance(settings.variance)
    return Components(max(1, min(EMBEDDING_COMPONENTS, n_rows - 1, n_features)))


EMBEDDING_COMPONENTS = 64
"""Number of components of features that are not pixels, where the settings say neither a number nor a variance. Of six
sets of photographs and drawings, 32 and 64 gave the best groups: see benchmarks/README.md."""


def plan_reduce(settings: Settings, n_images: int, shape: FeatureShape, resources: Resources) -> StagePlan:
    """Return the plan of PCA. The numbers of images and features decide the solver, and the budget its workspace."""
    if settings.pca.solver == "incremental":
        return _plan_incremental(settings, n_images, shape, resources)
    n_features = shape.n_features
    target = target_of(settings, n_images, n_features)
    chosen = choose(n_images, n_features, target)
    solver, why = chosen.solver, chosen.reason
    if settings.pca.solver != "auto":
        solver, why = settings.pca.solver, "asked for by pca.solver"
    baseline = baseline_bytes(settings, resources) + names_bytes(n_images, resources)
    dtype, size = np.dtype(shape.dtype), (n_images, n_features)
    spare = max(0, resources.budget_bytes - baseline)
    summed = project_sums_bytes(solver, size, dtype) if resources.joined else 0

    def projected_by(workspace: int) -> int:
        return int(project_bytes(solver, size, dtype, target, resources.threads, workspace) / footprint.WORKSPACE_SHARE)

    workspace = sums_workspace = int(max(0, spare - summed) * footprint.WORKSPACE_SHARE)
    projected = summed + max(projected_by(workspace), SUMS_MERGED * summed)
    in_parts = True
    if summed and projected > spare:  # block column by block column, of which a worker that merges holds three
        workspace = int(spare * footprint.WORKSPACE_SHARE)
        sums_workspace = workspace // (SUMS_MERGED + 1)
        of_panel, _ = project_panels(solver, size, dtype, resources.threads, sums_workspace)
        in_parts = (SUMS_MERGED + 1) * of_panel <= workspace  # else one worker sums them alone
        projected = projected_by(workspace)
    scratch = project_scratch_bytes(solver, size, target, workspace)
    if summed or not resources.joined:
        scratch += project_panels(solver, size, dtype, resources.threads, sums_workspace)[1]
    # dask spreads the batches of dask-ml over all workers.
    n_busy = resources.workers if (summed and in_parts) or solver == "incremental" else 1
    if solver == "subspace" and dtype == np.uint8 and resources.workers > 1 and is_spread(size, target):
        n_busy = resources.workers
        scratch += project_application_bytes(size, target)
    rank = min(n_images, n_features, target.n if isinstance(target, Components) else VARIANCE_RANK)
    return StagePlan(
        stage=REDUCE,
        solver=solver,
        why=why,
        block_shape=matrix_chunks(n_features, shape.itemsize),
        passes=_PASSES[solver],
        bytes_read=_LEAST_PASSES[solver] * n_images * n_features * shape.itemsize,
        bytes_written=_reduced_bytes(solver, n_images, n_features, rank),
        projected_bytes=baseline + projected,
        choices={
            "workspace_bytes": workspace,
            "sums_bytes": sums_workspace if in_parts else workspace,
            "rank": rank,
            "in_parts": int(in_parts),
        },
        scratch_bytes=scratch,
        n_busy=n_busy,
    )


SUMS_MERGED = 2
"""Number of sums of products in a worker that merges them, beside the one that it keeps of its own: those of another
worker, and their total."""


def _reduced_bytes(solver: str, n_images: int, n_features: int, rank: int) -> int:
    """Return the bytes on the disk of scores and mean, and of the left vectors (gram) or the components (others)."""
    beside = n_images if solver == "gram" else n_features
    chunks = row_chunks(rank, footprint.FLOAT32)
    stored = sum(stored_bytes((n_rows, rank), chunks, footprint.FLOAT32) for n_rows in (n_images, beside))
    return stored + n_features * footprint.FLOAT64


VARIANCE_RANK = 1024
"""Number of components that a plan assumes before the spectrum is known. Chosen, not measured."""
_PASSES = {
    "gram": "1 over the features",
    "covariance": "1 over the features, 1 for scores",
    "subspace": "4 or more over the features, each in one or two reads",
}
"""The passes of each solver, as text for the plan."""
_LEAST_PASSES = {"gram": 1, "covariance": 2, "subspace": 4}
"""The smallest number of passes over the features of each solver."""


def _plan_incremental(settings: Settings, n_images: int, shape: FeatureShape, resources: Resources) -> StagePlan:
    n_features = shape.n_features
    baseline = baseline_bytes(settings, resources)
    usable = resources.budget_bytes - baseline
    target = target_of(settings, n_images, n_features)
    components = target.n if isinstance(target, Components) else None
    batch_rows, rank = incremental_batch(n_images, n_features, components, usable)
    return StagePlan(
        stage=REDUCE,
        solver="incremental",
        why="asked for by pca.solver",
        block_shape=(batch_rows, n_features),
        passes="2 over the features: fit, then scores",
        bytes_read=2 * n_images * n_features * shape.itemsize,
        bytes_written=_reduced_bytes("incremental", n_images, n_features, rank),
        projected_bytes=baseline
        + footprint.project_incremental_bytes(batch_rows=batch_rows, rank=rank, n_values=n_features),
        choices={"batch_rows": batch_rows, "rank": rank},
    )


INCREMENTAL_BATCH_ROWS = 1024
"""Number of rows of a batch, at most. Larger batches gain little accuracy, because the basis is refined often."""
INCREMENTAL_MAX_RANK = 1024
"""The largest rank for a variance target, whose rank is not known before the fit. The time of the fit grows with the
square of the rank."""


def incremental_batch(n_images: int, n_values: int, components: int | None, usable_bytes: int) -> tuple[int, int]:
    """Return (batch_rows, rank) of the incremental solver that fit the memory. A batch is never smaller than the
    rank."""
    affordable = max(1, footprint.incremental_rows(n_values, usable_bytes))  # batch + rank
    if components is None:
        rank = max(1, min(affordable // 2, n_images, n_values, INCREMENTAL_MAX_RANK))
    else:
        rank = components
    batch_rows = min(n_images, max(rank, min(affordable - rank, INCREMENTAL_BATCH_ROWS)))
    return batch_rows, rank


def plan_output(
    settings: Settings,
    n_images: int,
    n_clusters: int,
    n_classes: int,
    n_columns: int,
    resources: Resources,
    pictures: Pictures,
) -> StagePlan:
    """Return the plan of folders and tables, which one process writes from the arrays of all rows.

    n_classes : how many classes are stored of each image.
    """
    copied = int(n_images * pictures.file_bytes) if settings.link == "copy" else 0
    return StagePlan(
        stage=OUTPUT,
        solver="files",
        why=f"link {settings.link}",
        block_shape=(n_images, n_columns),
        passes="1 over the rows",
        bytes_read=copied,
        bytes_written=n_images * (TABLE_BYTES + n_classes * CLASS_ROW_BYTES) + copied,
        projected_bytes=clustering_baseline_bytes(settings, resources)
        + charts_bytes(settings, resources)
        + manifest_bytes(settings, resources)
        + footprint.project_output_bytes(
            n_images, linked=settings.link != "none", n_clusters=n_clusters, n_classes=n_classes
        ),
    )
