"""This module makes the lists that `bigcluster models` prints: the networks of the registry, and the tensors of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigcluster.errors import ModelError
from bigcluster.models import fetch
from bigcluster.models.graph import NetworkGraph
from bigcluster.models.network import Network, input_size, layout_of, open_network
from bigcluster.models.pooling import pooling_of
from bigcluster.models.registry import Entry, registry
from bigcluster.models.session import open_session, run_first
from bigcluster.models.source import Source, find_source
from bigcluster.runtime.blas import available_cores
from bigcluster.runtime.events import Listener, silent

_MEASURED_SECONDS = 0.5
"""Seconds for which the speed of a network is measured. Chosen, not measured: a small one sees some dozen pictures."""
_PICTURE = (400, 533, 3)
"""Height, width and channels of the picture with which the speed is measured: those of a photo of a web shop."""


def list_networks(*, measure: bool = True) -> list[dict[str, Any]]:
    """Return the networks of the registry as JSON values, in its order.

    measure : whether the speed of those on this machine is measured, on all cores, for about a second each.
    `fault` says why a file cannot be used, and is None otherwise.
    """
    return [_row(entry, measure) for entry in registry().values()]


def _row(entry: Entry, measure: bool) -> dict[str, Any]:
    first = entry.files[0]
    row: dict[str, Any] = {
        "name": entry.name,
        "about": entry.about,
        "licence": entry.licence,
        "bytes": first.n_bytes,
        "can_be_fetched": bool(first.addresses),
        "file": None,
        "images_per_second": None,
        "fault": None,
        "note": first.note,
    }
    try:
        stored = fetch.find_stored(entry)
        if stored is not None:
            row |= {"file": str(stored.path), "bytes": stored.path.stat().st_size, "note": stored.note}
            if measure:
                row["images_per_second"] = round(images_per_second(open_network(entry.name, offline=True)), 1)
    except ModelError as error:
        row["fault"] = str(error)
    return row


def images_per_second(network: Network) -> float:
    """Measure how many decoded pictures a second a network describes on all cores, for about half a second."""
    picture = np.random.default_rng(0).integers(0, 256, _PICTURE, dtype=np.uint8)
    cores = available_cores()

    def work(end: float) -> int:
        n_images = 0
        while n_images == 0 or time.perf_counter() < end:
            network.features(picture)
            n_images += 1
        return n_images

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda _: network.features(picture), range(cores)))  # each thread makes its buffers
        began = time.perf_counter()
        n_images = sum(pool.map(work, [began + _MEASURED_SECONDS] * cores))
        return n_images / (time.perf_counter() - began)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that can be taken from a network."""

    name: str
    operator: str
    shape: tuple[int, ...]
    """Shape for one picture."""
    n_features: int
    """Number of values of the vector that the default pool makes of it."""
    pool: str
    """The default pool; "none" for a tensor that is a vector."""
    is_default: bool


def show_network(
    name_or_path: str, *, size: tuple[int, int] | None = None, offline: bool = False, listener: Listener = silent
) -> dict[str, Any]:
    """Return the input of a network and every tensor that can be used as features, as JSON values.

    size : (width, height) of the input in pixels, for a network that takes any size. Raises what `open_network` does.
    """
    source = find_source(name_or_path, named_by="model", offline=offline, listener=listener)
    graph = NetworkGraph(source.file)
    preprocessing = source.preprocessing
    width, height = input_size(graph, preprocessing, size)
    # The default tensor is not computed here, so a network whose default cannot be used is shown, too.
    chosen = graph.choose(preprocessing.layer, head=preprocessing.head)
    why = f"{source.described_in} names it" if preprocessing.layer else chosen.why
    tensors = list(_tensors(source, graph, (width, height), chosen.layer))
    return {
        "name": source.name,
        "file": str(source.path),
        "sha256": source.file.sha256,
        "bytes": source.file.n_bytes,
        "licence": source.licence,
        "note": source.note,
        "input": {
            "name": graph.input.name,
            "dtype": graph.input.dtype,
            "layout": layout_of(graph, preprocessing),
            "width": width,
            "height": height,
        },
        "preprocessing": {
            "from": source.described_in,
            "resize": preprocessing.resize,
            "order": preprocessing.order,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "default": {"layer": chosen.layer, "why": why},
        "classifier": chosen.logits,
        "tensors": [{**tensor.__dict__, "shape": list(tensor.shape)} for tensor in tensors],
    }


def _tensors(source: Source, graph: NetworkGraph, size: tuple[int, int], default: str) -> Iterator[TensorInfo]:
    """Yield all tensors of floats that make a vector, in the order of their computation, for one black picture."""
    width, height = size
    shape = graph.input.shape(height, width, layout_of(graph, source.preprocessing))
    session = open_session(graph.pruned(graph.tensors), source.path, optimized=False)
    picture = np.zeros(shape, graph.input.dtype)
    n_patches = graph.n_patches(height, width)
    values = run_first(session, graph.tensors, {graph.input.name: picture}, source.path)
    for name, value in zip(graph.tensors, values, strict=True):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size < 2:
            continue
        try:
            pooling = pooling_of(
                value.shape,
                None,
                channels_axis=graph.channels_axis(name),
                n_patches=n_patches,
                prefix_tokens=source.preprocessing.prefix_tokens,
            )
        except ModelError:  # no pool makes a vector of a tensor of this shape
            continue
        yield TensorInfo(name, graph.operator_of(name), value.shape, pooling.n_features, pooling.name, name == default)
