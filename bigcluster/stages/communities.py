"""This stage finds groups of images without a given number of groups: the communities of the graph of neighbors.

It stores for every good row the label, the distance to the mean of its community, and what the votes of its neighbors
say: the runner-up and the margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import CLUSTER
from bigcluster.solvers.unit_length import ref_of
from bigcluster.stages.communities_jobs import GroupNeighbors
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.membership import (
    LEIDEN,
    Clustered,
    Found,
    clustered_from,
    new_numbers,
    order_by_size,
    origin_of,
    previous_fit,
    reusable,
    store_clusters,
    write_columns,
)
from bigcluster.stages.neighbors import Neighbors
from bigcluster.stages.reduce import Reduced
from bigcluster.store import fingerprint
from bigcluster.store.refs import StoreRef


def communities(
    context: Context,
    reduced: Reduced,
    graph: Neighbors,
    plan: StagePlan,
    listing: Listing,
    features: Features,
    ingested: Ingested,
) -> Clustered:
    """Bring the stored clusters up to date with the graph and the settings, and return them.

    graph : the stored graph of these scores. plan : of this stage. Raises DamagedError where a stored array cannot be
    used.
    """
    store, settings, progress = context.store, context.settings, context.progress
    expected = fingerprint(
        before=graph.fingerprint,
        stage=CLUSTER,
        algorithm=LEIDEN,
        resolution=settings.resolution,
        seed=settings.seed,
    )
    origin = origin_of(context, reduced, features, ingested)
    mark = reusable(store, expected, origin)
    reused = mark is not None
    if mark is None:
        with progress.stage(CLUSTER, 1, "graphs"):
            found = _find(context, reduced, graph, plan, listing, ingested)
            progress.at(1)
        previous = previous_fit(store, ingested, len(found.centers))
        mark = store_clusters(context, found, expected, origin, ingested, previous)
    else:
        progress.reused(CLUSTER)
    return clustered_from(store, mark, reused=reused)


def _find(
    context: Context, reduced: Reduced, graph: Neighbors, plan: StagePlan, listing: Listing, ingested: Ingested
) -> Found:
    settings = context.settings
    job = GroupNeighbors(
        store=StoreRef.of(context.store),
        rows=ref_of(reduced.rows),
        n_neighbors=graph.n_neighbors,
        resolution=settings.resolution,
        seed=settings.seed,
        workspace_bytes=plan.choices["workspace_bytes"],
    )
    grouped = context.cluster.once(job)
    found, counted = grouped.communities, grouped.votes

    def rows_of(groups: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
        rows = np.flatnonzero(groups[found.labels])
        yield rows, found.labels[rows]

    order = order_by_size(found.counts, rows_of, listing, ingested.ok)
    numbers = new_numbers(order)
    columns: dict[str, NDArray[Any]] = {
        "labels": numbers[found.labels],
        "distance": grouped.distance,
        "runner_up": numbers[counted.runner_up],
        "runner_up_distance": grouped.runner_up_distance,
        "margin": counted.shares - counted.runner_up_shares,
    }
    facts = {
        "solver": LEIDEN,
        "passes": 2,
        "modularity": found.modularity,
        "resolution": settings.resolution,
        "n_neighbors": graph.n_neighbors,
        "metric": graph.metric,
    }
    return Found(grouped.means[order], lambda store: write_columns(store, columns), LEIDEN, None, facts)
