"""This is the main job: it lists and plans, has compute.py bring the stages up to date, and writes the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster import outdir
from bigcluster.catalog import Listing, left_out, list_images, unread_folders
from bigcluster.catalog.manifest_rows import LEAST_BYTES
from bigcluster.config import COLUMN, Settings, flatten
from bigcluster.errors import TooFewSamplesError, UsageError
from bigcluster.files.kept import KEPT
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outdir.results import OF_A_RUN, OF_A_SWEEP, ResultFiles, is_finished
from bigcluster.outputs import folders, summary, tables
from bigcluster.outputs.manifest_copy import write_manifest_copy
from bigcluster.pipeline.compute import Done, compute
from bigcluster.pipeline.job import (
    Account,
    Job,
    Stages,
    attest_workers,
    naming_damage,
    open_job,
    remaining_bytes,
    with_workers,
)
from bigcluster.planning import footprint
from bigcluster.planning.disk_space import check_room
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import make_plan
from bigcluster.planning.stage_names import INGEST, OUTPUT, REPORT
from bigcluster.report.scatter import check_kind
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.solvers.manifold import check_library
from bigcluster.stages.embedding import Embedding, open_embedding, shape_of
from bigcluster.stages.ingest import RECIPE, check_recipe
from bigcluster.stages.loading import sample
from bigcluster.stages.loading.sample import Headers, look_at
from bigcluster.stages.membership import LEIDEN
from bigcluster.stages.reuse import listed_before
from bigcluster.store import Store, tidy
from bigcluster.units import counted

PHOTOS_HINT = (
    "these look like photographs, and pixels group them by tone and layout; to group them by what they show, give "
    "--features mobilenetv2 (14 MB are fetched once) and another OUT, or --replace"
)
"""The note of the first run in an OUT on the pixels of such images."""


def prepare(
    settings: Settings, resources: Resources, given: str | None = None, embedding: Embedding | None = None
) -> tuple[Listing, Plan]:
    """List the images and plan the run. Nothing is decoded and nothing is written.

    given : the manifest with the list of images that the caller passed; OUT stores it later as `settings.images`.
    embedding : makes the features; None where the pixels are the features.
    Raises the errors of the listing and of the plan, and TooFewSamplesError where k or the number of components is
    above the number of listed images.
    """
    assert settings.images is not None
    out = None if settings.out is None else Path(settings.out)
    beyond = remaining_bytes(settings, resources)
    listing = list_images(
        given or settings.images,
        out,
        exclude=settings.exclude,
        **vars(settings.manifest),
        leave_out_lists=settings.features.startswith(COLUMN),
        most_bytes=beyond,
        listed_before=tuple if out is None else partial(listed_before, out),
    )
    if settings.exclude and listing.manifest is not None:
        raise UsageError("exclude is of folders and globs: take the rows out of the manifest, or give --set exclude=[]")
    settings = settings.for_images(len(listing))
    if settings.ks and settings.ks[-1] > len(listing):
        raise TooFewSamplesError(
            f"k = {settings.k} needs as many good images, and {counted(len(listing), 'image', 'is', 'are')} listed; "
            f"use -k {len(listing)} or fewer"
        )
    if settings.has_pca and settings.components is not None and settings.components > len(listing):
        raise TooFewSamplesError(
            f"components = {settings.components} needs as many good images, and "
            f"{counted(len(listing), 'image', 'is', 'are')} listed; use --components {len(listing)} or fewer"
        )
    if embedding is not None:
        embedding.listed(listing)
    header_bytes = beyond - footprint.NAME_BYTES * len(listing) - footprint.DECODING_CHILD_BYTES
    with Headers(listing, settings.image.timeout, max(LEAST_BYTES, header_bytes)) as headers:
        size = sample.image_size(listing, settings.size, headers)
        pictures = look_at(listing, headers, _decode_spec(settings, size, None, embedding))
    shape = None if embedding is None else shape_of(embedding)
    return listing, make_plan(settings, len(listing), size, resources, pictures, shape)


def run(
    settings: Settings,
    resources: Resources,
    *,
    replace: bool = False,
    rehash: bool = False,
    given: str | None = None,
    embedding: Embedding | None = None,
    isolate_rows: Sequence[Sequence[int]] = (),
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Do the whole job, reuse what OUT already holds, and return the content of summary.json.

    replace : permit that pixels decoded in another way are discarded.
    rehash : read every image again and compare its content with the record, whatever its size and time are.
    given : a manifest with the list of images that the caller passed; OUT stores it as `settings.images`.
    embedding : makes the features of pictures; None where the settings say what does (`open_embedding`).
    isolate_rows : pairs (start, stop) of listed rows over which an earlier worker died; a child decodes their files.

    Raises the errors of `prepare`, MemoryBudgetError where the plan does not fit, OutError and StoreError where OUT
    cannot be used, NoImagesError where no image can be read, and DamagedError where a stored array is damaged.
    """
    if settings.has_manifold:
        check_library(settings.reduce, f"reduce = {settings.reduce}", "reduce = pca")
    job = open_job(settings, resources, listener, caller)
    with job.stages.sampler, ExitStack() as stack:
        job.stages.sampler.enter("list")
        job = with_workers(job, stack)
        embedding = embedding or open_embedding(
            settings, listener, images=given or settings.images, most_bytes=job.remaining_bytes
        )
        try:
            return _run(
                job, replace=replace, rehash=rehash, given=given, embedding=embedding, isolate_rows=isolate_rows
            )
        finally:
            if embedding is not None:
                embedding.release()


