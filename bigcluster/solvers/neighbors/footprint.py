"""Projects the bytes that a search for nearest neighbors will hold, by integer arithmetic alone.

All results are in bytes. n_rows, n_columns : shape of the data, which is float32.

for the whole search                        in each thread
├── ids and distances   n_rows x k x 8      ├── the rows of a group: as they are, scaled, and twice with a column more
├── a sample of rows                        ├── a block of all rows in the same forms, and what reading it takes
└── cached rows: what the workspace leaves  ├── a tile of scores
                                            └── candidates that wait, and their sorting
"""

from __future__ import annotations

from bigcluster.kernels.kmeans.sums import EXACT_TILE_VALUES
from bigcluster.kernels.neighbors import TILE_COLUMNS, TILE_ROWS, WAITING_ROWS
from bigcluster.solvers.kmeans.blocks import block_rows
from bigcluster.solvers.neighbors.graph import group_rows
from bigcluster.solvers.neighbors.search import SAMPLE_ROWS
from bigcluster.units import MIB

_POINT_BYTES = 16
"""Bytes for each value of prepared rows: they are held in four forms of float32."""
_READ_BYTES = 24
"""Bytes for each value of a block that is read: one float32 and two float64 copies while it is scaled to length 1 or
summed, and the prepared forms of the block before it. Checked against measured peaks by a test."""
_PAIR_BYTES = 96
"""Bytes for each pair of a merge: row numbers and distances in the order of arrival and sorted, the order itself, and
scratch memory of the sorts. Checked against measured peaks by a test."""
_SCRATCH_BYTES = 2 * MIB
"""Bytes of the packed panels of float32 products of one thread. Checked against measured peaks by a test."""


def project_graph_bytes(n_rows: int, n_neighbors: int) -> int:
    """Return the bytes of the ids and distances of a graph."""
    return 8 * n_rows * min(n_neighbors, max(0, n_rows - 1))


def project_group_bytes(n_rows: int, n_columns: int, n_neighbors: int) -> int:
    """Return the bytes of one thread that works on one group."""
    queries = min(n_rows, group_rows(n_rows, n_columns))
    block = min(n_rows, block_rows(n_columns))
    tile = TILE_ROWS * TILE_COLUMNS
    pairs = queries * (n_neighbors + WAITING_ROWS) + tile
    return (
        (queries * _POINT_BYTES + block * _READ_BYTES) * (n_columns + 1)
        + pairs * _PAIR_BYTES
        + tile * (4 + 1 + 48)  # scores, whether they are near, and the places of those that are
        + TILE_ROWS * SAMPLE_ROWS * 4
        + 3 * 8 * EXACT_TILE_VALUES
        + _SCRATCH_BYTES
    )


def project_neighbors_bytes(n_rows: int, n_columns: int, n_neighbors: int, *, threads: int) -> int:
    """Return the smallest number of bytes of a whole search, which keeps no rows between groups."""
    sample = min(n_rows, SAMPLE_ROWS) * (n_columns + 1) * _POINT_BYTES
    in_thread = project_group_bytes(n_rows, n_columns, n_neighbors)
    return project_graph_bytes(n_rows, n_neighbors) + sample + threads * in_thread
