"""The optional libraries behind `report.map`, looked for without loading what makes pages."""

from __future__ import annotations

import importlib.util
from typing import Any

from bigcluster.errors import ConfigError

_LIBRARIES = {"tsne": "openTSNE", "umap": "umap"}


def check_kind(kind: str) -> None:
    """Raise ConfigError where the library that `kind` needs is not installed: before anything is done."""
    if kind in _LIBRARIES and importlib.util.find_spec(_LIBRARIES[kind]) is None:
        raise ConfigError(f"report.map = {kind} needs {_LIBRARIES[kind]}; {_remedy(kind)}")


def import_for(kind: str) -> Any:
    """The library of a kind. Raises ConfigError where it cannot be imported."""
    try:
        return importlib.import_module(_LIBRARIES[kind])
    except ImportError as error:  # a part of it is missing
        raise ConfigError(
            f"report.map = {kind}: {_LIBRARIES[kind]} cannot be imported ({error}); {_remedy(kind)}"
        ) from error


def _remedy(kind: str) -> str:
    return f"pip install 'bigcluster[{kind}]', or use report.map = pca"
