"""A job on a cluster: worker processes of this machine are started, or those of a dask cluster are joined."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from bigcluster.errors import ClusterError, MemoryBudgetError
from bigcluster.pipeline.job import Job
from bigcluster.planning import footprint
from bigcluster.runtime.dask_cluster import DaskCluster, Link
from bigcluster.runtime.dask_cluster.cluster import CLOSE_SECONDS
from bigcluster.runtime.dask_cluster.join import address_of, connector, first, following, warning_for
from bigcluster.runtime.dask_cluster.start import local_cluster
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import release_memory
from bigcluster.runtime.workers_memory import WorkersMemory
from bigcluster.units import counted, show_bytes

WORKER_SHARE = 0.75
"""The share of the memory limit of a dask worker that a job may hold: from 0.8 on dask gives it no more work, and at
0.95 it is killed (distributed.worker.memory)."""


@contextmanager
def on_cluster(job: Job) -> Iterator[Job]:
    """Yield the job with the workers that its resources name.

    Raises ConfigError and ClusterError, and MemoryBudgetError where the budget is too small for so many workers.
    """
    resources, settings = job.resources, job.settings.cluster
    with ExitStack() as stack:
        if resources.scheduler is None:
            _check_number(resources)
            started = stack.enter_context(local_cluster(resources.workers, resources.threads))
            if started.dashboard is not None:
                job.progress.note(f"dashboard: {started.dashboard}")
            scheduler, connect = started.address, connector(started.address, None, None, None)
        else:
            scheduler = address_of(resources.scheduler)
            connect = connector(resources.scheduler, settings.tls_ca, settings.tls_cert, settings.tls_key)
            if warning := warning_for(scheduler):
                job.progress.warn(warning)
        run = f"bigcluster-{secrets.token_hex(8)}"
        memory = WorkersMemory(job.stages.sampler.place)
        connect = following(first(connect, scheduler), run, job.progress, memory)
        link = Link(connect, patience_seconds=settings.patience, tell=job.progress.warn)
        stack.callback(link.close)
        link.wait_for_workers(settings.min_workers if resources.tree_bytes == 0 else resources.workers)
        smallest = None
        if resources.scheduler is not None:
            resources, smallest = _of_workers(resources, link)
        cluster = DaskCluster(link, run, resources.budget_bytes)
        job.stages.follow_workers(memory, is_tree=resources.starts_workers)

        def release() -> None:
            release_memory()
            cluster.release()

        job.stages.release = release
        try:
            yield replace(job, resources=resources, cluster=cluster)
        except BaseException as error:
            cluster.close(wait_seconds=0.0)
            if isinstance(error, MemoryBudgetError) and smallest is not None:
                raise MemoryBudgetError(
                    f"{error}; the worker {smallest} allows no larger budget (three quarters of its memory limit)"
                ) from error
            raise
        # Workers that were started end now, whatever they still do.
        cluster.close(wait_seconds=0.0 if resources.starts_workers else CLOSE_SECONDS)


def _check_number(resources: Resources) -> None:
    """Raise MemoryBudgetError where as many workers cannot be started: the plan, which counts more, is made later."""
    each = footprint.DASK_WORKER_BYTES - footprint.SHARED_BYTES
    most = resources.tree_bytes // each
    if resources.workers > most:
        fewer = f"at most --workers {most}, or " if most else ""
        raise MemoryBudgetError(
            f"{counted(resources.workers, 'worker')} would hold {show_bytes(resources.workers * each)} before any "
            f"image, the budget is {show_bytes(resources.tree_bytes)}; use {fewer}a larger --memory"
        )


def _of_workers(resources: Resources, link: Link) -> tuple[Resources, str | None]:
    """Return the resources with the threads and the number of the workers that were joined.

    The budget of each is what was given, or what the smallest one may use: its address is returned too, None where it
    has not decided. Raises ClusterError where a worker is too small.
    """
    workers = link.look()
    limits = {address: int(WORKER_SHARE * facts["memory_limit"]) for address, facts in workers.items()}
    limited = {address: limit for address, limit in limits.items() if limit > 0}  # 0: dask sets no limit
    budget, decided = resources.budget_bytes, None
    if limited:
        smallest = min(limited, key=limited.__getitem__)
        if not resources.budget_given and budget > limited[smallest]:
            budget, decided = limited[smallest], smallest
        elif budget > limited[smallest]:
            raise ClusterError(
                f"the worker {smallest} may hold {show_bytes(limited[smallest])} (three quarters of its memory limit), "
                f"the budget of each worker is {show_bytes(budget)}: use a smaller --memory, or larger workers"
            )
    threads = max(facts["nthreads"] for facts in workers.values())
    return replace(resources, budget_bytes=budget, threads=threads, workers=len(workers)), decided
