"""This job computes and stores the components of a run whose fit has not stored them."""

from __future__ import annotations

from typing import Any

from bigcluster import outdir
from bigcluster.config import Settings
from bigcluster.pipeline.job import naming_damage, open_job
from bigcluster.planning.stage_names import COMPONENTS
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.stages.components import components as stored_components
from bigcluster.stages.features import load_features
from bigcluster.stages.ingest import load_ingested
from bigcluster.store import Store


def components(
    settings: Settings, resources: Resources, *, listener: Listener = silent, caller: Caller | None = None
) -> dict[str, Any]:
    """Bring the stored components up to date and return their `shape`, (n_components, n_features), and `stages`.

    Raises StoreError where OUT holds no reduction of its features, and DamagedError where a stored array is damaged.
    """
    job = open_job(settings, resources, listener, caller)
    with job.stages.sampler, outdir.locked(job.out, job.progress.note):
        store = Store(job.out, create=False)
        with naming_damage(store), job.stages.measure(COMPONENTS):
            features = load_features(store, load_ingested(store))
            array = stored_components(job.context(store), features)
    return {"shape": list(array.shape), "stages": job.stages.facts}
