"""What every job has: settings, resources, a runtime; and the clock and the memory sampler around its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.config import Settings
from bigcluster.errors import DamagedError
from bigcluster.files.bounded import limit_parsing
from bigcluster.planning.stages import baseline_bytes
from bigcluster.runtime.events import Listener, Progress
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller, MemorySampler, Reading, release_memory
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.stages.context import Context
from bigcluster.store import Store
from bigcluster.units import MIB

LEAST_LISTING_BYTES = 16 * MIB
"""What names may take in any case: where a budget has no room even for these, the plan refuses it and says its need."""

PARSING_PARTS = 2
"""Of what the budget leaves, one may go into a file that is parsed: beside it, another one or a list of files is
held."""


@dataclass(frozen=True)
class Job:
    """One call: what was asked for and what it may use."""

    settings: Settings
    resources: Resources
    out: Path
    progress: Progress
    runtime: Runtime
    stages: Stages

    def context(self, store: Store) -> Context:
        """What the stages of this job work with, on its open store."""
        return Context(store, self.settings, self.runtime, self.progress)

    @property
    def left_bytes(self) -> int:
        """What the budget leaves beyond Python and the libraries: the most that one array of OUT may take."""
        least = baseline_bytes(self.settings, self.resources, products=False)
        return max(LEAST_LISTING_BYTES, self.resources.budget_bytes - least)


def open_job(settings: Settings, resources: Resources, listener: Listener, caller: Caller | None) -> Job:
    """`caller`: the process whose tree the budget covers; by default this one."""
    assert settings.out is not None
    sampler = MemorySampler() if caller is None else MemorySampler(caller)
    progress = Progress(listener)
    runtime = EmbeddedRuntime(resources.threads)
    # The folder itself, where OUT is a link: what lies below it is reached without following links.
    out = Path(os.path.realpath(settings.out))
    job = Job(settings, resources, out, progress, runtime, Stages(sampler, progress))
    limit_parsing(job.left_bytes // PARSING_PARTS)
    return job


@contextmanager
def naming_damage(store: Store, before_dropping: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Where a stored array turns out damaged, drop the marks that vouch for it and say what happens next.

    before_dropping : may raise, where the marks are another process's to change.
    """
    try:
        yield
    except DamagedError as error:
        before_dropping()
        files = store.drop_damaged()
        what = f"{len(files)} damaged files, such as {files[0]}" if files else str(error)
        raise DamagedError(f"{store.root}: {what}; run again: what is damaged is made anew") from error


class Stages:
    """Seconds, peak memory and facts of each stage as it ran: the one account of a job, for all who tell of it."""

    def __init__(self, sampler: MemorySampler, progress: Progress) -> None:
        self.sampler = sampler
        self.facts: dict[str, dict[str, Any]] = {}
        self._progress = progress
        self._began = time.monotonic()
        self._running: _Running | None = None
        self._account: Account | None = None

    @contextmanager
    def measure(self, name: str, projected_bytes: int | None = None) -> Iterator[dict[str, Any]]:
        """Time a stage and take its peak; the stage adds its own facts to what is yielded."""
        self.sampler.enter(name)
        self._running = running = _Running(name, projected_bytes)
        with self._progress.timed(name, lambda: float(self.facts[name]["seconds"])):
            yield running.facts
            if self._account is None:
                self._end(running)
                release_memory()
            self.facts[name] |= {key: value for key, value in running.facts.items() if key not in self.facts[name]}

    def _end(self, stage: _Running) -> None:
        self._running = None
        self.sampler.enter(stage.name)  # a last sample at the end of the stage
        self.facts[stage.name] = {
            "began_at": round(stage.began_at, 3),
            "seconds": round(time.monotonic() - stage.began, 3),
            **stage.facts,
            "projected_peak_bytes": stage.projected_bytes,
            "measured_peak_bytes": self.sampler.peaks[stage.name].peak_bytes,
        }

    def close(self) -> Account:
        """End the account, and the stage that runs, if one does: what comes after belongs to no figure.

        So the report can show just what summary.json has, though it is written as its own stage ends.
        """
        if self._account is None:
            if self._running is not None:
                self._end(self._running)
            self._account = self.account()
        return self._account

    def account(self) -> Account:
        """As it is so far."""
        peaks, rows = self.sampler.so_far()
        for name, facts in self.facts.items():  # samples come in between two stages too
            facts["measured_peak_bytes"] = peaks[name]
        seconds = round(time.monotonic() - self._began, 3)
        return Account(seconds, max(row.n_bytes for row in rows), self.sampler.unseen_bytes, rows)


@dataclass(frozen=True)
class _Running:
    """A stage at work."""

    name: str
    projected_bytes: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    began_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Account:
    """Of a whole job."""

    seconds: float
    """From its first step, the listing, on."""
    peak_bytes: int
    unseen_bytes: int
    timeline: list[Reading]
