"""This stage makes the matrix that the later stages work on: n_samples x n_features, of uint8 or float32.

The pixels are the first kind, and nothing is computed for them. For any other kind an `Extractor` turns the pixels of
good images into rows of features. They are written block by block into the array `features`, whose rows are those of
the listing, as in `pixels`. Each block has a mark, so a killed run continues after the last one; a block is computed
again where its pixels or the extractor have changed.

    pixels    (n_listed, n_values) uint8     --extract-->     features  (n_listed, n_features)
    +------+ 0                                                +----+ 0
    |      | 1                                                |    |      one task makes one row of chunks:
    +------+ 2      read in parts of at most one row block    +----+ 1    one block, one mark
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.files.layout import ARRAYS
from bigcluster.kernels.linalg.moments import refuse_bad_rows
from bigcluster.kernels.linalg.types import Float64Array
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import FEATURES, INGEST
from bigcluster.solvers.pca.moments import column_mean
from bigcluster.solvers.pca.result import ExactSums
from bigcluster.stages.context import Context
from bigcluster.stages.ingest import Ingested, pixel_rows
from bigcluster.store import Digests, Mark, Store, StoredRows, fingerprint
from bigcluster.store.chunk_grid import matrix_chunks
from bigcluster.store.row_source import spans

PIXELS = "pixels"
"""The kind of features that are the stored pixels themselves."""
_ARRAY, _MEAN = "features", "feature_mean"


@dataclass(frozen=True)
class Features:
    """The matrix that the stages after ingest work on. It has one row for every good image, in listing order."""

    rows: StoredRows
    """(n_ok, n_features) uint8 or float32."""
    moments: ExactSums | None
    """The exact sums of the rows where they are known without another pass, as for pixels; otherwise None."""
    fingerprint: str
    """It covers the rows and how they were made. For pixels it is the fingerprint of the ingest."""
    kind: str
    """`pixels`, or the kind of the extractor."""
    reused: bool
    """Whether nothing of them was computed by this run."""
    stored_mean: Float64Array | None = None
    """The mean of all rows, (n_features,), where there are no moments."""

    @property
    def mean(self) -> Float64Array:
        """The mean of all rows, (n_features,)."""
        if self.stored_mean is not None:
            return self.stored_mean
        assert self.moments is not None
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


@dataclass(frozen=True)
class Extractor:
    """Computes the features of pictures from their stored pixels."""

    kind: str
    """The name of this kind of features, as in messages and marks; not `pixels`."""
    fingerprint: str
    """It covers everything beside the pixels on which the values depend."""
    n_features: int
    dtype: str
    """`uint8` or `float32`."""
    extract: Callable[[NDArray[np.uint8]], NDArray[Any]]
    """A function from pixels of good images, (n, n_values), to their features, (n, n_features) of `dtype`. A row must
    not depend on the other rows of the call. Several threads call it at once."""

    @property
    def shape(self) -> FeatureShape:
        """Return what planning asks for."""
        return FeatureShape(self.n_features, self.dtype, of_pixels=False)

    def rows(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the features of pixels, (n, n_features). Raises ValueError where `extract` returns another matrix."""
        rows = self.extract(pixels)
        if rows.shape != (len(pixels), self.n_features) or rows.dtype != self.dtype:
            raise ValueError(
                f"{self.kind}: {rows.shape} {rows.dtype} came back for {len(pixels)} images, "
                f"({len(pixels)}, {self.n_features}) {self.dtype} was expected"
            )
        return rows


def pixel_features(store: Store, ingested: Ingested) -> Features:
    """Return the stored pixels as features."""
    return Features(
        rows=pixel_rows(store, ingested.ok),
        moments=ExactSums(ingested.column_sums, ingested.square_sum),
        fingerprint=ingested.fingerprint,
        kind=PIXELS,
        reused=ingested.reused,
    )


def features_of(
    context: Context, ingested: Ingested, extractor: Extractor | None = None, plan: StagePlan | None = None
) -> Features:
    """Bring the features up to date with the pixels, and return them.

    extractor : None where the pixels are the features. plan : the plan of this stage; None where the pixels are.
    Raises InvalidDataError where the extractor returns NaN or infinity.
    """
    store = context.store
    if extractor is None or plan is None:
        store.marks.remove(FEATURES)  # blocks stay: they hold again when the same extractor is asked for
        return pixel_features(store, ingested)
    return _Extraction(context, ingested, extractor).bring_up_to_date(plan.choices["in_flight"])


def load_features(store: Store, ingested: Ingested) -> Features:
    """Return the features that the last run worked on, without computing any: the stored ones, or the pixels."""
    mark = store.mark(FEATURES)
    if mark is None or mark.payload["images"] != ingested.fingerprint:
        return pixel_features(store, ingested)
    return _from_mark(store, ingested, mark, reused=True)


def check_extractor(store: Store, features: Features, extractor: Extractor | None) -> None:
    """Raise StoreError where the features of new images would not be of the kind that the stored ones are."""
    mark = None if features.are_pixels else store.mark(FEATURES)
    stored = None if mark is None else mark.payload["extractor"]
    if stored != (None if extractor is None else extractor.fingerprint):
        now = PIXELS if extractor is None else extractor.kind
        raise StoreError(
            f"{store.out} was clustered by features of the kind {features.kind!r}, which are not those that "
            f"would be made of new images now ({now!r}); run the job again"
        )


