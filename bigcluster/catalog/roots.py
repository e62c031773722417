"""The folder that paths are relative to, by the form of IMAGES alone."""

from __future__ import annotations

import glob
from pathlib import Path

from bigcluster.catalog.manifest import MANIFEST_SUFFIXES


def root_of(images: str) -> Path:
    """The folder that paths are relative to: the folder itself, a manifest's folder, a glob's part before wildcards."""
    source = Path(images)
    if source.is_dir():
        return source.resolve()
    if glob.has_magic(images) and not source.exists():
        fixed = source.parts[: first_wildcard(source)]
        return Path(*fixed).resolve() if fixed else Path.cwd()
    if source.suffix.lower() in MANIFEST_SUFFIXES:
        return source.resolve().parent
    return source.resolve()  # a folder that is gone


def first_wildcard(pattern: Path) -> int:
    return next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
