"""This module has the functions that list the pretrained networks and show one of them. They start no process."""

from __future__ import annotations

import os
from typing import Any

from bigcluster.api.arguments import PathLike, Sets, as_texts
from bigcluster.api.calls import log_events
from bigcluster.config import parse_sets
from bigcluster.config.checks import input_size
from bigcluster.errors import ConfigError
from bigcluster.runtime.events import Listener


def list_models(*, measure: bool = True) -> list[dict[str, Any]]:
    """Return the networks that have a name, one dict each, in the order of the registry.

    measure : whether to measure the speed of networks that are on this machine, which takes about a second each.
    The keys of a dict are name, about, licence, bytes, can_be_fetched, file (None where it is not on this machine),
    images_per_second (on all cores, or None), fault (why a file cannot be used, or None) and note.
    """
    from bigcluster.models import list_networks

    return list_networks(measure=bool(measure))


def show_model(
    model: PathLike, *, size: Any = None, set: Sets = None, listener: Listener = log_events
) -> dict[str, Any]:
    """Return the input of a network and every tensor that can be used as features, with its shape, as JSON values.

    model : a name of the registry, whose file is downloaded where it is not on this machine, or the path of an ONNX
    file. size : the size of the input in pixels, 224 or "320x240", for a network that takes any size. set : only
    models.offline is allowed.
    listener : called with the events of a download.
    Raises ModelError where the network cannot be used, FetchError where it cannot be downloaded, ConfigError for a
    wrong `size` or `set`.
    """
    values = parse_sets(as_texts(set))
    for name in values:
        if name != "models.offline":
            raise ConfigError(f"a network is only shown: --set may name models.offline, not {name}")
    sides = None
    if size is not None:
        width, height = input_size("size", size).split("x")
        sides = int(width), int(height)
    from bigcluster.models import show_network

    offline = bool(values.get("models.offline", False))
    return show_network(os.fsdecode(model), size=sides, offline=offline, listener=listener)
