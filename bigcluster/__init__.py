"""bigcluster clusters more images than fit into memory.

    import bigcluster as bc
    run = bc.run("photos/", out="out", n_clusters=10, memory="1GiB")

This module has the public names. It imports `api` and `estimators`, each when one of its names is first used. Begin
with api/calls.py; ARCHITECTURE.md beside this file describes the packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bigcluster._version import __version__

if TYPE_CHECKING:
    from bigcluster.api import Run, list_models, open, plan, profile, run, show_model
    from bigcluster.estimators.kmeans import KMeans
    from bigcluster.estimators.pca import PCA

_LAZY = {
    "KMeans": "bigcluster.estimators.kmeans",
    "PCA": "bigcluster.estimators.pca",
    "Run": "bigcluster.api",
    "list_models": "bigcluster.api",
    "open": "bigcluster.api",
    "plan": "bigcluster.api",
    "profile": "bigcluster.api",
    "run": "bigcluster.api",
    "show_model": "bigcluster.api",
}

__all__ = ["PCA", "KMeans", "Run", "__version__", "list_models", "open", "plan", "profile", "run", "show_model"]


def __getattr__(name: str) -> Any:
    # Names are imported on first use, so that `bigcluster --help` answers without loading numpy.
    if name not in _LAZY:
        raise AttributeError(f"module 'bigcluster' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
