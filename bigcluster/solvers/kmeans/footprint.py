"""Projects the bytes that k-means will hold, by integer arithmetic alone: a plan needs them before it reads a byte.

All results are in bytes. n_rows, n_columns : shape of the data. itemsize : bytes of one of its values.

between passes                              during a pass, in each thread
├── labels      n_rows x starts             ├── the block, and its float32 copy where it is not float32
├── bounds      n_rows x starts (k >= 192)  ├── gathered rows and differences
└── cached rows what the workspace leaves   └── tiles of scores, sums of the clusters touched
"""

from __future__ import annotations

from bigcluster.kernels.kmeans.assign import TILE_VALUES
from bigcluster.kernels.kmeans.groups import group_count
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.kmeans.lloyd import PRUNE_FROM
from bigcluster.solvers.kmeans.seeding import PARALLEL_FROM, sample_size

UNLIMITED = 1 << 62
"""Bytes that stand for no limit: more than any machine has."""


def project_bounds_bytes(n_rows: int, n_clusters: int) -> int:
    """Project the bounds of one restart: label, norm, upper bound and a lower bound for each group, 4 bytes each."""
    return 4 * n_rows * (3 + group_count(n_clusters))


def project_labels_bytes(n_rows: int, n_clusters: int, n_restarts: int) -> int:
    """Project the labels of all restarts, in the dtype of `lloyd.labels_dtype`; bounds hold another int32."""
    label_bytes = 1 if n_clusters <= 256 else 2 if n_clusters <= 65_536 else 4
    return n_rows * n_restarts * label_bytes


def project_centers_bytes(n_columns: int, n_clusters: int, n_restarts: int) -> int:
    """Project the centers of all restarts: new and old ones and sums in float64, three float32 layouts with padding."""
    return n_restarts * n_clusters * n_columns * (3 * 8 + 5 * 4)


def project_block_bytes(n_rows: int, n_columns: int, n_clusters: int, itemsize: int) -> int:
    """Project one thread at work on one block: the block, two float32 and one float64 copy of its rows, tiles, sums."""
    rows = min(n_rows, block_rows(n_columns))
    values = rows * n_columns
    touched = min(rows, n_clusters) * n_columns
    tile = 3 * 4 * max(TILE_VALUES, 64 * n_clusters)
    return values * (itemsize + 2 * 4 + 8) + 2 * 8 * touched + tile + 12 * rows * group_count(n_clusters)


def project_seeding_bytes(n_rows: int, n_columns: int, n_clusters: int, itemsize: int, n_restarts: int) -> int:
    """Project seeding: keys and random numbers of all rows, the sample, and the trial distances of k-means++."""
    sample = min(n_rows, sample_size(n_clusters, n_columns))
    trials = 2 + n_clusters.bit_length()
    # k-means|| runs k-means++ on its candidates (5 rounds of 2 k, and some more), one restart after the other.
    seen = min(sample, 12 * n_clusters + 64) if n_clusters >= PARALLEL_FROM else sample * n_restarts
    return 32 * n_rows + sample * (n_columns * (itemsize + 4) + 40) + seen * (trials * 12 + 4 * n_columns)


def project_lloyd_bytes(
    n_rows: int, n_columns: int, n_clusters: int, *, itemsize: int = 4, n_restarts: int = 4, threads: int = 1
) -> int:
    """Project the least memory of a whole fit: no cached rows, no bounds. What a sink holds is not included."""
    steady = project_labels_bytes(n_rows, n_clusters, n_restarts) + project_centers_bytes(
        n_columns, n_clusters, n_restarts
    )
    # Restarts share a product until bounds take over; the result never falls where that happens.
    together = n_clusters * n_restarts if n_clusters < PRUNE_FROM else max(n_clusters, (PRUNE_FROM - 1) * n_restarts)
    work = threads * project_block_bytes(n_rows, n_columns, together, itemsize)
    # k-means|| holds less than k-means++; the result never falls where the method changes.
    sizes = (n_clusters, min(n_clusters, PARALLEL_FROM - 1))
    seeding = max(project_seeding_bytes(n_rows, n_columns, k, itemsize, n_restarts) for k in sizes)
    return steady + max(work, seeding)


def share_workspace(
    workspace_bytes: int | None, n_rows: int, n_columns: int, n_clusters: int, n_restarts: int
) -> tuple[bool, int]:
    """Divide the workspace: return whether restarts keep bounds, and the bytes left for cached rows.

    Bounds come first, because a byte of them saves more time than a byte of rows. None for no limit.
    """
    bounds_pay = n_clusters >= PRUNE_FROM
    if workspace_bytes is None:
        return bounds_pay, UNLIMITED
    spare = workspace_bytes - project_labels_bytes(n_rows, n_clusters, n_restarts)
    bounds = project_bounds_bytes(n_rows, n_clusters) * n_restarts
    if bounds_pay and bounds <= spare:
        return True, max(0, spare - bounds)
    return False, max(0, spare)