def _run(
    job: Job,
    *,
    replace: bool,
    rehash: bool,
    given: str | None,
    embedding: Embedding | None,
    isolate_rows: Sequence[Sequence[int]],
) -> dict[str, Any]:
    settings = job.settings
    assert settings.images is not None
    listing, plan = prepare(settings, job.resources, given, embedding)
    if listing.unreadable:
        job.progress.warn(unread_folders(listing))
    if passed_over := left_out(listing.ignored):
        job.progress.note(passed_over)
    plan.check()
    if settings.report.write:
        check_kind(settings.report.map)
    check_room(job.out, plan)
    outdir.absolute(settings)  # raises for settings that run.toml cannot hold, before anything is written
    outdir.claim(job.out, settings.images)
    with outdir.locked(job.out, job.progress.note), ExitStack() as stack:
        outdir.sweep_unfinished(job.out)
        attest_workers(job, stack, listing)
        store = Store(job.out, most_bytes=job.remaining_bytes)
        was_finished = is_finished(store.marks)
        spec = _decode_spec(settings, plan.image_size, plan.stage(INGEST).choices["decode_bytes"], embedding)
        if embedding is None and plan.pictures.are_photos and store.mark(RECIPE) is None:
            job.progress.note(PHOTOS_HINT)
        check_recipe(store, spec, embedding, replace=replace)
        if given is not None:
            write_manifest_copy(store, Path(given), Path(settings.images))
        files = ResultFiles(job.out, job.progress.warn)
        with files.writing((*OF_A_RUN, *OF_A_SWEEP)), files.settings(settings):
            with naming_damage(store):
                done = compute(job, listing, plan, spec, store, embedding, isolate_rows, rehash)
                written = done.plan.tree_bytes_of(done.plan.stage(OUTPUT))
                with job.stages.measure(OUTPUT, written), job.progress.stage(OUTPUT, len(listing), "images"):
                    linked = _write_outputs(job, listing, done, files)
                result = _summarise(job, listing, done)
                _write_account(result, files, job.stages.account(), job.stages)  # a later account replaces it
                if settings.report.write:  # the report shows the account and is itself a stage of it
                    job.stages.sampler.enter(REPORT)  # modules that it imports count for it
                    from bigcluster.pipeline.report import write_or_reuse
                    from bigcluster.report.model import Written

                    def close() -> None:
                        _write_account(result, files, job.stages.close(), job.stages)

                    listed = Written(listing.names, done.ingested.read_ledger(), linked.files)
                    planned = done.plan.stage(REPORT)
                    planned = dataclasses.replace(planned, projected_bytes=done.plan.tree_bytes_of(planned))
                    write_or_reuse(job, store, result, planned, close, listed)
                _write_account(result, files, job.stages.close(), job.stages)
            if not (done.reused and was_finished):
                tidy(store.out)
    return result


def _decode_spec(
    settings: Settings, image_size: tuple[int, int], max_bytes: int | None, embedding: Embedding | None
) -> DecodeSpec:
    width, height = image_size
    return DecodeSpec(
        width=width,
        height=height,
        color=settings.features != "gray",  # features of a network have pixels in color beside them
        fit=settings.image.fit,
        normalize=settings.image.normalize,
        max_pixels=settings.image.max_pixels,
        max_bytes=max_bytes,
        view=None if embedding is None else embedding.view,
    )


