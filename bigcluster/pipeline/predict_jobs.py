"""The job of predict: it decodes runs of new images and labels them by the stored model, in whatever process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigcluster.catalog import FileRecord, Listing
from bigcluster.config import Settings
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outputs.tables import Predicted
from bigcluster.pipeline.stored_model import StoredModel, is_close_call, label, load_model
from bigcluster.planning.prediction import ROWS_PER_PART
from bigcluster.runtime.cluster import Cluster, Local, Part, Worker, cut
from bigcluster.runtime.embedded import Embedded
from bigcluster.stages.context import Context
from bigcluster.stages.embedding import Embedding, n_row_values
from bigcluster.stages.features import load_features
from bigcluster.stages.ingest import load_ingested
from bigcluster.stages.listing_ref import EmbeddingRef, ListingRef, SentListing
from bigcluster.stages.loading.loader import Loader
from bigcluster.store.refs import StoreRef


@dataclass(frozen=True)
class Opened:
    """What labels images in one process."""

    loader: Loader
    model: StoredModel
    embedding: Embedding | None


@dataclass(frozen=True)
class PredictedPart:
    """What `PredictRows` says of the images of a part."""

    rows: list[tuple[FileRecord, Predicted | None]]
    """The record of each image and its prediction, which is None for one that failed."""
    counted: Counter[str]
    """Counts of the images by status; and `resized`, `beyond` the usual, and `close` calls."""


@dataclass(frozen=True)
class PredictRows:
    """Label runs of new images. The units are blocks of `block_rows` listed images."""

    store: StoreRef
    version: tuple[Any, ...]
    """The identity of the stored model."""
    settings: Settings
    """Those of the model, with the new images."""
    listing: ListingRef | SentListing
    embedding: EmbeddingRef | None
    spec: DecodeSpec
    block_rows: int
    isolate_rows: tuple[tuple[int, int], ...]
    """Pairs (start, stop) of rows whose files may crash or hang the codec."""
    children: int
    """How many child processes may decode files whose headers cannot be trusted."""
    workspace_bytes: int
    """Of the rows of the model that may stay in memory."""
    here: Local[Opened] = field(default_factory=Local, compare=False, repr=False)
    """What is open in the process that asks. Other processes open it for each part; the model stays there."""

    def __call__(self, worker: Worker, part: Part) -> PredictedPart:
        listing, found = self.listing.open(worker), PredictedPart([], Counter())
        with ExitStack() as stack:
            opened = self.here.value or self._open(worker, listing, stack)
            for number in part.units:
                start = number * self.block_rows
                self._label(opened, start, min(start + self.block_rows, len(listing)), found)
        return found

    def _open(self, worker: Worker, listing: Listing, stack: ExitStack) -> Opened:
        embedding = None
        if self.embedding is not None:
            embedding = stack.enter_context(self.embedding.opened(worker, listing))
        model = worker.cached(f"the model in {self.store.out}", self.version, lambda: self._load_model(worker))
        loader = Loader(
            listing,
            self.spec,
            threads=worker.runtime.threads,
            timeout_seconds=self.settings.image.timeout,
            progress=worker.progress,
            isolate_rows=self.isolate_rows,
            children=self.children,
            row_features=embedding,
            in_children=worker.decodes_in_children,
        )
        return Opened(stack.enter_context(loader), model, embedding)

    def _load_model(self, worker: Worker) -> StoredModel:
        store = self.store.open(worker)
        context = Context(store, self.settings, worker.runtime, worker.progress, Embedded(worker))
        return load_model(context, load_features(store, load_ingested(store)), self.workspace_bytes)

    def _label(self, opened: Opened, start: int, stop: int, found: PredictedPart) -> None:
        """Add what becomes of rows start .. stop - 1. One block of pixels is in memory at a time."""
        spec, embedding, model, counted = self.spec, opened.embedding, opened.model, found.counted
        pixels = np.zeros((stop - start, spec.n_values), np.uint8)
        features = None
        if embedding is not None:
            features = np.zeros((stop - start, n_row_values(embedding)), embedding.dtype)
        ledger = opened.loader.load(range(start, stop), pixels, start, features=features)
        counted["resized"] += sum(
            record.ok and (record.width, record.height) != (spec.width, spec.height) for record in ledger
        )
        good = np.array([record.ok for record in ledger])
        rows = pixels if embedding is None or features is None else features[:, : embedding.n_features]
        predictions = iter(label(rows[good], model))
        for record in ledger:
            counted[record.status] += 1
            row = next(predictions) if record.ok else None
            if row is not None:
                counted["beyond"] += row.novelty is not None and row.novelty > 1
                counted["close"] += is_close_call(row, model)
            found.rows.append((record, row))


def predicted(
    job: PredictRows, n_listed: int, cluster: Cluster, counted: Counter[str]
) -> Iterator[tuple[FileRecord, Predicted | None]]:
    """Yield the record of every listed row and its prediction, in order, and add up the counts."""
    n_blocks = -(-n_listed // job.block_rows)
    n_parts = max(len(cluster.parts(n_blocks)), -(-n_listed // ROWS_PER_PART))
    for found in cluster.spread(job, cut(n_blocks, n_parts)):
        counted.update(found.counted)
        yield from found.rows
