"""This module starts the scheduler and the workers of a cluster on this machine. They are seen by this machine only."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import dask.config
from distributed import LocalCluster

from bigcluster.files.temporary import temporary_folder
from bigcluster.runtime.supervisor import worker_variables

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Started:
    """A cluster that was started."""

    address: str
    dashboard: str | None
    """The URL of its dashboard; None where the libraries of dashboards are not installed."""


@contextmanager
def local_cluster(n_workers: int, threads: int) -> Iterator[Started]:
    """Start a scheduler in this process and n_workers worker processes, and end them after the block.

    threads : the number of threads of each worker. All sockets listen on the loopback interface alone. The workers end
    with this process, also where it is killed.
    """
    has_dashboard = importlib.util.find_spec("bokeh") is not None
    settings = {
        # What must be set before a process starts.
        "distributed.nanny.pre-spawn-environ": worker_variables(threads),
        # It takes samples of what the workers do, a hundred times a second, for the dashboard.
        "distributed.worker.profile.enabled": has_dashboard,
        # What a scheduler and workers remember of tasks that are over, for whoever looks for a fault of dask.
        "distributed.admin.log-length": 100,
        "distributed.admin.low-level-log-length": 100,
        "distributed.diagnostics.computations.max-history": 1,
        "distributed.diagnostics.computations.nframes": 0,
        # The budget is kept by the plan. dask would write results to disk, pause workers, or kill them.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    }
    with (
        temporary_folder() as folder,
        dask.config.set(settings),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=None,
            memory_limit=0,
            local_directory=str(folder),
            silence_logs=logging.ERROR,
        ) as cluster,
    ):
        try:
            yield Started(cluster.scheduler_address, cluster.dashboard_link if has_dashboard else None)
        finally:
            for child in multiprocessing.active_children():  # a frozen worker would be waited for: half a minute
                with suppress(ProcessLookupError):
                    os.kill(child.pid or os.getpid(), signal.SIGCONT)
