"""This job labels new images by a stored model: it decodes them as the old ones, projects them, and fits nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bigcluster import outdir
from bigcluster.catalog import KNOWN_SUFFIXES, Listing, left_out, list_images, root_of, unread_folders
from bigcluster.config import Settings, are_vectors
from bigcluster.errors import ConfigError, NoImagesError, StoreError, UsageError
from bigcluster.files import targets
from bigcluster.kernels.decode import STATUSES, DecodeSpec
from bigcluster.kernels.novelty import LEAST_IMAGES, UNUSUAL_PERCENTILE
from bigcluster.outputs.summary import folders_of
from bigcluster.outputs.tables import write_predictions
from bigcluster.pipeline.job import Job, attest_workers, naming_damage, open_job, with_workers
from bigcluster.pipeline.predict_jobs import Opened, PredictRows, predicted
from bigcluster.pipeline.stored_model import StoredModel, load_model
from bigcluster.planning.manifold import project_placer_bytes
from bigcluster.planning.plan import check_budget, check_on_cluster
from bigcluster.planning.prediction import plan_predict, waiting_bytes
from bigcluster.planning.stage_names import CLUSTER, COMPONENTS, FEATURES, INGEST, MANIFOLD, PREDICT, REDUCE
from bigcluster.runtime.cluster import Local
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.solvers.manifold import check_library
from bigcluster.stages.embedding import Embedding, fits_stored, open_embedding, shape_of
from bigcluster.stages.features import load_features
from bigcluster.stages.ingest import RECIPE, load_ingested, stored_embedding, stored_recipe
from bigcluster.stages.listing_ref import EmbeddingRef, ListingRef
from bigcluster.stages.loading.loader import Loader
from bigcluster.stages.loading.sample import NATIVE
from bigcluster.stages.membership import KMEANS, LEIDEN, algorithm_of
from bigcluster.stages.reduce import embedding_of
from bigcluster.stages.vectors import KIND_OF_VECTORS
from bigcluster.store import Store
from bigcluster.store.refs import StoreRef
from bigcluster.units import counted as number_of

TO = "--to"
UNLIKE_SHARE = 0.15
"""The share of new images beyond the percentile of the images of the model, above which the new images as a whole count
as unlike them. Three times the expected share of 0.05; chosen, not measured."""


def predict(
    settings: Settings,
    resources: Resources,
    *,
    images: str,
    to: str,
    features: str | None = None,
    embedding: Embedding | None = None,
    isolate_rows: Sequence[Sequence[int]] = (),
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Label `images` by the model in OUT, write the CSV file `to`, and return counts and how unlike the images are.

    `beyond_share` and `unlike` are None where the model has too few images.
    features : the vectors of the new images, where those of the model are vectors too; None for the vectors that the
    settings of the model name. embedding : makes the features of new pictures; None for what `features` and the
    settings name.
    isolate_rows : pairs (start, stop) of listed rows over which an earlier worker died.

    Images of another size are resized as those of the model were. For a model of native size a note says so. Raises
    StoreError where OUT holds no finished run or one with other features, UsageError where `to` cannot be written,
    NoImagesError where no image can be read, and MemoryBudgetError where the plan does not fit.
    """
    job = open_job(settings, resources, listener, caller)
    _check_target(to, images, settings.images, job.out)
    settings = _with_features(settings, features)
    job = replace(job, settings=settings)
    _check_not_vectors(to, settings.features)
    with job.stages.sampler, ExitStack() as stack:
        job.stages.sampler.enter("list")
        outdir.check_is_out(job.out)
        job = with_workers(job, stack)
        embedding = embedding or open_embedding(settings, listener, images=images, most_bytes=job.remaining_bytes)
        try:
            listing, spec, counted, model = _label_all(job, images, to, embedding, isolate_rows)
        finally:
            if embedding is not None:
                embedding.release()
    n_ok, can_tell = counted["ok"], model.novelty is not None
    if settings.size == NATIVE and counted["resized"]:
        resized = number_of(counted["resized"], "image", "was", "were")
        job.progress.note(f"{resized} resized to {spec.width}x{spec.height}, the native size of the model's")
    if not can_tell:
        job.progress.note(
            f"the model has fewer than {LEAST_IMAGES} images: too few to tell what is unusual, so novelty stays blank"
        )
    if n_ok == 0:
        raise NoImagesError(f"not one of {number_of(len(listing), 'listed image')} could be read; see {to}")
    return {
        "counts": {
            "listed": len(listing),
            "ok": n_ok,
            "failed": len(listing) - n_ok,
            "failed_by_status": {
                status: counted[status] for status in sorted(STATUSES.keys() - {"ok"}) if counted[status]
            },
            **folders_of(listing),
        },
        "beyond_share": counted["beyond"] / n_ok if can_tell else None,
        "unlike": _unlike(counted["beyond"], n_ok) if can_tell else None,
        "close_calls": counted["close"],
        "algorithm": KMEANS if model.communities is None else LEIDEN,
        "stages": job.stages.facts,
    }