def _from_mark(store: Store, ingested: Ingested, mark: Mark, *, reused: bool) -> Features:
    rows = StoredRows(store.array(_ARRAY), ingested.ok)
    return Features(rows, None, mark.fingerprint, mark.payload["kind"], reused, store.load(_MEAN))


@dataclass(frozen=True)
class _Block:
    """Rows start .. stop - 1 of the listing: one row of chunks of `features`, and one mark."""

    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.index:06d}"


class _Extraction:
    """Writes the blocks of `features` that are missing or out of date."""

    def __init__(self, context: Context, ingested: Ingested, extractor: Extractor) -> None:
        self._store, self._progress, self._runtime = context.store, context.progress, context.runtime
        self._ingested, self._extractor = ingested, extractor
        self._chunks = matrix_chunks(extractor.n_features, np.dtype(extractor.dtype).itemsize)
        n_listed = len(ingested.ok)
        self._blocks = [_Block(index, *span) for index, span in enumerate(spans(n_listed, self._chunks[0]))]
        pixels = context.store.array("pixels")
        self._pixels, self._pixel_rows = pixels, int(pixels.chunks[0])

    def bring_up_to_date(self, in_flight: int) -> Features:
        """Compute what is missing. in_flight : blocks that are computed at the same time."""
        store, extractor, ingested = self._store, self._extractor, self._ingested
        expected = fingerprint(before=ingested.fingerprint, stage=FEATURES, extractor=extractor.fingerprint)
        stale = {block: print_ for block in self._blocks if not self._holds(block, print_ := self._fingerprint(block))}
        mark = store.mark(FEATURES)
        reused = not stale and mark is not None and mark.fingerprint == expected
        if mark is not None and reused:
            self._progress.reused(FEATURES)
            return _from_mark(store, ingested, mark, reused=True)
        store.marks.remove(FEATURES)  # from here on no result of the old features may count as current
        for name in store.marks.numbers(FEATURES):
            if int(name) >= len(self._blocks):
                store.marks.remove(FEATURES, name)
        store.create(_ARRAY, (len(ingested.ok), extractor.n_features), extractor.dtype, self._chunks)
        with self._progress.stage(FEATURES, len(ingested.ok), "images"):
            self._progress.advance(len(ingested.ok) - sum(block.stop - block.start for block in stale))
            for _ in self._runtime.map(lambda task: self._fill(*task), stale.items(), in_flight=in_flight):
                pass
            mean = column_mean(StoredRows(store.array(_ARRAY), ingested.ok), self._runtime)
        payload = {
            "kind": extractor.kind,
            "images": ingested.fingerprint,
            "extractor": extractor.fingerprint,
            "n_features": extractor.n_features,
            "dtype": extractor.dtype,
        }
        return _from_mark(
            store, ingested, store.commit(FEATURES, expected, store.save(_MEAN, mean), payload), reused=False
        )

    def _holds(self, block: _Block, expected: str) -> bool:
        mark = self._store.mark(FEATURES, block.name)
        fits = self._store.fits(_ARRAY, (self._extractor.n_features,), self._extractor.dtype, self._chunks)
        return mark is not None and fits and mark.fingerprint == expected

    def _fingerprint(self, block: _Block) -> str:
        """Return a fingerprint of the extractor and of the stored pixels that the block is made of."""
        numbers = range(block.start // self._pixel_rows, -(-block.stop // self._pixel_rows))
        digests: Digests = {}
        for number in numbers:
            mark = self._store.mark(INGEST, f"{number:06d}")
            if mark is None:
                raise StoreError(f"the mark of pixel block {number} in {self._store.root} is damaged; run again")
            digests |= {file: digest for file, digest in mark.digests.items() if file.startswith(f"{ARRAYS}/pixels/")}
        ok = np.packbits(self._ingested.ok[block.start : block.stop]).tobytes().hex()
        rows = (block.start, block.stop)
        return fingerprint(
            stage=FEATURES, extractor=self._extractor.fingerprint, rows=rows, pixels=sorted(digests.items()), ok=ok
        )

    @property
    def _not_finite(self) -> str:
        what = f"as features of the kind {self._extractor.kind!r}"
        return f"(counted from 0 in images.csv) has NaN or infinity {what}; leave the image out or use other features"

    def _fill(self, block: _Block, print_: str) -> None:
        """Compute and write one block, sync it and write its mark. Rows of failed files are zeros."""
        values = np.zeros((block.stop - block.start, self._extractor.n_features), self._extractor.dtype)
        for first, last in spans(len(values), self._pixel_rows):
            start, stop = block.start + first, block.start + last
            good = self._ingested.ok[start:stop]
            if good.any():
                pixels = StoredRows(self._pixels).read(start, stop)
                values[first:last][good] = self._extractor.rows(pixels if good.all() else pixels[good])
                refuse_bad_rows(values[first:last], start, self._not_finite)
        self._store.marks.remove(FEATURES, block.name)
        digests = self._store.write_rows(_ARRAY, block.start, values)
        self._store.commit(FEATURES, print_, digests, {}, block.name)
        self._progress.advance(len(values))
