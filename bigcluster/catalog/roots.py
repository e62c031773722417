"""The root of IMAGES: the folder that the paths in all results are relative to."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from bigcluster.catalog.manifest import MANIFEST_SUFFIXES


def root_of(images: str) -> Path:
    """Return the root: a folder itself, the folder of a manifest, or the part of a glob before its first wildcard."""
    source = Path(images)
    if os.path.isdir(images):
        return source.resolve()
    if is_glob(images):
        fixed = source.parts[: first_wildcard(source)]
        return Path(*fixed).resolve() if fixed else Path.cwd()
    if source.suffix.lower() in MANIFEST_SUFFIXES:
        return source.resolve().parent
    return source.resolve()  # a folder that no longer exists


def is_glob(images: str) -> bool:
    """Whether a path has a wildcard. A folder that exists under that very name, such as `[2020]`, has none."""
    return first_wildcard(Path(images)) is not None


def first_wildcard(pattern: Path) -> int | None:
    """Return the index of the first part that has a wildcard and does not exist under that very name; else None."""
    for index, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not os.path.exists(Path(*pattern.parts[: index + 1])):
            return index
    return None