def _label_all(
    job: Job, images: str, to: str, embedding: Embedding | None, isolate_rows: Sequence[Sequence[int]]
) -> tuple[Listing, DecodeSpec, Counter[str], StoredModel]:
    """List the images, plan, label them and write the table.

    Returns the listing, how it was decoded, counts by status and novelty, and the model.
    """
    settings, resources = replace(job.settings, images=images), job.resources
    listing = list_images(
        images,
        job.out,
        exclude=settings.exclude,
        **vars(settings.manifest),
        leave_out_lists=embedding is not None and embedding.kind == KIND_OF_VECTORS,
        most_bytes=job.remaining_bytes,
    )
    if embedding is not None:
        embedding.listed(listing)
    if listing.unreadable:
        job.progress.warn(unread_folders(listing))
    if passed_over := left_out(listing.ignored):
        job.progress.note(passed_over)
    _check_not_listed(to, listing)
    counted: Counter[str] = Counter()
    with ExitStack() as stack:
        with ExitStack() as locked:
            (stack if resources.joined else locked).enter_context(outdir.locked(job.out, job.progress.note))
            attest_workers(job, stack, listing)
            store = Store(job.out, create=False, most_bytes=job.remaining_bytes)
            spec = stored_recipe(store)
            with naming_damage(store):
                features = load_features(store, load_ingested(store))
            _check_embedding(store, embedding)
            n_clusters, n_components = store.array("centers").shape
            n_own = store.array("pixels").shape[0]
            clustered, placer_bytes = store.mark(CLUSTER), 0
            if (embedded := embedding_of(store, clustered)) is not None:
                if embedded.payload["method"] == "tsne":  # UMAP's library is not needed to place images
                    check_library("tsne", f"the model in {job.out} is of t-SNE, which", "a model of reduce = pca")
                n_components = embedded.payload["n_columns"]
                placer_bytes = project_placer_bytes(
                    embedded.payload["method"], embedded.payload["n_fitted"], n_components, len(listing), resources
                )
            plan_for = partial(
                plan_predict,
                settings,
                len(listing),
                n_own,
                spec.n_values,
                features.shape if embedding is None else shape_of(embedding),
                n_components,
                n_clusters,
                placer_bytes=placer_bytes,
                of_communities=clustered is not None and algorithm_of(clustered) == LEIDEN,
            )
            plan = plan_for(resources)
            projected_bytes = plan.projected_bytes
            if resources.joined:
                of_this_process = plan_for(resources.of_coordinator).projected_bytes
                plan = replace(plan, client_bytes=of_this_process + waiting_bytes(len(listing), resources.workers))
                projected_bytes = check_on_cluster(plan, resources, otherwise="fewer --workers")
            else:
                check_budget((plan,), resources.budget_bytes, otherwise="fewer --threads")
            spec = replace(spec, max_bytes=plan.choices["decode_bytes"])
            stack.enter_context(job.stages.measure(PREDICT, projected_bytes))
            with naming_damage(store):
                model = load_model(job.context(store), features, plan.choices["workspace_bytes"])
            version = _version(store)
        with (
            _one_model(store, version),
            job.progress.stage(PREDICT, len(listing), "images"),
            Loader(
                listing,
                spec,
                threads=job.runtime.threads,
                timeout_seconds=settings.image.timeout,
                progress=job.progress,
                isolate_rows=isolate_rows,
                children=plan.choices["children"],
                row_features=embedding,
            ) as loader,
        ):
            names = ListingRef(listing, job.out)
            stack.callback(names.remove)
            work = PredictRows(
                StoreRef.of(store),
                tuple(version),
                settings,
                names,
                EmbeddingRef.of(embedding, settings),
                spec,
                plan.block_shape[0],
                tuple((start, stop) for start, stop in isolate_rows),
                plan.choices["children"],
                plan.choices["workspace_bytes"],
                Local(Opened(loader, model, embedding)),
            )
            rows = predicted(work, len(listing), job.cluster, counted)
            with targets.writing(TO, to) as file:
                write_predictions(file, listing, rows)
                _check_version(store, version)
    return listing, spec, counted, model


