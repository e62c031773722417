"""k-means over rows that may be larger than memory: Lloyd, mini-batches, two levels, dask-ml, and sweeps of k.

It imports `kernels.kmeans`, `runtime` and `store.row_source`. Begin with fit.py, then lloyd.py (the passes), seeding.py
(the first centers) and sweep.py (many numbers of clusters at once).
"""

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
