"""What a plan is: plain data, shown to a person, checked against the budget, handed to the stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bigcluster.errors import MemoryBudgetError
from bigcluster.planning.stage_names import CLUSTER, OUTPUT, REDUCE, SWEEP
from bigcluster.units import MIB, show_bytes


@dataclass(frozen=True)
class Pictures:
    """From the headers of some of the files; means are per listed file."""

    looked_at: int
    """0: nothing was, they are assumed."""
    working_bytes: tuple[int, ...]
    """What decoding each of them takes, without repetitions, ascending."""
    file_bytes: float
    jpeg_pixels: float
    """Decoded at full scale."""
    reduced_pixels: float
    """Pixels in the file of a JPEG that is decoded at a reduced scale."""
    other_pixels: float
    isolated: bool = False
    """Whether some of them decode in a child: their headers may lie about what they take."""

    @property
    def largest_bytes(self) -> int:
        """The most that one decode of them takes."""
        return self.working_bytes[-1]

    def largest_within(self, limit_bytes: int) -> int:
        """The most that one decode takes of those that a limit lets pass; the others become too_large."""
        return max((n_bytes for n_bytes in self.working_bytes if n_bytes <= limit_bytes), default=0)


def assumed(width: int, height: int) -> Pictures:
    """Baseline JPEGs of the target size or of a catalog cut, 300 x 430, whichever is larger."""
    n_pixels = max(width * height, 300 * 430)
    return Pictures(0, (8 * n_pixels,), 0.36 * n_pixels, n_pixels, 0, 0)


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
    """What stays on the disk."""
    projected_bytes: int
    """Of the whole process tree while this stage runs; on a cluster, of one worker."""
    choices: dict[str, int] = field(default_factory=dict)
    scratch_bytes: int = 0
    """On the disk beside it, at most, while this stage runs."""
    seconds: float | None = None
    """Estimated; None where nobody asked."""


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
    pictures: Pictures
    floor_bytes: int
    """What a run of this configuration holds before it holds any data."""
    is_bound: bool = False
    """The number of components is not known before the spectrum is: clustering and the scores are upper bounds."""
    workers: int = 1
    joined: bool = False
    client_bytes: int = 0
    """On a cluster: what the process that starts the job will hold."""
    estimated_on: str | None = None
    """The day on which this machine's rates were measured, where seconds are estimated."""

    def stage(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.stage == name)

    @property
    def projected_bytes(self) -> int:
        return max(stage.projected_bytes for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """What OUT will take in the end; hard links take no room of their own."""
        return sum(stage.bytes_written for stage in self.stages)

    @property
    def peak_disk_bytes(self) -> int:
        """What OUT will take at most on the way there."""
        written, peak = 0, 0
        for stage in self.stages:
            peak = max(peak, written + stage.bytes_written + stage.scratch_bytes)
            written += stage.bytes_written
        return peak

    @property
    def seconds(self) -> float | None:
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def check(self) -> None:
        """Raise MemoryBudgetError where a stage does not fit: what it needs, what is allowed, what to change."""
        width, height = self.image_size
        smaller = f"--size {max(1, width // 2)}x{max(1, height // 2)}"
        otherwise = {SWEEP: "fewer values of k", OUTPUT: "--link none"}
        if any(stage.stage == REDUCE for stage in self.stages):  # else clusters are of pixels
            otherwise[CLUSTER] = "fewer clusters"
        worst = max(self.stages, key=lambda stage: stage.projected_bytes).stage
        check_budget(
            self.stages, self.budget_bytes, otherwise=otherwise.get(worst, smaller), floor_bytes=self.floor_bytes
        )

    def replaced(self, stage: StagePlan) -> Plan:
        """The plan with another plan for one stage."""
        return replace(self, stages=tuple(stage if old.stage == stage.stage else old for old in self.stages))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """Of what `to_json` gave; the totals in it are not looked at."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        stages = (StagePlan(**{**stage, "block_shape": tuple(stage["block_shape"])}) for stage in fields["stages"])
        pictures = Pictures(**{**fields["pictures"], "working_bytes": tuple(fields["pictures"]["working_bytes"])})
        size = (fields["image_size"][0], fields["image_size"][1])
        return cls(**{**fields, "stages": tuple(stages), "pictures": pictures, "image_size": size})

    def to_json(self) -> dict[str, Any]:
        totals = {
            "projected_bytes": self.projected_bytes,
            "disk_bytes": self.disk_bytes,
            "peak_disk_bytes": self.peak_disk_bytes,
            "seconds": self.seconds,
        }
        return asdict(self) | totals


def check_budget(stages: Iterable[StagePlan], budget_bytes: int, *, otherwise: str, floor_bytes: int = 0) -> None:
    """Raise MemoryBudgetError for the stage that needs most, where that is too much. `otherwise`: what else to do.

    Below the floor nothing else would help, and the message says so.
    """
    worst = max(stages, key=lambda stage: stage.projected_bytes)
    if worst.projected_bytes <= budget_bytes:
        return
    enough = f"--memory {-(-worst.projected_bytes // (16 * MIB)) * 16}MiB"
    budget = f"the budget is {show_bytes(budget_bytes)}"
    if budget_bytes < floor_bytes:
        raise MemoryBudgetError(
            f"{budget}, below the floor: Python and the libraries alone hold {show_bytes(floor_bytes)}, and stage "
            f"'{worst.stage}' needs {show_bytes(worst.projected_bytes)} with them; use {enough}"
        )
    raise MemoryBudgetError(
        f"stage '{worst.stage}' needs {show_bytes(worst.projected_bytes)}, {budget}; use {enough} or {otherwise}"
    )
