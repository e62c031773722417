"""The report has the same bytes whatever workers read the pixels, in whatever parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clusters import Sent, context_of
from conftest import write_pictures
from test_features import Maker, tones

from benchmarks.stress.work import Job
from bigcluster.config import Settings
from bigcluster.outputs.summary import read_summary
from bigcluster.pipeline.run import run
from bigcluster.planning import stages
from bigcluster.report.write import Allowance, write_report
from bigcluster.runtime.cluster import Cluster
from bigcluster.runtime.resources import Resources
from bigcluster.store import Store
from bigcluster.units import GIB

N = 40


def written(out: Path, settings: Settings, cluster: Cluster | None) -> dict[str, bytes]:
    """Write the report of OUT, and return its files."""
    store = Store(out)
    context = context_of(store, cluster=cluster)
    summary = read_summary(out / "summary.json", store.array("centers").shape[0])
    steps: list[tuple[int, int]] = []
    write_report(
        out,
        store,
        summary,
        settings,
        Allowance(2, 1 << 20),
        context.runtime,
        context.cluster,
        lambda done, total: steps.append((done, total)),
        print,
    )
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1)), "every step is told, and none twice"
    report = out / "report"
    return {path.relative_to(report).as_posix(): path.read_bytes() for path in report.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("values", "embedding"),
    [
        ({"pca.solver": "gram"}, None),  # pictures are summed block by block
        ({"pca.solver": "covariance", "report.thumbnails": 9}, None),  # nothing is summed
        ({"features": "color", "reduce": "none"}, None),
        ({}, tones()),  # the mean pictures of clusters are summed
    ],
    ids=["gram", "covariance", "color", "features"],
)
def test_a_report_has_the_same_bytes_on_any_cluster(
    values: dict[str, Any], embedding: Maker | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "pixel_chunks", lambda n_values: (4, n_values))
    write_pictures(tmp_path / "images", N)
    (tmp_path / "images" / "p007 bad.png").write_bytes(b"no picture")
    given = {"k": 3, "size": "24x18", "components": 4, "report.write": False, "link": "none"} | values
    settings = Job(tmp_path / "images", given).settings(tmp_path / "out")
    run(settings, Resources(GIB, 2), embedding=embedding)
    here = written(tmp_path / "out", settings, None)
    assert {"index.html", "map.html", "clusters/00.html"} <= here.keys()
    workers = Sent(1)
    assert written(tmp_path / "out", settings, workers) == here
    assert "DrawBlocks" in workers.jobs
