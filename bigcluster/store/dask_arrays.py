"""Stored matrices as dask arrays, which any process may compute that sees the folder of the store.

The graph holds the zarr array by the path of its store and its metadata: neither data nor an open file or lock is in it
(`chunk_io.ChunkFiles.__reduce__`). Rows that are left out are known by their numbers, and are left out when a chunk is
read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray

if TYPE_CHECKING:
    import dask.array as da


def lazy_array(array: Any, version: tuple[str, str] | None = None) -> da.Array:
    """Return a stored zarr array as a dask array in its stored chunks. Nothing is read.

    version : the stage that made it and the fingerprint of its mark; None for an array that is used up at once, whose
    names occur once. It goes into the names of the chunks in the graph, so that a scheduler that holds results of
    another content never takes them for these. Once the mark is another one, reading a chunk raises StoreError: rows of
    other images would be there.
    """
    import dask.array as da  # brings numba along where dask-ml is installed: 70 MiB that a run does not need
    from dask.base import tokenize

    known = (str(array.store.root), array.shape, array.chunks, version)
    token = uuid4().hex if version is None else tokenize(*known)
    if version is not None:
        array = zarr.open_array(array.store.of_version(*version), path=array.path, mode="r", zarr_format=3)
    return da.from_zarr(array, name=f"{array.path}-{token}")


def without_holes(lazy: da.Array, ok: NDArray[np.bool_]) -> da.Array:
    """Return the rows of a dask array that are good, (n_ok, ...), in the chunks that they are stored in.

    ok : (n_rows,). Where all rows are good, it is the array itself.
    """
    import dask.array as da

    if ok.all():
        return lazy
    edges = np.cumsum([0, *lazy.chunks[0]])
    parts = []
    for number, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        good = np.flatnonzero(ok[start:stop])
        if len(good):
            part = lazy.blocks[number]
            parts.append(part if len(good) == stop - start else part[good])
    return da.concatenate(parts) if parts else lazy[:0]
