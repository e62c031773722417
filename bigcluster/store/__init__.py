"""What a run keeps on disk: arrays, completion marks, fingerprints, digests."""

from bigcluster.store.arrays import Digests, Store, check_format, is_store
from bigcluster.store.inventory import MADE, Damage, Inventory, take_inventory, tidy
from bigcluster.store.marks import DONE, Mark, Marks, fingerprint
from bigcluster.store.rows import ColumnWriter, RowWriter, StoredRows, read_whole
from bigcluster.store.states import StageState

__all__ = [
    "DONE",
    "MADE",
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
    "is_store",
    "read_whole",
    "take_inventory",
    "tidy",
]
