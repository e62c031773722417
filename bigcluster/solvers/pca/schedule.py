"""How the covariance operator is applied within a workspace: columns at once, blocks read together, tiles kept.

    n : the smaller side of X, in tiles of TILE_ROWS       k : the larger one, in blocks of K_BLOCK

Sizes and counts only; bigcluster.solvers.pca.operator multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.solvers.pca.result import Components, Target, usual_components

TILE_ROWS = 4096
"""Rows of V in one tile. Fixed, since each tile is rounded to int8 and summed by itself: the bits follow from it."""
K_BLOCK = 2048
"""Positions along k in one block of X'V, which is rounded to int8 with scales of its own. Fixed for the same reason."""
FLOAT_COLUMNS = 32
"""Columns of V in one float32 product. Fixed, since a product of another width may round otherwise."""
_BLOCKS_READ_TOGETHER = (4, 2, 1)
"""k blocks in one read: a chunk of pixels is four of them wide, and is read whole or not at all."""
_SECOND_READ_COST = 0.5
"""Time of reading a tile again, in times of its first read: it has just been read, so it is in the page cache."""
USUAL_APPLICATIONS = 9
"""Applications that memory is planned for: 800 components of photographs and catalog cuts took 8."""
_MOST_APPLICATIONS = 16
"""Where the basis ends if a share of the variance is still not reached: twice the usual number."""


@dataclass(frozen=True)
class Schedule:
    """How A V is computed.

    columns : columns of V at once; each group of them reads the data once. k_blocks : number of k blocks that are read
    together. n_kept : number of tiles of such a read that stay in memory between their two products; the others are
    read twice.
    """

    columns: int
    k_blocks: int
    n_kept: int


def block_width(target: Target, n: int) -> int:
    """Columns of one block of the basis: three tenths of the components, or 240 for a share of the variance.

    Narrow blocks need fewer columns in all, but each block reads the data once. For 800 components, 8 blocks of 240
    columns explain as much variance as 5 of 448, and .0003 more of it than 6 of 320.
    """
    if not isinstance(target, Components):
        return min(n, 240)
    return min(n, max(32, -(-target.n * 3 // 10 // 16) * 16))


def most_applications(target: Target) -> int:
    """The largest number of blocks in the basis: a share of the variance may need more than a number of components."""
    return USUAL_APPLICATIONS if isinstance(target, Components) else _MOST_APPLICATIONS


def rayleigh_ritz_bytes(size: int) -> int:
    """Memory of the Rayleigh-Ritz step: nine (size, size) float64 matrices.

    These are the basis, two of the problem, the one that makes the basis orthonormal, the reduced problem, and four of
    the eigensolver.
    """
    return 9 * 8 * size**2


def matmat_bytes(n: int, threads: int, itemsize: int, schedule: Schedule) -> int:
    """Memory of A V under a schedule: A V, V as quantized and as operands, tiles of X, and the scratch of every thread.

    n : rows of V. itemsize : bytes of one value of X and of V, 1 for int8 or 4 for float32.
    """
    tile, width = min(TILE_ROWS, n), K_BLOCK * schedule.k_blocks
    scratch = threads * (tile * (width + 2 * K_BLOCK) * itemsize + 8 * schedule.columns * max(tile, K_BLOCK))
    XtV = schedule.columns * width * (4 * (threads + 2) + 2)  # shares that are computed or wait, their sum, quantized
    return n * schedule.columns * (4 + 2 * itemsize) + schedule.n_kept * tile * width * itemsize + scratch + XtV


def rmatmat_bytes(n_columns: int, n: int, threads: int, itemsize: int) -> int:
    """Memory of X'V alone for all n_columns of V: that of A V, without the (n, n_columns) float32 A V itself."""
    return matmat_bytes(n, threads, itemsize, Schedule(n_columns, 1, 0)) - 4 * n * n_columns


def plan_schedule(n: int, width: int, threads: int, itemsize: int, workspace_bytes: int, *, by_row: bool) -> Schedule:
    """The schedule that reads least within the workspace; where none fits, 32 columns at once and all tiles twice.

    width : columns of V. The other arguments are those of matmat_bytes and CovarianceOperator.
    """
    blocks, n_tiles = -(-width // FLOAT_COLUMNS), -(-n // TILE_ROWS)
    together = _BLOCKS_READ_TOGETHER if by_row and itemsize == 1 else (1,)
    fitting = []
    for k_blocks in together:
        for groups in range(1, blocks + 1):
            columns = -(-blocks // groups) * FLOAT_COLUMNS
            spare = workspace_bytes - matmat_bytes(n, threads, itemsize, Schedule(columns, k_blocks, 0))
            if spare >= 0:
                n_kept = min(n_tiles, spare // (min(TILE_ROWS, n) * K_BLOCK * k_blocks * itemsize))
                reads = groups * (1 + _SECOND_READ_COST * (1 - n_kept / n_tiles)) * together[0] / k_blocks
                fitting.append((reads, groups, Schedule(columns, k_blocks, n_kept)))
    if not fitting:
        return Schedule(FLOAT_COLUMNS, 1, 0)
    return min(fitting, key=lambda choice: choice[:2])[2]


def iteration_schedule(
    target: Target, n: int, threads: int, itemsize: int, workspace_bytes: int, *, by_row: bool
) -> tuple[Schedule, int]:
    """The schedule of one block of the basis, and the most memory of an iteration, in bytes.

    A quarter of the workspace is left to the basis.
    """
    schedule = plan_schedule(n, block_width(target, n), threads, itemsize, 3 * workspace_bytes // 4, by_row=by_row)
    most_bytes = max(
        matmat_bytes(n, threads, itemsize, schedule),
        rayleigh_ritz_bytes(min(n, USUAL_APPLICATIONS * block_width(target, n))),
    )
    if by_row:
        return schedule, most_bytes
    return schedule, max(most_bytes, rmatmat_bytes(usual_components(target), n, threads, itemsize))
