"""A folder of images as the dask array that dask-ml wants: row blocks, read when they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.data import image_files, read_grey

BLOCK_ROWS = 1024


def as_dask_array(images: Path) -> Any:
    """(n_samples, n_features) float32, chunked along rows."""
    import dask
    import dask.array as da
    import numpy as np

    files = image_files(images)
    n_values = read_grey(files[0]).size

    def read(part: list[Path]) -> Any:
        return np.array([read_grey(file).ravel() for file in part], dtype=np.float32)

    parts = [files[start : start + BLOCK_ROWS] for start in range(0, len(files), BLOCK_ROWS)]
    blocks = [da.from_delayed(dask.delayed(read)(part), (len(part), n_values), np.float32) for part in parts]
    return da.concatenate(blocks)
