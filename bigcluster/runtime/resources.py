"""This module says what a run may use: memory, which the machine and its limits decide, and threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import psutil

from bigcluster.units import show_bytes

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Resources:
    """The memory and threads of a run. They do not change its result and are never stored."""

    budget_bytes: int
    """The memory budget in bytes, for all processes of the run."""
    threads: int
    """The number of threads that compute."""
    budget_given: bool = True
    """Whether the user gave the budget. Otherwise it is half of the memory that the process may use."""
    workers: int = 1
    """The number of processes that share the work, each with its own budget and threads. It is 1 except on a
    cluster."""
    joined: bool = False
    """Whether the workers are those of a dask cluster, without a supervisor of bigcluster."""
    tree_bytes: int = 0
    """The budget in bytes of all processes together, where the run starts the workers itself. `budget_bytes` is an
    equal part for each worker, and for the processes that start and schedule them together. A plan divides the budget
    in another way where these parts do not suffice."""
    scheduler: str | None = None
    """The address of the scheduler of a cluster that is joined, or the file that says it."""
    coordinates: bool = False
    """Whether this is the part of the process that starts a job on a cluster, and leaves the passes to its workers."""

    @property
    def promised_bytes(self) -> int:
        """The memory in bytes that the run may hold on this machine."""
        return self.tree_bytes or self.budget_bytes

    @property
    def starts_workers(self) -> bool:
        """Whether the run starts worker processes on this machine."""
        return self.joined and self.tree_bytes > 0

    @property
    def of_coordinator(self) -> Resources:
        """What the process that starts a job on a cluster may use for its own work."""
        return replace(self, workers=1, joined=False, tree_bytes=0, coordinates=True)


@dataclass(frozen=True)
class Allowed:
    """One limit of memory in bytes, and its name."""

    n_bytes: int
    limit: str
    """The name of the limit, such as `cgroup limit`."""

    @property
    def shown(self) -> str:
        """The limit as text for a message, such as `1.5 GiB (cgroup limit)`."""
        return f"{show_bytes(self.n_bytes)} ({self.limit})"


def allowed_memory(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> Allowed:
    """Return the smallest of the RAM, the cgroup limits (v1 and v2) and the resource limits.

    cgroups : the folder where cgroups are mounted. own_cgroup : the file that names the cgroups of this process.
    """
    ram = Allowed(psutil.virtual_memory().total, "RAM")
    return min([ram, *_cgroup_limits(cgroups, own_cgroup), *_resource_limits()], key=lambda allowed: allowed.n_bytes)


def _cgroup_limits(mounted: Path, own: Path) -> Iterator[Allowed]:
    """Yield the limits of the groups of this process and of every group above them, which also apply to it.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst (limit_in_bytes).
    """
    for root, group, name in _memory_groups(mounted, own):
        for folder in (group, *group.parents):
            try:
                text = (root / folder.relative_to("/") / name).read_text(encoding="ascii").strip()
            except OSError:  # the root of v2 has no limit; a container sees its own group as the root
                continue
            if text.isdigit():  # else "max"
                yield Allowed(int(text), "cgroup limit")


def _memory_groups(mounted: Path, own: Path) -> Iterator[tuple[Path, PurePosixPath, str]]:
    """Yield (mount point, path of the group, name of the file with the limit). `0::/a` is v2, `4:memory:/a` is v1."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield mounted, PurePosixPath(path), "memory.max"
        elif "memory" in controllers.split(","):
            yield mounted / "memory", PurePosixPath(path), "memory.limit_in_bytes"


def _resource_limits() -> Iterator[Allowed]:
    try:
        import resource
    except ImportError:  # on Windows
        return
    for kind, name in ((resource.RLIMIT_AS, "address space limit"), (resource.RLIMIT_DATA, "data limit")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield Allowed(soft, name)
