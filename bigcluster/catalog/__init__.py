"""Which images there are: the files of a folder, of a glob or of a manifest, their names, and one record for each.

It imports `files`, `runtime` and `planning.footprint`; nothing is decoded here. Begin with listing.py, then walk.py
(folders and globs) and manifest.py (CSV and Parquet files).
"""

from bigcluster.catalog.file_filter import KNOWN_SUFFIXES, image_suffixes, left_out
from bigcluster.catalog.listing import Listing, is_confined, list_images, unread_folders
from bigcluster.catalog.names import from_csv_path, guard_cell, natural_key, path_key, to_csv_path
from bigcluster.catalog.records import FileRecord
from bigcluster.catalog.roots import root_of
from bigcluster.catalog.string_array import StringArray

__all__ = [
    "KNOWN_SUFFIXES",
    "FileRecord",
    "Listing",
    "StringArray",
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
