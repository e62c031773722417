"""This job finds the communities of the stored graph at several resolutions. It reads neither images nor scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bigcluster import outdir
from bigcluster.config import Settings
from bigcluster.errors import StoreError
from bigcluster.outdir.results import RESOLUTIONS, ResultFiles
from bigcluster.outputs import tables
from bigcluster.pipeline.job import Job, naming_damage, open_job
from bigcluster.planning.groups import plan_communities
from bigcluster.planning.plan import check_budget
from bigcluster.planning.stage_names import CLUSTER, NEIGHBORS, SWEEP
from bigcluster.planning.stages import without_library
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.solvers.communities import leiden
from bigcluster.stages.neighbors import load_ids
from bigcluster.store import Store


def resolutions(
    settings: Settings,
    resources: Resources,
    *,
    values: Sequence[float],
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Write OUT/resolutions.csv and return its rows, and the resolution in use or None.

    values : the resolutions, ascending.
    Raises StoreError where OUT holds no graph of the present scores, and MemoryBudgetError where the plan does not fit.
    """
    job = open_job(settings, resources, listener, caller)
    outdir.check_is_out(job.out)
    with outdir.locked(job.out, job.progress.note):
        store = Store(job.out, create=False, most_bytes=job.remaining_bytes)
        with naming_damage(store):
            graph, clustered = store.mark(NEIGHBORS), store.mark(CLUSTER)
            if graph is None or clustered is None or graph.payload["rows"] != clustered.payload["rows"]:
                raise StoreError(
                    f"{job.out} holds no graph of the neighbors of its scores; run `bigcluster run --out {job.out} -k "
                    "auto --set algorithm=leiden` first"
                )
            n_images, n_columns = store.array("labels").shape[0], clustered.payload["n_columns"]
            plan = plan_communities(without_library(settings), n_images, n_columns, resources)
            check_budget((plan,), resources.budget_bytes, otherwise="a number with -k")
            with job.stages.sampler, job.stages.measure(SWEEP, plan.projected_bytes) as facts:
                facts |= {"solver": "leiden", "passes": 0, "reused": False}
                rows = _rows(job, store, graph.payload["n_neighbors"], values)
        files = ResultFiles(job.out, job.progress.warn)
        with files.writing((RESOLUTIONS,)):
            tables.write_resolutions(files.text(RESOLUTIONS), rows)
        in_use = clustered.payload["facts"].get("resolution")
    return {"rows": rows, "in_use": in_use, "stages": job.stages.facts}


def _rows(job: Job, store: Store, n_neighbors: int, values: Sequence[float]) -> list[dict[str, Any]]:
    """Return a row of the table for each resolution. The graph is read once."""
    ids, rows = load_ids(store, n_neighbors), []
    with job.progress.stage(SWEEP, len(values), "resolutions"):
        for number, resolution in enumerate(values):
            found = leiden(ids, resolution=resolution, seed=job.settings.seed)
            rows.append(
                {
                    "resolution": resolution,
                    "n_clusters": found.count,
                    "modularity": found.modularity,
                    "smallest": int(found.counts[-1]),
                    "largest": int(found.counts[0]),
                }
            )
            job.progress.at(number + 1)
    return rows
