"""This stage turns scores into clusters.

It stores the centers and, for every good row, the label, the distance and the runner-up. All of them come from one
final pass.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import CLUSTER
from bigcluster.solvers.kmeans import KMeansFit
from bigcluster.solvers.kmeans.spread_labels import tied_rows, write_labels
from bigcluster.solvers.unit_length import ref_of
from bigcluster.stages.cluster_jobs import ROW_KEYS, LabelRows, Saving, fit_on_cluster, label_on_cluster
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.membership import (
    KMEANS,
    Clustered,
    Found,
    clustered_from,
    new_numbers,
    order_by_size,
    origin_of,
    previous_fit,
    reusable,
    store_clusters,
)
from bigcluster.stages.reduce import Reduced
from bigcluster.stages.sweep import Swept, centers_of
from bigcluster.store import Digests, StageCheckpoints, Store, fingerprint
from bigcluster.store.refs import ArrayRef, StoreRef


def cluster(
    context: Context,
    reduced: Reduced,
    plan: StagePlan,
    listing: Listing,
    features: Features,
    ingested: Ingested,
    *,
    swept: Swept | None = None,
) -> Clustered:
    """Bring the stored clusters up to date with the scores and the settings, and return them.

    plan : the plan of this stage. swept : a sweep whose chosen k is taken; None where the settings name one k.
    Raises DamagedError where a stored array cannot be used.
    """
    store, settings = context.store, context.settings
    n_clusters = settings.ks[0] if swept is None else swept.chosen_k
    expected = fingerprint(
        before=reduced.fingerprint if swept is None else swept.fingerprint,
        stage=CLUSTER,
        k=n_clusters,
        seed=settings.seed,
        kmeans=asdict(settings.kmeans),
        **({} if swept is None else {"of": "the swept centers as they are"}),
    )
    checkpoints = StageCheckpoints(store, CLUSTER, expected)
    origin = origin_of(context, reduced, features, ingested)
    mark = reusable(store, expected, origin, n_clusters)
    reused = mark is not None
    if mark is None:
        previous = previous_fit(store, ingested, n_clusters)
        if swept is not None and settings.kmeans.algorithm in ("auto", "lloyd"):
            fitted = _from_sweep(context, reduced, swept, plan)
        else:
            fitted = _fit(context, reduced, n_clusters, plan, ingested, checkpoints)
        mark = store_clusters(
            context, _found(context, fitted, listing, ingested.ok), expected, origin, ingested, previous
        )
    else:
        context.progress.reused(CLUSTER)
    checkpoints.clear()
    return clustered_from(store, mark, reused=reused)


def _from_sweep(context: Context, reduced: Reduced, swept: Swept, plan: StagePlan) -> KMeansFit:
    """Return the clusters of the chosen row of the sweep, exactly as the table of the sweep shows them."""
    with context.progress.stage(CLUSTER, 1, "passes"):
        centers, n_iter = centers_of(context.store, swept, swept.chosen_k), swept.chosen["n_iter"]
        label = LabelRows(ref_of(reduced.rows), centers, n_iter, plan.choices["workspace_bytes"])
        keys = ArrayRef(StoreRef.of(context.store), ROW_KEYS)
        fitted = label_on_cluster(context.cluster, context.runtime, reduced.rows, label, keys, exact=reduced.exact)
        context.progress.at(1)
    return fitted


def _fit(
    context: Context,
    reduced: Reduced,
    n_clusters: int,
    plan: StagePlan,
    ingested: Ingested,
    checkpoints: StageCheckpoints,
) -> KMeansFit:
    settings, progress = context.settings, context.progress
    options = settings.kmeans
    common: dict[str, Any] = {
        "seed": settings.seed,
        "max_iter": options.max_iter,
        "tol": options.tol,
        "workspace_bytes": plan.choices["workspace_bytes"],
    }
    if plan.solver in ("dask-ml", "lloyd"):
        common |= {"n_init": options.n_init}
    with progress.stage(CLUSTER, options.max_iter, "iterations"):
        saving = Saving.of(ingested.row_keys, checkpoints, lambda fit: progress.at(fit.done))
        fitted = checkpoints.resume_or_restart(
            lambda: fit_on_cluster(
                context.cluster,
                context.runtime,
                reduced.rows,
                plan.solver,
                n_clusters,
                common,
                saving,
                exact=reduced.exact,
            ),
            progress.warn,
        )
    if fitted.reason:
        progress.warn(fitted.reason)
    for note in fitted.notes:
        progress.note(note)
    return fitted


def _found(context: Context, fitted: KMeansFit, listing: Listing, ok: NDArray[np.bool_]) -> Found:
    """Return a fit with its clusters renumbered by size. A runner-up of -1 means that there is none; it stays -1.

    The labels stay where they were made until the stored ones may be replaced: workers write them then.
    """
    labeling, cluster = fitted.labeling, context.cluster
    assert labeling is not None
    order = order_by_size(fitted.counts, tied_rows(labeling, cluster), listing, ok)

    def write(store: Store) -> Digests:
        return write_labels(labeling, cluster, store, new_numbers(order))

    return Found(fitted.centers[order], write, KMEANS, fitted.inertia, _facts(fitted))


def _facts(fitted: KMeansFit) -> dict[str, Any]:
    return {
        "solver": fitted.algorithm,
        "n_iter": fitted.n_iter,
        "converged": fitted.converged,
        "passes": fitted.passes,
        "bytes_read": fitted.bytes_read,
        "asked": fitted.n_requested,
        "reason": fitted.reason,
        "inertias": list(fitted.inertias),
    }
