"""This module holds what all jobs share: settings, resources, a runtime, and the clock and memory sampler of stages."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigcluster.catalog import Listing
from bigcluster.catalog.manifest_rows import LEAST_BYTES
from bigcluster.config import Settings
from bigcluster.errors import DamagedError
from bigcluster.files.bounded import limit_parsing
from bigcluster.planning.stages import baseline_bytes
from bigcluster.runtime.cluster import Cluster, Worker
from bigcluster.runtime.embedded import Embedded
from bigcluster.runtime.events import Listener, Progress
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller, MemorySampler, Reading, Timeline, release_memory
from bigcluster.runtime.threads import EmbeddedRuntime, Runtime
from bigcluster.runtime.workers_memory import ALL, COORDINATOR, ProcessName, WorkersMemory
from bigcluster.stages.context import Context
from bigcluster.store import Store

PARSING_PARTS = 2
"""Number of parts of the remaining budget. One part may be used to parse a file, because another file or a list of
files may be in memory at the same time."""


@dataclass(frozen=True)
class Job:
    """One call of a job: its settings, resources and folder, and what it works with."""

    settings: Settings
    resources: Resources
    out: Path
    progress: Progress
    runtime: Runtime
    cluster: Cluster
    stages: Stages

    def context(self, store: Store) -> Context:
        """Return the argument of the stages of this job, with its open store."""
        return Context(store, self.settings, self.runtime, self.progress, self.cluster)

    @property
    def remaining_bytes(self) -> int:
        """The bytes of the budget beyond Python and the libraries: no array of OUT may be larger."""
        return remaining_bytes(self.settings, self.resources)


def with_workers(job: Job, stack: ExitStack) -> Job:
    """Return the job with the workers that its resources name, until the stack ends; without any, the job as it is.

    Raises ConfigError and ClusterError.
    """
    if not job.resources.joined:
        return job
    from bigcluster.pipeline.on_cluster import on_cluster  # what it imports is not needed otherwise

    return stack.enter_context(on_cluster(job))


def attest_workers(job: Job, stack: ExitStack, listing: Listing | None = None) -> None:
    """Check that the workers of the job can do it, where it has any, and those that join until the stack ends.

    listing : the images that they must see. OUT must be locked until the stack ends. Raises ClusterError.
    """
    if job.resources.joined:
        from bigcluster.pipeline.attestation import attested

        stack.enter_context(attested(job, listing))


def remaining_bytes(settings: Settings, resources: Resources) -> int:
    """Return the bytes of the budget beyond Python and the libraries."""
    return max(LEAST_BYTES, resources.budget_bytes - baseline_bytes(settings, resources, products=False))


def open_job(settings: Settings, resources: Resources, listener: Listener, caller: Caller | None) -> Job:
    """Return the job of one call.

    caller : the process whose tree the budget covers; by default this process.
    """
    assert settings.out is not None
    sampler = MemorySampler() if caller is None else MemorySampler(caller)
    progress = Progress(listener)
    runtime = EmbeddedRuntime(resources.threads)
    # The folder itself, where OUT is a link: what lies below it is reached without following links.
    out = Path(os.path.realpath(settings.out))
    cluster = Embedded(Worker(runtime, resources.budget_bytes, progress))
    job = Job(settings, resources, out, progress, runtime, cluster, Stages(sampler, progress))
    limit_parsing(job.remaining_bytes // PARSING_PARTS)
    return job


@contextmanager
def naming_damage(store: Store, before_dropping: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Where a stored array is found to be damaged, delete its marks and raise a DamagedError that says what to do.

    before_dropping : called first; it may raise where another process owns the marks.
    """
    try:
        yield
    except DamagedError as error:
        before_dropping()
        files = store.drop_damaged()
        what = f"{len(files)} damaged files, such as {files[0]}" if files else str(error)
        raise DamagedError(f"{store.out}: {what}; run again: what is damaged is made anew") from error


class Stages:
    """The seconds, peak memory and facts of each stage of a job. The summary, the report and progress all read them
    here."""

    def __init__(self, sampler: MemorySampler, progress: Progress) -> None:
        self.sampler = sampler
        self.facts: dict[str, dict[str, Any]] = {}
        self._progress = progress
        self._began = time.monotonic()
        self._running: _Running | None = None
        self._account: Account | None = None
        self.release: Callable[[], None] = release_memory
        """Gives freed memory back to the system between two stages."""
        self.workers: WorkersMemory | None = None
        """The memory of the workers of a cluster; None where there are none."""

    def follow_workers(self, memory: WorkersMemory, *, is_tree: bool) -> None:
        """Account for the workers of a cluster too. is_tree : whether they are in the process tree that is sampled."""
        self.workers = memory
        if is_tree:
            self.sampler.of_coordinator = Timeline()

    @contextmanager
    def measure(
        self, name: str, projected_bytes: int | None = None, worker_bytes: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Measure the seconds and the peak memory of a stage. The stage adds its own facts to the yielded dict.

        projected_bytes : the memory that the plan projects. worker_bytes : that of one worker of a cluster.
        """
        self.sampler.enter(name)
        self._running = running = _Running(name, projected_bytes, worker_bytes)
        with self._progress.timed(name, lambda: float(self.facts[name]["seconds"])):
            yield running.facts
            if self._account is None:
                self._end(running)
                self.release()
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
        if stage.worker_bytes and self.workers is not None:
            self.facts[stage.name] |= {
                "worker_projected_peak_bytes": stage.worker_bytes,
                "worker_measured_peak_bytes": self.workers.peak_of(stage.name),
            }

    def close(self) -> Account:
        """End the running stage and the account, and return the account. Later work is in no figure.

        So the report can show the same figures as summary.json, although it is written at the end of its own stage.
        """
        if self._account is None:
            if self._running is not None:
                self._end(self._running)
            self._account = self.account()
        return self._account

    def account(self) -> Account:
        """Return the account up to this moment."""
        peaks, rows = self.sampler.so_far()
        for name, facts in self.facts.items():  # samples come in between two stages too
            facts["measured_peak_bytes"] = peaks[name]
            if self.workers is not None and "worker_measured_peak_bytes" in facts:
                facts["worker_measured_peak_bytes"] = self.workers.peak_of(name)
        seconds = round(time.monotonic() - self._began, 3)
        return Account(seconds, max(row.n_bytes for row in rows), self.sampler.unseen_bytes, self._timelines(rows))

    def _timelines(self, rows: list[Reading]) -> dict[ProcessName, list[Reading]]:
        """Return the readings of all processes together, and on a cluster those of single ones."""
        here, own = platform.node(), self.sampler.of_coordinator
        if self.workers is None:
            return {ProcessName(here, ALL): rows}
        together = {ProcessName(here, COORDINATOR if own is None else ALL): rows}
        if own is not None:
            together[ProcessName(here, COORDINATOR)] = list(own.rows)
        return together | self.workers.timelines()


@dataclass(frozen=True)
class _Running:
    """The stage that is running."""

    name: str
    projected_bytes: int | None
    worker_bytes: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    began_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Account:
    """The seconds and the memory of a whole job."""

    seconds: float
    """The seconds since its first step, the listing."""
    peak_bytes: int
    """The largest sample of memory in bytes."""
    unseen_bytes: int
    """The bytes by which a process exceeded its largest sample, in a peak between two samples."""
    timelines: dict[ProcessName, list[Reading]]
    """By process, the first one that of the tree of this process."""
