"""Out-of-core PCA: one fit gives every number of components.

choose          which solver, and why, by the shape of the data
fit_gram        few rows         X X', exact
fit_covariance  few columns      X' X, exact
fit_subspace    many of both     streamed block Krylov iteration
"""

from bigcluster.solvers.pca.choose import Choice, choose
from bigcluster.solvers.pca.covariance import fit_covariance
from bigcluster.solvers.pca.gram import fit_gram
from bigcluster.solvers.pca.result import Components, Moments, PCAFit, Sink, Target, Variance
from bigcluster.solvers.pca.subspace import fit_subspace

SOLVERS = {"gram": fit_gram, "covariance": fit_covariance, "subspace": fit_subspace}

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
    "fit_covariance",
    "fit_gram",
    "fit_subspace",
]
