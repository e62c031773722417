"""`sweep` and `predict` on a finished run, in real processes: what they print, write, refuse and leave alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import KINDS, Cli, encoded, write_kinds, write_pictures
from sklearn.metrics import silhouette_score

import bigcluster as bc
from bigcluster.errors import StoreError
from bigcluster.stages.sweep import Verdict


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "images"
    write_kinds(folder, 12)
    return folder


@pytest.fixture(scope="module")
def out(images: Path, cli: Cli) -> Path:
    out = images.parent / "out"
    ran = cli("run", images, "--out", out, "-k", KINDS, "--size", 16, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_finds_the_kinds_and_leaves_the_clusters_alone(out: Path, cli: Cli) -> None:
    before = (out / "labels.csv").read_bytes()
    ran = cli("sweep", out, "-k", "2:10", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [row["k"] for row in found["rows"]] == list(range(2, 11))
    assert found["best_silhouette_sq_k"] == KINDS
    assert found["suggested_k"] in (None, KINDS)
    table = rows(out / "sweep.csv")
    assert [float(row["inertia"]) for row in table] == sorted((float(r["inertia"]) for r in table), reverse=True)
    assert table[2]["stability"] == "1"
    assert all(int(row["smallest"]) <= 48 / int(row["k"]) <= int(row["largest"]) for row in table)
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "labels.csv").read_bytes() == before
    again = cli("sweep", out, "-k", "2:10")
    assert "sweep: reused" in again.err


def test_run_with_a_range_clusters_with_the_k_that_was_chosen(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    ran = cli("run", images, "--out", out, "-k", "2:10", "--size", 16, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["n_clusters"] == found["sweep"]["k"] == KINDS
    swept = {int(row["k"]): float(row["inertia"]) for row in rows(out / "sweep.csv")}
    assert found["inertia"] == pytest.approx(swept[KINDS], rel=1e-5), "the sweep of a k is the fit of that k"
    kinds = {row["path"][:5]: row["label"] for row in rows(out / "labels.csv")}
    assert all(row["label"] == kinds[row["path"][:5]] for row in rows(out / "labels.csv"))
    assert len(set(kinds.values())) == KINDS


@pytest.mark.parametrize(
    ("k", "code", "says"),
    [
        ("9:5", 2, "smaller number first"),
        ("", 2, "5:20"),
        ("0:3", 2, "at least 1"),
        ("2:100", 1, "sweep up to 48"),
    ],
)
def test_ranges_that_cannot_be_swept(out: Path, cli: Cli, k: str, code: int, says: str) -> None:
    ran = cli("sweep", out, "-k", k)
    assert (ran.code, len(ran.error_lines)) == (code, 1), ran.err
    assert says in ran.err


def test_the_images_of_the_model_get_their_labels_back(images: Path, out: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("predict", out, images, "--to", tmp_path / "new.csv", "--json")
    assert ran.code == 0, ran.err
    old, new = rows(out / "labels.csv"), rows(tmp_path / "new.csv")
    assert [row["path"] for row in new] == [row["path"] for row in old]
    for one, other in zip(old, new, strict=True):
        if float(one["margin"]) > 1e-4 * float(one["distance"]):
            assert (one["label"], one["runner_up"]) == (other["label"], other["runner_up"])
        assert float(other["distance"]) == pytest.approx(float(one["distance"]), rel=1e-3)
    assert "equally near" not in cli("predict", out, images, "--to", tmp_path / "again.csv").out
    found = json.loads(ran.out)
    assert {"listed": 48, "ok": 48, "failed": 0}.items() <= found["counts"].items()
    assert found["close_calls"] == 0
    assert not found["unlike"]


def test_new_images_are_labelled_and_strange_ones_are_named(out: Path, tmp_path: Path, cli: Cli) -> None:
    write_kinds(tmp_path / "like", 3, seed=5)
    ran = cli("predict", out, tmp_path / "like", "--to", tmp_path / "like.csv", "--memory", "512MiB")
    assert ran.code == 0, ran.err
    label_of = {row["path"][:5]: row["label"] for row in rows(out / "labels.csv")}
    assert all(row["label"] == label_of[row["path"][:5]] for row in rows(tmp_path / "like.csv"))
    write_pictures(tmp_path / "strange", 6, first=100)
    (tmp_path / "strange" / "broken.png").write_bytes(b"")
    ran = cli("predict", out, tmp_path / "strange", "--to", tmp_path / "strange.csv")
    assert ran.code == 3, ran.err
    assert "unlike" in ran.out
    table = rows(tmp_path / "strange.csv")
    assert len(table) == 7
    assert [row["status"] for row in table if row["label"] == "-1"] == ["empty"]
    assert all(float(row["novelty"]) > 1 for row in table if row["label"] != "-1")


def test_what_cannot_be_predicted(images: Path, out: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "none").mkdir()
    for arguments, code, says in (
        ((tmp_path / "absent", images), 2, "holds no run"),
        ((out, tmp_path / "none"), 1, "no images"),
        ((out, tmp_path / "absent"), 2, "does not exist"),
    ):
        ran = cli("predict", *arguments, "--to", tmp_path / "x.csv")
        assert (ran.code, len(ran.error_lines)) == (code, 1), ran.err
        assert says in ran.err
        assert not (tmp_path / "x.csv").exists()


def test_python_does_the_same(images: Path, out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy", symlinks=True))
    run = bc.open(copy)
    assert list(run.sweep("2,3,4")["k"]) == [2, 3, 4]
    assert (run.predict(images, tmp_path / "p.csv")["label"] == run.labels["label"]).all()
    assert run.centers.shape == (KINDS, run.summary["n_components"])
    with pytest.raises(StoreError, match="no finished run"):
        bc.open(tmp_path)


def alone(text: str) -> list[str]:
    """Where a silhouette is named without saying which."""
    return re.findall(r".{0,20}(?<!simplified_)silhouette(?!_sq|s).{0,20}", text, re.IGNORECASE)


@pytest.mark.slow
def test_the_verdict_of_a_sweep_is_the_row_that_the_table_shows(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "o"
    ran = cli("run", images, "--out", out, "-k", "5:9", "--size", 16, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    table, summary = rows(out / "sweep.csv"), json.loads((out / "summary.json").read_text())
    assert list(table[0])[:4] == ["k", "inertia", "simplified_silhouette", "silhouette_sq"]
    best = max(table, key=lambda row: float(row["silhouette_sq"]))
    assert summary["n_clusters"] == summary["sweep"]["k"] == int(best["k"])
    assert float(best["inertia"]) == pytest.approx(summary["inertia"], rel=1e-5)
    sizes = summary["cluster_sizes"]
    assert (int(best["smallest"]), int(best["largest"])) == (min(sizes), max(sizes))
    run = bc.open(out)
    exact = silhouette_score(run.scores.compute(), run.labels["label"], metric="sqeuclidean")
    assert float(best["silhouette_sq"]) == pytest.approx(exact, rel=1e-4)
    swept = cli("sweep", out, "-k", "5:9")
    assert f"{float(best['silhouette_sq']):.5g}, is at k = {best['k']}" in swept.out
    assert "largest silhouette_sq" in next(line for line in swept.out.splitlines() if f" {best['k']} " in line)
    texts = (page.read_text() for page in (out / "report").rglob("*") if page.suffix in (".html", ".svg"))
    assert alone("\n".join([ran.err, ran.out, swept.out, swept.err, *texts])) == []


def test_the_end_of_a_range_and_a_cluster_of_one_image_are_said_before_they_are_taken(
    images: Path, tmp_path: Path, cli: Cli
) -> None:
    mine = tmp_path / "images"
    shutil.copytree(images, mine)
    (mine / "odd.png").write_bytes(encoded(np.full((32, 24), 255, np.uint8)))
    ran = cli("run", mine, "--out", tmp_path / "o", "-k", "3:5", "--size", 16, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    lines = ran.err.splitlines()
    taken = next(number for number, line in enumerate(lines) if "k = 5 is taken" in line)
    for says in ("k = 5 is the largest of the range", "a cluster of a single image"):
        assert any(says in line for line in lines[:taken]), ran.err
        assert says in ran.out
    assert "k = 5 is the largest of the range" in cli("sweep", tmp_path / "o", "-k", "3:5").out


def test_what_a_verdict_says_of_its_k() -> None:
    def row(k: int, silhouette_sq: float, smallest: int = 5) -> dict[str, float]:
        return {"k": k, "silhouette_sq": silhouette_sq, "smallest": smallest, "largest": 50, "inertia": 1.0}

    middle = Verdict([row(2, 0.1), row(3, 0.3), row(4, 0.2)], None, "no clear elbow")
    assert (middle.chosen_k, middle.caveats) == (3, [])
    assert "0.3, is at k = 3" in middle.why
    assert Verdict([row(2, 0.3), row(3, 0.1)], None, "").caveats == [], "fewer than two clusters are none"
    (low,) = Verdict([row(5, 0.3), row(6, 0.1)], None, "").caveats
    assert "k = 5 is the smallest of the range" in low
    edge, single = Verdict([row(5, 0.1), row(6, 0.3, 1)], None, "").caveats
    assert "k = 6 is the largest" in edge
    assert "single image" in single
    assert Verdict([row(5, 0.9), row(6, 0.1), row(7, 0.2)], 6, "elbow").chosen["k"] == 6


@pytest.mark.slow
def test_the_page_on_k_marks_the_run_that_is_shown(images: Path, tmp_path: Path, cli: Cli) -> None:
    """A run after a sweep has another fit of the same k, from other starts."""
    out = tmp_path / "o"
    page = out / "report" / "k.html"
    options = ("--size", 16, "--memory", "1GiB", "--set", "kmeans.n_init=1")
    assert cli("run", images, "--out", out, "-k", "6:8", *options).code == 0
    taken = json.loads((out / "summary.json").read_text())["n_clusters"]
    assert re.findall(r'<tr class="chosen"><td class="n">(\d+)</td>', page.read_text()) == [str(taken)]
    assert cli("run", images, "--out", out, "-k", taken, *options, "--set", "kmeans.max_iter=1").code == 0
    row = next(row for row in rows(out / "sweep.csv") if row["k"] == str(taken))
    inertia = json.loads((out / "summary.json").read_text())["inertia"]
    assert inertia != pytest.approx(float(row["inertia"]), rel=1e-4), "another fit"
    assert 'class="chosen"' not in page.read_text()
    assert "another fit than that of the table" in page.read_text()
