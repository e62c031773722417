"""Which images there are, by what name, and what became of each."""

from bigcluster.catalog.ledger import FileRecord
from bigcluster.catalog.listing import IMAGE_SUFFIXES, Listing, is_confined, list_images
from bigcluster.catalog.names import Names, from_csv_path, guard_cell, natural_key, path_key, to_csv_path
from bigcluster.catalog.roots import root_of

__all__ = [
    "IMAGE_SUFFIXES",
    "FileRecord",
    "Listing",
    "Names",
    "from_csv_path",
    "guard_cell",
    "is_confined",
    "list_images",
    "natural_key",
    "path_key",
    "root_of",
    "to_csv_path",
]
