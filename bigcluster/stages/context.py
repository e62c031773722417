"""What every stage works with, as one argument: the store, the settings, and how work runs and is told."""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.config import Settings
from bigcluster.runtime.events import Progress
from bigcluster.runtime.threads import Runtime
from bigcluster.store import Store


@dataclass(frozen=True)
class Context:
    """Made once per job, when the store is open; stages read from it and keep nothing in it."""

    store: Store
    settings: Settings
    runtime: Runtime
    progress: Progress
