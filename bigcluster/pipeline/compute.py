"""The stages of a run, one after the other: from the listed images to the stored clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from bigcluster.catalog import Listing
from bigcluster.config import Settings
from bigcluster.errors import NoImagesError, TooFewSamplesError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outputs import summary
from bigcluster.pipeline.job import Job
from bigcluster.planning.groups import likely_communities
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import replan, replan_outputs
from bigcluster.planning.stage_names import CLUSTER, INGEST, MANIFOLD, NEIGHBORS, REDUCE, SWEEP
from bigcluster.solvers.communities.footprint import neighbors_for
from bigcluster.solvers.manifold import effective_neighbors
from bigcluster.stages.classes import ClusterClasses, ImageClasses, classes_of_clusters, load_classes
from bigcluster.stages.cluster import cluster
from bigcluster.stages.communities import communities
from bigcluster.stages.context import Context
from bigcluster.stages.embedding import Embedding
from bigcluster.stages.features import Features, features_of
from bigcluster.stages.ingest import Ingested, ingest
from bigcluster.stages.manifold import embed
from bigcluster.stages.membership import Clustered
from bigcluster.stages.neighbors import neighbors
from bigcluster.stages.reduce import Reduced, reduce
from bigcluster.stages.sweep import Swept, sweep
from bigcluster.store import Store
from bigcluster.units import EXAMPLES, counted, show_bytes


@dataclass(frozen=True)
class Done:
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


def compute(
    job: Job,
    listing: Listing,
    plan: Plan,
    spec: DecodeSpec,
    store: Store,
    embedding: Embedding | None,
    isolate_rows: Sequence[Sequence[int]],
    rehash: bool,
) -> Done:
    """Bring every stage up to date, and return what they left.

    plan : of the run. spec : how pictures are decoded. embedding, isolate_rows, rehash : as in `run.run`.
    Raises NoImagesError where no image can be read, TooFewSamplesError where there are too few, MemoryBudgetError where
    a plan that is made anew does not fit, and DamagedError where a stored array is damaged.
    """
    settings, progress, context = job.settings, job.progress, job.context(store)

    def stage(name: str) -> AbstractContextManager[dict[str, Any]]:
        planned = next((planned for planned in plan.stages if planned.stage == name), None)
        if planned is None:
            return job.stages.measure(name)
        return job.stages.measure(name, plan.tree_bytes_of(planned), planned.projected_bytes if plan.joined else None)

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
    settings = settings.for_images(int(ingested.ok.sum()))
    _check_enough(listing, ingested, settings)
    context = replace(context, settings=settings)
    features = features_of(context, ingested)
    planned = plan.stage(REDUCE) if settings.has_pca else None
    with stage(REDUCE) as facts:
        reduced = reduce(context, features, ingested, planned)
        facts |= {**reduced.facts, "reused": reduced.reused}
    if plan.is_bound:
        plan = replan(plan, settings, reduced.n_components, job.resources)
        clustering = plan.stage(CLUSTER)
        projected = show_bytes(clustering.projected_bytes or clustering.client_bytes)
        progress.note(f"{reduced.n_components} components: clustering is planned again, and holds up to {projected}")
    if settings.has_manifold:
        with stage(MANIFOLD) as facts:
            reduced = embed(context, reduced, ingested)
            facts |= {**reduced.facts, "reused": reduced.reused}
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
    return Done(ingested, features, reduced, swept, clustered, plan, load_classes(store, ingested.ok))


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
    if settings.has_manifold:
        effective_neighbors(settings.reduce, n_ok, settings.manifold.neighbors)
    if n_ok == 1 and settings.has_pca:
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
