"""This job fits every k of a range on the scores that a run stored. It does not read the images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bigcluster import outdir
from bigcluster.config import Settings
from bigcluster.errors import TooFewSamplesError
from bigcluster.outdir.results import OF_A_SWEEP, ResultFiles
from bigcluster.outputs import tables
from bigcluster.pipeline.job import Job, attest_workers, naming_damage, open_job, with_workers
from bigcluster.planning.clustering import plan_sweep
from bigcluster.planning.plan import check_budget, check_on_cluster
from bigcluster.planning.planner import sweep_on_cluster
from bigcluster.planning.stage_names import SWEEP
from bigcluster.planning.stages import plan_reduce, without_library
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.stages.features import load_features
from bigcluster.stages.ingest import load_ingested
from bigcluster.stages.manifold import load_embedded
from bigcluster.stages.reduce import load_reduced
from bigcluster.stages.sweep import Swept
from bigcluster.stages.sweep import sweep as sweep_stage
from bigcluster.store import Store


def sweep(
    settings: Settings,
    resources: Resources,
    *,
    ks: Sequence[int],
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Write OUT/sweep.csv and OUT/sweep.png, and return the table, the suggested k and its reason.

    ks : the numbers of clusters, ascending.
    Raises StoreError where OUT holds no reduction, TooFewSamplesError for a k above the number of good images, and
    MemoryBudgetError where the plan does not fit.
    """
    ks = tuple(ks)
    job = open_job(settings, resources, listener, caller)
    outdir.check_is_out(job.out)
    with job.stages.sampler, outdir.locked(job.out, job.progress.note), ExitStack() as stack:
        job = with_workers(job, stack)
        attest_workers(job, stack)
        store = Store(job.out, create=False, most_bytes=job.remaining_bytes)
        with naming_damage(store):
            swept = _sweep(job, store, ks)
        files = ResultFiles(job.out, job.progress.warn)
        with files.writing(OF_A_SWEEP):
            tables.write(files, swept.rows, swept.suggested_k, swept.why)
    return {
        "rows": swept.rows,
        "suggested_k": swept.suggested_k,
        "best_silhouette_sq_k": swept.best_silhouette_sq_k,
        "reason": swept.why,
        "caveats": swept.caveats,
        "stages": job.stages.facts,
    }


def _sweep(job: Job, store: Store, ks: tuple[int, ...]) -> Swept:
    settings, resources = job.settings, job.resources
    ingested = load_ingested(store)
    n_ok = int(ingested.ok.sum())
    if ks[-1] > n_ok:
        raise TooFewSamplesError(f"k = {ks[-1]} needs as many good images, there are {n_ok}; sweep up to {n_ok}")
    features = load_features(store, ingested)
    shape = features.shape
    planned = None
    if settings.has_pca:
        planned = plan_reduce(settings, len(ingested.ok), shape, resources)
    context = job.context(store)
    of_the_run = replace(context, settings=_of_the_run(settings, job.out))
    reduced = load_reduced(of_the_run, features, ingested, planned)
    if settings.has_manifold:
        reduced = load_embedded(of_the_run, reduced, ingested)
    loaded = without_library(settings)
    plan = plan_sweep(loaded, ks, *reduced.rows.shape, shape.dtype, resources)
    otherwise = "fewer values of k"
    if resources.joined:
        plan = sweep_on_cluster(plan, loaded, ks, len(ingested.ok), resources)
        plan = replace(plan, projected_bytes=check_on_cluster(plan, resources, otherwise=otherwise))
    else:
        check_budget((plan,), resources.budget_bytes, otherwise=otherwise)
    with job.stages.measure(SWEEP, plan.projected_bytes) as facts:
        swept = sweep_stage(context, reduced, ks, plan, ingested.row_keys)
        facts |= {**swept.facts, "reused": swept.reused}
    return swept


def _of_the_run(settings: Settings, out: Path) -> Settings:
    """Return the settings with the seed of the stored scores: a sweep may have another seed."""
    stored = outdir.kept_values(str(out)) or {}
    return replace(settings, seed=stored.get("seed", Settings().seed))
