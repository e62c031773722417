"""Which images there are, by what name, and what became of each."""

from bigcluster.catalog.listing import FOLDERS_NAMED, Listing, is_confined, list_images, unread_folders
from bigcluster.catalog.names import Names, from_csv_path, guard_cell, natural_key, path_key, to_csv_path
from bigcluster.catalog.records import FileRecord
from bigcluster.catalog.roots import root_of
from bigcluster.catalog.wanted import KNOWN_SUFFIXES, image_suffixes, left_out

__all__ = [
    "FOLDERS_NAMED",
    "KNOWN_SUFFIXES",
    "FileRecord",
    "Listing",
    "Names",
    "from_csv_path",
    "guard_cell",
    "image_suffixes",
    "is_confined",
    "left_out",
    "list_images",
    "natural_key",
    "path_key",
    "root_of",
    "to_csv_path",
    "unread_folders",
]
