"""This module writes a list of paths or a DataFrame, which a Python call passes as IMAGES, as a manifest."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bigcluster.catalog.manifest_rows import AUTO, PATH_COLUMN
from bigcluster.config import Settings
from bigcluster.errors import UsageError
from bigcluster.files.paths import is_url
from bigcluster.files.temporary import temporary_folder
from bigcluster.outdir import MANIFEST
from bigcluster.runtime.processes import absolute
from bigcluster.units import quoted


def is_list(images: Any) -> bool:
    """Return whether IMAGES is a list of paths or a DataFrame, and not a folder, a glob or a manifest."""
    return not isinstance(images, str | bytes | os.PathLike) and isinstance(images, Iterable)


def settings_for_list(settings: Settings) -> Settings:
    """Return the settings with OUT/manifest.csv as images, so that `bigcluster run --out OUT` finds the list again.

    The paths of the list are absolute and chosen by the caller, so they may lie in any folder.
    """
    manifest = os.path.join(settings.out or "", MANIFEST)
    return replace(settings, images=manifest, manifest=replace(settings.manifest, allow_outside=True, encoding=AUTO))


@contextmanager
def as_manifest(images: Any) -> Iterator[str]:
    """Yield the path of a CSV manifest that exists for the time of this context.

    images : an iterable of paths, or a pandas.DataFrame with a column `path`, whose other columns pass through to
    labels.csv. Relative paths are those of the current folder. Raises UsageError for anything else.
    """
    header, rows = _table(images)
    with temporary_folder() as folder:
        path = folder / MANIFEST
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            header_bytes = file.tell()
            writer.writerows(rows)
            is_empty = file.tell() == header_bytes
        if is_empty:
            raise UsageError("IMAGES is an empty list; give at least one path")
        yield os.fspath(path)


def _table(images: Any) -> tuple[list[str], Iterator[list[str]]]:
    if isinstance(images, dict | set):
        raise UsageError(f"IMAGES must be a path, a list of paths or a DataFrame, not a {type(images).__name__}")
    if not hasattr(images, "itertuples"):
        return [PATH_COLUMN], ([_path(number, path)] for number, path in enumerate(images))
    header = [str(name) for name in images.columns]
    if PATH_COLUMN not in header:
        raise UsageError(f"the DataFrame needs a column named 'path'; it has {', '.join(header):.200}")
    at = header.index(PATH_COLUMN)
    known = images.astype(object).where(images.notna(), None)
    return header, (
        [_path(number, cell) if i == at else "" if cell is None else str(cell) for i, cell in enumerate(row)]
        for number, row in enumerate(known.itertuples(index=False, name=None))
    )


def _path(number: int, value: Any) -> str:
    if not isinstance(value, str | bytes | os.PathLike):
        raise UsageError(f"image {number} of the list must be a path, not {quoted(value)}")
    path = os.fsdecode(value)
    return path if is_url(path) else absolute(path)  # a URL gets its row, as in any manifest
