"""The one argument that every stage takes: the store, the settings, the runtime and the progress."""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.config import Settings
from bigcluster.runtime.events import Progress
from bigcluster.runtime.threads import Runtime
from bigcluster.store import Store


@dataclass(frozen=True)
class Context:
    """The store, settings, runtime and progress of one job.

    The job makes it once, when the store is open. Stages read from it and store nothing in it.
    """

    store: Store
    settings: Settings
    runtime: Runtime
    progress: Progress
