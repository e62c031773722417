"""What a run will do, decided before any image is decoded: stages, block shapes, projected bytes.

The budget is turned into blocks in flight, batches and workspaces here and nowhere else. A plan that cannot fit is
refused with the setting that would.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bigcluster import memory
from bigcluster.chunks import chunk_shape
from bigcluster.config import Settings
from bigcluster.errors import MemoryBudgetError
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.projection import project_lloyd_bytes
from bigcluster.units import MIB, show_bytes

DECODE_FLOOR_BYTES = 32 * MIB
"""Working memory per decode thread that every plan grants: a picture of about 4 megapixels of any kind."""
BLOCKS_IN_FLIGHT = 2
"""One row block is decoded while another is written."""


@dataclass(frozen=True)
class Resources:
    """What schedules a run without deciding its result; never kept."""

    budget_bytes: int
    threads: int
    budget_given: bool = True
    """False: half of what the process may use."""


@dataclass(frozen=True)
class StagePlan:
    """One stage as planned. `choices` are what the budget settled."""

    stage: str
    solver: str
    why: str
    block_shape: tuple[int, int]
    passes: str
    bytes_read: int
    bytes_written: int
    projected_bytes: int
    """Of the whole process tree while this stage runs."""
    choices: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    n_images: int
    image_size: tuple[int, int]
    """(width, height)"""
    n_values: int
    """d: values per image."""
    budget_bytes: int
    threads: int
    stages: tuple[StagePlan, ...]

    def stage(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.stage == name)

    @property
    def projected_bytes(self) -> int:
        return max(stage.projected_bytes for stage in self.stages)

    def check(self) -> None:
        """Raise MemoryBudgetError where a stage does not fit: what it needs, what is allowed, what to change."""
        worst = max(self.stages, key=lambda stage: stage.projected_bytes)
        if worst.projected_bytes > self.budget_bytes:
            enough = -(-worst.projected_bytes // (16 * MIB)) * 16
            width, height = self.image_size
            smaller = f"{max(1, width // 2)}x{max(1, height // 2)}"
            raise MemoryBudgetError(
                f"stage '{worst.stage}' needs {show_bytes(worst.projected_bytes)}, the budget is "
                f"{show_bytes(self.budget_bytes)}; use --memory {enough}MiB or --size {smaller}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(settings: Settings, n_images: int, image_size: tuple[int, int], resources: Resources) -> Plan:
    """Plan a run of `n_images` listed files. Pure arithmetic: nothing is read."""
    width, height = image_size
    n_values = width * height * (3 if settings.features == "color" else 1)
    stages = [_plan_ingest(settings, n_images, n_values, resources)]
    if settings.reduce == "pca":
        stages.append(_plan_reduce(settings, n_images, n_values, resources))
    n_columns = stages[-1].choices.get("rank", n_values)
    stages.append(_plan_cluster(settings, n_images, n_columns, resources))
    return Plan(n_images, image_size, n_values, resources.budget_bytes, resources.threads, tuple(stages))


def _baseline(settings: Settings) -> int:
    dask_ml = settings.kmeans.algorithm == "dask-ml" or (
        settings.reduce == "pca" and settings.pca.solver == "incremental"
    )
    return memory.project_baseline_bytes(dask_ml=dask_ml)


def _plan_ingest(settings: Settings, n_images: int, n_values: int, resources: Resources) -> StagePlan:
    rows, columns = chunk_shape(n_values, 1)
    rows_used = min(rows, n_images)
    n_blocks = -(-n_images // rows)
    baseline = _baseline(settings)

    def projected(in_flight: int, decode_bytes: int) -> int:
        return baseline + memory.project_ingest_bytes(
            block_rows=rows_used,
            n_values=n_values,
            in_flight=in_flight,
            threads=resources.threads,
            decode_bytes=decode_bytes,
        )

    in_flight = min(BLOCKS_IN_FLIGHT, n_blocks)
    while in_flight > 1 and projected(in_flight, DECODE_FLOOR_BYTES) > resources.budget_bytes:
        in_flight -= 1
    spare = resources.budget_bytes - projected(in_flight, 0)
    decode_bytes = max(DECODE_FLOOR_BYTES, spare // resources.threads)
    return StagePlan(
        stage="ingest",
        solver="decode",
        why=f"{settings.features} {settings.size}, fit {settings.image.fit}, normalize {settings.image.normalize}",
        block_shape=(rows, columns),
        passes="1 over the files",
        bytes_read=0,
        bytes_written=n_images * n_values,
        # The decode limit is what the rest leaves; what is projected is what ordinary pictures take.
        projected_bytes=projected(in_flight, DECODE_FLOOR_BYTES),
        choices={"in_flight": in_flight, "decode_bytes": decode_bytes},
    )


def _plan_reduce(settings: Settings, n_images: int, n_values: int, resources: Resources) -> StagePlan:
    baseline = _baseline(settings)
    usable = resources.budget_bytes - baseline
    batch_rows, rank = incremental_batch(n_images, n_values, settings.components, usable)
    return StagePlan(
        stage="reduce",
        solver=settings.pca.solver,
        why="asked for by pca.solver",
        block_shape=(batch_rows, n_values),
        passes="2 over the pixels: fit, then scores",
        bytes_read=2 * n_images * n_values,
        bytes_written=n_images * rank * memory.FLOAT32,
        projected_bytes=baseline
        + memory.project_incremental_bytes(batch_rows=batch_rows, rank=rank, n_values=n_values),
        choices={"batch_rows": batch_rows, "rank": rank},
    )


INCREMENTAL_BATCH_ROWS = 1024
"""Larger batches gain little accuracy: the basis is refined often enough."""
INCREMENTAL_MAX_RANK = 1024
"""A variance target does not say its rank; the fit's time grows with its square."""


def incremental_batch(n_images: int, n_values: int, components: int | None, usable_bytes: int) -> tuple[int, int]:
    """(batch_rows, rank) of the incremental solver: what fits, with a batch never smaller than the rank."""
    affordable = max(1, memory.incremental_rows(n_values, usable_bytes))  # batch + rank
    if components is None:
        rank = max(1, min(affordable // 2, n_images, n_values, INCREMENTAL_MAX_RANK))
    else:
        rank = components
    batch_rows = min(n_images, max(rank, min(affordable - rank, INCREMENTAL_BATCH_ROWS)))
    return batch_rows, rank


def _plan_cluster(settings: Settings, n_images: int, n_columns: int, resources: Resources) -> StagePlan:
    solver = settings.kmeans.algorithm
    itemsize = memory.FLOAT32 if settings.reduce == "pca" else 1
    baseline = _baseline(settings)
    memberships = memory.project_memberships_bytes(n_images)
    least = project_lloyd_bytes(
        n_images,
        n_columns,
        settings.k or 1,
        itemsize=itemsize,
        n_starts=settings.kmeans.n_init,
        threads=resources.threads,
    )
    if solver == "dask-ml":
        least += memory.project_dask_kmeans_bytes(
            n_columns=n_columns, n_clusters=settings.k or 1, block_rows=block_rows(n_columns), threads=resources.threads
        )
    return StagePlan(
        stage="cluster",
        solver=solver,
        why="asked for by kmeans.algorithm",
        block_shape=(min(n_images, block_rows(n_columns)), n_columns),
        passes="until the centers rest",
        bytes_read=n_images * n_columns * itemsize,
        bytes_written=n_images * 24,
        projected_bytes=baseline + memberships + least,
        choices={"workspace_bytes": max(0, resources.budget_bytes - baseline - memberships - least)},
    )
