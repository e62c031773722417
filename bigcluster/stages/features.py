"""The matrix that the stages after ingest work on: n_samples x n_features, of uint8 or float32.

The pixels are the first kind of features. Any other kind is made by an `Embedding` while pictures are decoded, and
stored beside the pixels in the array `features`, whose rows are those of the listing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bigcluster.errors import StoreError
from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.stage_names import FEATURES
from bigcluster.solvers.pca.moments import column_mean
from bigcluster.solvers.pca.result import ExactSums
from bigcluster.stages.context import Context
from bigcluster.stages.ingest import MASK, Ingested, pixel_rows, stored_embedding
from bigcluster.store import Store, StoredRows

PIXELS = "pixels"
"""The kind of features that are the stored pixels themselves."""
_MEAN = "feature_mean"
"""The name of the stored array of the mean of features that are not pixels."""


@dataclass(frozen=True)
class Features:
    """The matrix that the stages after ingest work on. It has one row for every good image, in listing order."""

    rows: StoredRows
    """(n_ok, n_features) uint8 or float32."""
    moments: ExactSums | None
    """The exact sums of the rows where they are known without another pass, as for pixels; otherwise None."""
    fingerprint: str
    """It covers the rows and how they were made. It is the fingerprint of the ingest."""
    kind: str
    """`pixels`, or the kind of the embedding."""
    name: str
    """What made them, for people: `pixels`, or the name of the network."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The values that summary.json and the report show beside the name; empty for pixels."""
    unit_length: bool = False
    """Whether rows have the length 1, so that scores are scaled to it too."""
    stored_mean: Float64Array | None = None
    """The mean of all rows, (n_features,), where there are no moments; None where the store does not hold it."""

    @property
    def mean(self) -> Float64Array:
        """The mean of all rows, (n_features,). Raises StoreError where the store does not hold it."""
        if self.stored_mean is not None:
            return self.stored_mean
        if self.moments is None:
            raise StoreError(
                "the store does not hold the mean of the features; run the job again: only that is computed"
            )
        mean: Float64Array = self.moments.column_sums / self.rows.shape[0]
        return mean

    @property
    def shape(self) -> FeatureShape:
        """What planning needs to know of them."""
        return FeatureShape(self.rows.shape[1], self.rows.dtype.name, of_pixels=self.are_pixels)

    @property
    def are_pixels(self) -> bool:
        """Whether a row is a picture. Otherwise a center is no picture, and only images can be shown."""
        return self.kind == PIXELS


def is_unit_length(store: Store) -> bool:
    """Return whether the stored features have the length 1, so that scores are scaled to it too."""
    embedding = stored_embedding(store)
    return embedding is not None and embedding["unit_length"]


def features_of(context: Context, ingested: Ingested) -> Features:
    """Return the features that ingest has stored; the mean of those that are not pixels is computed where it is
    missing.

    Raises StoreError where the store does not say what they are.
    """
    store = context.store
    embedding = stored_embedding(store)
    mark = store.mark(FEATURES)
    if embedding is None:
        store.marks.remove(FEATURES)
    elif mark is None or mark.payload["images"] != ingested.fingerprint:
        store.marks.remove(FEATURES)
        mean = column_mean(StoredRows(store.array("features"), ingested.ok, mask=MASK), context.cluster)
        store.commit(FEATURES, ingested.fingerprint, store.save(_MEAN, mean), {"images": ingested.fingerprint})
    return load_features(store, ingested)


def load_features(store: Store, ingested: Ingested) -> Features:
    """Return the features that the last run stored, without computing anything.

    Raises StoreError where the store does not say what they are.
    """
    embedding = stored_embedding(store)
    if embedding is None:
        moments = ExactSums(ingested.column_sums, ingested.square_sum)
        return Features(pixel_rows(store, ingested.ok), moments, ingested.fingerprint, PIXELS, PIXELS)
    mark = store.mark(FEATURES)
    is_new = mark is not None and mark.payload["images"] == ingested.fingerprint
    return Features(
        rows=StoredRows(store.array("features"), ingested.ok, mask=MASK),
        moments=None,
        fingerprint=ingested.fingerprint,
        kind=embedding["kind"],
        name=embedding["name"],
        facts=embedding["facts"],
        unit_length=embedding["unit_length"],
        stored_mean=store.load(_MEAN) if is_new else None,
    )
