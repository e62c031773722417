"""This stage computes the components, (n_components, n_features) float32, where the fit has not stored them.

The Gram solver computes scores without a second pass over the features, but its components need one. Only predict and
the pictures of components use them, so a run does not wait for them.
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
from bigcluster.stages.features import Features
from bigcluster.store import ColumnWriter, Mark, Store, StoredRows, fingerprint
from bigcluster.store.row_source import spans


def are_stored(store: Store) -> bool:
    """Return whether the components are in the store: the fit stored them, or this stage has computed them since."""
    fit, made = store.mark(REDUCE), store.mark(COMPONENTS)
    if fit is None:
        return False
    return fit.payload["components"] == "stored" or (made is not None and made.fingerprint == _fingerprint_of(fit))


def _fingerprint_of(fit: Mark) -> str:
    return fingerprint(before=fit.fingerprint, stage=COMPONENTS)


def components(context: Context, features: Features) -> Any:
    """Return the stored array of components, (n_components, n_features) float32; it is computed first where it is
    missing.

    Raises StoreError where the store holds no reduction of its features.
    """
    store, progress = context.store, context.progress
    fit = store.mark(REDUCE)
    if fit is None or fit.payload["features"] != features.fingerprint:
        raise StoreError(f"{store.root} holds no reduction of its {features.kind}; run the job to its end first")
    if not are_stored(store):
        rows = features.rows
        left_vectors = StoredRows(store.array("left"))
        n_rows, n_components = left_vectors.shape
        units = list(spans(n_rows, TILE))
        store.marks.remove(COMPONENTS)

        def factor(t: int) -> NDArray[Any]:
            return np.ascontiguousarray(left_vectors.read(*units[t]).T)

        with progress.stage(COMPONENTS, rows.shape[1], "values"):
            sink = ColumnWriter(store, COMPONENTS, n_components, rows.shape[1], np.float32)
            components_from_dual_coef(rows, store.load("mean"), factor, n_components, units, sink, context.runtime)
            progress.at(rows.shape[1])
            store.commit(COMPONENTS, _fingerprint_of(fit), sink.close(), {})
    return store.array(COMPONENTS)
