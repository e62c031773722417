"""`sweep` and `predict` on a finished run, in real processes: what they print, write, refuse and leave alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, encoded, picture, write_pictures

import bigcluster as bc
from bigcluster.errors import StoreError

KINDS = 4


def write_kinds(folder: Path, number: int, *, seed: int = 0) -> None:
    """`number` pictures of each of four kinds: the kind's own picture with noise on it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for kind in range(KINDS):
        for i in range(number):
            noisy = picture(kind).astype(int) + rng.integers(-20, 21, (32, 24))
            (folder / f"kind{kind}-{i:02d}.png").write_bytes(encoded(np.clip(noisy, 0, 255).astype(np.uint8)))


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
    assert found["best_silhouette_k"] == KINDS
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
    found = json.loads(ran.out)
    assert found["counts"] == {"listed": 48, "ok": 48, "failed": 0}
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
    for arguments, says in (
        ((tmp_path / "absent", images), "holds no run"),
        ((out, tmp_path / "none"), "no images"),
        ((out, tmp_path / "absent"), "does not exist"),
    ):
        ran = cli("predict", *arguments, "--to", tmp_path / "x.csv")
        assert (ran.code, len(ran.error_lines)) == (1, 1), ran.err
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
