"""One function a stage: what the budget settles for it, and what it will hold."""

from __future__ import annotations

import numpy as np

from bigcluster.catalog.manifest_rows import parquet_child_bytes
from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.plan import Pictures, StagePlan
from bigcluster.planning.stage_names import CLUSTER, INGEST, OUTPUT, PREDICT, REDUCE, SWEEP
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.footprint import (
    project_bounds_bytes,
    project_centers_bytes,
    project_labels_bytes,
    project_lloyd_bytes,
)
from bigcluster.solvers.kmeans.lloyd import PRUNE_FROM
from bigcluster.solvers.kmeans.result import choose as choose_kmeans
from bigcluster.solvers.pca.footprint import project_bytes, project_scratch_bytes
from bigcluster.solvers.pca.result import Components, Target, Variance, choose
from bigcluster.store.chunk_grid import pixel_chunks, row_chunks, stored_bytes
from bigcluster.units import MIB

DECODE_FLOOR_BYTES = 32 * MIB
"""Working memory per decode thread that every plan leaves room for: a picture of several megapixels of any kind."""
SMALL_DECODE_BYTES = 8 * MIB
"""As much as that is left where there is no room for both, before a plan does without a decoding child."""
BLOCKS_IN_FLIGHT = 2
"""One row block is decoded while another is written."""
MARK_BYTES = 330
"""A row in the marks of the pixels: its record as JSON."""
TABLE_BYTES = 400
"""A row of labels.csv and images.csv, and its entry among the links."""


def baseline_bytes(settings: Settings, resources: Resources, *, products: bool = True) -> int:
    """What the processes of a run hold before they hold any data. products : ONNX Runtime is loaded."""
    dask_ml = settings.kmeans.algorithm == "dask-ml" or (
        settings.reduce == "pca" and settings.pca.solver == "incremental"
    )
    if resources.joined:
        n_bytes = footprint.WORKER_BYTES + footprint.DISTRIBUTED_BYTES
    else:
        n_bytes = footprint.SUPERVISOR_BYTES + footprint.WORKER_BYTES
    n_bytes += footprint.PRODUCTS_BYTES if products else 0
    return n_bytes + (footprint.DASK_ML_BYTES if dask_ml and products else 0)


def clustering_baseline_bytes(settings: Settings, resources: Resources) -> int:
    """As `baseline_bytes`, from clustering on: ONNX Runtime is there only where PCA has loaded it."""
    products = settings.reduce == "pca"
    n_bytes = baseline_bytes(settings, resources, products=products)
    return n_bytes if products or settings.kmeans.algorithm != "dask-ml" else n_bytes + footprint.DASK_ML_BYTES


def charts_bytes(settings: Settings) -> int:
    """What stays loaded from a sweep on."""
    return footprint.CHARTS_BYTES if len(settings.ks) > 1 else 0


