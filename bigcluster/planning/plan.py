"""This module defines a plan: plain data that is shown to the user, checked against the budget and used by the
stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bigcluster.errors import MemoryBudgetError
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.footprint import SHARED_BYTES
from bigcluster.planning.stage_names import CLUSTER, MANIFOLD, NEIGHBORS, OUTPUT, REDUCE, SWEEP
from bigcluster.runtime.resources import Resources
from bigcluster.units import MIB, show_bytes


@dataclass(frozen=True)
class Pictures:
    """What the headers of some of the files say. Means are per listed file."""

    looked_at: int
    """The number of headers that were read. It is 0 where the values are assumed."""
    working_bytes: tuple[int, ...]
    """The bytes that decoding each of these files takes, ascending and without repetitions."""
    file_bytes: float
    """The mean size of a file in bytes."""
    jpeg_pixels: float
    """The mean number of JPEG pixels that are decoded at full scale."""
    reduced_pixels: float
    """The mean number of pixels in the file of JPEGs that are decoded at a reduced scale."""
    other_pixels: float
    """The mean number of pixels of other formats."""
    isolated: bool = False
    """Whether a child decodes some of them, because their headers cannot be trusted."""
    are_photos: bool = False
    """Whether most look like photographs: JPEGs in colour of several sizes. Scans of a catalog have one size."""

    @property
    def largest_bytes(self) -> int:
        """The largest number of bytes that decoding one of these files takes."""
        return self.working_bytes[-1]

    def largest_within(self, limit_bytes: int) -> int:
        """Return the largest number of bytes of one decode within a limit. Larger pictures become too_large."""
        return max((n_bytes for n_bytes in self.working_bytes if n_bytes <= limit_bytes), default=0)


def assumed(width: int, height: int) -> Pictures:
    """Return assumed values: baseline JPEGs of the target size or of 300 x 430 pixels, whichever is larger."""
    n_pixels = max(width * height, 300 * 430)
    return Pictures(0, (8 * n_pixels,), 0.36 * n_pixels, n_pixels, 0, 0)


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage. `choices` are the values that the budget decides."""

    stage: str
    solver: str
    why: str
    block_shape: tuple[int, int]
    passes: str
    bytes_read: int
    bytes_written: int
    """The bytes that stay on the disk."""
    projected_bytes: int
    """The bytes of memory of the whole process tree while this stage runs; on a cluster, of one worker. 0 where the
    process that starts the job does all of it."""
    choices: dict[str, int] = field(default_factory=dict)
    scratch_bytes: int = 0
    """The largest number of temporary bytes on the disk while this stage runs."""
    seconds: float | None = None
    """The estimated seconds, or None where they were not estimated."""
    n_busy: int = 1
    """On a cluster, the number of workers that hold data of the stage; the others wait."""
    client_bytes: int = 0
    """On a cluster, the bytes of the process that starts the job while this stage runs."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    n_images: int
    image_size: tuple[int, int]
    """(width, height) in pixels."""
    n_values: int
    """The number of stored pixel values of an image."""
    features: FeatureShape
    """A row of the matrix that the stages after ingest work on."""
    budget_bytes: int
    threads: int
    stages: tuple[StagePlan, ...]
    pictures: Pictures
    floor_bytes: int
    """The bytes that a run of this configuration holds before it holds any data."""
    is_bound: bool = False
    """Whether the plans of clustering and scores are upper bounds: the spectrum decides the number of components."""
    workers: int = 1
    joined: bool = False
    tree_budget_bytes: int = 0
    """The budget of all processes together, where the run starts the workers: `budget_bytes` is the part of each."""
    idle_bytes: int = 0
    """On a cluster, the bytes of a worker that waits."""
    estimated_on: str | None = None
    """The day on which this machine's rates were measured, where seconds are estimated."""

    def stage(self, name: str) -> StagePlan:
        """Return the plan of one stage. Raises StopIteration where the run has no such stage."""
        return next(stage for stage in self.stages if stage.stage == name)

    @property
    def projected_bytes(self) -> int:
        """The projected peak memory of the run in bytes."""
        return max(stage.projected_bytes for stage in self.stages)

    @property
    def client_bytes(self) -> int:
        """On a cluster, the projected peak of the process that starts the job, in bytes."""
        return max(stage.client_bytes for stage in self.stages)

    def tree_bytes_of(self, stage: StagePlan) -> int:
        """Return the projected bytes of the processes of the run on this machine while a stage runs: of all of them, or
        where workers of a cluster were joined, of the process that starts the job."""
        if not self.joined:
            return stage.projected_bytes
        if not self.tree_budget_bytes:
            return stage.client_bytes
        n_busy = stage.n_busy if stage.projected_bytes else 0
        workers = n_busy * stage.projected_bytes + (self.workers - n_busy) * self.idle_bytes
        return workers - self.workers * SHARED_BYTES + stage.client_bytes

    @property
    def tree_bytes(self) -> int:
        """The projected peak of the processes of the run on this machine, in bytes."""
        return max(map(self.tree_bytes_of, self.stages))

    @property
    def client_budget_bytes(self) -> int:
        """On a cluster, the part of the budget that the process that starts the job has."""
        if not self.tree_budget_bytes:
            return self.budget_bytes
        return self.tree_budget_bytes - self.workers * (self.budget_bytes - SHARED_BYTES)

    @property
    def fits(self) -> bool:
        """Whether every process of the run keeps to its part of the budget."""
        return self.projected_bytes <= self.budget_bytes and self.client_bytes <= self.client_budget_bytes

    @property
    def disk_bytes(self) -> int:
        """The bytes of OUT at the end. Hard links take no room of their own."""
        return sum(stage.bytes_written for stage in self.stages)

    @property
    def peak_disk_bytes(self) -> int:
        """The largest number of bytes of OUT during the run."""
        written, peak = 0, 0
        for stage in self.stages:
            peak = max(peak, written + stage.bytes_written + stage.scratch_bytes)
            written += stage.bytes_written
        return peak

    @property
    def seconds(self) -> float | None:
        """The estimated seconds of the run, or None where a stage has no estimate."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def check(self) -> None:
        """Raise MemoryBudgetError where a stage does not fit. It says what is needed, what is allowed and what to
        change."""
        width, height = self.image_size
        smaller = f"--size {max(1, width // 2)}x{max(1, height // 2)}"
        otherwise = {SWEEP: "fewer values of k", OUTPUT: "--link none"}
        if any(stage.stage == REDUCE for stage in self.stages):  # otherwise the features are clustered
            otherwise[CLUSTER] = "fewer clusters"
        if any(stage.stage == NEIGHBORS for stage in self.stages):
            otherwise |= dict.fromkeys((NEIGHBORS, CLUSTER), "-k with a number, for k-means, which takes less")
        otherwise |= self._without_manifold()
        worst = max(self.stages, key=lambda stage: stage.projected_bytes).stage
        self.check_stages(otherwise.get(worst, smaller))

    def check_stages(self, otherwise: str) -> None:
        """Raise MemoryBudgetError where the stage that needs most does not fit. otherwise : as in `check_budget`."""
        if self.fits:
            return
        if not self.tree_budget_bytes:
            if self.client_bytes > max(self.budget_bytes, self.projected_bytes):  # it names the largest need
                enough = _enough(self.client_bytes)
                raise MemoryBudgetError(
                    f"the process that starts the job needs {show_bytes(self.client_bytes)} for Python, names and "
                    f"labels, the budget of each process is {show_bytes(self.budget_bytes)}; use {enough} or fewer "
                    "images"
                )
            check_budget(self.stages, self.budget_bytes, otherwise=otherwise, floor_bytes=self.floor_bytes)
            return
        worst = max(self.stages, key=lambda stage: stage.projected_bytes)
        raise _tree_too_small(
            replace(worst, client_bytes=self.client_bytes),
            self.workers,
            self.tree_budget_bytes,
            f"fewer --workers or {otherwise}",
        )

    def _without_manifold(self) -> dict[str, str]:
        """Return, by stage, what helps where t-SNE or UMAP take too much: their sample, or their library, which stays
        loaded in the stages after them."""
        names = [stage.stage for stage in self.stages]
        if MANIFOLD not in names:
            return {}
        choices, without = self.stage(MANIFOLD).choices, "--set reduce=pca"
        sample = f"--set manifold.sample={choices['largest_sample']}" if choices["largest_sample"] else without
        later = self.stages[names.index(MANIFOLD) + 1 :]
        if max(stage.projected_bytes for stage in later) - choices["library_bytes"] > self.budget_bytes:
            return {MANIFOLD: sample}
        return {MANIFOLD: sample} | {stage.stage: without for stage in later}

    def replaced(self, stage: StagePlan) -> Plan:
        """Return this plan with another plan for one stage."""
        return replace(self, stages=tuple(stage if old.stage == stage.stage else old for old in self.stages))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote. Its totals are ignored."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        stages = (StagePlan(**{**stage, "block_shape": tuple(stage["block_shape"])}) for stage in fields["stages"])
        pictures = Pictures(**{**fields["pictures"], "working_bytes": tuple(fields["pictures"]["working_bytes"])})
        size = (fields["image_size"][0], fields["image_size"][1])
        known = {"stages": tuple(stages), "pictures": pictures, "image_size": size}
        return cls(**{**fields, **known, "features": FeatureShape(**fields["features"])})

    def to_json(self) -> dict[str, Any]:
        """Return the plan and its totals as a JSON object."""
        totals = {
            "projected_bytes": self.projected_bytes,
            "client_bytes": self.client_bytes,
            "tree_bytes": self.tree_bytes,
            "disk_bytes": self.disk_bytes,
            "peak_disk_bytes": self.peak_disk_bytes,
            "seconds": self.seconds,
        }
        return asdict(self) | totals


def check_budget(stages: Iterable[StagePlan], budget_bytes: int, *, otherwise: str, floor_bytes: int = 0) -> None:
    """Raise MemoryBudgetError where the stage that needs most memory does not fit the budget.

    otherwise : another change that helps, for the message. Below the floor only a larger budget helps, and the message
    says so.
    """
    worst = max(stages, key=lambda stage: stage.projected_bytes)
    if worst.projected_bytes <= budget_bytes:
        return
    enough = _enough(worst.projected_bytes)
    budget = f"the budget is {show_bytes(budget_bytes)}"
    if budget_bytes < floor_bytes:
        raise MemoryBudgetError(
            f"{budget}, below the floor: Python and the libraries alone hold {show_bytes(floor_bytes)}, and stage "
            f"'{worst.stage}' needs {show_bytes(worst.projected_bytes)} with them; use {enough}"
        )
    raise MemoryBudgetError(
        f"stage '{worst.stage}' needs {show_bytes(worst.projected_bytes)}, {budget}; use {enough} or {otherwise}"
    )


def check_on_cluster(stage: StagePlan, resources: Resources, *, otherwise: str) -> int:
    """Return the projected bytes of the processes on this machine while a command of one stage runs on a cluster.

    Raises MemoryBudgetError where they do not fit the budget of all, or on a cluster that is joined, where a worker or
    the process that starts the command does not fit its own. otherwise : as in `check_budget`.
    """
    if not resources.starts_workers:
        most = max(stage.projected_bytes, stage.client_bytes)
        check_budget((replace(stage, projected_bytes=most),), resources.budget_bytes, otherwise=otherwise)
        return stage.client_bytes
    tree_bytes = _tree_bytes(stage, resources.workers)
    if tree_bytes > resources.tree_bytes:
        raise _tree_too_small(stage, resources.workers, resources.tree_bytes, otherwise)
    return tree_bytes


def _tree_bytes(stage: StagePlan, n_workers: int) -> int:
    """Return the bytes of all processes where each worker is busy with a stage."""
    return n_workers * (stage.projected_bytes - SHARED_BYTES) + stage.client_bytes


def _tree_too_small(stage: StagePlan, n_workers: int, budget_bytes: int, otherwise: str) -> MemoryBudgetError:
    """Return the error that all processes of a run with workers do not fit their budget."""
    return MemoryBudgetError(
        f"stage '{stage.stage}' needs {show_bytes(stage.projected_bytes)} in each of {n_workers} worker "
        f"process{'es' * (n_workers > 1)}, and the process that starts the job needs "
        f"{show_bytes(stage.client_bytes)}; the budget of all is {show_bytes(budget_bytes)}: use "
        f"{_enough(_tree_bytes(stage, n_workers))} or {otherwise}"
    )


def _enough(n_bytes: int) -> str:
    """Return the option that gives a budget of at least so many bytes: a multiple of 16 MiB, which is easy to read."""
    return f"--memory {-(-n_bytes // (16 * MIB)) * 16}MiB"
