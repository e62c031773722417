"""Novelty: pictures of another kind say so, those of the model do not, whatever the components hold of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st

import bigcluster as bc
from bigcluster.api import resources, stored_settings
from bigcluster.demo import generate
from bigcluster.kernels.novelty import Novelty, Traits, left_out, residual_of, squared_norms
from bigcluster.pipeline.predict import predict

QUICK = ("--set", "report.write=false", "--memory", "1GiB")


@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(1, 40))
def test_squared_norms_are_those_of_numpy(seed: int, n_rows: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, mean = rng.integers(0, 256, (n_rows, d)).astype(np.uint8), rng.uniform(0, 255, d)
    np.testing.assert_allclose(squared_norms(x, mean), ((x.astype(float) - mean) ** 2).sum(axis=1), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 300), st.integers(1, 20), st.booleans())
def test_five_percent_of_the_models_own_are_beyond(seed: int, n_rows: int, k: int, adapted: bool) -> None:
    rng = np.random.default_rng(seed)
    own = Traits(rng.integers(0, k, n_rows).astype(np.int32), *(rng.lognormal(6, 1, n_rows) for _ in range(3)))
    left = Traits(own.labels, own.distance * 1.5, own.residual * 2, own.norm) if adapted else own
    found = Novelty.among(own, left, k).of(own)
    assert int(0.05 * n_rows) <= (found > 1).sum() <= -(-n_rows // 20)
    assert np.isfinite(found).all()


def _rows(seed: int, n_rows: int, d: int) -> np.ndarray:
    """Rows of a falling spectrum, of which PCA with a tenth of the columns leaves much."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, d)) * (1000 / np.sqrt(np.arange(1, d + 1))) + 5000


def test_left_out_traits_are_those_of_a_fit_without_the_row() -> None:
    x, r = _rows(0, 50, 150), 10

    def fit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = rows.mean(axis=0)
        return mean, np.linalg.svd(rows - mean, full_matrices=False)[2][:r]

    def traits(rows: np.ndarray, mean: np.ndarray, v: np.ndarray, center: np.ndarray) -> tuple[Traits, np.ndarray]:
        scores = (rows - mean) @ v.T
        norm_sq, length = squared_norms(rows, mean), (scores**2).sum(axis=1)
        distance = np.linalg.norm(scores - center, axis=1)
        return Traits(np.zeros(len(rows), np.int32), distance, residual_of(norm_sq, length), np.sqrt(norm_sq)), scores

    mean, v = fit(x)
    own, scores = traits(x, mean, v, np.zeros(r))
    squares = scores**2
    leverage = 1 / len(x) + (squares / squares.sum(axis=0)).sum(axis=1)
    left = left_out(own, squares.sum(axis=1), leverage, np.zeros(1), np.array([len(x)]), np.full(len(x), np.inf))
    truth = []
    for row in range(len(x)):
        others = np.delete(x, row, axis=0)
        mean, v = fit(others)
        truth.append(traits(x[[row]], mean, v, np.zeros(r))[0])
    for name in ("residual", "distance"):
        true = np.median([getattr(one, name)[0] for one in truth])
        assert np.median(getattr(left, name)) == pytest.approx(true, rel=0.1)
        assert abs(np.median(getattr(own, name)) / true - 1) > 0.1, "the fit has adapted to its own rows"


def test_a_cluster_without_spread_is_no_excuse() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4, dtype=np.int32), [50, 50, 30, 1])
    distance = rng.uniform(50, 100, 131)
    distance[100:] = 0  # thirty copies of one picture, and a picture alone
    residual, norm = rng.uniform(40, 60, 131), rng.uniform(300, 400, 131)
    own = Traits(labels, distance, residual, norm)
    counts = np.bincount(labels)
    left = left_out(own, None, None, np.zeros(4), counts, np.full(131, 120.0))
    novelty = Novelty.among(own, left, 4)
    for label in (2, 3):
        at = np.full(3, label, np.int32)
        near = Traits(at, np.array([1.0, 1, 1]), np.full(3, 50.0), np.full(3, 350.0))
        assert (novelty.of(near) < 1).all(), "a nearly equal picture is not novel"
        far = Traits(at, np.array([300.0, 1, 1]), np.array([50.0, 400, 5]), np.array([350.0, 500, 40]))
        assert (novelty.of(far) > 1).all(), "far from its cluster; outside of the components; unlike without detail"


