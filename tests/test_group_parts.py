"""The graph of neighbors, its communities and the places by t-SNE have the same bits on any cluster."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import Sent, context_of
from conftest import encoded, picture
from numpy.typing import NDArray
from test_ingest_parts import content, write

from bigcluster.catalog import list_images
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.planning.plan import StagePlan
from bigcluster.runtime.cluster import Cluster
from bigcluster.stages.communities import communities
from bigcluster.stages.features import features_of
from bigcluster.stages.ingest import ingest
from bigcluster.stages.manifold import embed
from bigcluster.stages.neighbors import neighbors
from bigcluster.stages.reduce import reduce
from bigcluster.store import Store

SPEC = DecodeSpec(6, 4)
NEIGHBORS_MARK = ".bigcluster/marks/neighbors/done.json"


def grouped(images: Path, out: Path, reduction: str, cluster: Cluster | None) -> NDArray[np.int32]:
    """Run all stages on the cluster, and return the labels."""
    store = Store(out)
    context = context_of(store, cluster=cluster)
    context = replace(context, settings=replace(context.settings, reduce=reduction))
    listing = list_images(str(images), out)
    ingested = ingest(context, listing, SPEC, block_shape=(8, 5), in_flight=2)
    features = features_of(context, ingested)

    def plan(stage: str, solver: str) -> StagePlan:
        return StagePlan(stage, solver, "", (8, 5), "1", 0, 0, 0, {"workspace_bytes": 1 << 28})

    reduced = reduce(context, features, ingested, plan("reduce", "gram"))
    if reduction != "pca":
        reduced = embed(context, reduced, ingested)
    graph = neighbors(context, reduced, features, ingested, 5, plan("neighbors", "exact"))
    communities(context, reduced, graph, plan("cluster", "leiden"), listing, features, ingested)
    labels: NDArray[np.int32] = Store(out).load("labels")
    return labels


@pytest.mark.parametrize(
    "reduction",
    [
        "pca",
        pytest.param(
            "tsne",
            marks=pytest.mark.skipif(importlib.util.find_spec("openTSNE") is None, reason="openTSNE is an extra"),
        ),
    ],
)
def test_groups_have_the_same_bits_on_any_cluster(tmp_path: Path, reduction: str) -> None:
    prepare_codecs()
    write(tmp_path / "images", {f"{i:03d}.png": encoded(picture(i)) for i in range(40)} | {"x.png": b""})
    labels = grouped(tmp_path / "images", tmp_path / "one", reduction, None)
    assert len(labels) == 40
    assert len(np.unique(labels)) > 1
    workers = Sent(3)
    assert np.array_equal(grouped(tmp_path / "images", tmp_path / "many", reduction, workers), labels)
    assert {"FindNeighbors", "GroupNeighbors"} <= set(workers.jobs)
    assert ("EmbedRows" in workers.jobs) == (reduction == "tsne")
    one, many = content(tmp_path / "one"), content(tmp_path / "many")
    assert one.keys() == many.keys()
    # The mark says how much was read, which depends on what workers keep.
    assert {name for name in one if one[name] != many[name]} <= {NEIGHBORS_MARK}
