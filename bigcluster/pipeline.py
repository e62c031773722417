"""The main job, end to end: list, plan, ingest, reduce, cluster, write. Runs inside the working process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster import outdir
from bigcluster.catalog import FileRecord, Listing, list_images
from bigcluster.config import Settings, flatten
from bigcluster.errors import NoImagesError, TooFewSamplesError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.measure import MemorySampler
from bigcluster.outputs import folders, summary, tables
from bigcluster.planning import Plan, Resources, make_plan
from bigcluster.progress import Listener, Progress, silent
from bigcluster.runtime import EmbeddedRuntime, Runtime
from bigcluster.stages import sizing
from bigcluster.stages.cluster import Clustered, cluster
from bigcluster.stages.ingest import Ingested, check_recipe, ingest, records
from bigcluster.stages.reduce import Reduced, reduce
from bigcluster.store import Store
from bigcluster.units import show_bytes, show_count


def prepare(settings: Settings, resources: Resources) -> tuple[Listing, Plan]:
    """List the images and plan the run; nothing is decoded, nothing is written.

    Raises what the listing and the plan refuse.
    """
    assert settings.images is not None
    assert settings.out is not None
    listing = list_images(settings.images, Path(settings.out), allow_outside=settings.manifest.allow_outside)
    if settings.k is not None and settings.k > len(listing):
        raise TooFewSamplesError(
            f"k = {settings.k} needs as many good images, {len(listing)} are listed; use -k {len(listing)} or fewer"
        )
    plan = make_plan(settings, len(listing), sizing.image_size(listing, settings.size), resources)
    return listing, plan


def run(
    settings: Settings,
    resources: Resources,
    *,
    replace: bool = False,
    listener: Listener = silent,
    root_pid: int | None = None,
) -> dict[str, Any]:
    """Do the whole job, reusing what OUT already holds; returns what summary.json says."""
    assert settings.images is not None
    assert settings.out is not None
    job = _Job(settings, resources, Path(settings.out), Progress(listener))
    listing, plan = prepare(settings, resources)
    plan.check()
    outdir.claim(job.out, settings.images)
    store = Store(job.out / outdir.STORE)
    spec = _decode_spec(settings, plan)
    check_recipe(store, spec, replace=replace)
    outdir.keep(settings)
    sampler = MemorySampler(root_pid) if root_pid is not None else MemorySampler()
    with sampler:
        runtime = EmbeddedRuntime(resources.threads)
        stages = _Stages(sampler, plan)
        ingested, reduced, clustered = _compute(job, listing, plan, spec, store, runtime, stages)
        with stages.measure("output"), job.progress.stage("output", len(listing), "images"):
            linked = _write_outputs(job, listing, store, ingested, reduced, clustered)
            job.progress.at(len(listing))
    found = _summarise(job, listing, plan, store, ingested, reduced, clustered, linked, stages)
    summary.write_summary(job.out / "summary.json", found)
    return found


@dataclass(frozen=True)
class _Job:
    settings: Settings
    resources: Resources
    out: Path
    progress: Progress


@dataclass
class _Stages:
    """Seconds and facts of each stage as it ran."""

    sampler: MemorySampler
    plan: Plan
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage and take its peak; the stage adds its own facts to what is yielded."""
        self.sampler.enter(name)
        began = time.monotonic()
        facts: dict[str, Any] = {}
        yield facts
        self.sampler.enter(name)  # a last sample at the end of the stage
        seconds = time.monotonic() - began
        projected = {stage.stage: stage.projected_bytes for stage in self.plan.stages}.get(name)
        self.facts[name] = {
            "seconds": round(seconds, 3),
            **facts,
            "projected_peak_bytes": projected,
            "measured_peak_bytes": self.sampler.peaks[name].peak_bytes,
        }


