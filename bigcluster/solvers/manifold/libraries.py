"""The libraries of t-SNE and UMAP. They are extras, and are imported only where a setting names them.

openTSNE (BSD-3-Clause) is the library for t-SNE: it places new rows among fitted ones, runs on one thread with the same
result each time, and needs nothing but numpy, SciPy and scikit-learn. umap-learn (BSD-3-Clause) is that of UMAP's
authors. It needs numba (BSD-2-Clause), pynndescent (BSD-2-Clause) and tqdm (MPL-2.0 and MIT).
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

from bigcluster.errors import ConfigError

LIBRARIES = {"tsne": "openTSNE", "umap": "umap"}
"""The module of each method."""


def check_library(method: str, setting: str, otherwise: str) -> None:
    """Raise ConfigError where the library of a method is not installed. It is not imported.

    setting : what asks for the method, such as "reduce = tsne". otherwise : what to use without the library.
    """
    library = LIBRARIES[method]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"{setting} needs {library}; {_remedy(method, otherwise)}")


def import_library(method: str, setting: str, otherwise: str) -> Any:
    """Import and return the library of a method. Raises ConfigError where a part of it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as umap's, that TensorFlow is not there
            return importlib.import_module(LIBRARIES[method])
    except ImportError as error:
        raise ConfigError(
            f"{setting}: {LIBRARIES[method]} cannot be imported ({error}); {_remedy(method, otherwise)}"
        ) from error


def _remedy(method: str, otherwise: str) -> str:
    return f'pip install "bigcluster[{method}]", or use {otherwise}'
