"""The OUT folder: whether it may be used, which process holds it, and which of the files in it are ours.

It imports `catalog`, `config`, `files` and `store`. Begin with claim.py, which decides whether a folder may be used,
and lock.py, which holds it for one process. places.py refuses links where our files belong, owned.py, made_folders.py
and tree.py tell our files and folders from those of others, last_copies.py keeps the last copy of a picture, and
results.py writes the files beside the store.
"""

from bigcluster.outdir.claim import (
    MANIFEST,
    RUN_TOML,
    absolute,
    check_is_out,
    claim,
    is_out,
    kept_values,
    no_run,
    out_of,
)
from bigcluster.outdir.lock import LOCK, locked, sweep_unfinished
from bigcluster.outdir.places import check_places

__all__ = [
    "LOCK",
    "MANIFEST",
    "RUN_TOML",
    "absolute",
    "check_is_out",
    "check_places",
    "claim",
    "is_out",
    "kept_values",
    "locked",
    "no_run",
    "out_of",
    "sweep_unfinished",
]
