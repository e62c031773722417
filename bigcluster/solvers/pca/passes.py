"""How an application of the covariance operator is scheduled: columns at once, terms at once, tiles kept or read twice.

The application itself is in bigcluster.solvers.pca.sides.
"""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.solvers.pca.result import Components, Target, usual_components

# Canonical: the rounding of the vectors and the order of the sums follow these, so they are the same for any budget.
UNIT_TILE = 4096
TERMS = 2048
FLOAT_VECTORS = 32
# Blocks of terms that may be read together: a chunk of pixels is four of them wide, and is read whole or not at all.
_SLABS = (4, 2, 1)
# What the second reading of a slab costs beside its first: it has just been read.
_AGAIN = 0.5
# Memory is reckoned for so many blocks: 800 components of photographs and catalog cuts took 8.
USUAL_APPLICATIONS = 9
_MOST_APPLICATIONS = 16


@dataclass(frozen=True)
class Pass:
    """How an application is scheduled.

    columns : vectors at once (each group of them is a read of the data); slab : blocks of terms read together;
    n_kept : how many unit tiles of a slab stay in memory between their two uses; the others are read twice.
    """

    columns: int
    slab: int
    n_kept: int


def block_width(target: Target, n_units: int) -> int:
    """Columns of one block: three tenths of the components; for a share of the variance, what suits a few hundred.

    Narrow blocks need fewer columns in all, but each block is a read of the data: for 800 components 8 blocks of 240
    columns explain what 5 of 448 do, and .0003 more than 6 of 320.
    """
    if not isinstance(target, Components):
        return min(n_units, 240)
    return min(n_units, max(32, -(-target.n * 3 // 10 // 16) * 16))


def most_applications(target: Target) -> int:
    """Where the basis ends: a number of components needs no more, a share of the variance may."""
    return USUAL_APPLICATIONS if isinstance(target, Components) else _MOST_APPLICATIONS


def ritz_bytes(size: int) -> int:
    """Of the Rayleigh-Ritz step, in (size, size) float64 matrices: basis, the two of the problem, the one that makes it
    orthonormal, the reduced problem, and four of the eigensolver."""
    return 9 * 8 * size**2


def application_bytes(n_units: int, threads: int, item: int, plan: Pass) -> int:
    """What one application holds: images, codes, operands, tiles and the scratch of every thread."""
    tile, terms = min(UNIT_TILE, n_units), TERMS * plan.slab
    scratch = threads * (tile * (terms + 2 * TERMS) * item + 8 * plan.columns * max(tile, TERMS))
    products = plan.columns * terms * (4 * (threads + 2) + 2)  # shares of Z that are computed or wait, Z, its codes
    return n_units * plan.columns * (4 + 2 * item) + plan.n_kept * tile * terms * item + scratch + products


def plan_pass(n_units: int, width: int, threads: int, item: int, workspace_bytes: int, *, by_row: bool) -> Pass:
    """What reads the least and fits; 32 columns at a time, twice read, where nothing does."""
    blocks, n_tiles = -(-width // FLOAT_VECTORS), -(-n_units // UNIT_TILE)
    slabs = _SLABS if by_row and item == 1 else (1,)
    fitting = []
    for slab in slabs:
        for groups in range(1, blocks + 1):
            columns = -(-blocks // groups) * FLOAT_VECTORS
            spare = workspace_bytes - application_bytes(n_units, threads, item, Pass(columns, slab, 0))
            if spare >= 0:
                n_kept = min(n_tiles, spare // (min(UNIT_TILE, n_units) * TERMS * slab * item))
                reads = groups * (1 + _AGAIN * (1 - n_kept / n_tiles)) * slabs[0] / slab
                fitting.append((reads, groups, Pass(columns, slab, n_kept)))
    if not fitting:
        return Pass(FLOAT_VECTORS, 1, 0)
    return min(fitting, key=lambda choice: choice[:2])[2]


def iteration_pass(
    target: Target, n_units: int, threads: int, item: int, workspace_bytes: int, *, by_row: bool
) -> tuple[Pass, int]:
    """How the blocks of an iteration are applied, and what it holds at most; a quarter of the workspace is left to the
    basis."""
    plan = plan_pass(n_units, block_width(target, n_units), threads, item, 3 * workspace_bytes // 4, by_row=by_row)
    held = max(
        application_bytes(n_units, threads, item, plan),
        ritz_bytes(min(n_units, USUAL_APPLICATIONS * block_width(target, n_units))),
    )
    return plan, held if by_row else max(held, projection_bytes(usual_components(target), n_units, threads, item))


def projection_bytes(n_vectors: int, n_units: int, threads: int, item: int) -> int:
    """What the read by column for all components holds: what an application does, but no images."""
    return application_bytes(n_units, threads, item, Pass(n_vectors, 1, 0)) - 4 * n_units * n_vectors
