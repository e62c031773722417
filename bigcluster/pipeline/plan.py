"""This job plans a run for the user, also for pictures that do not exist yet, and estimates its time."""

from __future__ import annotations

from typing import Any

from bigcluster.catalog import unread_folders
from bigcluster.config import Settings
from bigcluster.errors import ConfigError
from bigcluster.pipeline.job import remaining_bytes
from bigcluster.pipeline.run import prepare
from bigcluster.planning.machine import machine_rates
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import make_plan
from bigcluster.planning.rates import with_seconds
from bigcluster.planning.stages import target_of
from bigcluster.runtime.events import Listener, Note, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.stages.embedding import open_embedding, shape_of
from bigcluster.stages.loading.sample import NATIVE, image_size_of


def plan(
    settings: Settings,
    resources: Resources,
    *,
    given: str | None = None,
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Return what `run` would do, in the form of `Plan.to_json`. It runs in the worker because it reads untrusted
    files.

    given : a manifest with the list of images that the caller passed.
    Raises the errors of the listing. The caller checks whether the plan fits the budget.
    """
    del caller  # nothing is measured
    embedding = open_embedding(
        settings,
        listener,
        images=given or settings.images,
        most_bytes=remaining_bytes(settings, resources),
        store_rows=False,
    )
    try:
        listing, planned = prepare(settings, resources, given, embedding)
    finally:
        if embedding is not None:
            embedding.release()
    if listing.unreadable:
        listener(Note(unread_folders(listing), "warning"))
    return estimated(planned, settings).to_json()


def plan_absent(settings: Settings, n_images: int, resources: Resources) -> Plan:
    """Return the plan for `n_images` pictures of assumed size. Raises ConfigError for size = native."""
    if settings.size == NATIVE:
        raise ConfigError(
            "size = native is that of the pictures, and there are none to look at: use --size WIDTHxHEIGHT"
        )
    embedding, shape = open_embedding(settings, images=settings.images, store_rows=False), None
    if embedding is not None:
        shape = shape_of(embedding)
        embedding.release()
    return make_plan(settings, n_images, image_size_of(settings.size), resources, features=shape)


def estimated(plan: Plan, settings: Settings) -> Plan:
    """Return the plan with estimated seconds. The first call measures the rates of this machine."""
    target = target_of(settings, plan.n_images, plan.features.n_features) if settings.has_pca else None
    return with_seconds(plan, settings, target, machine_rates())
