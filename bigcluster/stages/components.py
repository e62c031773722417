"""The components, (n_components, d) float32: stored by the fit, or made from what it left when somebody asks.

The Gram solver's scores need no second pass over the pixels; its components do. Only predict and the pictures of
components use them, so a run does not wait for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.planning.stage_names import COMPONENTS, REDUCE
from bigcluster.solvers.pca.gram import components_from_dual_coef
from bigcluster.solvers.pca.products import TILE
from bigcluster.stages.context import Context
from bigcluster.stages.ingest import Ingested, pixel_rows
from bigcluster.store import ColumnWriter, Mark, Store, StoredRows, fingerprint
from bigcluster.store.row_source import spans


def are_stored(store: Store) -> bool:
    """Whether there is nothing to make: the fit stored them, or they were made of what it left."""
    fit, made = store.mark(REDUCE), store.mark(COMPONENTS)
    if fit is None:
        return False
    return fit.payload["components"] == "stored" or (made is not None and made.fingerprint == _wanted(fit))


def _wanted(fit: Mark) -> str:
    return fingerprint(before=fit.fingerprint, stage=COMPONENTS)


def components(context: Context, ingested: Ingested) -> Any:
    """The stored array of components, made first where the fit left that for later.

    Raises StoreError where there is no fit.
    """
    store, progress = context.store, context.progress
    fit = store.mark(REDUCE)
    if fit is None or fit.payload["images"] != ingested.fingerprint:
        raise StoreError(f"{store.root} holds no reduction of its pixels; run the job to its end first")
    if not are_stored(store):
        pixels = pixel_rows(store, ingested.ok)
        left = StoredRows(store.array("left"))
        n_rows, n_components = left.shape
        units = list(spans(n_rows, TILE))
        store.marks.remove(COMPONENTS)

        def factor(t: int) -> NDArray[Any]:
            return np.ascontiguousarray(left.read(*units[t]).T)

        with progress.stage(COMPONENTS, pixels.shape[1], "values"):
            sink = ColumnWriter(store, COMPONENTS, n_components, pixels.shape[1], np.float32)
            components_from_dual_coef(pixels, store.load("mean"), factor, n_components, units, sink, context.runtime)
            progress.at(pixels.shape[1])
            store.commit(COMPONENTS, _wanted(fit), sink.close(), {})
    return store.array(COMPONENTS)