def _unlike(n_beyond: int, n_ok: int) -> bool:
    """Return whether more images lie beyond the percentile than by chance: three standard deviations, and
    UNLIKE_SHARE."""
    expected = 1 - UNUSUAL_PERCENTILE / 100
    chance = expected * n_ok + 3 * (n_ok * expected * (1 - expected)) ** 0.5
    return bool(n_beyond > max(chance, UNLIKE_SHARE * n_ok))


def _with_features(settings: Settings, features: str | None) -> Settings:
    """Return the settings of the model with the vectors of the new images.

    Raises ConfigError where the model is not of vectors, or `features` names none.
    """
    if features is None or features == settings.features:
        return settings
    if not (are_vectors(settings.features) and are_vectors(features)):
        raise ConfigError(
            f"the model describes images by {settings.features}, and new ones in the same way: leave out --features, "
            "which names the vectors of new images where the model is of vectors"
        )
    return replace(settings, features=features)


def _check_target(to: str, images: str, images_of_model: str | None, out: Path) -> None:
    """Raise UsageError where `to` cannot be written, lies in an OUT, or would overwrite a file among the images."""
    targets.check(TO, to)
    if targets.lies_in(to, out):
        raise UsageError(f"{TO} {to} lies in OUT, where only runs write; give another file")
    if (other := outdir.out_of(to)) is not None:
        raise UsageError(f"{TO} {to} lies in {other}, the OUT of another run, where only runs write; give another file")
    for source in filter(None, (images, images_of_model)):
        # The folder of a manifest may hold other tables, such as an earlier one of this command; images are checked by
        # name.
        images_lie_in = source if os.path.isfile(source) else root_of(source)
        if os.path.exists(to) and targets.lies_in(to, images_lie_in):
            raise UsageError(f"{TO} {to} would write over what lies in IMAGES ({source}); give another file")


def _check_not_vectors(to: str, features: str) -> None:
    """Raise UsageError where `to` would overwrite the vectors or their paths."""
    if are_vectors(features):
        real = os.path.realpath(to)
        if real in (os.path.realpath(features), os.path.realpath(Path(features).with_suffix(".csv"))):
            raise UsageError(f"{TO} {to} would write over the vectors in {features}; give another file")


def _check_not_listed(to: str, listing: Listing) -> None:
    """Raise UsageError where `to` would overwrite one of the images."""
    real = os.path.realpath(to)
    name = os.path.basename(real).casefold()
    if not os.path.exists(real):
        return
    if os.path.splitext(name)[1] in KNOWN_SUFFIXES or any(
        os.path.basename(listed).casefold() == name and os.path.realpath(os.path.join(listing.root, listed)) == real
        for listed in listing.names
    ):
        raise UsageError(f"{TO} {to} would write over an image; give another file")


def _version(store: Store) -> list[tuple[int, int] | None]:
    """Return the identity of the model in OUT. A stage that is computed again has new mark files."""
    marks = [store.marks.path(stage) for stage in (RECIPE, INGEST, FEATURES, REDUCE, COMPONENTS, MANIFOLD, CLUSTER)]
    return [(mark.stat().st_ino, mark.stat().st_mtime_ns) if mark.is_file() else None for mark in marks]


def _check_version(store: Store, version: list[tuple[int, int] | None]) -> None:
    """Raise StoreError where the model in OUT has changed: rows of two models cannot be compared."""
    if _version(store) != version:
        raise StoreError(
            f"{store.out} was clustered anew while its model was in use: nothing is written; give the command "
            "again, when that run is done"
        )


@contextmanager
def _one_model(store: Store, version: list[tuple[int, int] | None]) -> Iterator[None]:
    """Report lost or damaged files as damage only where no other run has changed the model meanwhile."""
    try:
        with naming_damage(store, lambda: _check_version(store, version)):
            yield
    except FileNotFoundError:
        _check_version(store, version)
        raise


def _check_embedding(store: Store, embedding: Embedding | None) -> None:
    """Raise StoreError where the features of new images cannot be compared with the stored ones."""
    stored = stored_embedding(store)
    if fits_stored(stored, embedding):
        return
    if stored is not None and embedding is not None and stored["kind"] == embedding.kind == KIND_OF_VECTORS:
        raise StoreError(
            f"the model in {store.out} was made of the vectors in {stored['name']}, and those in {embedding.name} do "
            f"not fit it ({stored['n_features']} values each, and {embedding.n_features}); give vectors like the former"
        )
    of_model = "pixels" if stored is None else stored["name"]
    of_images = "pixels" if embedding is None else embedding.name
    raise StoreError(
        f"{store.out} was clustered by features of {of_model}, and those of new images would be of "
        f"{of_images}, or of another version of it; run the job again"
    )
