"""Where the store lies in OUT.

    store.zarr/      a zarr group of format 3: zarr.json and arrays, nothing else
    .bigcluster/     what is not zarr: completion marks, the ledger, saved states, lists of what we made

Files that marks vouch for are named relative to OUT.
"""

from __future__ import annotations

ARRAYS = "store.zarr"
OURS = ".bigcluster"
STORES = (ARRAYS, OURS)
"""The folders of the store."""
MARKS = f"{OURS}/marks"
LEDGER = f"{OURS}/ledger"
"""Names and records of the listed files."""
MADE = f"{OURS}/made"
"""Lists of what was made in other folders of OUT."""
STATES = f"{OURS}/state"
"""What unfinished stages saved."""
