"""This module has the system limit the memory of a process, for children that read files of unknown size."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def limit_memory(n_bytes: int) -> bool:
    """Let this process allocate `n_bytes` bytes more than it has now; a further allocation fails.

    Returns False where the system has no such limit. On Linux it is RLIMIT_DATA, which counts private writable memory.
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
