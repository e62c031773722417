"""This module makes the plan of a run from its settings and the images, and makes it again when the rank is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.clustering import plan_cluster, plan_sweep
from bigcluster.planning.feature_shape import FeatureShape, channels, feature_shape
from bigcluster.planning.groups import COLUMN_BYTES, likely_communities, plan_communities, plan_neighbors
from bigcluster.planning.manifold import SAMPLING_BYTES, plan_manifold
from bigcluster.planning.plan import Pictures, Plan, StagePlan, assumed
from bigcluster.planning.report import components_of, plan_report
from bigcluster.planning.stage_names import CLUSTER, INGEST, MANIFOLD, NEIGHBORS, OUTPUT, REDUCE, REPORT, SWEEP
from bigcluster.planning.stages import (
    baseline_bytes,
    charts_bytes,
    names_bytes,
    plan_ingest,
    plan_output,
    plan_reduce,
)
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.kmeans.footprint import project_centers_bytes
from bigcluster.solvers.manifold.fit import n_dimensions
from bigcluster.solvers.manifold.footprint import LIBRARY_BYTES
from bigcluster.solvers.neighbors.footprint import project_graph_bytes


def make_plan(
    settings: Settings,
    n_images: int,
    image_size: tuple[int, int],
    resources: Resources,
    pictures: Pictures | None = None,
    features: FeatureShape | None = None,
) -> Plan:
    """Return the plan of a run of `n_images` listed files. It is arithmetic alone: no file is read.

    image_size : (width, height) in pixels. pictures : what headers say; None for assumed values. features : a row of
    the feature matrix; None for what the settings say.
    """
    settings = settings.for_images(n_images)
    width, height = image_size
    pictures = pictures or assumed(width, height)
    features = features or feature_shape(settings, image_size)
    n_values = width * height * channels(settings)

    def planned(resources: Resources, *, least: bool = False) -> Plan:
        return _plan_stages(settings, n_images, image_size, n_values, features, pictures, resources, least=least)

    plan = planned(resources)
    if plan.fits or not resources.starts_workers:
        return plan
    # Equal parts do not suffice: this process takes as little as it can, and its workers get the rest.
    rest = resources.tree_bytes + resources.workers * footprint.SHARED_BYTES
    client_bytes = planned(resources, least=True).client_bytes
    return planned(replace(resources, budget_bytes=max(0, rest - client_bytes) // resources.workers), least=True)


def _plan_stages(
    settings: Settings,
    n_images: int,
    image_size: tuple[int, int],
    n_values: int,
    features: FeatureShape,
    pictures: Pictures,
    resources: Resources,
    *,
    least: bool,
) -> Plan:
    """Return the plan for these resources. least : whether a process that starts workers takes as little as it can."""
    coordinator = _of_coordinator(resources, least=least)
    stages = [plan_ingest(settings, n_images, n_values, features, resources, pictures)]
    n_columns, solver = features.n_features, None
    if settings.has_pca:
        reduction = plan_reduce(settings, n_images, features, resources)
        stages.append(reduction)
        n_columns, solver = reduction.choices["rank"], reduction.solver
    stages += _plan_clustering(settings, n_images, n_columns, features.dtype, resources)
    n_columns = _clustered_columns(settings, n_columns)
    n_clusters = likely_communities(n_images) if settings.finds_communities else max(settings.ks)
    stages.append(plan_output(settings, n_images, n_clusters, features.n_classes, n_columns, coordinator, pictures))
    if settings.report.write:
        components = components_of(solver, of_pixels=features.of_pixels and not settings.has_manifold)
        stages.append(
            plan_report(
                settings, n_images, image_size, n_columns, n_clusters, components, features.n_classes, coordinator
            )
        )
    if resources.joined:
        stages = [_on_cluster(stage, settings, n_images, features, resources) for stage in stages]
    return Plan(
        n_images,
        image_size,
        n_values,
        features,
        resources.budget_bytes,
        resources.threads,
        tuple(stages),
        pictures,
        baseline_bytes(settings, resources, products=settings.has_pca)
        + (LIBRARY_BYTES[settings.reduce] if settings.has_manifold else 0),
        is_bound=settings.has_pca and settings.variance is not None,
        workers=resources.workers,
        joined=resources.joined,
        tree_budget_bytes=resources.tree_bytes,
        idle_bytes=_idle_bytes(settings, n_images, resources),
    )


COORDINATED = (OUTPUT,)
"""The stages that the process which starts a job on a cluster does itself, as it makes the pages of the report."""


def _of_coordinator(resources: Resources, *, least: bool) -> Resources:
    """Return the resources of the process that does `COORDINATED`: without a cluster, those of the run.

    least : whether to leave as much as possible of a budget to the workers.
    """
    if not resources.joined:
        return resources
    return replace(resources.of_coordinator, budget_bytes=0 if least else resources.budget_bytes)


def _on_cluster(
    stage: StagePlan, settings: Settings, n_images: int, features: FeatureShape, resources: Resources
) -> StagePlan:
    """Return the plan of a stage with the bytes of both the workers and the process that starts the job."""
    if stage.stage in COORDINATED:
        return replace(stage, projected_bytes=0, client_bytes=stage.projected_bytes)
    if stage.stage == REPORT:
        return report_on_cluster(stage, settings, n_images, resources)
    n_bytes = baseline_bytes(settings, resources.of_coordinator) + names_bytes(n_images, resources.of_coordinator)
    if stage.stage == INGEST:
        n_bytes += footprint.project_names_bytes(n_images) + features.shared_bytes
    if stage.stage == NEIGHBORS:  # the graph, and parts of it that wait
        n_bytes += 2 * project_graph_bytes(n_images, stage.choices["n_neighbors"])
    if stage.stage == MANIFOLD:
        n_bytes += n_images * SAMPLING_BYTES
    if stage.stage == CLUSTER and settings.finds_communities:
        n_bytes += n_images * COLUMN_BYTES
    if stage.stage in (SWEEP, CLUSTER):
        n_bytes += _centers_bytes(stage, settings, settings.ks, n_images)
        n_bytes += charts_bytes(settings, resources.of_coordinator)
    return replace(stage, client_bytes=n_bytes)


def _centers_bytes(stage: StagePlan, settings: Settings, ks: Sequence[int], n_images: int) -> int:
    """Return the bytes that the process keeps which starts k-means on a cluster: centers, and labels of all images."""
    centers = sum(project_centers_bytes(stage.block_shape[1], k, settings.kmeans.n_init) for k in ks)
    return centers + footprint.project_memberships_bytes(n_images)


def sweep_on_cluster(
    stage: StagePlan, settings: Settings, ks: Sequence[int], n_images: int, resources: Resources
) -> StagePlan:
    """Return the plan of a sweep of a finished run, `plan_sweep`, with the bytes of the process that starts it."""
    of_coordinator = resources.of_coordinator
    n_bytes = baseline_bytes(settings, of_coordinator) + names_bytes(n_images, of_coordinator)
    return replace(stage, client_bytes=n_bytes + _centers_bytes(stage, settings, ks, n_images) + footprint.CHARTS_BYTES)


def report_on_cluster(stage: StagePlan, settings: Settings, n_images: int, resources: Resources) -> StagePlan:
    """Return the plan of the report whose thumbnails workers draw. What they send at once is in this process too.

    stage : the plan of `plan_report` for `resources.of_coordinator`.
    """
    return replace(
        stage,
        projected_bytes=_idle_bytes(settings, n_images, resources) + stage.choices["drawing_bytes"],
        client_bytes=stage.projected_bytes + stage.choices["sent_bytes"],
        n_busy=resources.workers,
    )


def _idle_bytes(settings: Settings, n_images: int, resources: Resources) -> int:
    """Return the bytes of a worker of a cluster that waits; 0 where there is no cluster."""
    if not resources.joined:
        return 0
    return baseline_bytes(settings, resources, products=settings.has_pca) + names_bytes(n_images, resources)


def _clustered_columns(settings: Settings, n_components: int) -> int:
    """Return the number of columns of the rows that are clustered: of scores, or of the places made of them."""
    return n_dimensions(settings.reduce, n_components) if settings.has_manifold else n_components


def _plan_clustering(
    settings: Settings, n_images: int, n_columns: int, dtype: str, resources: Resources
) -> list[StagePlan]:
    """Return the plans of the stages that turn rows of n_columns values into clusters. dtype : of the features."""
    stages = []
    if settings.has_manifold:
        stages.append(plan_manifold(settings, n_images, n_columns, resources))
        n_columns = _clustered_columns(settings, n_columns)
    if settings.finds_communities:
        stages.append(plan_neighbors(settings, n_images, n_columns, resources))
        return [*stages, plan_communities(settings, n_images, n_columns, resources)]
    if len(settings.ks) > 1:
        stages.append(plan_sweep(settings, settings.ks, n_images, n_columns, dtype, resources))
    return [*stages, plan_cluster(settings, n_images, n_columns, dtype, resources)]


def replan(plan: Plan, settings: Settings, n_components: int, resources: Resources) -> Plan:
    """Return the plan for the number of components that the spectrum has decided.

    Raises MemoryBudgetError where there are more components than planned and they do not fit.
    """
    settings = settings.for_images(plan.n_images)
    resources, least = _as_divided(plan, resources)
    known = plan
    for stage in _plan_clustering(settings, plan.n_images, n_components, plan.features.dtype, resources):
        known = known.replaced(_placed(stage, plan, settings, resources))
    n_clusters = likely_communities(plan.n_images) if settings.finds_communities else max(settings.ks)
    n_columns = _clustered_columns(settings, n_components)
    known = replace(_with_report(known, settings, n_columns, n_clusters, resources, least=least), is_bound=False)
    known.check_stages(f"--components {max(1, n_components // 2)}")
    return known


def replan_outputs(plan: Plan, settings: Settings, n_components: int, n_clusters: int, resources: Resources) -> Plan:
    """Return the plan for the number of communities that were found.

    Raises MemoryBudgetError where there are more than planned and their pictures do not fit.
    """
    n_classes, n_columns = plan.features.n_classes, _clustered_columns(settings, n_components)
    resources, least = _as_divided(plan, resources)
    coordinator = _of_coordinator(resources, least=least)
    output = plan_output(settings, plan.n_images, n_clusters, n_classes, n_columns, coordinator, plan.pictures)
    known = plan.replaced(_placed(output, plan, settings, resources))
    known = _with_report(known, settings, n_columns, n_clusters, resources, least=least)
    known.check_stages("a smaller resolution")
    return known


def _as_divided(plan: Plan, resources: Resources) -> tuple[Resources, bool]:
    """Return the resources as a plan has divided them, and whether the process that starts the job takes the least."""
    return replace(resources, budget_bytes=plan.budget_bytes), plan.budget_bytes != resources.budget_bytes


def _placed(stage: StagePlan, plan: Plan, settings: Settings, resources: Resources) -> StagePlan:
    """Return a stage that is planned again, with the bytes of the processes that do it."""
    return _on_cluster(stage, settings, plan.n_images, plan.features, resources) if plan.joined else stage


def _with_report(
    plan: Plan, settings: Settings, n_columns: int, n_clusters: int, resources: Resources, *, least: bool
) -> Plan:
    """Return the plan with the report, where one is written, planned for these numbers of columns and clusters."""
    if not settings.report.write:
        return plan
    solver = plan.stage(REDUCE).solver if settings.has_pca else None
    components = components_of(solver, of_pixels=plan.features.of_pixels and not settings.has_manifold)
    n_images, n_classes, coordinator = plan.n_images, plan.features.n_classes, _of_coordinator(resources, least=least)
    report = plan_report(settings, n_images, plan.image_size, n_columns, n_clusters, components, n_classes, coordinator)
    return plan.replaced(_placed(report, plan, settings, resources))