def test_one_image_per_cluster() -> None:
    n = 20
    own = Traits(np.arange(n, dtype=np.int32), np.zeros(n), np.zeros(n), np.linspace(300, 400, n))
    left = left_out(own, None, None, np.zeros(n), np.ones(n, np.int64), np.full(n, 200.0))
    novelty = Novelty.among(own, left, n)
    new = Traits(np.zeros(3, np.int32), np.array([0.0, 100, 500]), np.zeros(3), np.full(3, 310.0))
    found = novelty.of(new)
    assert found[0] <= 1
    assert found[1] <= 1
    assert found[2] > 1


@pytest.mark.parametrize(("number", "tells"), [(3, False), (19, False), (20, True)])
def test_a_model_of_few_images_gives_no_verdict(tmp_path: Path, cli: Cli, number: int, tells: bool) -> None:
    write_pictures(tmp_path / "in", number)
    ran = cli("run", tmp_path / "in", "--out", tmp_path / "o", "-k", 2, "--size", 16, *QUICK)
    assert ran.code == 0, ran.err
    ran = cli("predict", tmp_path / "o", tmp_path / "in", "--to", tmp_path / "p.csv", "--memory", "1GiB")
    assert ran.code == 0, ran.err
    assert ("fewer than 20 images: too few to tell what is unusual" in ran.err) != tells
    assert "unlike" not in ran.out
    assert ("more unusual" in ran.out) == tells
    with (tmp_path / "p.csv").open(newline="") as file:
        assert all((row["novelty"] != "") == tells and row["label"] in ("0", "1") for row in csv.DictReader(file))
    table = bc.open(tmp_path / "o").predict(tmp_path / "in", tmp_path / "q.csv", memory="1GiB")
    assert table["novelty"].notna().all() == tells


@pytest.mark.slow
def test_real_collections_tell_each_other_apart(shared: Path, tmp_path: Path, cli: Cli) -> None:
    generate(tmp_path / "cuts", 250)
    generate(tmp_path / "more", 60, seed=1)
    clothing, omniglot = shared / "images" / "clothing", shared / "images" / "omniglot"
    letters, clothes = tmp_path / "letters.csv", tmp_path / "clothes.csv"
    for manifest, folder, step in ((letters, omniglot, 40), (clothes, clothing, 5)):
        files = sorted(str(path) for path in folder.rglob("*.*g"))[::step]
        manifest.write_text("\n".join(["path", *files]) + "\n")

    def beyond(out: str, images: Path) -> float:
        to = str(tmp_path / "p.csv")  # in this process: other tests start the command line
        found = predict(stored_settings(tmp_path / out), resources("1GiB", None), images=str(images), to=to)
        with (tmp_path / "p.csv").open(newline="") as file:
            shares = [float(row["novelty"]) > 1 for row in csv.DictReader(file)]
        assert found["beyond_share"] == pytest.approx(np.mean(shares))
        assert found["unlike"] == (found["beyond_share"] > 0.15)
        return float(found["beyond_share"])

    allowed = ("--set", "manifest.allow_outside=true")  # for the manifests; the OUT keeps it
    for out, images, options in (
        ("clothes", clothes, ("-k", 10)),
        ("drawn", tmp_path / "cuts", ("-k", 10)),
        ("native", tmp_path / "cuts", ("--config", "catalog", "-k", 10)),
    ):
        ran = cli("run", images, "--out", tmp_path / out, *options, *allowed, "--memory", "1GiB", "-q")
        assert ran.code == 0, ran.err
        assert 0.03 <= beyond(out, images) <= 0.07
    assert beyond("clothes", letters) > 0.9
    assert beyond("clothes", tmp_path / "cuts") > 0.8
    assert beyond("drawn", clothes) >= 0.5
    assert beyond("native", clothes) > 0.8
    assert beyond("drawn", letters) > 0.9
    for out in ("drawn", "native"):
        assert beyond(out, tmp_path / "more") < 0.15, "new pictures of the same kind"