def _write_outputs(job: Job, listing: Listing, done: Done, files: ResultFiles) -> folders.Linked:
    """Write the tables and clusters/; return what was linked."""
    clustered, ingested = done.clustered, done.ingested
    ledger = ingested.read_ledger()
    linked = folders.write_clusters(
        job.out,
        listing,
        ledger,
        clustered.membership.labels,
        clustered.n_clusters,
        job.settings.link,
        job.progress.advance,
    )
    classes = done.classes
    tables.write_images(files.text("images.csv"), listing, ledger)
    tables.write_labels(
        files.text("labels.csv"), listing, ledger, clustered.membership, linked.files, done.cluster_classes
    )
    if classes is not None:
        paths = (listing.names[row] for row in np.flatnonzero(ingested.ok).tolist())
        tables.write_classes(files.text("classes.csv"), paths, classes)
    else:
        files.remove("classes.csv")
    if done.reduced.explained_variance_ratio is not None:
        tables.write_variance(files.text("variance.csv"), done.reduced.explained_variance_ratio)
    else:
        files.remove("variance.csv")
    if done.swept is not None:
        tables.write(files, done.swept.rows, done.swept.suggested_k, done.swept.why)
    if linked.n_symlinks and job.settings.link == "hardlink":
        job.progress.note(
            f"{linked.n_symlinks} of the entries under clusters/ lead to their images as symlinks: hard links need one "
            "file system, and Linux makes none to files of other users that you may not write to"
        )
    if linked.renamed and job.settings.link != "none":
        job.progress.note(folders.renamed_line(linked.renamed))
    if linked.n_gone:
        gone = counted(linked.n_gone, "image", "cannot", "cannot")
        job.progress.warn(f"{gone} be reached any more, with no entry under clusters/")
    if linked.n_kept:
        last = counted(linked.n_kept, "picture", "was the last copy", "were the last copies")
        job.progress.warn(f"{last} of images that are gone: see {job.out / KEPT}, which no command empties")
    return linked


def _write_account(result: dict[str, Any], files: ResultFiles, account: Account, stages: Stages) -> None:
    """Write seconds and memory to summary.json and memory.csv, where the report reads them."""
    result["seconds"] = account.seconds
    result["memory"] |= {"measured_peak_bytes": account.peak_bytes, "unseen_bytes": account.unseen_bytes}
    if stages.workers is not None and (largest := stages.workers.largest()) is not None:
        result["memory"]["workers"] |= {
            "measured_peak_bytes": largest.peak_bytes,
            "unseen_bytes": stages.workers.unseen_bytes,
            "stage": largest.stage,
            "host": largest.name.host,
            "process": largest.name.process,
        }
    tables.write_memory(files.text("memory.csv"), account.timelines)
    files.write("summary.json", summary.summary_text(result).encode())


def _of_workers(plan: Plan) -> dict[str, Any]:
    """Return what a summary says of the memory of workers before it is measured."""
    return {
        "workers": {
            "number": plan.workers,
            "budget_bytes": plan.budget_bytes,
            "projected_peak_bytes": plan.projected_bytes,
            "measured_peak_bytes": None,
            "unseen_bytes": None,
        }
    }


def _summarise(job: Job, listing: Listing, done: Done) -> dict[str, Any]:
    clustered, reduced, plan = done.clustered, done.reduced, done.plan
    ratio = reduced.explained_variance_ratio
    sizes = np.bincount(clustered.membership.labels, minlength=clustered.n_clusters).tolist()
    return {
        "counts": summary.counts(listing, done.ingested.read_ledger().counts(), done.ingested.closed),
        "n_clusters": clustered.n_clusters,
        "cluster_sizes": sizes,
        **summary.names_of_clusters(done.cluster_classes, clustered.n_clusters),
        "advice": summary.advice(sizes, clustered.algorithm),
        "nearest_previous": clustered.nearest_previous,
        "algorithm": clustered.algorithm,
        "inertia": clustered.inertia,
        **({"modularity": clustered.facts["modularity"]} if clustered.algorithm == LEIDEN else {}),
        "image_size": list(plan.image_size),
        "features": {
            "kind": done.features.kind,
            "name": done.features.name,
            "n_features": done.features.rows.shape[1],
            **done.features.facts,
        },
        "n_components": reduced.n_components,
        "n_dimensions": reduced.rows.shape[1] if job.settings.has_manifold else None,
        "explained_variance_ratio": None if ratio is None else round(float(ratio[: reduced.n_components].sum()), 6),
        "sweep": None
        if done.swept is None
        else {
            "k": done.swept.chosen_k,
            "suggested_k": done.swept.suggested_k,
            "reason": done.swept.why,
            "caveats": done.swept.caveats,
        },
        "seconds": None,
        "memory": {
            "budget_bytes": job.resources.promised_bytes,
            "projected_peak_bytes": plan.tree_bytes,
            "measured_peak_bytes": None,  # known at the end, as are the seconds
            "held_before_bytes": job.stages.sampler.held_before_bytes,
            "unseen_bytes": None,
            "metric": job.stages.sampler.metric,
            **(_of_workers(plan) if plan.joined else {}),
        },
        "stages": job.stages.facts,
        "settings": {name: value for name, value in flatten(job.settings).items() if value is not None},
        "versions": summary.versions(job.settings.reduce),
    }
