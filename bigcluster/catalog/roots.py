"""The folder that paths are relative to, by the form of IMAGES alone."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from bigcluster.catalog.manifest import MANIFEST_SUFFIXES


def root_of(images: str) -> Path:
    """The folder that paths are relative to: the folder itself, a manifest's folder, a glob's part before wildcards."""
    source = Path(images)
    if os.path.isdir(images):
        return source.resolve()
    if is_glob(images):
        fixed = source.parts[: first_wildcard(source)]
        return Path(*fixed).resolve() if fixed else Path.cwd()
    if source.suffix.lower() in MANIFEST_SUFFIXES:
        return source.resolve().parent
    return source.resolve()  # a folder that is gone


def is_glob(images: str) -> bool:
    """Whether a wildcard stands in it; a folder or file that is named just so, such as `[2020]`, has none."""
    return first_wildcard(Path(images)) is not None


def first_wildcard(pattern: Path) -> int | None:
    """The index of the first part with a wildcard, of those that do not exist by that very name."""
    for index, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not os.path.exists(Path(*pattern.parts[: index + 1])):
            return index
    return None
