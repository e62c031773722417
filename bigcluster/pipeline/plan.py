"""Plans for people: of pictures that are not there yet, and with the time that a run will take."""

from __future__ import annotations

from bigcluster.calibration import machine_rates
from bigcluster.config import Settings
from bigcluster.errors import ConfigError
from bigcluster.planning import Plan, Resources, make_plan, target_of, with_seconds
from bigcluster.stages.sizing import NATIVE, image_size_of


def plan_absent(settings: Settings, n_images: int, resources: Resources) -> Plan:
    """Plan for `n_images` pictures of the usual kind. Raises ConfigError where only they would say their size."""
    if settings.size == NATIVE:
        raise ConfigError(
            "size = native is that of the pictures, and there are none to look at: use --size WIDTHxHEIGHT"
        )
    return make_plan(settings, n_images, image_size_of(settings.size), resources)


def estimated(plan: Plan, settings: Settings) -> Plan:
    """The plan with seconds, from the rates of this machine, which the first call measures."""
    target = target_of(settings) if settings.reduce == "pca" else None
    return with_seconds(plan, settings, target, machine_rates())
