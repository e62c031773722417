"""The sweep and the clustering leave the same labels, to the byte, on any cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import Sent, context_of
from test_ingest_parts import PICTURES, content, write

from bigcluster.catalog import list_images
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.planning.plan import StagePlan
from bigcluster.runtime.cluster import Cluster
from bigcluster.stages import cluster_jobs
from bigcluster.stages.cluster import cluster
from bigcluster.stages.features import features_of
from bigcluster.stages.ingest import ingest
from bigcluster.stages.reduce import reduce
from bigcluster.stages.sweep import sweep
from bigcluster.store import Store, chunk_grid, take_inventory

SPEC = DecodeSpec(6, 4)
CHOICES = {"workspace_bytes": 1 << 28}


def clustered(
    images: Path, out: Path, solver: str, k: str, workers: Cluster | None, reduction: str = "pca"
) -> dict[str, Any]:
    """Run all stages on the cluster, and return the facts of the last one."""
    store = Store(out)
    context = context_of(store, cluster=workers)
    context = replace(context, settings=replace(context.settings, k=k, reduce=reduction))
    listing = list_images(str(images), out)
    ingested = ingest(context, listing, SPEC, block_shape=(4, 5), in_flight=2)
    features = features_of(context, ingested)
    plan = StagePlan("reduce", "gram", "", (4, 5), "1", 0, 0, 0, CHOICES)
    reduced = reduce(context, features, ingested, plan if reduction == "pca" else None)
    swept = None
    if len(context.settings.ks) > 1:
        plan = StagePlan("sweep", "lloyd", "", (4, 5), "1", 0, 0, 0, CHOICES)
        swept = sweep(context, reduced, context.settings.ks, plan, ingested.row_keys)
    plan = StagePlan("cluster", solver, "", (4, 5), "1", 0, 0, 0, CHOICES)
    return cluster(context, reduced, plan, listing, features, ingested, swept=swept).facts


@pytest.mark.parametrize(
    ("solver", "k", "reduction"),
    [
        ("lloyd", "3", "pca"),
        ("lloyd", "3", "none"),
        ("minibatch", "3", "pca"),
        ("two-level", "4", "pca"),
        ("lloyd", "2:4", "pca"),
    ],
    ids=str,
)
def test_labels_have_the_same_bits_on_any_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str, k: str, reduction: str
) -> None:
    prepare_codecs()
    write(tmp_path / "images", {f"{i}.png": data for i, data in enumerate([*PICTURES, b"", PICTURES[0]])})
    facts = clustered(tmp_path / "images", tmp_path / "one", solver, k, None, reduction)
    for spread_from, job in ((10**10, "FitClusters"), (0, "LabelBlocks")):
        workers, out = Sent(5), tmp_path / f"many{spread_from}"
        monkeypatch.setattr(cluster_jobs, "SPREAD_FROM", spread_from)
        found = clustered(tmp_path / "images", out, solver, k, workers, reduction)
        # What is read depends on what workers keep, as it depends on the budget. The mark of the stage says how much.
        assert {**found, "bytes_read": 0} == {**facts, "bytes_read": 0}
        one, many = content(tmp_path / "one"), content(out)
        assert one.keys() == many.keys()
        differing = {name for name in one if one[name] != many[name]}
        assert differing <= {f".bigcluster/marks/{stage}/done.json" for stage in ("cluster", "sweep")}
        assert not differing or spread_from == 0
        if ":" in k:
            job = "SweepRows" if spread_from else "ScoreBlocks"
        assert job in workers.jobs


def test_labels_in_one_chunk_as_earlier_versions_wrote_them_are_read_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_codecs()
    images, out = tmp_path / "images", tmp_path / "out"
    write(images, {f"{i}.png": data for i, data in enumerate([*PICTURES, PICTURES[0]])})
    facts = clustered(images, out, "lloyd", "3", None)
    assert Store(out).array("labels").nchunks == 1
    before = content(out)
    monkeypatch.setattr(chunk_grid, "MOST_ROWS", 2)
    assert clustered(images, out, "lloyd", "3", None) == facts
    assert content(out) == before
    clustered(images, out, "lloyd", "2", Sent(1))
    labels = Store(out).array("labels")
    assert (labels.chunks, labels.nchunks) == ((2,), -(-labels.shape[0] // 2))
    inventory = take_inventory(out)
    assert (inventory.damaged, inventory.leftovers, inventory.n_foreign) == ([], [], 0)
    monkeypatch.undo()
    clustered(images, tmp_path / "fresh", "lloyd", "2", None)
    for name in ("labels", "distance", "runner_up", "runner_up_distance", "centers"):
        assert Store(out).load(name).tobytes() == Store(tmp_path / "fresh").load(name).tobytes(), name
