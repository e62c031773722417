"""Memory and disk of the solvers in bytes: integer arithmetic before any solver runs, tested against measurements.

project_bytes(solver, ...)          peak memory of a fit within a workspace
project_scratch_bytes(solver, ...)  most bytes of scratch on the disk
least_bytes(solver, ...)            the smallest workspace that a fit keeps to: below it, MemoryBudgetError is honest
"""

from __future__ import annotations

import numpy as np

from bigcluster.errors import ConfigError
from bigcluster.solvers.pca.basis import CHUNK
from bigcluster.solvers.pca.lanczos import lanczos_limit, lanczos_size, lanczos_width
from bigcluster.solvers.pca.operands import DENSE_LIMIT, work_dtype
from bigcluster.solvers.pca.products import TILE, accumulator_dtype, plan_products
from bigcluster.solvers.pca.result import Components, Target, usual_components
from bigcluster.solvers.pca.schedule import K_BLOCK, TILE_ROWS, block_width, iteration_schedule, most_applications

Shape = tuple[int, int]


def dense_finish_bytes(size: int) -> int:
    """Memory of a dense eigenproblem: a (size, size) float64 matrix, its eigenvectors, and LAPACK's workspace of
    two."""
    return 4 * 8 * size * size


def eigensolver_bytes(solver: str, n: int, target: Target, threads: int) -> int:
    """Memory of the eigensolver of an (n, n) matrix, without the matrix and the full chunks of Q and G Q."""
    if n <= DENSE_LIMIT:
        return dense_finish_bytes(n)
    width = lanczos_width(target)
    n_wanted = usual_components(target)
    blocks = 4 * 4 * n * width  # V, W, and their successors
    open_chunks = (2 if solver == "gram" else 1) * 4 * n * CHUNK
    per_thread = threads * (2 * 4 * TILE * TILE + 3 * 4 * TILE * n_wanted)
    return dense_finish_bytes(_basis_size(target, n)) + blocks + open_chunks + per_thread


def _basis_size(target: Target, n: int) -> int:
    """The limit of the basis for a number of components; for a share, whose number is unknown, its first size."""
    return lanczos_limit(target, n) if isinstance(target, Components) else lanczos_size(target, n) * 9 // 8


def _eigensolver_named_bytes(solver: str, n: int, target: Target) -> int:
    """What the eigensolver keeps by name: the matrix, the chunks of Q and, for gram, those of G Q."""
    size = _basis_size(target, n)
    return 4 * n * (n + TILE) // 2 + (2 if solver == "gram" else 1) * 4 * n * size


def project_bytes(
    solver: str, shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int, workspace_bytes: int
) -> int:
    """Peak memory of a fit in `workspace_bytes`; it is larger than the workspace where that is below least_bytes.

    shape : (n_rows, n_columns); dtype : of the data. Raises ConfigError for an unknown solver.
    """
    if solver == "subspace":
        everything = _subspace_everything(shape, dtype, target, threads, workspace_bytes)
        return max(_subspace_least(shape, dtype, target, threads), min(workspace_bytes, everything))
    n, k = _sides(solver, shape)
    plan = plan_products(n, k, work_dtype(dtype, n), threads, workspace_bytes)
    # The matrix, Q and G Q fill what the eigensolver leaves of the workspace, at most with all of their bytes.
    named_bytes = _eigensolver_named_bytes(solver, n, target)
    finish = eigensolver_bytes(solver, n, target, threads)
    return max(plan.projected_bytes, min(finish + named_bytes, max(finish, workspace_bytes)))


def project_sums_bytes(solver: str, shape: Shape, dtype: np.dtype[np.generic]) -> int:
    """The sums of products that a worker of a cluster makes for a fit: one triangle of tiles. 0 for solvers that sum
    none, and for data whose sums are not exact."""
    if solver not in ("gram", "covariance") or dtype != np.uint8:
        return 0
    n, k = _sides(solver, shape)
    n_tiles = -(-n // TILE)
    side = min(n, TILE)
    return n_tiles * (n_tiles + 1) // 2 * side * side * accumulator_dtype(dtype, k).itemsize


def project_panels(
    solver: str, shape: Shape, dtype: np.dtype[np.generic], threads: int, workspace_bytes: int
) -> tuple[int, int]:
    """Memory of a job that sums the products of one block column, and scratch of the tiles of all of them on the disk,
    beside that of the fit: 0 where there is one block column, and for data whose sums are not exact."""
    if not project_sums_bytes(solver, shape, dtype):
        return 0, 0
    n, k = _sides(solver, shape)
    plan = plan_products(n, k, work_dtype(dtype, n), threads, workspace_bytes)
    scratch = project_sums_bytes(solver, shape, dtype) if len(plan.block_columns) > 1 else 0
    return plan.projected_bytes, scratch


def project_scratch_bytes(solver: str, shape: Shape, target: Target, workspace_bytes: int) -> int:
    """The most scratch that a fit writes to the disk: the matrix, Q and G Q, or the Krylov blocks, and then the
    scores."""
    n_wanted = usual_components(target)
    if solver != "subspace":
        n = _sides(solver, shape)[0]
        named_bytes = _eigensolver_named_bytes(solver, n, target)
        vectors = 2 * 4 * n * n_wanted
        return max(0, named_bytes + vectors - workspace_bytes)
    return _krylov_bytes(shape, target, 1)


def project_application_bytes(shape: Shape, target: Target) -> int:
    """The scratch of the subspace solver on workers beside that of a fit in one process: a block of the basis, its
    sketch and its product, which go from worker to worker, and the state that is saved after each of them."""
    width = block_width(target, min(shape))
    return width * (5 * min(shape) + max(shape)) + _krylov_bytes(shape, target, 1)


def least_bytes(solver: str, shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int) -> int:
    """The smallest workspace that a fit keeps to. Arguments as project_bytes."""
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
    """What a streamed iteration keeps by name: quantized blocks, the candidate, A V; then scores and components."""
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
    """Memory of a fit that never spills."""
    n, item = min(shape), 1 if dtype == np.uint8 else 4
    _, iteration_bytes = iteration_schedule(target, n, threads, item, workspace_bytes, by_row=shape[0] <= shape[1])
    return _subspace_least(shape, dtype, target, threads) + iteration_bytes + _krylov_bytes(shape, target, item)


def _subspace_least(shape: Shape, dtype: np.dtype[np.generic], target: Target, threads: int) -> int:
    """The larger of A V with the fewest columns at once, and a tile of all components for each thread."""
    n = min(shape)
    item = 1 if dtype == np.uint8 else 4
    width = block_width(target, n)
    _, applied = iteration_schedule(target, n, threads, item, 0, by_row=shape[0] <= shape[1])
    n_wanted = usual_components(target)
    tile = min(TILE_ROWS, n) * max(width, n_wanted) * 4 * 3 * threads
    return max(applied, tile, K_BLOCK)
