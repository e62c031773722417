"""The functions that the command line and Python programs call. `import bigcluster` shows the public ones.

They import `pipeline`, `runtime` and `config`. They do no work themselves, but start a working process for it. Begin
with calls.py; arguments.py turns what a caller gives into settings, and finished_run.py reads what a run left in OUT.
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
