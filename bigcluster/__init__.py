"""bigcluster: cluster more pictures than memory holds.

import bigcluster as bc
run = bc.run("photos/", out="out", n_clusters=10, memory="1GiB")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bigcluster._version import __version__

if TYPE_CHECKING:
    from bigcluster.api import Run, open, plan, profile, run
    from bigcluster.estimators.kmeans import KMeans
    from bigcluster.estimators.pca import PCA

_LAZY = {
    "KMeans": "bigcluster.estimators.kmeans",
    "PCA": "bigcluster.estimators.pca",
    "Run": "bigcluster.api",
    "open": "bigcluster.api",
    "plan": "bigcluster.api",
    "profile": "bigcluster.api",
    "run": "bigcluster.api",
}

__all__ = ["PCA", "KMeans", "Run", "__version__", "open", "plan", "profile", "run"]


def __getattr__(name: str) -> Any:
    # Looked up on first use: `bigcluster --help` answers without numpy.
    if name not in _LAZY:
        raise AttributeError(f"module 'bigcluster' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
