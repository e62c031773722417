"""What a run keeps on disk: arrays in chunks in store.zarr; marks, checkpoints and lists in .bigcluster.

It imports `files`; it is the only package that imports zarr. Begin with arrays.py, then marks.py (which data is
complete) and row_source.py (what solvers read rows from).
"""

from bigcluster.store.arrays import Digests, Store
from bigcluster.store.checkpoints import StageCheckpoints
from bigcluster.store.columns import Columns, read_table, table_of, write_table
from bigcluster.store.fingerprints import fingerprint
from bigcluster.store.format import check_format, is_store
from bigcluster.store.inventory import Damage, Inventory, take_inventory, tidy
from bigcluster.store.marks import DONE, Mark, Marks
from bigcluster.store.row_io import ColumnWriter, RowWriter, StoredRows, read_whole

__all__ = [
    "DONE",
    "ColumnWriter",
    "Columns",
    "Damage",
    "Digests",
    "Inventory",
    "Mark",
    "Marks",
    "RowWriter",
    "StageCheckpoints",
    "Store",
    "StoredRows",
    "check_format",
    "fingerprint",
    "is_store",
    "read_table",
    "read_whole",
    "table_of",
    "take_inventory",
    "tidy",
    "write_table",
]
