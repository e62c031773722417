"""Features are a matrix: the stages after ingest know no pixels, and what a stage of features makes is stored as pixels
are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bigcluster as bc
from benchmarks.stress.work import BUDGET, Job
from bigcluster.errors import InvalidDataError, StoreError
from bigcluster.pipeline.components import components
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import run
from bigcluster.pipeline.sweep import sweep
from bigcluster.planning.feature_shape import FeatureShape, feature_shape
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import make_plan
from bigcluster.runtime.resources import Resources
from bigcluster.stages import features
from bigcluster.stages.features import Extractor
from bigcluster.store import Store
from bigcluster.units import GIB, MIB

SIZE = 8 * 8
N_GOOD = 23


def copies(dtype: str = "uint8") -> Extractor:
    """The pixels, copied."""
    return Extractor("copies", f"copies {dtype}", SIZE, dtype, lambda pixels: pixels.astype(dtype))


def tones(n_features: int = 5) -> Extractor:
    """Something that is no picture: the mean tones of parts of a picture, as floats."""
    return Extractor(
        "tones",
        f"tones {n_features}",
        n_features,
        "float32",
        lambda pixels: np.stack(
            [part.mean(axis=1) for part in np.array_split(pixels.astype(np.float32), n_features, axis=1)], axis=1
        ),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "images"
    write_pictures(folder, N_GOOD)
    (folder / "p007 bad.png").write_bytes(b"no picture")
    return folder


VALUES: dict[str, Any] = {"k": 3, "size": "8x8", "components": 4}


def made(images: Path, out: Path, extractor: Extractor | None = None, **values: Any) -> dict[str, Any]:
    return run(Job(images, VALUES | values).settings(out), BUDGET, replace=True, extractor=extractor)


def store_of(out: Path) -> Store:
    return Store(out, create=False)


def array(out: Path, name: str) -> NDArray[Any]:
    return np.asarray(store_of(out).array(name)[...])


REDUCTIONS: dict[str, dict[str, Any]] = {
    "gram": {},
    "covariance": {"pca.solver": "covariance"},
    "subspace": {"pca.solver": "subspace"},
    "incremental": {"pca.solver": "incremental"},
    "variance": {"components": None, "variance": 0.9},
    "none": {"reduce": "none"},
    "several k": {"k": "2:5"},
    "color": {"features": "color", "size": "8x8"},
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_stage_that_copies_the_pixels_changes_no_byte_of_the_labels(
    reduction: str, images: Path, tmp_path: Path
) -> None:
    values = REDUCTIONS[reduction]
    n_values = SIZE * (3 if reduction == "color" else 1)
    plain = made(images, tmp_path / "plain", **values)
    copied = made(images, tmp_path / "copied", replace(copies(), n_features=n_values), **values)
    for name in ("labels.csv", "images.csv"):
        assert (tmp_path / "copied" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    for name in ("centers", "distance", *(["scores"] if reduction != "none" else [])):
        np.testing.assert_array_equal(array(tmp_path / "copied", name), array(tmp_path / "plain", name))
    assert {"inertia", "n_components", "explained_variance_ratio"} <= plain.keys()
    assert [copied[name] for name in ("inertia", "n_components")] == [
        plain[name] for name in ("inertia", "n_components")
    ]
    assert "features" not in plain["stages"]
    assert copied["stages"]["features"]["solver"] == "copies"


def test_float_copies_of_the_pixels_give_the_labels_where_nothing_is_reduced(images: Path, tmp_path: Path) -> None:
    """k-means decides by exact distances of the values, whatever type they have. PCA of floats is not made of exact
    integer products: its scores agree to rounding, and labels with them unless a row lies between two centers."""
    made(images, tmp_path / "plain", reduce="none")
    made(images, tmp_path / "copied", copies("float32"), reduce="none")
    assert (tmp_path / "copied" / "labels.csv").read_bytes() == (tmp_path / "plain" / "labels.csv").read_bytes()
    made(images, tmp_path / "plain")
    made(images, tmp_path / "copied", copies("float32"))
    scores = array(tmp_path / "plain", "scores")
    np.testing.assert_allclose(array(tmp_path / "copied", "scores"), scores, atol=1e-4 * np.abs(scores).max())
    np.testing.assert_array_equal(array(tmp_path / "copied", "labels"), array(tmp_path / "plain", "labels"))


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_every_job_works_on_features_that_are_no_pixels(reduce: str, images: Path, tmp_path: Path) -> None:
    out, to, extractor = tmp_path / "out", tmp_path / "new.csv", tones()
    result = made(images, out, extractor, reduce=reduce)
    job = Job(images, VALUES | {"reduce": reduce})
    chosen = job.settings(out)
    assert result["n_components"] == (4 if reduce == "pca" else 5)
    assert job.verify(out)["damaged"] == []
    counts = predict(chosen, BUDGET, images=str(images), to=str(to), extractor=extractor)["counts"]
    assert counts["ok"] == N_GOOD
    finished = bc.open(out)
    assert list(bc.open(out).labels["label"]) == [int(line.split(",")[1]) for line in to.read_text().splitlines()[1:]]
    rows = tones().rows(np.asarray(array(out, "pixels")[array(out, "ok")]))
    np.testing.assert_array_equal(array(out, "features")[array(out, "ok")], rows)
    np.testing.assert_allclose(finished.mean, rows.mean(axis=0, dtype=np.float64))
    if reduce == "pca":
        assert components(chosen, BUDGET)["shape"] == [4, 5]
        scores = (rows - finished.mean) @ finished.components.compute(scheduler="synchronous").T
        np.testing.assert_allclose(finished.scores.compute(scheduler="synchronous"), scores, atol=1e-3)
    else:
        np.testing.assert_array_equal(finished.scores.compute(scheduler="synchronous"), rows)
    swept = sweep(chosen, BUDGET, ks=(2, 3))
    assert [row["k"] for row in swept["rows"]] == [2, 3]
    report(chosen, BUDGET)
    assert job.verify(out)["damaged"] == []


def test_the_report_shows_the_mean_picture_of_a_cluster_where_its_center_is_none(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path, tones())
    shown = (tmp_path / "report" / "clusters" / "00.html").read_text(encoding="utf-8")
    assert "Mean of its pictures" in shown
    assert "Center, as a picture" not in shown
    assert "Medoid" in shown
    pca = (tmp_path / "report" / "pca.html").read_text(encoding="utf-8")
    assert "5 features of the kind tones" in pca
    assert "eigen-image" not in pca
    pixels, labels = array(tmp_path, "pixels")[array(tmp_path, "ok")], array(tmp_path, "labels")
    for cluster in range(3):
        expected = np.rint(pixels[labels == cluster].mean(axis=0)).reshape(8, 8)
        picture = cv2.imread(
            str(tmp_path / "report" / "sprites" / f"{cluster:02d}" / "center.webp"), cv2.IMREAD_GRAYSCALE
        )
        assert np.abs(picture.astype(float) - expected).mean() < 8  # WebP loses some


class Stopping:
    """Copies pixels, and stops after a number of calls: as a killed run, but in this process."""

    def __init__(self, calls: int) -> None:
        self.calls, self.rows = calls, 0

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.rows += len(pixels)
        return pixels


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "matrix_chunks", lambda n_columns, itemsize: (4, n_columns))


@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_stage_goes_on_after_its_last_block(images: Path, tmp_path: Path) -> None:
    one_thread = Resources(GIB, 1)
    chosen = Job(images, VALUES).settings(tmp_path / "out")
    first, second = Stopping(3), Stopping(100)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, one_thread, extractor=replace(copies(), extract=first))
    run(chosen, one_thread, extractor=replace(copies(), extract=second))
    assert first.rows + second.rows == N_GOOD
    assert second.rows < N_GOOD
    again = run(chosen, one_thread, extractor=replace(copies(), extract=Stopping(0)))
    assert all(facts["reused"] for name, facts in again["stages"].items() if name not in ("output",))
    made(images, tmp_path / "plain")
    assert (tmp_path / "out" / "labels.csv").read_bytes() == (tmp_path / "plain" / "labels.csv").read_bytes()


@pytest.mark.usefixtures("small_blocks")
def test_only_blocks_whose_pixels_changed_are_computed_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    write_pictures(folder, 12)
    made(folder, out, copies())
    write_pictures(folder, 3, first=12)
    counted = Stopping(100)
    made(folder, out, replace(copies(), extract=counted))
    # All pictures lie in one block of pixels, whose chunks have changed.
    assert counted.rows == 15
    made(folder, tmp_path / "fresh")
    assert (out / "labels.csv").read_bytes() == (tmp_path / "fresh" / "labels.csv").read_bytes()


@pytest.mark.usefixtures("small_blocks")
def test_damage_is_found_and_only_its_block_is_made_again(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path, copies())
    before = (tmp_path / "labels.csv").read_bytes()
    (tmp_path / "store.zarr" / "features" / "c" / "2" / "0").write_bytes(b"no chunk")
    seen = Job(images, VALUES).verify(tmp_path)
    assert (seen["ok"], seen["redo"]) == (False, ["features"])
    counted = Stopping(100)
    made(images, tmp_path, replace(copies(), extract=counted))
    assert counted.rows <= 4
    assert (tmp_path / "labels.csv").read_bytes() == before
    assert Job(images, VALUES).verify(tmp_path)["damaged"] == []


KINDS: dict[str, Extractor | None] = {"pixels": None, "copies": copies(), "tones": tones(), "few tones": tones(2)}


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=4))
def test_any_sequence_of_features_ends_as_a_fresh_run(
    images: Path, tmp_path_factory: pytest.TempPathFactory, kinds: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    for kind in kinds:
        made(images, folder / "out", KINDS[kind], components=2, **{"report.write": False})
    made(images, folder / "fresh", KINDS[kinds[-1]], components=2, **{"report.write": False})
    for name in ("labels.csv", "images.csv"):
        assert (folder / "out" / name).read_bytes() == (folder / "fresh" / name).read_bytes()
    assert Job(images, VALUES).verify(folder / "out")["damaged"] == []


def test_predict_wants_the_features_of_the_model(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path / "out", tones())
    chosen, to = Job(images, VALUES).settings(tmp_path / "out"), str(tmp_path / "new.csv")
    for extractor in (None, tones(6)):
        with pytest.raises(StoreError, match="features of the kind 'tones'"):
            predict(chosen, BUDGET, images=str(images), to=to, extractor=extractor)
    assert not (tmp_path / "new.csv").exists()
    made(images, tmp_path / "plain")
    with pytest.raises(StoreError, match="'pixels'"):
        predict(replace(chosen, out=str(tmp_path / "plain")), BUDGET, images=str(images), to=to, extractor=tones())


def test_features_that_cannot_be_clustered_are_refused(images: Path, tmp_path: Path) -> None:
    def spoilt(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = pixels.astype(np.float32)
        rows[5, 3] = np.nan
        return rows

    with pytest.raises(InvalidDataError, match=r"row 5 .*NaN or infinity as features of the kind 'copies'"):
        made(images, tmp_path / "nan", replace(copies("float32"), extract=spoilt))
    with pytest.raises(ValueError, match=r"copies: .* was expected"):
        made(images, tmp_path / "shape", replace(copies(), n_features=3))
    with pytest.raises(InvalidDataError, match="have the same features"):
        made(images, tmp_path / "same", replace(copies(), extract=np.zeros_like))


@given(
    st.integers(2, 10**7), st.integers(1, 10**5), st.sampled_from(["uint8", "float32"]), st.sampled_from([400, 4000])
)
def test_a_plan_asks_for_the_shape_of_features_once(n_images: int, n_features: int, dtype: str, budget: int) -> None:
    chosen = Job(Path("images"), {"k": 10, "components": 2}).settings(Path("out"))
    resources = Resources(budget * MIB, 2)
    shape = FeatureShape(n_features, dtype, of_pixels=False)
    plan = make_plan(chosen, n_images, (64, 64), resources, features=shape)
    stage = plan.stage("features")
    assert stage.bytes_written >= n_images * n_features * shape.itemsize
    assert plan.stage("reduce").bytes_read % (n_images * n_features * shape.itemsize) == 0
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    of_pixels = make_plan(chosen, n_images, (64, 64), resources)
    assert of_pixels.features == feature_shape(chosen, (64, 64)) == FeatureShape(4096, "uint8", of_pixels=True)
    assert [stage.stage for stage in of_pixels.stages] == [s.stage for s in plan.stages if s.stage != "features"]
