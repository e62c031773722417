"""Whether the disk has room for what the plan writes: looked at before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from bigcluster.errors import StoreError
from bigcluster.planning.plan import Plan
from bigcluster.store.inventory import files_below
from bigcluster.units import MIB, show_bytes

MARGIN_BYTES = 16 * MIB
"""Marks, tables and metadata of a small run."""
RECORD_BYTES = 1024
"""What marks, CSV files and the list of links hold of one image: two paths, digests, numbers."""


def check_room(out: Path, plan: Plan) -> None:
    """Raise StoreError where the plan writes more than is free beside what OUT's store holds already.

    `--link copy` is checked when the copies are made, whose size is known then.
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
    """What the reduction saves of itself while it runs: half a matrix of integers, two of them for a moment."""
    sides = {"gram": plan.n_images, "covariance": plan.n_values}
    return max((4 * sides.get(stage.solver, 0) ** 2 for stage in plan.stages), default=0)


def _held_bytes(out: Path) -> int:
    """Disk space of what will be used again or written over."""
    return sum(path.lstat().st_blocks * 512 for path in files_below(out / "store.zarr"))


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
