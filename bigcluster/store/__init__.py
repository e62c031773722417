"""What a run keeps on disk: arrays, completion marks, fingerprints, digests."""

from bigcluster.store.arrays import Digests, Store, check_format
from bigcluster.store.inventory import MADE, SCRATCH, Damage, Inventory, sweep, take_inventory, tidy
from bigcluster.store.marks import DONE, Mark, Marks, fingerprint
from bigcluster.store.rows import ColumnWriter, RowWriter, StoredRows, read_whole
from bigcluster.store.states import StageState

__all__ = [
    "DONE",
    "MADE",
    "SCRATCH",
    "ColumnWriter",
    "Damage",
    "Digests",
    "Inventory",
    "Mark",
    "Marks",
    "RowWriter",
    "StageState",
    "Store",
    "StoredRows",
    "check_format",
    "fingerprint",
    "read_whole",
    "sweep",
    "take_inventory",
    "tidy",
]
