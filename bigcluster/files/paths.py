"""Paths as people give them: on the command line, in Python, in a config and in the cells of a manifest."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bigcluster.errors import UsageError

# pathlib and shells with completion make one slash of two: `Path("s3://bucket")` says `s3:/bucket`.
_URL = re.compile(
    r"[a-z][a-z0-9+.-]+://|(?:s3|gs|gcs|az|adl|abfs|abfss|wasb|wasbs|hdfs|https?|ftps?|sftp|ssh|smb|webdav|file|data):/",
    re.IGNORECASE,
)


def is_url(path: str) -> bool:
    """Whether it names a place by a URL, such as `s3://bucket/out`; a drive letter (`C:/`) is none."""
    return _URL.match(path) is not None


def local_path(name: str, value: Any) -> str:
    """A path on a disk of this machine, as str; `name` says in an error what it is for: IMAGES, --out.

    Raises UsageError for a URL, for what is no path, and for a name that no file can have.
    """
    if not isinstance(value, str | bytes | os.PathLike):
        raise UsageError(f"{name} must be a path, not {value!r:.80}")
    path = os.fsdecode(value)
    if not path:
        raise UsageError(f"{name} must be a path, not an empty text")
    if "\0" in path:
        raise UsageError(f"{name} holds a NUL character, which no path may: {path!r:.80}")
    if is_url(path):
        raise UsageError(f"{name} is a URL: {path}; only folders and files on disks are read and written, give a path")
    return path


def cache_folder() -> Path:
    """Return the cache folder of bigcluster. A relative XDG_CACHE_HOME is ignored.

    Source: XDG Base Directory Specification 0.8.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(configured) if os.path.isabs(configured) else Path.home() / ".cache") / "bigcluster"
