"""This is the main job: it lists, plans, ingests, makes features, reduces, sweeps several k, clusters and writes the
results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster import outdir
from bigcluster.catalog import Listing, left_out, list_images, unread_folders
from bigcluster.catalog.manifest_rows import LEAST_BYTES
from bigcluster.config import COLUMN, Settings, flatten
from bigcluster.errors import NoImagesError, TooFewSamplesError, UsageError
from bigcluster.files.kept import KEPT
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outdir.results import OF_A_RUN, OF_A_SWEEP, ResultFiles, is_finished
from bigcluster.outputs import folders, summary, tables
from bigcluster.outputs.manifest_copy import write_manifest_copy
from bigcluster.pipeline.job import Account, Job, naming_damage, open_job, remaining_bytes
from bigcluster.planning import footprint
from bigcluster.planning.disk_space import check_room
from bigcluster.planning.groups import likely_communities
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import make_plan, replan, replan_outputs
from bigcluster.planning.stage_names import CLUSTER, INGEST, NEIGHBORS, OUTPUT, REDUCE, REPORT, SWEEP
from bigcluster.report.scatter import check_kind
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.solvers.communities.footprint import neighbors_for
from bigcluster.stages.classes import ClusterClasses, ImageClasses, classes_of_clusters, load_classes
from bigcluster.stages.cluster import cluster
from bigcluster.stages.communities import communities
from bigcluster.stages.context import Context
from bigcluster.stages.embedding import Embedding, open_embedding, shape_of
from bigcluster.stages.features import Features, features_of
from bigcluster.stages.ingest import RECIPE, Ingested, check_recipe, ingest
from bigcluster.stages.loading import sample
from bigcluster.stages.loading.sample import Headers, look_at
from bigcluster.stages.membership import LEIDEN, Clustered
from bigcluster.stages.neighbors import neighbors
from bigcluster.stages.reduce import Reduced, reduce
from bigcluster.stages.reuse import listed_before
from bigcluster.stages.sweep import Swept, sweep
from bigcluster.store import Store, tidy
from bigcluster.units import EXAMPLES, counted, show_bytes

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
    if settings.reduce == "pca" and settings.components is not None and settings.components > len(listing):
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
    job = open_job(settings, resources, listener, caller)
    with job.stages.sampler:
        job.stages.sampler.enter("list")
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
    with outdir.locked(job.out):
        outdir.sweep_unfinished(job.out)
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
                done = _compute(job, listing, plan, spec, store, embedding, isolate_rows, rehash)
                written = done.plan.stage(OUTPUT).projected_bytes
                with job.stages.measure(OUTPUT, written), job.progress.stage(OUTPUT, len(listing), "images"):
                    linked = _write_outputs(job, listing, done, files)
                result = _summarise(job, listing, done)
                _write_account(result, files, job.stages.account())  # a later account replaces it
                if settings.report.write:  # the report shows the account and is itself a stage of it
                    job.stages.sampler.enter(REPORT)  # modules that it imports count for it
                    from bigcluster.pipeline.report import write_or_reuse
                    from bigcluster.report.model import Written

                    def close() -> None:
                        _write_account(result, files, job.stages.close())

                    listed = Written(listing.names, done.ingested.read_ledger(), linked.files)
                    write_or_reuse(job, store, result, done.plan.stage(REPORT), close, listed)
                _write_account(result, files, job.stages.close())
            if not (done.reused and was_finished):
                tidy(store.out)
    return result


@dataclass(frozen=True)
class _Done:
    """The results of the stages."""

    ingested: Ingested
    features: Features
    reduced: Reduced
    swept: Swept | None
    clustered: Clustered
    plan: Plan
    """The plan after the number of components was known."""
    classes: ImageClasses | None
    """The most probable classes of every good image, where they are stored."""

    @cached_property
    def cluster_classes(self) -> ClusterClasses | None:
        """The classes that stand out in each cluster; None where none are stored."""
        clustered = self.clustered
        if self.classes is None:
            return None
        return classes_of_clusters(self.classes, clustered.membership.labels, clustered.n_clusters)

    @property
    def reused(self) -> bool:
        """Whether every stage was reused, so that the store has not changed."""
        return all(done.reused for done in (self.ingested, self.reduced, self.clustered))


def _compute(
    job: Job,
    listing: Listing,
    plan: Plan,
    spec: DecodeSpec,
    store: Store,
    embedding: Embedding | None,
    isolate_rows: Sequence[Sequence[int]],
    rehash: bool,
) -> _Done:
    settings, progress, context = job.settings, job.progress, job.context(store)

    def stage(name: str) -> AbstractContextManager[dict[str, Any]]:
        planned = {planned.stage: planned.projected_bytes for planned in plan.stages}
        return job.stages.measure(name, planned.get(name))

    with stage(INGEST) as facts:
        ingested = ingest(
            context,
            listing,
            spec,
            block_shape=plan.stage(INGEST).block_shape,
            in_flight=plan.stage(INGEST).choices["in_flight"],
            embedding=embedding,
            isolate_rows=isolate_rows,
            children=plan.stage(INGEST).choices["children"],
            rehash=rehash,
        )
        if embedding is not None:
            embedding.release()
        facts |= {"solver": "decode", "passes": 0 if ingested.reused else 1, "reused": ingested.reused}
        facts |= {"blocks": ingested.n_blocks, "blocks_reused": ingested.blocks_reused}
        facts |= {"images_decoded": ingested.n_decoded, "images_reused": len(listing) - ingested.n_decoded}
    closed = summary.folders_of(listing, ingested.closed)["unreadable_folders"][len(listing.unreadable) :]
    if closed:
        named = ", ".join(closed[:EXAMPLES]) + (" and others" if len(closed) > EXAMPLES else "")
        progress.warn(f"files could not be looked at ({named}): what was decoded of them is kept")
    _check_enough(listing, ingested, settings.for_images(len(listing)))
    settings = settings.for_images(int(ingested.ok.sum()))
    context = replace(context, settings=settings)
    features = features_of(context, ingested)
    planned = plan.stage(REDUCE) if settings.reduce == "pca" else None
    with stage(REDUCE) as facts:
        reduced = reduce(context, features, ingested, planned)
        facts |= {**reduced.facts, "reused": reduced.reused}
    if plan.is_bound:
        plan = replan(plan, settings, reduced.n_components, job.resources)
        projected = show_bytes(plan.stage(CLUSTER).projected_bytes)
        progress.note(f"{reduced.n_components} components: clustering is planned again, and holds up to {projected}")
    swept = None
    if settings.finds_communities:
        with stage(NEIGHBORS) as facts:
            planned = plan.stage(NEIGHBORS)
            graph = neighbors(context, reduced, features, ingested, neighbors_for(int(ingested.ok.sum())), planned)
            facts |= {**graph.facts, "reused": graph.reused}
        with stage(CLUSTER) as facts:
            clustered = communities(context, reduced, graph, plan.stage(CLUSTER), listing, features, ingested)
            facts |= {**clustered.facts, "reused": clustered.reused}
        if clustered.n_clusters > likely_communities(len(listing)):
            plan = replan_outputs(plan, settings, reduced.n_components, clustered.n_clusters, job.resources)
    else:
        swept = _sweep(context, reduced, plan, ingested, stage)
        with stage(CLUSTER) as facts:
            clustered = cluster(context, reduced, plan.stage(CLUSTER), listing, features, ingested, swept=swept)
            facts |= {**clustered.facts, "reused": clustered.reused}
    return _Done(ingested, features, reduced, swept, clustered, plan, load_classes(store, ingested.ok))


def _sweep(
    context: Context,
    reduced: Reduced,
    plan: Plan,
    ingested: Ingested,
    stage: Callable[[str], AbstractContextManager[dict[str, Any]]],
) -> Swept | None:
    """Sweep the numbers of clusters of the settings and say which is taken; None where they name only one."""
    ks, progress = context.settings.ks, context.progress
    if len(ks) == 1:
        return None
    with stage(SWEEP) as facts:
        swept = sweep(context, reduced, ks, plan.stage(SWEEP), ingested.row_keys)
        facts |= {**swept.facts, "reused": swept.reused}
    for caveat in swept.caveats:
        progress.warn(caveat)
    progress.note(f"{swept.why}: k = {swept.chosen_k} is taken")
    return swept


def _check_enough(listing: Listing, ingested: Ingested, settings: Settings) -> None:
    n_ok, ledger = int(ingested.ok.sum()), ingested.read_ledger()
    if n_ok == 0:
        bad = list(islice(ledger, 3))
        reasons = "; ".join(f"{listing.names[i]}: {record.status}, {record.reason}" for i, record in enumerate(bad))
        raise NoImagesError(f"not one of {counted(len(listing), 'listed image')} could be read ({reasons})")
    if n_ok == 1 and settings.reduce == "pca":
        others = ""
        if len(listing) > 1:
            row, first = next((row, record) for row, record in enumerate(ledger) if not record.ok)
            others = (
                f" ({len(listing) - 1} more could not be read; {listing.names[row]}: {first.status}, {first.reason})"
            )
        raise TooFewSamplesError(f"PCA needs at least 2 good images, and there is 1{others}; use --set reduce=none")
    if settings.ks and settings.ks[-1] > n_ok:
        raise TooFewSamplesError(
            f"k = {settings.k} needs as many good images, and of {counted(len(listing), 'listed image')} "
            f"{n_ok} could be read; use -k {n_ok} or fewer"
        )


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


def _write_outputs(job: Job, listing: Listing, done: _Done, files: ResultFiles) -> folders.Linked:
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


def _write_account(result: dict[str, Any], files: ResultFiles, account: Account) -> None:
    """Write seconds and memory to summary.json and memory.csv, where the report reads them."""
    result["seconds"] = account.seconds
    result["memory"] |= {"measured_peak_bytes": account.peak_bytes, "unseen_bytes": account.unseen_bytes}
    tables.write_memory(files.text("memory.csv"), account.timeline)
    files.write("summary.json", summary.summary_text(result).encode())


def _summarise(job: Job, listing: Listing, done: _Done) -> dict[str, Any]:
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
            "budget_bytes": plan.budget_bytes,
            "projected_peak_bytes": plan.projected_bytes,
            "measured_peak_bytes": None,  # known at the end, as are the seconds
            "held_before_bytes": job.stages.sampler.held_before_bytes,
            "unseen_bytes": None,
            "metric": job.stages.sampler.metric,
        },
        "stages": job.stages.facts,
        "settings": {name: value for name, value in flatten(job.settings).items() if value is not None},
        "versions": summary.versions(),
    }
