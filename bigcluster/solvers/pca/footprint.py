"""How many bytes the solvers hold: pure integer arithmetic, made before any solver runs, tested against measurement.

project_bytes(solver, ...)  the peak of a fit under a workspace
least_bytes(solver, ...)    the smallest workspace that a fit keeps to: below it, MemoryBudgetError is honest
"""

from __future__ import annotations

import numpy as np

from bigcluster.errors import ConfigError
from bigcluster.solvers.pca.lanczos import CHUNK, lanczos_limit, lanczos_size, lanczos_width
from bigcluster.solvers.pca.operands import DENSE_LIMIT, work_dtype
from bigcluster.solvers.pca.products import TILE, plan_products
from bigcluster.solvers.pca.result import Components, Target, usual_components
from bigcluster.solvers.pca.schedule import K_BLOCK, TILE_ROWS, block_width, iteration_schedule, most_applications

Shape = tuple[int, int]


def dense_finish_bytes(size: int) -> int:
    """A symmetric (size, size) float64 matrix, its eigenvectors, and LAPACK's workspace of twice its size."""
    return 4 * 8 * size * size


def eigensolver_bytes(solver: str, n: int, target: Target, threads: int) -> int:
    """What the eigensolver of an (n, n) matrix holds beside the matrix and the full chunks of its basis and images."""
    if n <= DENSE_LIMIT:
        return dense_finish_bytes(n)
    width = lanczos_width(target)
    n_wanted = usual_components(target)
    blocks = 4 * 4 * n * width  # V, W, and their successors
    open_chunks = (2 if solver == "gram" else 1) * 4 * n * CHUNK
    per_thread = threads * (2 * 4 * TILE * TILE + 3 * 4 * TILE * n_wanted)
    return dense_finish_bytes(_basis_size(target, n)) + blocks + open_chunks + per_thread


def _basis_size(target: Target, n: int) -> int:
    """What components asked for by number are held to; of a share, what is looked at first, since none is known."""
    return lanczos_limit(target, n) if isinstance(target, Components) else lanczos_size(target, n) * 9 // 8


def _eigensolver_kept_bytes(solver: str, n: int, target: Target) -> int:
    """The matrix, the chunks of the basis and, for gram, of its images."""
    size = _basis_size(target, n)
    return 4 * n * (n + TILE) // 2 + (2 if solver == "gram" else 1) * 4 * n * size


def project_bytes(
    solver: str, shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int, workspace_bytes: int
) -> int:
    """The most that a fit holds at once in `workspace_bytes`; more than that where the workspace is below the least.

    shape : (n_rows, n_columns). Raises ConfigError for an unknown solver.
    """
    if solver == "subspace":
        everything = _subspace_everything(shape, dtype, target, threads, workspace_bytes)
        return max(_subspace_least(shape, dtype, target, threads), min(workspace_bytes, everything))
    n, k = _sides(solver, shape)
    plan = plan_products(n, k, work_dtype(dtype, n), threads, workspace_bytes)
    # Tiles, basis and images fill what the eigensolver leaves of the workspace, and never more than they are.
    kept = _eigensolver_kept_bytes(solver, n, target)
    finish = eigensolver_bytes(solver, n, target, threads)
    return max(plan.projected_bytes, min(finish + kept, max(finish, workspace_bytes)))


def project_scratch_bytes(solver: str, shape: Shape, target: Target, workspace_bytes: int) -> int:
    """The most that a fit puts on the disk: matrix, basis and images, or the Krylov blocks and what follows."""
    n_wanted = usual_components(target)
    if solver != "subspace":
        n = _sides(solver, shape)[0]
        kept = _eigensolver_kept_bytes(solver, n, target)
        vectors = 2 * 4 * n * n_wanted
        return max(0, kept + vectors - workspace_bytes)
    return _krylov_bytes(shape, target, 1)


def least_bytes(solver: str, shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int) -> int:
    """The smallest workspace that a fit keeps to."""
    if solver == "subspace":
        return _subspace_least(shape, dtype, target, threads)
    n, k = _sides(solver, shape)
    plan = plan_products(n, k, work_dtype(dtype, n), threads, 0)
    return max(plan.projected_bytes, eigensolver_bytes(solver, n, target, threads))


def _sides(solver: str, shape: Shape) -> Shape:
    if solver not in ("gram", "covariance"):
        raise ConfigError(f"pca.solver is {solver!r}; use one of gram, covariance, subspace")
    return shape if solver == "gram" else (shape[1], shape[0])


def _krylov_bytes(shape: Shape, target: Target, item: int) -> int:
    """All that a streamed iteration keeps by name: rounded blocks, the one in work, images; scores, components."""
    n, k = min(shape), max(shape)
    n_wanted = usual_components(target)
    width = block_width(target, n)
    basis, scores = most_applications(target) * width, 4 * shape[0] * n_wanted
    inner = 8 * min(n, basis) ** 2
    if shape[0] <= shape[1]:
        return 4 * inner + n * (basis * (item + 4) + 4 * width) + k * basis * item + scores
    return 2 * inner + n * (basis * item + 2 * 4 * width + n_wanted * item) + 2 * scores


def _subspace_everything(
    shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int, workspace_bytes: int
) -> int:
    """What a fit would hold that never had to put anything on the disk."""
    n, item = min(shape), 1 if dtype == np.uint8 else 4
    _, held = iteration_schedule(target, n, threads, item, workspace_bytes, by_row=shape[0] <= shape[1])
    return _subspace_least(shape, dtype, target, threads) + held + _krylov_bytes(shape, target, item)


def _subspace_least(shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int) -> int:
    """An application of the fewest columns at once, or a tile of all components per thread."""
    n = min(shape)
    item = 1 if dtype == np.uint8 else 4
    width = block_width(target, n)
    _, applied = iteration_schedule(target, n, threads, item, 0, by_row=shape[0] <= shape[1])
    n_wanted = usual_components(target)
    tile = min(TILE_ROWS, n) * max(width, n_wanted) * 4 * 3 * threads
    return max(applied, tile, K_BLOCK)