def share_of(n_rows: int, resources: Resources) -> int:
    """The rows of one worker."""
    return -(-n_rows // resources.workers)


def manifest_bytes(settings: Settings, resources: Resources) -> int:
    """The child that reads a Parquet manifest once more, while its cells are written into a table."""
    least = baseline_bytes(settings, resources, products=False)
    return parquet_child_bytes(settings.images, resources.budget_bytes - least)


def plan_ingest(
    settings: Settings, n_images: int, n_values: int, resources: Resources, pictures: Pictures
) -> StagePlan:
    """Blocks in flight and the largest decode: the budget's share in what decoding holds."""
    rows, columns = pixel_chunks(n_values)
    rows_used = min(rows, n_images)
    n_blocks = -(-n_images // rows)
    n_names = share_of(n_images, resources)
    names = footprint.NAME_BYTES * n_names + footprint.project_names_bytes(n_names)
    baseline = baseline_bytes(settings, resources, products=False) + names

    def projected(in_flight: int, decode_bytes: int) -> int:
        return baseline + footprint.project_ingest_bytes(
            block_rows=rows_used,
            n_values=n_values,
            in_flight=in_flight,
            threads=resources.threads,
            decode_bytes=decode_bytes,
        )

    def spare(in_flight: int) -> int:
        return resources.budget_bytes - projected(in_flight, 0)

    # native: every picture must fit. Else those that the budget leaves no room for become too_large, if not all do.
    least = pictures.largest_bytes if settings.size == "native" else pictures.working_bytes[0]
    in_flight = min(BLOCKS_IN_FLIGHT, n_blocks)
    enough = resources.threads * max(least, DECODE_FLOOR_BYTES) + footprint.DECODING_CHILD_BYTES
    while in_flight > 1 and enough > spare(in_flight):
        in_flight -= 1
    children = decoding_children(spare(in_flight), resources.threads, least, isolated=pictures.isolated)
    held_by_children = children * footprint.DECODING_CHILD_BYTES
    decode_bytes = max(least, (spare(in_flight) - held_by_children) // resources.threads)
    return StagePlan(
        stage=INGEST,
        solver="decode",
        why=f"{settings.features} {settings.size}, fit {settings.image.fit}, normalize {settings.image.normalize}",
        block_shape=(rows, columns),
        passes="1 over the files",
        bytes_read=int(n_images * pictures.file_bytes),
        bytes_written=stored_bytes((n_images, n_values), (rows, columns), 1)
        + n_images * MARK_BYTES
        + n_blocks * n_values * 4,  # the blocks' column sums
        # The decode limit is what the rest leaves; what is projected is what the pictures take.
        projected_bytes=projected(in_flight, max(least, pictures.largest_within(decode_bytes))) + held_by_children,
        choices={"in_flight": in_flight, "decode_bytes": decode_bytes, "children": children},
    )


def decoding_children(spare_bytes: int, threads: int, least_bytes: int, *, isolated: bool) -> int:
    """How many children may decode at once: one a thread where pictures need them, beside the decodes of all threads.

    One is planned for in any case, for the file that nobody looked at; but not at the cost of decodes of `least_bytes`.
    isolated : whether some pictures surely need one: without it nothing could be read.
    """
    for decode_bytes in (max(least_bytes, DECODE_FLOOR_BYTES), max(least_bytes, SMALL_DECODE_BYTES)):
        room = (spare_bytes - threads * decode_bytes) // footprint.DECODING_CHILD_BYTES
        if room >= 1:
            return min(threads, room) if isolated else 1
    return 1 if isolated else 0


def target_of(settings: Settings) -> Target:
    """What the reduction is asked for."""
    if settings.components is not None:
        return Components(settings.components)
    assert settings.variance is not None, "one of the two is always set"
    return Variance(settings.variance)


def plan_reduce(settings: Settings, n_images: int, n_values: int, resources: Resources) -> StagePlan:
    """The solver, by the number of listed images and their size, and its workspace, by the budget."""
    if settings.pca.solver == "incremental":
        return _plan_incremental(settings, n_images, n_values, resources)
    target = target_of(settings)
    chosen = choose(n_images, n_values, target)
    solver, why = chosen.solver, chosen.reason
    if settings.pca.solver != "auto":
        solver, why = settings.pca.solver, "asked for by pca.solver"
    baseline = baseline_bytes(settings, resources) + footprint.NAME_BYTES * share_of(n_images, resources)
    workspace = int(max(0, resources.budget_bytes - baseline) * footprint.WORKSPACE_SHARE)
    solver_bytes = project_bytes(solver, (n_images, n_values), _PIXEL, target, resources.threads, workspace)
    projected = int(solver_bytes / footprint.WORKSPACE_SHARE)
    rank = min(n_images, n_values, target.n if isinstance(target, Components) else VARIANCE_RANK)
    return StagePlan(
        stage=REDUCE,
        solver=solver,
        why=why,
        block_shape=pixel_chunks(n_values),
        passes=_PASSES[solver],
        bytes_read=_LEAST_PASSES[solver] * n_images * n_values,
        bytes_written=_reduced_bytes(solver, n_images, n_values, rank),
        projected_bytes=baseline + projected,
        choices={"workspace_bytes": workspace, "rank": rank},
        scratch_bytes=project_scratch_bytes(solver, (n_images, n_values), target, workspace),
    )


def _reduced_bytes(solver: str, n_images: int, n_values: int, rank: int) -> int:
    """Scores and mean; of a Gram fit the left vectors, of the others the components."""
    beside = n_images if solver == "gram" else n_values
    chunks = row_chunks(rank, footprint.FLOAT32)
    stored = sum(stored_bytes((n_rows, rank), chunks, footprint.FLOAT32) for n_rows in (n_images, beside))
    return stored + n_values * footprint.FLOAT64


VARIANCE_RANK = 1024
"""How many components a plan reckons with before the spectrum is known."""
_PIXEL = np.dtype(np.uint8)
_PASSES = {
    "gram": "1 over the pixels",
    "covariance": "1 over the pixels, 1 for scores",
    "subspace": "4 or more over the pixels, each in one or two reads",
}
_LEAST_PASSES = {"gram": 1, "covariance": 2, "subspace": 4}


def _plan_incremental(settings: Settings, n_images: int, n_values: int, resources: Resources) -> StagePlan:
    baseline = baseline_bytes(settings, resources)
    usable = resources.budget_bytes - baseline
    batch_rows, rank = incremental_batch(n_images, n_values, settings.components, usable)
    return StagePlan(
        stage=REDUCE,
        solver="incremental",
        why="asked for by pca.solver",
        block_shape=(batch_rows, n_values),
        passes="2 over the pixels: fit, then scores",
        bytes_read=2 * n_images * n_values,
        bytes_written=_reduced_bytes("incremental", n_images, n_values, rank),
        projected_bytes=baseline
        + footprint.project_incremental_bytes(batch_rows=batch_rows, rank=rank, n_values=n_values),
        choices={"batch_rows": batch_rows, "rank": rank},
    )


INCREMENTAL_BATCH_ROWS = 1024
"""Larger batches gain little accuracy: the basis is refined often enough."""
INCREMENTAL_MAX_RANK = 1024
"""A variance target does not say its rank; the fit's time grows with its square."""


def incremental_batch(n_images: int, n_values: int, components: int | None, usable_bytes: int) -> tuple[int, int]:
    """(batch_rows, rank) of the incremental solver: what fits, with a batch never smaller than the rank."""
    affordable = max(1, footprint.incremental_rows(n_values, usable_bytes))  # batch + rank
    if components is None:
        rank = max(1, min(affordable // 2, n_images, n_values, INCREMENTAL_MAX_RANK))
    else:
        rank = components
    batch_rows = min(n_images, max(rank, min(affordable - rank, INCREMENTAL_BATCH_ROWS)))
    return batch_rows, rank


def plan_cluster(settings: Settings, n_images: int, n_columns: int, resources: Resources) -> StagePlan:
    """k-means on rows of n_columns values: scores, or the pixels themselves."""
    n_clusters = max(settings.ks, default=1)
    solver, why = settings.kmeans.algorithm, "asked for by kmeans.algorithm"
    if solver == "auto":
        solver, why = choose_kmeans(n_images, n_columns, n_clusters)
    extra = charts_bytes(settings)
    if solver == "dask-ml":
        extra += footprint.project_dask_kmeans_bytes(
            n_columns=n_columns, n_clusters=n_clusters, block_rows=block_rows(n_columns), threads=resources.threads
        )
    return _plan_lloyd(settings, CLUSTER, solver, why, (n_images, n_columns), settings.ks, extra, resources)


def plan_sweep(
    settings: Settings, ks: tuple[int, ...], n_images: int, n_columns: int, resources: Resources
) -> StagePlan:
    """All k at once: beside the largest fit, the labels, bounds and centers of every other one."""
    n_restarts = max(2, settings.kmeans.n_init)
    others = sum(
        project_labels_bytes(n_images, k, n_restarts)
        + project_centers_bytes(n_columns, k, n_restarts)
        + (project_bounds_bytes(n_images, k) * n_restarts if k >= PRUNE_FROM else 0)
        for k in ks
    )
    # A block hands over new labels for every start: as found, and as they are kept.
    handed = resources.threads * min(n_images, block_rows(n_columns)) * 6 * n_restarts * len(ks)
    why = f"{len(ks)} values of k share passes"
    extra = footprint.CHARTS_BYTES + others + handed
    return _plan_lloyd(settings, SWEEP, "lloyd", why, (n_images, n_columns), ks, extra, resources)


def plan_predict(
    settings: Settings, n_images: int, n_own: int, n_values: int, n_columns: int, n_clusters: int, resources: Resources
) -> StagePlan:
    """Blocks of new pixels, as many rows as the budget leaves room for, up to a row block of the store.

    settings : its images are the new ones. n_own : images of the model, among which it is found what is usual.
    """
    baseline = baseline_bytes(settings, resources)
    threads = resources.threads

    def projected(rows: int) -> int:
        return (
            baseline
            + manifest_bytes(settings, resources)
            + footprint.project_novelty_bytes(n_own)
            + footprint.project_predict_bytes(rows=rows, n_values=n_values, n_columns=n_columns, n_clusters=n_clusters)
            + threads * DECODE_FLOOR_BYTES
        )

    rows = min(n_images, pixel_chunks(n_values)[0])
    while rows > 1 and projected(rows) > resources.budget_bytes:
        rows //= 2
    spare = max(0, resources.budget_bytes - projected(rows)) + threads * DECODE_FLOOR_BYTES
    children = decoding_children(spare, threads, SMALL_DECODE_BYTES, isolated=False)
    held_by_children = children * footprint.DECODING_CHILD_BYTES
    return StagePlan(
        stage=PREDICT,
        solver="stored model",
        why="nothing is fitted",
        block_shape=(rows, n_values),
        passes="1 over the files",
        bytes_read=0,
        bytes_written=0,
        projected_bytes=projected(rows),
        choices={"decode_bytes": (spare - held_by_children) // threads, "children": children},
    )


def plan_output(
    settings: Settings, n_images: int, n_values: int, n_columns: int, resources: Resources, pictures: Pictures
) -> StagePlan:
    """Folders and tables: what is known of every row, once, in the process that writes them."""
    block_rows = min(n_images, pixel_chunks(n_values)[0])
    copied = int(n_images * pictures.file_bytes) if settings.link == "copy" else 0
    return StagePlan(
        stage=OUTPUT,
        solver="files",
        why=f"link {settings.link}",
        block_shape=(n_images, n_columns),
        passes="1 over the rows",
        bytes_read=copied,
        bytes_written=n_images * TABLE_BYTES + copied,
        projected_bytes=clustering_baseline_bytes(settings, resources)
        + charts_bytes(settings)
        + manifest_bytes(settings, resources)
        + footprint.project_output_bytes(n_images, block_rows=block_rows, linked=settings.link != "none"),
    )


def _plan_lloyd(
    settings: Settings,
    stage: str,
    solver: str,
    why: str,
    shape: tuple[int, int],
    ks: tuple[int, ...],
    extra_bytes: int,
    resources: Resources,
) -> StagePlan:
    n_images, n_columns = shape
    n_rows = share_of(n_images, resources)
    itemsize = footprint.FLOAT32 if settings.reduce == "pca" else 1
    n_clusters = max(ks, default=1)
    least = clustering_baseline_bytes(settings, resources)
    least += footprint.project_memberships_bytes(n_rows) + extra_bytes
    least += project_lloyd_bytes(
        n_rows,
        n_columns,
        n_clusters,
        itemsize=itemsize,
        n_restarts=settings.kmeans.n_init,
        threads=resources.threads,
    )
    workspace = int(max(0, resources.budget_bytes - least) * footprint.WORKSPACE_SHARE)
    rows_bytes = n_rows * n_columns * itemsize
    row_bytes_in_memory = int(min(workspace, rows_bytes) / footprint.WORKSPACE_SHARE)
    return StagePlan(
        stage=stage,
        solver=solver,
        why=why,
        block_shape=(min(n_images, block_rows(n_columns)), n_columns),
        passes="until the centers rest",
        bytes_read=n_images * n_columns * itemsize,
        bytes_written=n_images * 24 + n_clusters * n_columns * footprint.FLOAT64,
        projected_bytes=least + row_bytes_in_memory,
        choices={"workspace_bytes": workspace},
    )
