"""Hashes of names, by which millions of names are compared."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog.names import path_key


def name_keys(names: Iterable[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every name, (n,) uint64: `path_key` as numbers."""
    return np.frombuffer(b"".join(map(path_key, names)), np.dtype("<u8")).astype(np.uint64)
