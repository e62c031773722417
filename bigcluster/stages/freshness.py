"""Whether what a record says of a file still holds, without reading the file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from bigcluster.catalog import FileRecord, Listing
from bigcluster.kernels.decode import DecodeSpec, needs_extra
from bigcluster.stages.loading.files import is_out_of_reach, stat_of


@dataclass(frozen=True)
class Freshness:
    """Judges records of earlier runs against the listing and what this run grants."""

    listing: Listing
    spec: DecodeSpec
    timeout_seconds: float
    rehash: bool = False
    """Size and time prove nothing: every file is to be read again."""
    closed: dict[str, None] = field(default_factory=dict)
    """Folders of rows that could not be looked at, relative to the root: filled by `holds`, from any thread."""

    def holds(self, row: int, record: FileRecord) -> bool:
        """Whether the row's file stands as it stood, and nothing about it is worth another try.

        A file that cannot be looked at stands as far as anybody can tell: what was decoded of it is not thrown away.
        """
        path = self.listing.path(row)
        found = stat_of(path)
        if found == (None, None) and record.digest and is_out_of_reach(path):
            self.closed[os.path.dirname(self.listing.names[row])] = None
            return self.is_final(record)
        if self.rehash or found != (record.n_bytes, record.mtime_ns):
            return False
        if record.status == "missing":
            return True
        if record.status == "unreadable":
            return not (self.listing.is_readable_file(row) and os.access(path, os.R_OK))
        return self.listing.may_read(row) and self.is_final(record)

    def is_final(self, record: FileRecord) -> bool:
        """Whether the same content would come to the same end in this run."""
        if record.status == "too_large" and record.needed_bytes is not None:
            return self.spec.max_bytes is not None and record.needed_bytes > self.spec.max_bytes
        if record.status == "unsupported" and needs_extra(record.reason) is not None:
            return False
        if record.tried_seconds is not None:
            return record.tried_seconds >= self.timeout_seconds
        return record.status not in ("changed_during_run", "missing", "unreadable")
