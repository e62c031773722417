"""A limit on the memory of a process, held by the system: for children that read what may lie about its size."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def limit_memory(n_bytes: int) -> bool:
    """Let this process allocate so many bytes beyond what it has now; an allocation beyond that fails.

    Returns False where the system has no such limit (it counts private memory that can be written: Linux, RLIMIT_DATA).
    """
    try:
        import resource

        text = _STATUS.read_text(encoding="ascii")
    except (ImportError, OSError):  # not on Linux
        return False
    now = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = now + n_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return True
