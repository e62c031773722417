"""Out-of-core PCA: one fit gives every number of components.

choose      which solver, and why, by the shape of the data
fit_pca     fit by the solver of this name:
gram        few rows         X X', exact
covariance  few columns      X' X, exact
subspace    many of both     streamed block Krylov iteration
"""

from bigcluster.solvers.pca.fit import SOLVERS, fit_pca
from bigcluster.solvers.pca.result import Choice, Components, Moments, PCAFit, Sink, Target, Variance, choose

__all__ = [
    "SOLVERS",
    "Choice",
    "Components",
    "Moments",
    "PCAFit",
    "Sink",
    "Target",
    "Variance",
    "choose",
    "fit_pca",
]
