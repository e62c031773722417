"""t-SNE and UMAP: places in few dimensions, in which near rows stay near, by libraries that are extras.

A sample of the rows is fitted, and the other rows are placed among it. The libraries know no budget: footprint.py
projects what they hold. It imports `kernels.linalg`, `runtime`, `solvers.neighbors` and `store.row_source`. Begin with
fit.py.
"""

from bigcluster.solvers.manifold.fit import (
    NAMES,
    PLACED_ROWS,
    Placer,
    effective_neighbors,
    fit_manifold,
    n_dimensions,
)
from bigcluster.solvers.manifold.libraries import check_library, import_library

__all__ = [
    "NAMES",
    "PLACED_ROWS",
    "Placer",
    "check_library",
    "effective_neighbors",
    "fit_manifold",
    "import_library",
    "n_dimensions",
]
