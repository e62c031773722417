"""The OUT folder: whose it is, who holds it, and which of the files in it are ours.

Begin with `claim`: it decides whether a folder may be used at all. `lock` holds it for one process, `places` refuses
links where our files belong, `owned` and `tree` know what we made among what others put there, `results` writes the
files beside the store.
"""

from bigcluster.outdir.claim import (
    MANIFEST,
    RUN_TOML,
    STORE,
    absolute,
    check_is_out,
    claim,
    is_out,
    kept_values,
    no_run,
)
from bigcluster.outdir.lock import LOCK, locked, sweep_unfinished
from bigcluster.outdir.places import check_places

__all__ = [
    "LOCK",
    "MANIFEST",
    "RUN_TOML",
    "STORE",
    "absolute",
    "check_is_out",
    "check_places",
    "claim",
    "is_out",
    "kept_values",
    "locked",
    "no_run",
    "sweep_unfinished",
]
