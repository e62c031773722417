"""Features are a matrix: the stages after ingest know no pixels, and what a stage of features makes is stored as pixels
are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reporting import piece

import bigcluster as bc
from benchmarks.stress.work import BUDGET, Job
from bigcluster.catalog import Listing
from bigcluster.errors import InvalidDataError, StoreError
from bigcluster.kernels.decode import View
from bigcluster.pipeline.components import components
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import run
from bigcluster.pipeline.sweep import sweep
from bigcluster.planning import stages
from bigcluster.planning.feature_shape import FeatureShape, feature_shape
from bigcluster.planning.plan import Plan
from bigcluster.planning.planner import make_plan
from bigcluster.runtime.resources import Resources
from bigcluster.store import Store
from bigcluster.units import GIB, MIB

SIZE = 8 * 8
AS_PIXELS = View(8, 8, "squash")
N_GOOD = 23


@dataclass(frozen=True)
class Maker:
    """Makes features of the view that a network would see: a real stage, without a network."""

    make: Callable[[NDArray[np.uint8]], NDArray[Any]]
    """A function from the view, (n_values,) uint8, to the features."""
    kind: str = "copies"
    n_features: int = SIZE
    dtype: str = "uint8"
    unit_length: bool = False
    n_classes: int = 0
    class_names: tuple[str, ...] = ()
    view: View | None = AS_PIXELS
    shared_bytes: int = 0
    thread_bytes: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind} of {self.n_features}"

    @property
    def facts(self) -> dict[str, str | int | bool]:
        return {"of": "this test"}

    @property
    def fingerprint(self) -> str:
        return f"{self.kind} {self.n_features} {self.dtype}"

    def listed(self, listing: Listing) -> None:
        pass

    def release(self) -> None:
        pass

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[Any]) -> str:
        assert view is not None
        out[:] = self.make(view.reshape(-1))
        return "" if np.isfinite(out).all() else "a feature is not finite"


def copies(dtype: str = "uint8", n_features: int = SIZE) -> Maker:
    """The pixels, copied."""
    return Maker(lambda pixels: pixels, dtype=dtype, n_features=n_features)


def tones(n_features: int = 5) -> Maker:
    """Something that is no picture: the mean tones of parts of a picture, as floats."""

    def make(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return np.array([part.mean() for part in np.array_split(pixels.astype(np.float32), n_features)], np.float32)

    return Maker(make, kind="tones", n_features=n_features, dtype="float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "images"
    write_pictures(folder, N_GOOD)
    (folder / "p007 bad.png").write_bytes(b"no picture")
    return folder


VALUES: dict[str, Any] = {"k": 3, "size": "8x8", "components": 4}


def made(images: Path, out: Path, embedding: Maker | None = None, **values: Any) -> dict[str, Any]:
    return run(Job(images, VALUES | values).settings(out), BUDGET, replace=True, embedding=embedding)


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
    copied = made(images, tmp_path / "copied", copies(n_features=n_values), **values)
    for name in ("labels.csv", "images.csv"):
        assert (tmp_path / "copied" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    for name in ("centers", "distance", *(["scores"] if reduction != "none" else [])):
        np.testing.assert_array_equal(array(tmp_path / "copied", name), array(tmp_path / "plain", name))
    assert {"inertia", "n_components", "explained_variance_ratio"} <= plain.keys()
    assert [copied[name] for name in ("inertia", "n_components")] == [
        plain[name] for name in ("inertia", "n_components")
    ]


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
    out, to, maker = tmp_path / "out", tmp_path / "new.csv", tones()
    result = made(images, out, maker, reduce=reduce)
    job = Job(images, VALUES | {"reduce": reduce})
    chosen = job.settings(out)
    assert result["n_components"] == (4 if reduce == "pca" else 5)
    assert job.verify(out)["damaged"] == []
    counts = predict(chosen, BUDGET, images=str(images), to=str(to), embedding=maker)["counts"]
    assert counts["ok"] == N_GOOD
    finished = bc.open(out)
    assert list(bc.open(out).labels["label"]) == [int(line.split(",")[1]) for line in to.read_text().splitlines()[1:]]
    rows = np.stack([maker.make(pixels) for pixels in array(out, "pixels")[array(out, "ok")]])
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
    index = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "5 of each image, made by tones of 5" in index
    assert "stored beside the features (8 × 8, grey)" in index
    assert "what pixels see" not in index
    assert "of what tones of 5 saw" in (tmp_path / "report" / "map.html").read_text(encoding="utf-8")
    pca = (tmp_path / "report" / "pca.html").read_text(encoding="utf-8")
    assert "5 features of tones of 5" in pca
    assert "eigen-image" not in pca
    pixels, labels = array(tmp_path, "pixels")[array(tmp_path, "ok")], array(tmp_path, "labels")
    for cluster in range(3):
        expected = np.rint(pixels[labels == cluster].mean(axis=0)).reshape(8, 8)
        picture = cv2.imread(
            str(tmp_path / "report" / "sprites" / f"{cluster:02d}" / "center.webp"), cv2.IMREAD_GRAYSCALE
        )
        assert np.abs(picture.astype(float) - expected).mean() < 8  # WebP loses some


@pytest.mark.parametrize("n_features", [2, 600])
def test_the_map_shows_features_where_nothing_was_reduced(n_features: int, images: Path, tmp_path: Path) -> None:
    """Two features are the two axes of the map. Of many, some are shown, which take no more memory than pictures."""

    def of_two(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([pixels[:2].astype(np.float32), np.zeros(n_features - 2, np.float32)])

    made(images, tmp_path, Maker(of_two, kind="two", n_features=n_features, dtype="float32"), reduce="none")
    places = np.array([row[:2] for row in piece(tmp_path, "map")], float)
    two = array(tmp_path, "pixels")[array(tmp_path, "ok")][:, :2].astype(float)
    shown = two if n_features == 2 else two[:, :1]  # the second one lies between two that are shown
    for axis in range(shown.shape[1]):
        assert abs(np.corrcoef(places[:, axis], shown[:, axis])[0, 1]) > 0.999


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_predictions_by_copies_of_the_pixels_are_those_by_the_pixels(reduce: str, images: Path, tmp_path: Path) -> None:
    for name, maker in (("plain", None), ("copied", copies())):
        made(images, tmp_path / name, maker, reduce=reduce)
        chosen = Job(images, VALUES | {"reduce": reduce}).settings(tmp_path / name)
        predict(chosen, BUDGET, images=str(images), to=str(tmp_path / f"{name}.csv"), embedding=maker)
    assert (tmp_path / "copied.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_without_the_mean_of_the_features_nothing_is_predicted(reduce: str, images: Path, tmp_path: Path) -> None:
    """A mean of zeros would give another novelty without a word."""
    out, to = tmp_path / "out", tmp_path / "new.csv"
    made(images, out, tones(), reduce=reduce)
    chosen = Job(images, VALUES | {"reduce": reduce}).settings(out)
    store_of(out).marks.path("features").write_bytes(b"no mark")
    with pytest.raises(StoreError, match="mean of the features"):
        predict(chosen, BUDGET, images=str(images), to=str(to), embedding=tones())
    assert not to.exists()
    again = made(images, out, tones(), reduce=reduce)
    assert again["stages"]["cluster"]["reused"]
    predict(chosen, BUDGET, images=str(images), to=str(to), embedding=tones())
    assert Job(images, VALUES | {"reduce": reduce}).verify(out)["damaged"] == []


class Stopping:
    """Copies pixels, and stops after a number of rows: as a killed run, but in this process."""

    def __init__(self, rows: int) -> None:
        self.left, self.rows = rows, 0

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.rows += 1
        return pixels


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "pixel_chunks", lambda n_values: (4, n_values))


@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_run_makes_the_features_of_finished_blocks_once(images: Path, tmp_path: Path) -> None:
    one_thread = Resources(GIB, 1)
    chosen = Job(images, VALUES).settings(tmp_path / "out")
    first, second = Stopping(14), Stopping(100)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, one_thread, embedding=replace(copies(), make=first))
    run(chosen, one_thread, embedding=replace(copies(), make=second))
    in_flight = 2 * 4 + 2 * 4  # blocks that are filled, and blocks that wait for the disk
    assert N_GOOD - first.rows <= second.rows <= N_GOOD - first.rows + in_flight
    assert second.rows < N_GOOD
    again = run(chosen, one_thread, embedding=replace(copies(), make=Stopping(0)))
    assert all(facts["reused"] for name, facts in again["stages"].items() if name not in ("output",))
    made(images, tmp_path / "plain")
    assert (tmp_path / "out" / "labels.csv").read_bytes() == (tmp_path / "plain" / "labels.csv").read_bytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first", [12, 0])
def test_only_new_pictures_have_their_features_made(first: int, tmp_path: Path) -> None:
    """Also where the new ones come before the others, so that every block holds other rows than before."""
    folder, out = tmp_path / "images", tmp_path / "out"
    write_pictures(folder, 12, first=3 - first // 4)
    made(folder, out, copies())
    write_pictures(folder, 3, first=first)
    counted = Stopping(100)
    made(folder, out, replace(copies(), make=counted))
    assert counted.rows == 3
    made(folder, tmp_path / "fresh")
    assert (out / "labels.csv").read_bytes() == (tmp_path / "fresh" / "labels.csv").read_bytes()
    np.testing.assert_array_equal(array(out, "features"), array(out, "pixels"))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n_moves", [0, 1, 2, 5, 6])
def test_killed_between_the_moves_of_two_arrays_no_picture_is_decoded_twice(
    n_moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    write_pictures(folder, 12, first=1)
    made(folder, out, copies())
    write_pictures(folder, 1, first=0)
    move, done = Store.move_rows, list[str]()

    def killed(store: Store, source: str, *args: Any, **options: Any) -> None:
        if len(done) == n_moves:
            raise KeyboardInterrupt
        move(store, source, *args, **options)
        done.append(source)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "move_rows", killed)
        if n_moves < 6:  # three blocks, each in two arrays
            with pytest.raises(KeyboardInterrupt):
                made(folder, out, copies())
            assert done == ["pixels", "features", "pixels", "features", "pixels", "features"][:n_moves]
        else:
            made(folder, out, copies())
    counted = Stopping(100)
    made(folder, out, replace(copies(), make=counted))
    assert counted.rows == (1 if n_moves < 6 else 0)
    made(folder, tmp_path / "fresh")
    assert (out / "labels.csv").read_bytes() == (tmp_path / "fresh" / "labels.csv").read_bytes()
    np.testing.assert_array_equal(array(out, "features"), array(out, "pixels"))
    assert not (out / "kept").exists()


@pytest.mark.usefixtures("small_blocks")
def test_damage_is_found_and_only_its_block_is_made_again(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path, copies())
    before = (tmp_path / "labels.csv").read_bytes()
    (tmp_path / "store.zarr" / "features" / "c" / "2" / "0").write_bytes(b"no chunk")
    seen = Job(images, VALUES).verify(tmp_path)
    assert (seen["ok"], seen["redo"]) == (False, ["ingest"])
    counted = Stopping(100)
    made(images, tmp_path, replace(copies(), make=counted))
    assert counted.rows <= 4
    assert (tmp_path / "labels.csv").read_bytes() == before
    assert Job(images, VALUES).verify(tmp_path)["damaged"] == []


KINDS: dict[str, Maker | None] = {"pixels": None, "copies": copies(), "tones": tones(), "few tones": tones(2)}


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
    for maker in (None, tones(6)):
        with pytest.raises(StoreError, match="features of tones of 5"):
            predict(chosen, BUDGET, images=str(images), to=to, embedding=maker)
    assert not (tmp_path / "new.csv").exists()
    made(images, tmp_path / "plain")
    with pytest.raises(StoreError, match="features of pixels"):
        predict(replace(chosen, out=str(tmp_path / "plain")), BUDGET, images=str(images), to=to, embedding=tones())


def test_a_picture_without_finite_features_costs_its_own_row(images: Path, tmp_path: Path) -> None:
    def spoilt(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.where(pixels[0] % 4 == 0, np.nan, pixels.astype(np.float32))

    counts = made(images, tmp_path / "nan", replace(copies("float32"), make=spoilt))["counts"]
    assert counts["failed_by_status"]["no_features"] > 0
    assert counts["listed"] == counts["ok"] + counts["failed"]
    labels = bc.open(tmp_path / "nan").labels
    assert set(labels[labels["status"] == "no_features"]["label"]) == {-1}
    with pytest.raises(InvalidDataError, match="have the same features"):
        made(images, tmp_path / "same", replace(copies(), make=np.zeros_like))


def test_rows_of_unit_length_are_clustered_by_direction(images: Path, tmp_path: Path) -> None:
    unit = replace(tones(), unit_length=True)
    made(images, tmp_path / "out", unit, components=3)
    scores = bc.open(tmp_path / "out").scores.compute(scheduler="synchronous")
    lengths = np.linalg.norm(scores, axis=1, keepdims=True)
    centers, labels = array(tmp_path / "out", "centers"), array(tmp_path / "out", "labels")
    distance = np.linalg.norm(scores / lengths - centers[labels], axis=1)
    np.testing.assert_allclose(array(tmp_path / "out", "distance"), distance, atol=1e-5)
    job = Job(images, VALUES | {"components": 3})
    assert job.verify(tmp_path / "out")["damaged"] == []
    to = tmp_path / "new.csv"
    predict(job.settings(tmp_path / "out"), BUDGET, images=str(images), to=str(to), embedding=unit)
    assert list(bc.open(tmp_path / "out").labels["label"]) == [
        int(line.split(",")[1]) for line in to.read_text().splitlines()[1:]
    ]


@given(
    st.integers(2, 10**7), st.integers(1, 10**5), st.sampled_from(["uint8", "float32"]), st.sampled_from([400, 4000])
)
def test_a_plan_asks_for_the_shape_of_features_once(n_images: int, n_features: int, dtype: str, budget: int) -> None:
    chosen = Job(Path("images"), {"k": 10, "components": 2}).settings(Path("out"))
    resources = Resources(budget * MIB, 2)
    shape = FeatureShape(n_features, dtype, of_pixels=False, shared_bytes=MIB, thread_bytes=MIB)
    plan = make_plan(chosen, n_images, (64, 64), resources, features=shape)
    of_pixels = make_plan(chosen, n_images, (64, 64), resources)
    stored = plan.stage("ingest").bytes_written - of_pixels.stage("ingest").bytes_written
    assert stored >= n_images * n_features * shape.itemsize
    assert plan.stage("ingest").projected_bytes > of_pixels.stage("ingest").projected_bytes
    assert plan.stage("reduce").bytes_read % (n_images * n_features * shape.itemsize) == 0
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert of_pixels.features == feature_shape(chosen, (64, 64)) == FeatureShape(4096, "uint8", of_pixels=True)
