"""What a plan is: plain data, shown to a person, checked against the budget, handed to the stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bigcluster.errors import MemoryBudgetError
from bigcluster.units import MIB, show_bytes


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
        width, height = self.image_size
        smaller = f"--size {max(1, width // 2)}x{max(1, height // 2)}"
        check_budget(self.stages, self.budget_bytes, otherwise=smaller)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_budget(stages: Iterable[StagePlan], budget_bytes: int, *, otherwise: str) -> None:
    """Raise MemoryBudgetError for the stage that needs most, where that is too much. `otherwise`: what else to do."""
    worst = max(stages, key=lambda stage: stage.projected_bytes)
    if worst.projected_bytes > budget_bytes:
        enough = -(-worst.projected_bytes // (16 * MIB)) * 16
        raise MemoryBudgetError(
            f"stage '{worst.stage}' needs {show_bytes(worst.projected_bytes)}, the budget is "
            f"{show_bytes(budget_bytes)}; use --memory {enough}MiB or {otherwise}"
        )
