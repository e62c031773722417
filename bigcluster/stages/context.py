"""The one argument that every stage takes: the store, the settings, the runtime, the progress and the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.config import Settings
from bigcluster.runtime.cluster import Cluster
from bigcluster.runtime.events import Progress
from bigcluster.runtime.threads import Runtime
from bigcluster.store import Store


@dataclass(frozen=True)
class Context:
    """The store, settings, runtime, progress and cluster of one job.

    The job makes it once, when the store is open. Stages read from it and store nothing in it.
    """

    store: Store
    settings: Settings
    runtime: Runtime
    """The threads of this process, for what is done in it."""
    progress: Progress
    cluster: Cluster
    """The workers, for the passes over all rows."""
