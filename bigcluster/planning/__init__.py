"""What a run will do, decided before any image is decoded: stages, block shapes, projected bytes.

The budget is turned into blocks in flight, batches and workspaces here and nowhere else. A plan that cannot fit is
refused with the setting that would.
"""

from __future__ import annotations

from bigcluster.config import Settings
from bigcluster.planning.plan import Plan, Resources, StagePlan, check_budget
from bigcluster.planning.report import plan_report
from bigcluster.planning.stages import plan_cluster, plan_ingest, plan_predict, plan_reduce, plan_sweep, target_of


def make_plan(settings: Settings, n_images: int, image_size: tuple[int, int], resources: Resources) -> Plan:
    """Plan a run of `n_images` listed files. Pure arithmetic: nothing is read."""
    width, height = image_size
    n_values = width * height * (3 if settings.features == "color" else 1)
    stages = [plan_ingest(settings, n_images, n_values, resources)]
    if settings.reduce == "pca":
        stages.append(plan_reduce(settings, n_images, n_values, resources))
    n_columns = stages[-1].choices.get("rank", n_values)
    if len(settings.ks) > 1:
        stages.append(plan_sweep(settings, settings.ks, n_images, n_columns, resources))
    stages.append(plan_cluster(settings, n_images, n_columns, resources))
    if settings.report.write:
        n_clusters = max(settings.ks, default=1)
        stages.append(plan_report(settings, n_images, n_values, n_columns, n_clusters, resources))
    return Plan(n_images, image_size, n_values, resources.budget_bytes, resources.threads, tuple(stages))


__all__ = [
    "Plan",
    "Resources",
    "StagePlan",
    "check_budget",
    "make_plan",
    "plan_cluster",
    "plan_ingest",
    "plan_predict",
    "plan_reduce",
    "plan_report",
    "plan_sweep",
    "target_of",
]
