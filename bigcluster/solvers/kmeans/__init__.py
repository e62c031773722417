"""k-means over rows that may be larger than memory."""

from bigcluster.solvers.kmeans.fit import fit, fit_given, predict
from bigcluster.solvers.kmeans.minibatch import fit_minibatch
from bigcluster.solvers.kmeans.result import ALGORITHMS, ArraySink, KMeansFit, RowSink, choose
from bigcluster.solvers.kmeans.sweep import Sweep, SweepRow, sweep
from bigcluster.solvers.kmeans.two_level import fit_two_level

__all__ = [
    "ALGORITHMS",
    "ArraySink",
    "KMeansFit",
    "RowSink",
    "Sweep",
    "SweepRow",
    "choose",
    "fit",
    "fit_given",
    "fit_minibatch",
    "fit_two_level",
    "predict",
    "sweep",
]
