"""The functions that the command line and Python programs call. `import bigcluster` shows the public ones.

It imports `pipeline`, `runtime` and `config`. The functions do no work themselves, but start a working process for it.
Begin with calls.py; arguments.py makes settings from arguments, and finished_run.py reads the results of a run;
networks.py is about pretrained networks.
"""

from bigcluster.api.arguments import plan_resources, resolve_settings, resources, stored_settings
from bigcluster.api.calls import log_events, open, plan, predict, profile, report, run, sweep, verify
from bigcluster.api.finished_run import Run
from bigcluster.api.networks import list_models, show_model

__all__ = [
    "Run",
    "list_models",
    "log_events",
    "open",
    "plan",
    "plan_resources",
    "predict",
    "profile",
    "report",
    "resolve_settings",
    "resources",
    "run",
    "show_model",
    "stored_settings",
    "sweep",
    "verify",
]
