"""Bytes that k-means will hold: pure integer arithmetic, so that a plan can say it before a byte is read.

between passes                              during a pass, per thread
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


def project_bounds_bytes(n_rows: int, n_clusters: int) -> int:
    """A label, a norm, an upper bound and a lower one per group, 4 bytes each."""
    return 4 * n_rows * (3 + group_count(n_clusters))


def project_labels_bytes(n_rows: int, n_clusters: int, n_restarts: int) -> int:
    """Labels are kept in 1, 2 or 4 bytes; bounds hold another int32."""
    small = 1 if n_clusters <= 256 else 2 if n_clusters <= 65_536 else 4
    return n_rows * n_restarts * small


def project_centers_bytes(n_columns: int, n_clusters: int, n_restarts: int) -> int:
    """Per start: centers, those before, sums (float64), and three float32 layouts padded by up to a half."""
    return n_restarts * n_clusters * n_columns * (3 * 8 + 5 * 4)


def project_block_bytes(n_rows: int, n_columns: int, n_clusters: int, itemsize: int) -> int:
    """One thread at work on one block: the block, two float32 and one float64 copy of its rows, tiles, partial sums."""
    rows = min(n_rows, block_rows(n_columns))
    values = rows * n_columns
    touched = min(rows, n_clusters) * n_columns
    tile = 3 * 4 * max(TILE_VALUES, 64 * n_clusters)
    return values * (itemsize + 2 * 4 + 8) + 2 * 8 * touched + tile + 12 * rows * group_count(n_clusters)


def project_seeding_bytes(n_rows: int, n_columns: int, n_clusters: int, itemsize: int, n_restarts: int) -> int:
    """Keys and luck of every row, the sample, and the trial distances of k-means++ on it or on the candidates."""
    sample = min(n_rows, sample_size(n_clusters, n_columns))
    trials = 2 + n_clusters.bit_length()
    walked = min(sample, 12 * n_clusters + 64) if n_clusters >= PARALLEL_FROM else sample * n_restarts
    return 32 * n_rows + sample * (n_columns * (itemsize + 4) + 40) + walked * (trials * 12 + 4 * n_columns)


def project_lloyd_bytes(
    n_rows: int, n_columns: int, n_clusters: int, *, itemsize: int = 4, n_restarts: int = 4, threads: int = 1
) -> int:
    """Least that a fit holds at once: nothing cached, no bounds. Sinks are the caller's."""
    steady = project_labels_bytes(n_rows, n_clusters, n_restarts) + project_centers_bytes(
        n_columns, n_clusters, n_restarts
    )
    # Starts share a pass over the block until bounds take over; never less than just before that.
    together = n_clusters * n_restarts if n_clusters < PRUNE_FROM else max(n_clusters, (PRUNE_FROM - 1) * n_restarts)
    work = threads * project_block_bytes(n_rows, n_columns, together, itemsize)
    # Many clusters are seeded another way, that holds less; never less than just before that.
    ways = (n_clusters, min(n_clusters, PARALLEL_FROM - 1))
    seeding = max(project_seeding_bytes(n_rows, n_columns, k, itemsize, n_restarts) for k in ways)
    return steady + max(work, seeding)


def share_workspace(
    workspace_bytes: int | None, n_rows: int, n_columns: int, n_clusters: int, n_restarts: int
) -> tuple[bool, int]:
    """(keep bounds?, bytes for cached rows). Bounds come first: they save more time a byte than rows do."""
    wants = n_clusters >= PRUNE_FROM
    if workspace_bytes is None:
        return wants, 1 << 62
    left = workspace_bytes - project_labels_bytes(n_rows, n_clusters, n_restarts)
    bounds = project_bounds_bytes(n_rows, n_clusters) * n_restarts
    if wants and bounds <= left:
        return True, max(0, left - bounds)
    return False, max(0, left)
