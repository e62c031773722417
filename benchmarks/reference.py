"""What all label sets are judged by: the files' own pixels, exactly.

One pass over the files gives the total variance of the pixels and, for every set of labels, the inertia in pixel
space: the sum of squared distances to the mean of the own cluster, whatever a peer reduced its pixels to in between.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import image_files
from benchmarks.measure import cpu_count

BLOCK_ROWS = 256
"""255 * 256 rows stay far below 2^24: sums of a block are exact in float32."""


def read_pixels(file: Path) -> NDArray[np.uint8]:
    """(n_pixels,) uint8."""
    picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise OSError(f"{file} cannot be read")
    return np.asarray(picture, np.uint8).ravel()


def blocks(files: list[Path]) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """(rows, (rows, n_pixels) uint8), in order."""
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for start in range(0, len(files), BLOCK_ROWS):
            part = slice(start, min(start + BLOCK_ROWS, len(files)))
            yield part, np.stack(list(pool.map(read_pixels, files[part])))


def judge(files: list[Path], label_sets: list[NDArray[Any]]) -> tuple[float, list[float]]:
    """(total variance with ddof = 1, inertia of every label set). A label of -1 is left out of its set."""
    widths = [int(labels.max()) + 1 for labels in label_sets]
    starts = np.cumsum([0, *widths])
    column_sums: Any = 0  # (n_pixels,) int64
    cluster_sums: Any = 0.0  # (all clusters of all sets, n_pixels) float64, whole numbers
    square_sum = 0
    squares_of = np.empty(len(files))  # (n_samples,) sum of squares of each image
    for part, pixels in blocks(files):
        x = pixels.astype(np.float32)
        member = np.zeros((starts[-1], len(x)), np.float32)
        for labels, start in zip(label_sets, starts, strict=False):
            known = np.flatnonzero(labels[part] >= 0)
            member[labels[part][known] + start, known] = 1
        cluster_sums = cluster_sums + member @ x
        column_sums = column_sums + pixels.sum(axis=0, dtype=np.int64)
        squares_of[part] = np.einsum("ij,ij->i", x, x, dtype=np.float64)
        square_sum += int(squares_of[part].sum())
    inertias = []
    for labels, start, width in zip(label_sets, starts, widths, strict=False):
        sums = cluster_sums[start : start + width]
        counts = np.bincount(labels[labels >= 0], minlength=width)
        used = counts > 0
        explained = (np.einsum("ij,ij->i", sums, sums)[used] / counts[used]).sum()
        inertias.append(float(squares_of[labels >= 0].sum() - explained))
    n = len(files)
    # squares of column sums pass 2^63 at a million images: Python's integers do not mind
    scatter = square_sum - sum(int(s) * int(s) for s in column_sums) / n
    return scatter / (n - 1), inertias


def main() -> None:
    """Print {"total_variance": ..., "inertia": [...]} for the label files given."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--labels", type=Path, nargs="*", default=[])
    arguments.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    total_variance, inertias = judge(image_files(args.images), [np.load(file) for file in args.labels])
    print(json.dumps({"total_variance": total_variance, "inertia": inertias}))


if __name__ == "__main__":
    main()
