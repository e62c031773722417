"""PCA over rows that may be larger than memory. One fit answers for every number of components.

It imports `kernels.linalg`, `kernels.pca`, `runtime` and `store.row_source`. Begin with fit.py and result.py (which
solver suits which data, and what a solver returns). The solvers:

gram.py         few rows          the Gram matrix X X', exact
covariance.py   few columns       the covariance X' X, exact
subspace.py     many of both      block Krylov iteration over streamed rows
incremental.py  when asked for    dask-ml's IncrementalPCA
"""

from bigcluster.solvers.pca.fit import SOLVERS, fit_pca
from bigcluster.solvers.pca.result import Choice, Components, ExactSums, PCAFit, Sink, Target, Variance, choose

__all__ = [
    "SOLVERS",
    "Choice",
    "Components",
    "ExactSums",
    "PCAFit",
    "Sink",
    "Target",
    "Variance",
    "choose",
    "fit_pca",
]
