"""This module plans verify on a cluster: what the workers hold while they read the files of OUT."""

from __future__ import annotations

from bigcluster.config import Settings
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stages import baseline_bytes
from bigcluster.runtime.resources import Resources
from bigcluster.units import MIB

_READING_BYTES = 1 * MIB
"""Bytes of a file that one thread reads at a time (`store.chunk_io`)."""
_NAMES_BYTES = 16 * MIB
"""Bytes for the marks and the names of their files. `take_inventory` refuses what exceeds the budget."""


def plan_verify(settings: Settings, resources: Resources) -> StagePlan:
    """Return the plan of verify whose files are read by the workers of a cluster."""
    return StagePlan(
        stage="verify",
        solver="digests",
        why="every file is compared with what its mark says",
        block_shape=(0, 0),
        passes="1 over the files",
        bytes_read=0,
        bytes_written=0,
        projected_bytes=baseline_bytes(settings, resources, products=False) + resources.threads * _READING_BYTES,
        client_bytes=baseline_bytes(settings, resources.of_coordinator, products=False) + _NAMES_BYTES,
        n_busy=resources.workers,
    )
