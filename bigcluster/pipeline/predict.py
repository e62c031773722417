"""New images through a stored model: decoded as the old ones were, projected, labelled. Nothing is fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster import outdir
from bigcluster.catalog import FileRecord, Listing, list_images
from bigcluster.config import Settings
from bigcluster.errors import NoImagesError, StoreError
from bigcluster.kernels.assign import Centers, prepare, two_nearest
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.kernels.kmeans import block_moments, frame_of
from bigcluster.outputs.predictions import Predicted, write_predictions
from bigcluster.pipeline.job import Job, open_job
from bigcluster.planning import Resources, check_budget, plan_predict
from bigcluster.progress import Listener, silent
from bigcluster.rows import spans
from bigcluster.solvers.pca.transform import transform
from bigcluster.stages import cluster, reduce, sizing
from bigcluster.stages.components import components
from bigcluster.stages.ingest import load_ingested, stored_recipe
from bigcluster.stages.loading import load_picture
from bigcluster.store import Store

NOVEL_PERCENTILE = 95
UNLIKE_SHARE = 0.15
"""Share of new images beyond their cluster's 95th percentile (5 % of the old ones are) from which they are unlike."""
FILES_PER_TASK = 8


def predict(
    settings: Settings,
    resources: Resources,
    *,
    images: str,
    to: str,
    listener: Listener = silent,
    root_pid: int | None = None,
) -> dict[str, Any]:
    """Label `images` by the model in OUT and write the CSV `to`; returns counts and how unlike the images are.

    Raises StoreError where OUT holds no finished run, ImageSizeError where the model is of native size and the images
    are of another, NoImagesError, MemoryBudgetError.
    """
    job = open_job(settings, resources, listener, root_pid)
    if not (job.out / outdir.STORE).is_dir():
        raise StoreError(f"{job.out} holds no run; run `bigcluster run IMAGES --out {job.out} -k 10` first")
    store = Store(job.out / outdir.STORE)
    listing = list_images(images, job.out, allow_outside=settings.manifest.allow_outside)
    spec = stored_recipe(store)
    n_clusters, n_components = store.array("centers").shape
    plan = plan_predict(settings, len(listing), spec.n_values, n_components, n_clusters, resources)
    check_budget((plan,), resources.budget_bytes, otherwise="fewer --workers")
    spec = replace(spec, max_bytes=plan.choices["decode_bytes"])
    counted: Counter[str] = Counter()
    with job.stages.sampler, job.stages.measure("predict", plan.projected_bytes):
        model = _load_model(job, store, n_components)
        with job.progress.stage("predict", len(listing), "images"):
            rows = _predicted(job, listing, spec, model, plan.block_shape[0], counted)
            write_predictions(Path(to), listing, rows)
    n_ok = counted["ok"]
    if n_ok == 0:
        raise NoImagesError(f"none of the {len(listing)} listed images could be read; see {to}")
    return {
        "counts": {"listed": len(listing), "ok": n_ok, "failed": len(listing) - n_ok},
        "beyond_share": counted["beyond"] / n_ok,
        "unlike": counted["beyond"] / n_ok > UNLIKE_SHARE,
        "close_calls": counted["close"],
        "stages": job.stages.facts,
    }


@dataclass(frozen=True)
class _Model:
    """centers ready for the nearest two; limits : (k,) the 95th percentile of each cluster's own distances."""

    centers: Centers
    limits: NDArray[np.float64]
    mean: NDArray[np.float64] | None
    """(d,), or None where the pixels themselves were clustered."""
    components: Any
    n_components: int
    step: float


def _load_model(job: Job, store: Store, n_components: int) -> _Model:
    if store.marks.read(cluster.STAGE) is None:
        raise StoreError(f"{job.out} holds no finished clustering; run the job to its end first")
    ingested = load_ingested(store)
    exact = store.load("centers")
    centers = prepare(exact, frame_of(block_moments(exact)))
    labels, distance = store.load("labels"), store.load("distance")
    limits = np.array([np.percentile(distance[labels == c], NOVEL_PERCENTILE) for c in range(len(exact))])
    if job.settings.reduce == "none":
        return _Model(centers, limits, None, None, n_components, 0.0)
    fit = store.marks.read(reduce.STAGE)
    if fit is None:
        raise StoreError(f"{job.out} holds no finished reduction; run the job to its end first")
    array = components(store, ingested.ok, job.runtime, job.progress)
    return _Model(centers, limits, store.load("mean"), array, n_components, fit.payload["score_step"])


def _predicted(
    job: Job, listing: Listing, spec: DecodeSpec, model: _Model, block_rows: int, counted: Counter[str]
) -> Iterator[tuple[FileRecord, Predicted | None]]:
    """Every listed row's record, and where it belongs if it is good; one block of pixels in memory at a time."""
    prepare_codecs()
    with ThreadPoolExecutor(job.runtime.threads) as decoders:
        for start, stop in spans(len(listing), block_rows):
            pixels = np.zeros((stop - start, spec.n_values), np.uint8)

            def load(span: tuple[int, int], start: int = start, pixels: NDArray[np.uint8] = pixels) -> list[FileRecord]:
                loaded = [load_picture(listing, start + i, spec, pixels[i]) for i in range(*span)]
                job.progress.advance(len(loaded))
                return loaded

            ledger = [r for some in decoders.map(load, spans(len(pixels), FILES_PER_TASK)) for r in some]
            if job.settings.size == sizing.NATIVE:
                sizing.check_native(listing, start, ledger, (spec.width, spec.height))
            good = np.array([record.ok for record in ledger])
            found = iter(_label(pixels[good], model))
            for record in ledger:
                counted[record.status] += 1
                row = next(found) if record.ok else None
                if row is not None:
                    counted["beyond"] += row.novelty > 1
                    counted["close"] += row.runner_up is not None and row.margin <= 1e-4 * row.distance
                yield record, row


def _label(pixels: NDArray[np.uint8], model: _Model) -> Iterator[Predicted]:
    if len(pixels) == 0:
        return
    rows: NDArray[Any] = pixels
    if model.mean is not None:
        rows = transform(pixels, model.mean, model.components, model.n_components, model.step)
    two = two_nearest(rows, model.centers)
    limits = model.limits[two.labels]
    distance, second = np.sqrt(two.sq), np.sqrt(two.runner_up_sq)
    novelty = np.divide(distance, limits, out=(distance > 0).astype(np.float64), where=limits > 0)
    for row in range(len(pixels)):
        runner_up = int(two.runner_up[row])
        yield Predicted(
            int(two.labels[row]),
            float(distance[row]),
            None if runner_up < 0 else runner_up,
            float(second[row] - distance[row]),
            float(novelty[row]),
        )
