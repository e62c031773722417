"""What became of every listed file: one record per row, whatever happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FileRecord:
    """One row of images.csv."""

    n_bytes: int | None
    mtime_ns: int | None
    width: int | None
    """As seen, EXIF orientation applied; pixels. None where no header could be read."""
    height: int | None
    digest: str
    """First 32 hex digits of the content's SHA-256; empty where the file could not be read."""
    status: str
    """`ok`, or why there are no pixels: one of kernels.decode.STATUSES."""
    reason: str
    needed_bytes: int | None = None
    """Where the memory budget was too small for this file: what it takes. A larger budget retries it."""
    tried_seconds: float | None = None
    """Where image.timeout was too short for this file: what it was. A longer one retries it."""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def to_json(self) -> list[Any]:
        return list(vars(self).values())

    @classmethod
    def from_json(cls, values: list[Any]) -> FileRecord:
        return cls(*values)
