"""This job writes the report of a run that ends or of a finished OUT. It does not read the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bigcluster import outdir
from bigcluster.config import Settings
from bigcluster.errors import BigclusterError, StoreError
from bigcluster.outputs.summary import read_summary
from bigcluster.pipeline.job import Job, attest_workers, naming_damage, open_job, with_workers
from bigcluster.planning.plan import StagePlan, check_budget, check_on_cluster
from bigcluster.planning.planner import report_on_cluster
from bigcluster.planning.report import components_of, plan_report
from bigcluster.planning.stage_names import CLUSTER, REDUCE, REPORT
from bigcluster.planning.stages import without_library
from bigcluster.report.model import Written
from bigcluster.report.write import FOLDER, Allowance, is_current, write_report
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.stages.ingest import stored_embedding, stored_recipe
from bigcluster.stages.reduce import embedding_of
from bigcluster.store import Store


def report(
    settings: Settings, resources: Resources, *, listener: Listener = silent, caller: Caller | None = None
) -> dict[str, Any]:
    """Write OUT/report again and return its path under `report`, and `stages`.

    Raises StoreError where OUT holds no finished run or cannot be written, MemoryBudgetError where the plan does not
    fit, and DamagedError where a stored array is damaged.
    """
    job = open_job(settings, resources, listener, caller)
    outdir.check_is_out(job.out)
    summary_path = job.out / "summary.json"
    with (
        job.stages.sampler,
        _naming_writes(job.out),
        outdir.locked(job.out, job.progress.note),
        ExitStack() as stack,
    ):
        if not summary_path.is_file():  # after OUT is locked: a running job is not an unfinished one
            raise StoreError(f"{job.out} holds no finished run; run the job to its end first")
        job = with_workers(job, stack)
        attest_workers(job, stack)
        resources = job.resources
        store = Store(job.out, create=False, most_bytes=job.remaining_bytes)
        spec, n_images = stored_recipe(store), store.array("pixels").shape[0]
        n_clusters, n_columns = store.array("centers").shape
        fit = None if settings.reduce == "none" else store.mark(REDUCE)
        components = "none" if fit is None else str(fit.payload["components"])
        embedding = stored_embedding(store)
        if embedding is not None or embedding_of(store, store.mark(CLUSTER)) is not None:
            components = components_of(None, of_pixels=False)
        size, n_classes = (spec.width, spec.height), 0 if embedding is None else embedding["n_classes"]
        planned = without_library(settings)
        of_pages = resources.of_coordinator if resources.joined else resources
        plan = plan_report(planned, n_images, size, n_columns, n_clusters, components, n_classes, of_pages)
        if resources.joined:
            plan = report_on_cluster(plan, planned, n_images, resources)
            plan = replace(plan, projected_bytes=check_on_cluster(plan, resources, otherwise="fewer --workers"))
        else:
            check_budget((plan,), resources.budget_bytes, otherwise="--threads 1")
        with naming_damage(store):
            _write(job, store, read_summary(summary_path, n_clusters), plan)
    return {"report": str(job.out / FOLDER / "index.html"), "stages": job.stages.facts}


def write_or_reuse(
    job: Job,
    store: Store,
    summary: dict[str, Any],
    plan: StagePlan,
    close_account: Callable[[], None],
    written: Written,
) -> None:
    """Write the report at the end of a run, or reuse it where it already shows this result.

    close_account : a function that adds seconds and memory to `summary`, which the last page shows. written : the
    listed files, whose tables and entries the run has just written.
    Raises StoreError where the report cannot be written.
    """
    if is_current(job.out, store, job.settings):
        job.progress.reused(REPORT)
        with job.stages.measure(REPORT, plan.projected_bytes) as facts:
            facts |= {"solver": "pages", "passes": 0, "reused": True}
    else:
        with _naming_writes(job.out):
            _write(job, store, summary, plan, close_account, written)


def _write(
    job: Job,
    store: Store,
    summary: dict[str, Any],
    plan: StagePlan,
    close_account: Callable[[], None] | None = None,
    written: Written | None = None,
) -> None:
    allowance = Allowance(plan.choices["in_flight"], plan.choices["picture_bytes"])
    with job.stages.measure(REPORT, plan.projected_bytes) as facts, job.progress.stage(REPORT, 1, "steps"):
        facts |= {"solver": "pages", "passes": 1, "reused": False}
        facts |= write_report(
            job.out,
            store,
            summary,
            job.settings,
            allowance,
            job.runtime,
            job.cluster,
            job.progress.at,
            job.progress.warn,
            close_account,
            written,
        )


@contextmanager
def _naming_writes(out: Path) -> Iterator[None]:
    """Raise an OSError as a StoreError whose message names the file."""
    try:
        yield
    except BigclusterError:
        raise
    except OSError as error:
        where = error.filename or out
        raise StoreError(f"the report cannot be written: {where}: {error.strerror or error}") from error
