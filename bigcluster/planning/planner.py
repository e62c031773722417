"""This module makes the plan of a run from its settings and the images, and makes it again when the rank is known."""

from __future__ import annotations

from dataclasses import replace

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.feature_shape import FeatureShape, channels, feature_shape
from bigcluster.planning.groups import likely_communities, plan_communities, plan_neighbors
from bigcluster.planning.manifold import plan_manifold
from bigcluster.planning.plan import Pictures, Plan, StagePlan, assumed, check_budget
from bigcluster.planning.report import components_of, plan_report
from bigcluster.planning.stage_names import REDUCE
from bigcluster.planning.stages import (
    baseline_bytes,
    plan_cluster,
    plan_ingest,
    plan_output,
    plan_reduce,
    plan_sweep,
)
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.manifold.fit import n_dimensions
from bigcluster.solvers.manifold.footprint import LIBRARY_BYTES


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
    stages = [plan_ingest(settings, n_images, n_values, features, resources, pictures)]
    n_columns, solver = features.n_features, None
    if settings.has_pca:
        reduction = plan_reduce(settings, n_images, features, resources)
        stages.append(reduction)
        n_columns, solver = reduction.choices["rank"], reduction.solver
    stages += _plan_clustering(settings, n_images, n_columns, features.dtype, resources)
    n_columns = _clustered_columns(settings, n_columns)
    n_clusters = likely_communities(n_images) if settings.finds_communities else max(settings.ks)
    client_stages = [plan_output(settings, n_images, n_clusters, features.n_classes, n_columns, resources, pictures)]
    if settings.report.write:
        components = components_of(solver, of_pixels=features.of_pixels and not settings.has_manifold)
        client_stages.append(
            plan_report(
                settings, n_images, image_size, n_columns, n_clusters, components, features.n_classes, resources
            )
        )
    # On a cluster the client writes folders and pages, not the workers.
    stages += [replace(stage, projected_bytes=0) if resources.joined else stage for stage in client_stages]
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
        shares=resources.shares,
        client_bytes=_client_bytes(client_stages, resources),
    )


def _clustered_columns(settings: Settings, n_components: int) -> int:
    """Return the number of columns of the rows that are clustered: of scores, or of the places made of them."""
    return n_dimensions(settings.reduce, n_components) if settings.has_manifold else n_components


def _client_bytes(stages: list[StagePlan], resources: Resources) -> int:
    """Return the bytes of the processes that start a job on a cluster; 0 where there is no cluster.

    stages : what is done there. Where the run starts the workers, they have a part of its budget together.
    """
    if not resources.joined:
        return 0
    started = footprint.SUPERVISOR_BYTES if resources.starts_workers else 0
    return max(stage.projected_bytes for stage in stages) + started


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
    known = plan
    for stage in _plan_clustering(settings, plan.n_images, n_components, plan.features.dtype, resources):
        known = known.replaced(stage)
    n_clusters = likely_communities(plan.n_images) if settings.finds_communities else max(settings.ks)
    n_columns = _clustered_columns(settings, n_components)
    known = replace(_with_report(known, settings, n_columns, n_clusters, resources), is_bound=False)
    check_budget(
        known.stages, known.budget_bytes, otherwise=f"--components {max(1, n_components // 2)}", shares=plan.shares
    )
    return known


def replan_outputs(plan: Plan, settings: Settings, n_components: int, n_clusters: int, resources: Resources) -> Plan:
    """Return the plan for the number of communities that were found.

    Raises MemoryBudgetError where there are more than planned and their pictures do not fit.
    """
    n_classes, n_columns = plan.features.n_classes, _clustered_columns(settings, n_components)
    output = plan_output(settings, plan.n_images, n_clusters, n_classes, n_columns, resources, plan.pictures)
    known = _with_report(plan.replaced(output), settings, n_columns, n_clusters, resources)
    check_budget(known.stages, known.budget_bytes, otherwise="a smaller resolution", shares=plan.shares)
    return known


def _with_report(plan: Plan, settings: Settings, n_columns: int, n_clusters: int, resources: Resources) -> Plan:
    """Return the plan with the report, where one is written, planned for these numbers of columns and clusters."""
    if not settings.report.write or plan.joined:
        return plan
    solver = plan.stage(REDUCE).solver if settings.has_pca else None
    components = components_of(solver, of_pixels=plan.features.of_pixels and not settings.has_manifold)
    n_images, n_classes = plan.n_images, plan.features.n_classes
    return plan.replaced(
        plan_report(settings, n_images, plan.image_size, n_columns, n_clusters, components, n_classes, resources)
    )
