"""What a run may use: memory, which the machine and its limits decide, and threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from bigcluster.units import show_bytes

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Resources:
    """What schedules a run without deciding its result; never kept."""

    budget_bytes: int
    threads: int
    budget_given: bool = True
    """False: half of what the process may use."""
    workers: int = 1
    """Processes that share the work, each with its own budget and threads; more than one on a cluster alone."""
    joined: bool = False
    """The workers are those of a cluster: dask's, without a supervisor of ours."""


@dataclass(frozen=True)
class Allowed:
    """The smallest of all limits, and which one that is."""

    n_bytes: int
    limit: str

    @property
    def shown(self) -> str:
        """For a message: `1.5 GiB (cgroup limit)`."""
        return f"{show_bytes(self.n_bytes)} ({self.limit})"


def allowed_memory(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> Allowed:
    """The least of RAM, cgroup limits (v1 and v2) and resource limits.

    cgroups : where they are mounted; own_cgroup : the file that names those of this process.
    """
    ram = Allowed(psutil.virtual_memory().total, "RAM")
    return min([ram, *_cgroup_limits(cgroups, own_cgroup), *_resource_limits()], key=lambda allowed: allowed.n_bytes)


def _cgroup_limits(mounted: Path, own: Path) -> Iterator[Allowed]:
    """Of this process's groups and of every group above them: each holds for all that is below it.

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
    """(mount point, path of the group, name of the limit's file): `0::/a` is v2, `4:memory:/a` v1."""
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
