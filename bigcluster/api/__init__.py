"""The only way in: what the command line and a Python program call. `import bigcluster` shows the public part of it.

It imports `pipeline`, `runtime` and `config`; it does no work itself, but starts a working process for it. Begin with
calls.py.
"""

from bigcluster.api.arguments import cluster_resources, resolve_settings, resources, stored_settings
from bigcluster.api.calls import log_events, open, plan, predict, profile, report, run, sweep, verify
from bigcluster.api.finished_run import Run

__all__ = [
    "Run",
    "cluster_resources",
    "log_events",
    "open",
    "plan",
    "predict",
    "profile",
    "report",
    "resolve_settings",
    "resources",
    "run",
    "stored_settings",
    "sweep",
    "verify",
]
