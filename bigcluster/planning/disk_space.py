"""This module checks, before anything is written, that the disk has room for the files of the plan."""

from __future__ import annotations

import shutil
from pathlib import Path

from bigcluster.errors import StoreError
from bigcluster.files.layout import STORES
from bigcluster.planning.plan import Plan
from bigcluster.store.inventory import files_below
from bigcluster.units import MIB, show_bytes

MARGIN_BYTES = 16 * MIB
"""Bytes for the marks, tables and metadata of a small run. Chosen, not measured."""
RECORD_BYTES = 1024
"""Bytes of one image in the marks, the CSV files and the list of links: two paths, digests and numbers. Chosen, not
measured."""


def check_room(out: Path, plan: Plan) -> None:
    """Raise StoreError where the plan writes more bytes than the disk has free and the store in OUT already uses.

    `--link copy` is checked when the copies are made, because their size is known only then.
    """
    written = plan.peak_disk_bytes + _state_bytes(plan) + plan.n_images * RECORD_BYTES + MARGIN_BYTES
    reusable = _held_bytes(out)
    need = max(0, written - reusable)
    free = shutil.disk_usage(_existing(out)).free
    if need > free:
        width, height = plan.image_size
        beside = f" beside the {show_bytes(reusable)} that it holds" if reusable else ""
        raise StoreError(
            f"OUT needs {show_bytes(need)} on disk{beside}, {show_bytes(free)} are free in {_existing(out)}; free "
            f"some, give another --out, or use --size {max(1, width // 2)}x{max(1, height // 2)}"
        )


def _state_bytes(plan: Plan) -> int:
    """Return the bytes of the checkpoints of the reduction: half a matrix of integers, and two of them for a moment."""
    sides = {"gram": plan.n_images, "covariance": plan.features.n_features}
    return max((4 * sides.get(stage.solver, 0) ** 2 for stage in plan.stages), default=0)


def _held_bytes(out: Path) -> int:
    """Return the disk space in bytes of the files that will be used again or overwritten."""
    return sum(path.lstat().st_blocks * 512 for store in STORES for path in files_below(out / store))


def _existing(path: Path) -> Path:
    """Return the folder itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
