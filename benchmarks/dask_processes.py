"""A scheduler and workers of dask as processes of this machine, started as people start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

ROOT = Path(__file__).parents[1]
START_SECONDS = 120.0
"""Seconds in which the scheduler and all workers must be there. On a busy machine they take some."""
LOOPBACK = "127.0.0.1"


def python_of(module: str) -> list[str]:
    """The command that runs a module with this Python. The current folder is never on its path."""
    return [sys.executable, "-P", "-m", module]


def variables(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of processes that import this checkout. extra : added to it; of PYTHONPATH, before the rest."""
    extra = dict(extra or {})
    path = filter(None, (extra.pop("PYTHONPATH", ""), str(ROOT), os.environ.get("PYTHONPATH")))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | extra


def no_dashboard(host: str = LOOPBACK) -> list[str]:
    """The options of a scheduler or worker without a dashboard, whose server for HTTP listens at this address alone.

    Without an address it would listen on all of them, also with --no-dashboard.
    """
    return ["--no-dashboard", "--dashboard-address", f"{host}:0"]


@dataclass
class Dask:
    """A scheduler with its workers, and a client that watches them."""

    file: Path
    """The scheduler file."""
    client: Client
    stack: ExitStack = field(repr=False)
    extra: Mapping[str, str]
    memory: str
    """The memory limit of each worker."""

    def start_worker(self, host: str = LOOPBACK, prefix: Sequence[str] = ()) -> None:
        """Start a worker of one thread, with a nanny that starts it again where it is killed.

        host : the address at which it listens. prefix : a command that starts it, such as one that enters a namespace.
        """
        name = f"worker-{os.urandom(4).hex()}"
        command = [*prefix, *python_of("distributed.cli.dask_worker"), "--scheduler-file", str(self.file)]
        command += [
            "--host",
            host,
            "--nworkers",
            "1",
            "--nthreads",
            "1",
            "--memory-limit",
            self.memory,
            *no_dashboard(host),
        ]
        command += ["--local-directory", str(self.file.with_name(name))]
        started(self.stack, command, self.file.with_name(f"{name}.log"), self.extra)

    def wait_for(self, n_workers: int) -> None:
        """Wait until so many workers are there."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.addresses()) < n_workers:
            assert time.monotonic() < deadline, f"{n_workers} workers do not come"
            time.sleep(0.05)

    def addresses(self) -> list[str]:
        """The addresses of the workers that the scheduler knows."""
        return sorted(self.client.scheduler_info(n_workers=-1)["workers"])

    def pids(self) -> dict[str, int]:
        """The process of each worker, by address."""
        found: dict[str, int] = self.client.run(os.getpid)
        return found

    def working_on(self, job: str) -> list[str]:
        """The addresses of the workers that have a task of this job now."""
        processing: dict[str, Any] = self.client.processing()
        return [address for address, keys in processing.items() if any(key.startswith(f"{job}-") for key in keys)]


@contextmanager
def dask_processes(
    folder: Path,
    n_workers: int,
    *,
    host: str = LOOPBACK,
    extra: Mapping[str, str] | None = None,
    memory: str = "2GiB",
) -> Iterator[Dask]:
    """Start a scheduler and n_workers workers of one thread each. They end after the block, frozen ones too.

    folder : for the scheduler file, the logs and the folders of the workers. host : the address of the scheduler.
    extra : variables of the workers.
    """
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        command = [*python_of("distributed.cli.dask_scheduler"), "--host", host, "--port", "0", *no_dashboard(host)]
        started(stack, [*command, "--scheduler-file", str(file)], folder / "scheduler.log")
        wait_for_address(file)
        found = Dask(file, stack.enter_context(Client(scheduler_file=str(file))), stack, extra or {}, memory)
        for _ in range(n_workers):
            found.start_worker()
        found.wait_for(n_workers)
        yield found


def wait_for_address(file: Path) -> str:
    """Wait until a scheduler has written its file, and return its address."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError, ValueError):  # it is not there yet, or not whole
            return str(json.loads(file.read_text())["address"])
        assert time.monotonic() < deadline, "the scheduler does not start"
        time.sleep(0.05)


def started(
    stack: ExitStack, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that writes to a log. It is killed with all its children when the stack ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=os.sep, env=variables(extra), stdout=output, stderr=output)
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started here and all its children, and wait until they are gone."""
    tree = []
    with suppress(psutil.NoSuchProcess):
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    deadline = time.monotonic() + START_SECONDS
    while any(map(_is_running, tree[1:])) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_running(process: psutil.Process) -> bool:
    """Return whether a process still runs. A dead one stays in the list where no process waits for it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
