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

    version : the stage that made it and the fingerprint of its mark. It goes into the names of the chunks in the graph,
    so that a scheduler never takes results of an earlier content for these. Once the stage has another mark, reading a
    chunk raises StoreError, because it may hold rows of other images. None where a stage computes the array before the
    stored one can change: the names of the chunks are random.
    """
    import dask.array as da  # brings numba along where dask-ml is installed: 70 MiB that a run does not need
    from dask.base import tokenize

    identity = (str(array.store.root), array.shape, array.chunks, version)
    token = uuid4().hex if version is None else tokenize(*identity)
    if version is not None:
        array = zarr.open_array(array.store.of_version(*version), path=array.path, mode="r", zarr_format=3)
    return da.from_zarr(array, name=f"{array.path}-{token}")


def without_holes(lazy: da.Array, ok: NDArray[np.bool_]) -> da.Array:
    """Return the good rows of a dask array, (n_ok, ...), each in the chunk in which it is stored.

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
