"""The benchmark harness on a tiny catalog, end to end: rows, judgement, table, JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import missing
from PIL import Image

from benchmarks import report_picture, table
from benchmarks.cases import (
    CATALOG,
    FAMILIES,
    KMEANS,
    NEIGHBORS,
    OURS,
    SCRIPT,
    SWEEP,
    Case,
    Graph,
    Images,
    RowCase,
    Rows,
    choose,
)
from benchmarks.evaluate import center_inertia, explained_variance, label_inertia, shared_neighbors
from benchmarks.limit import Rates, Work, decode_seconds, pca_ways
from benchmarks.measure import measure, plain_environment
from benchmarks.reference import judge
from benchmarks.run import Options, run_family
from bigcluster.demo import generate

TINY = replace(
    CATALOG,
    work={"small": Images(n_images=60, components=6, clusters=4)},
    cases={
        "small": (
            Case(OURS, "ours", "ours", ("--memory", "1GiB", "--set", "image.fit=stretch")),
            Case(SCRIPT, "sklearn_pca", "the script"),
            Case("refused", "ours", "a setting that is not there", ("--set", "pca.nothing=1")),
            Case("too-many", "sklearn_pca", "more components than images", ("--components", "1000")),
            Case("missing", "nobody", "a peer that is not there"),
        )
    },
)
TINY_ROWS = replace(
    KMEANS,
    work={"small": Rows(n_rows=3000, n_columns=8, iterations=5)},
    cases={
        "small": (
            RowCase("ours-20", "kmeans_ours", "ours", k=20),
            RowCase("ours-streamed-20", "kmeans_ours", "streamed", ("--streamed", "0.25"), k=20),
            RowCase("sklearn-20", "kmeans_sklearn", "scikit-learn", k=20),
        )
    },
)


@pytest.mark.slow
def test_a_family_of_images_from_files_to_table(tmp_path: Path) -> None:
    images = tmp_path / "cuts"
    generate(images, 60)
    found = run_family(TINY, TINY.cases["small"], Options("small", images=images, results=tmp_path / "results"))
    rows = {row["case"]: row for row in found["rows"]}
    assert list(rows) == [case.name for case in TINY.cases["small"]]  # nothing is missing silently

    for name in (OURS, SCRIPT):
        row = rows[name]
        assert row["ok"], row["reason"]
        assert 0 < row["scores_seconds"] <= row["labels_seconds"] <= row["wall_seconds"]
        assert row["peak_bytes"] > 20 * 2**20
        assert row["explained_variance"] == pytest.approx(row["reported_variance"], abs=0.01)
        assert row["inertia_scores"] < row["inertia_pixels"]
        assert -1 <= row["ari_truth"] <= 1
        assert (row["clusters_found"], row["left_out"]) == (4, 0)
    assert rows[OURS]["ari_ours"] == 1
    assert rows[OURS]["passes"] >= 2

    assert "pca.nothing" in rows["refused"]["reason"]
    assert "n_components" in rows["too-many"]["reason"]
    assert "nobody" in rows["missing"]["reason"]
    assert found["limit"]["limit_seconds"] == pytest.approx(sum(found["limit"]["parts"].values()))
    assert found["limit"]["distance"] > 1

    written = json.loads((tmp_path / "results" / "small-catalog.json").read_text())
    assert written == json.loads(json.dumps(found))
    check_table(table.render(written), len(rows))
    assert "no result: " in table.render(written)
    assert not (tmp_path / "results" / "work" / "small-catalog").exists()


@pytest.mark.slow
def test_a_family_of_rows_from_centers_to_table(tmp_path: Path) -> None:
    found = run_family(TINY_ROWS, TINY_ROWS.cases["small"], Options("small", repeats=2, results=tmp_path))
    ours, streamed, theirs = found["rows"]
    assert all(row["ok"] for row in found["rows"])
    assert len(ours["runs"]) == 2
    assert ours["same_labels_digest_every_repeat"]
    assert streamed["labels_digest"] == ours["labels_digest"]
    assert ours["inertia"] == pytest.approx(ours["reported_inertia"], rel=1e-6)
    assert theirs["inertia"] == pytest.approx(ours["inertia"], rel=1e-4)
    shown = table.render(found)
    check_table(shown, 3)
    assert "the same to the byte" in shown

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_readme(tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert shown in text
    assert "old" not in text


@pytest.mark.slow
def test_a_sweep_is_compared_with_its_fits(tmp_path: Path) -> None:
    family = replace(SWEEP, work={"small": Rows(n_rows=600, n_columns=6)})
    found = run_family(family, family.cases["small"], Options("small", results=tmp_path))
    assert all(row["ok"] for row in found["rows"])
    sweep, _, streamed, *_ = found["rows"]
    assert streamed["inertias"] == sweep["inertias"]
    shown = table.render(found)
    check_table(shown, 5)
    for words in ("of the time of its fits", "bytes of the longest single fit", "scikit-learn's best of 3"):
        assert words in shown


@pytest.mark.slow
def test_graphs_of_neighbors_are_compared(tmp_path: Path) -> None:
    family = replace(NEIGHBORS, work={"small": Graph(n_rows=700, n_columns=6, neighbors=4)})
    found = run_family(family, family.cases["small"][:2], Options("small", results=tmp_path))
    assert all(row["ok"] and row["neighbors_ours"] == 1 for row in found["rows"])
    shown = table.render(found)
    check_table(shown, 2)
    assert "neighbors the same to the byte" in shown


def check_table(shown: str, n_rows: int) -> None:
    """Every line of the table has as many cells as its head."""
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(lines) == n_rows + 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_peer_that_takes_too_long_is_stopped_with_all_its_children(tmp_path: Path) -> None:
    outcome = measure("benchmarks.reference", ["--images", str(tmp_path)], tmp_path / "log", timeout_seconds=0.05)
    assert "longer than" in outcome.reason


def test_pixel_inertia_and_total_variance_are_those_of_the_pixels(tmp_path: Path) -> None:
    import cv2

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, 12 * 10), np.uint8)
    files = [tmp_path / f"{index:03d}.png" for index in range(len(x))]
    for file, row in zip(files, x, strict=True):
        cv2.imwrite(str(file), row.reshape(12, 10))
    labels = rng.integers(-1, 3, len(x))
    total, (all_in_one, some) = judge(files, [np.zeros(len(x), int), labels])
    assert total == pytest.approx(x.var(axis=0, ddof=1).sum())
    assert all_in_one == pytest.approx(total * (len(x) - 1))
    assert some == pytest.approx(label_inertia(x.astype(float), labels))


def test_judgement_of_scores_and_centers() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)) * [9, 5, 3, 2, 1, 1] + 40
    centered = x - x.mean(axis=0)
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    share = explained_variance((x @ vt[:2].T).astype(np.float32), float(x.var(axis=0, ddof=1).sum()))
    assert share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), rel=1e-5)
    assert shared_neighbors(np.array([[1, 2], [0, 2]]), np.array([[2, 1], [2, 3]])) == 0.75
    nearest = ((x[:, None] - x[None, :7]) ** 2).sum(axis=2).min(axis=1).sum()
    assert center_inertia(x, x[:7]) == pytest.approx(nearest)


def test_the_limit_takes_the_cheapest_way() -> None:
    rates = Rates(1e3, 1e9, 1e12, "8-bit integer", 1e11, 1e11, 1e10)
    assert set(pca_ways(Work(1000, 500, 20, 10, 20, 4), rates)) == {"gram", "covariance", "subspace"}
    assert set(pca_ways(Work(100_000, 129_000, 20, 10, 20, 4), rates)) == {"subspace"}
    multiply, _ = pca_ways(Work(1000, 50_000, 20, 10, 20, 4), rates)["gram"]
    assert multiply == pytest.approx(1000 * 1000 * 50_000 / 1e12)


def test_the_limit_counts_the_disk_only_for_files_that_outgrow_the_page_cache() -> None:
    slow_disk = Rates(1e3, 1e6, 1e12, "8-bit integer", 1e11, 1e11, 1e10)
    assert decode_seconds(2000, 50_000_000, slow_disk, page_cache=60_000_000) == 2
    assert decode_seconds(2000, 50_000_000, slow_disk, page_cache=40_000_000) == 50


def test_names_are_unique_and_choosing_is_strict() -> None:
    for family in FAMILIES:
        for cases in family.cases.values():
            names = [case.name for case in cases]
            assert len(set(names)) == len(names)
    assert [family.name for family, _ in choose("small", [])] == ["catalog", "kmeans", "sweep", "neighbors"]
    assert [family.name for family, _ in choose("full", ["large"])] == ["large"]
    ((family, (case,)),) = choose("full", [SCRIPT])
    assert (family.name, case.name) == ("catalog", SCRIPT)
    with pytest.raises(ValueError, match="nothing"):
        choose("small", ["nothing"])


def test_every_case_names_a_script_that_is_there() -> None:
    folder = Path(table.__file__).parent / "peers"
    for family in FAMILIES:
        for cases in family.cases.values():
            assert all((folder / f"{case.peer}.py").is_file() for case in cases)


@pytest.mark.skipif(bool(missing("chromium")), reason=missing("chromium"))
def test_the_picture_of_a_page_has_the_size_of_the_window(tmp_path: Path) -> None:
    page, to = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text("<body style='margin: 0; background: black'></body>", encoding="utf-8")
    report_picture.take_picture(shutil.which("chromium") or "", page, tmp_path / "window.png", to)
    with Image.open(to) as picture:
        assert picture.size == (report_picture.WIDTH, report_picture.HEIGHT)
        assert picture.convert("RGB").getpixel((500, 500)) == (0, 0, 0)


def test_the_readme_has_its_marks() -> None:
    text = table.README.read_text(encoding="utf-8")
    assert text.index(table.BEGIN) < text.index(table.END)


def broken(**changes: Any) -> dict[str, Any]:
    row = {"case": OURS, "what": "x | y", "ok": False, "reason": "MemoryError: a | b", "k": None, "on_scores": False}
    return (
        {"title": "t", "scale": "small", "family": "f", "date": "d", "repeats": 1, "limit": None, "rows": [row]}
        | {"work": {"n_images": 5, "shrink": None, "size": "native", "components": 2, "clusters": 3}}
        | changes
    )


def test_a_reason_cannot_break_the_table() -> None:
    shown = table.render(broken())
    assert "MemoryError: a / b" in shown
    check_table(shown, 1)


def test_no_case_runs_under_variables_that_bend_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("BENDS_NOTHING", "1")
    found = plain_environment()
    assert found["BENDS_NOTHING"] == "1"
    assert not {"OPENBLAS_CORETYPE", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"} & found.keys()
