"""What is known of one listed file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FileRecord:
    """What is known of one listed file, as images.csv shows it."""

    n_bytes: int | None
    mtime_ns: int | None
    width: int | None
    """Width in pixels after the EXIF orientation is applied. None where no header could be read; so is `height`."""
    height: int | None
    digest: str
    """The first 32 hex digits of the SHA-256 of the content; empty where the file could not be read."""
    status: str
    """`ok`, or the reason why there are no pixels: one of kernels.decode.STATUSES."""
    reason: str
    needed_bytes: int | None = None
    """The bytes that decoding needs, where the memory budget was too small. A run with a larger budget tries again."""
    tried_seconds: float | None = None
    """The value of image.timeout, in seconds, where it was too short. A run with a longer one tries again."""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def to_json(self) -> list[Any]:
        return list(vars(self).values())

    @classmethod
    def from_json(cls, values: list[Any]) -> FileRecord:
        return cls(*values)