def _compute(
    job: _Job, listing: Listing, plan: Plan, spec: DecodeSpec, store: Store, runtime: Runtime, stages: _Stages
) -> tuple[Ingested, Reduced, Clustered]:
    settings, progress = job.settings, job.progress
    with stages.measure("ingest") as facts:
        ingested = ingest(
            listing,
            store,
            spec,
            block_shape=plan.stage("ingest").block_shape,
            in_flight=plan.stage("ingest").choices["in_flight"],
            runtime=runtime,
            progress=progress,
        )
        facts |= {"solver": "decode", "passes": 0 if ingested.reused else 1, "reused": ingested.reused}
        facts |= {"blocks": ingested.n_blocks, "blocks_reused": ingested.blocks_reused}
    _check_enough(listing, store, ingested, settings)
    planned = plan.stage("reduce") if settings.reduce == "pca" else None
    with stages.measure("reduce") as facts:
        reduced = reduce(store, ingested, settings, planned, runtime, progress)
        facts |= {**reduced.facts, "reused": reduced.reused}
    with stages.measure("cluster") as facts:
        clustered = cluster(store, reduced, settings, plan.stage("cluster"), listing, ingested, runtime, progress)
        facts |= {**clustered.facts, "reused": clustered.reused}
    return ingested, reduced, clustered


def _check_enough(listing: Listing, store: Store, ingested: Ingested, settings: Settings) -> None:
    n_ok = int(ingested.ok.sum())
    if n_ok == 0:
        bad = list(islice(records(store, ingested.n_blocks), 3))
        shown = "; ".join(f"{listing.names[i]}: {record.status}, {record.reason}" for i, record in enumerate(bad))
        raise NoImagesError(f"none of the {show_count(len(listing))} listed images could be read ({shown})")
    if settings.k is not None and settings.k > n_ok:
        raise TooFewSamplesError(
            f"k = {settings.k} needs as many good images, {n_ok} of {len(listing)} listed ones are good; "
            f"use -k {n_ok} or fewer"
        )


def _decode_spec(settings: Settings, plan: Plan) -> DecodeSpec:
    width, height = plan.image_size
    return DecodeSpec(
        width=width,
        height=height,
        color=settings.features == "color",
        fit=settings.image.fit,
        normalize=settings.image.normalize,
        max_pixels=settings.image.max_pixels,
        max_bytes=plan.stage("ingest").choices["decode_bytes"],
    )


def _ledger(store: Store, ingested: Ingested) -> Iterator[FileRecord]:
    return records(store, ingested.n_blocks)


def _write_outputs(
    job: _Job, listing: Listing, store: Store, ingested: Ingested, reduced: Reduced, clustered: Clustered
) -> folders.Linked:
    membership = clustered.membership
    linked = folders.write_clusters(
        job.out,
        job.out / outdir.STORE,
        listing,
        ingested.ok,
        membership.labels,
        clustered.n_clusters,
        job.settings.link,
    )
    tables.write_labels(job.out / "labels.csv", listing, _ledger(store, ingested), membership, linked.files)
    tables.write_images(job.out / "images.csv", listing, _ledger(store, ingested))
    if reduced.explained_variance_ratio is not None:
        tables.write_variance(job.out / "variance.csv", reduced.explained_variance_ratio)
    else:
        (job.out / "variance.csv").unlink(missing_ok=True)
    if linked.n_symlinks and job.settings.link == "hardlink":
        job.progress.note(
            f"{linked.n_symlinks} entries under clusters/ are symlinks: no hard links across file systems"
        )
    if linked.n_gone:
        job.progress.warn(f"{linked.n_gone} images vanished since they were decoded and have no entry under clusters/")
    return linked


def _summarise(
    job: _Job,
    listing: Listing,
    plan: Plan,
    store: Store,
    ingested: Ingested,
    reduced: Reduced,
    clustered: Clustered,
    linked: folders.Linked,
    stages: _Stages,
) -> dict[str, Any]:
    ratio = reduced.explained_variance_ratio
    measured = stages.sampler.peak_bytes
    job.progress.note(f"memory: {show_bytes(measured)} at the peak, {show_bytes(plan.budget_bytes)} allowed")
    sizes = np.bincount(clustered.membership.labels, minlength=clustered.n_clusters)
    return {
        "counts": summary.counts(listing, _ledger(store, ingested)),
        "n_clusters": clustered.n_clusters,
        "cluster_sizes": sizes.tolist(),
        "nearest_previous": clustered.nearest_previous,
        "inertia": clustered.inertia,
        "n_components": reduced.n_components,
        "explained_variance_ratio": None if ratio is None else round(float(ratio[: reduced.n_components].sum()), 6),
        "memory": {
            "budget_bytes": plan.budget_bytes,
            "projected_peak_bytes": plan.projected_bytes,
            "measured_peak_bytes": measured,
            "metric": stages.sampler.metric,
        },
        "stages": stages.facts,
        "settings": {name: value for name, value in flatten(job.settings).items() if value is not None},
        "versions": summary.versions(),
    }
