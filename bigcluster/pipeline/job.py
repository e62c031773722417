"""What every job has: settings, resources, a runtime; and the clock and the memory sampler around its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.config import Settings
from bigcluster.errors import DamagedError
from bigcluster.measure import Caller, MemorySampler, Reading, release_memory
from bigcluster.planning import Resources
from bigcluster.progress import Listener, Progress
from bigcluster.runtime import EmbeddedRuntime, Runtime
from bigcluster.store import Store
from bigcluster.units import MIB

LEAST_LISTING_BYTES = 16 * MIB
"""What names may take in any case: where a budget has no room even for these, the plan refuses it and says its need."""


@dataclass(frozen=True)
class Job:
    """One call: what was asked for and what it may use."""

    settings: Settings
    resources: Resources
    out: Path
    progress: Progress
    runtime: Runtime
    stages: Stages


def open_job(settings: Settings, resources: Resources, listener: Listener, caller: Caller | None) -> Job:
    """`caller`: the process whose tree the budget covers; by default this one."""
    assert settings.out is not None
    sampler = MemorySampler() if caller is None else MemorySampler(caller)
    runtime = EmbeddedRuntime(resources.threads)
    # The folder itself, where OUT is a link: what lies below it is reached without following links.
    out = Path(os.path.realpath(settings.out))
    return Job(settings, resources, out, Progress(listener), runtime, Stages(sampler))


@contextmanager
def naming_damage(store: Store) -> Iterator[None]:
    """Where a stored array turns out damaged, drop the marks that vouch for it and say what happens next."""
    try:
        yield
    except DamagedError as error:
        files = store.drop_damaged()
        what = f"{len(files)} damaged files, such as {files[0]}" if files else str(error)
        raise DamagedError(f"{store.root}: {what}; run again: what is damaged is made anew") from error


@dataclass
class Stages:
    """Seconds, peak memory and facts of each stage as it ran."""

    sampler: MemorySampler
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str, projected_bytes: int | None = None) -> Iterator[dict[str, Any]]:
        """Time a stage and take its peak; the stage adds its own facts to what is yielded."""
        self.sampler.enter(name)
        began_at, began = time.time(), time.monotonic()
        facts: dict[str, Any] = {}
        yield facts
        self.sampler.enter(name)  # a last sample at the end of the stage
        release_memory()
        self.facts[name] = {
            "began_at": round(began_at, 3),
            "seconds": round(time.monotonic() - began, 3),
            **facts,
            "projected_peak_bytes": projected_bytes,
            "measured_peak_bytes": self.sampler.peaks[name].peak_bytes,
        }

    def take_peaks(self) -> list[Reading]:
        """The timeline so far, and in the facts the peaks that it shows: samples come in between two stages too."""
        peaks, rows = self.sampler.so_far()
        for name, facts in self.facts.items():
            facts["measured_peak_bytes"] = peaks[name]
        return rows
