"""What a run stores, by the README; components and mean from Python; and what a later fit knows of the one before."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT, Cli, write_kinds

import bigcluster as bc
from bigcluster.api import calls
from bigcluster.errors import StoreError

N = 30


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "images"
    write_kinds(folder, N // 3, kinds=range(3))
    return folder


@pytest.fixture(scope="module")
def left(images: Path, cli: Cli) -> Path:
    """A run whose fit left the components for later."""
    out = images.parent / "left"
    assert cli("run", images, "--out", out, "-k", 3, "--size", 16, "--memory", "1GiB").code == 0
    assert not (out / "store.zarr" / "components").exists()
    return out


@pytest.fixture(scope="module")
def stored(images: Path, cli: Cli) -> Path:
    """A run whose fit stored them: fewer values than images."""
    out = images.parent / "stored"
    assert cli("run", images, "--out", out, "-k", 3, "--size", 4, "--memory", "1GiB").code == 0
    assert (out / "store.zarr" / "components").exists()
    return out


@pytest.mark.parametrize("kind", ["left", "stored"])
def test_components_and_mean_lead_from_pixels_to_scores(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = request.getfixturevalue(kind)
    run = bc.open(out)
    components = run.components.compute(scheduler="synchronous")
    n_values = run.mean.shape[0]
    assert components.shape == (run.summary["n_components"], n_values)
    assert components.dtype == np.float32
    from bigcluster.store import Store

    pixels = Store(out, create=False).load("pixels")
    np.testing.assert_allclose(run.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-3)
    scores = run.scores.compute(scheduler="synchronous")
    np.testing.assert_allclose((pixels - run.mean) @ components.T, scores, atol=1e-3 * np.abs(scores).max())

    def nobody(*_: object, **__: object) -> None:
        raise AssertionError("they are there")

    monkeypatch.setattr(calls, "supervise", nobody)
    assert run.components.shape == components.shape


def test_without_a_reduction_there_is_a_mean_alone(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path, "-k", 2, "--size", 4, "--set", "reduce=none", "--memory", "1GiB")
    assert ran.code == 0, ran.err
    run = bc.open(tmp_path)
    np.testing.assert_allclose(run.mean, run.scores.compute(scheduler="synchronous").mean(axis=0), rtol=1e-6)
    with pytest.raises(StoreError, match="reduce = none"):
        _ = run.components


def arrays(out: Path) -> set[str]:
    return {path.parent.name for path in (out / "store.zarr").glob("*/zarr.json")}


def arrays_of_the_readme() -> dict[str, str]:
    """The name of every array that README knows, and what makes it."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- arrays: begin -->")[2].partition("<!-- arrays: end -->")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return {name: by for cells in rows for name in re.findall(r"`(\w+)`", cells[1]) for by in [cells[2].strip()]}


@pytest.mark.slow
def test_the_readme_names_every_array_of_the_store(
    images: Path, left: Path, stored: Path, tmp_path: Path, cli: Cli
) -> None:
    names = arrays_of_the_readme()
    every = {name for name, by in names.items() if by == "every run"}
    pca = {name for name, by in names.items() if by == "PCA"}
    assert arrays(stored) == every | pca | {"components"}
    assert arrays(left) - {"components"} == every | pca | {"left"}
    assert cli("sweep", left, "-k", "2:4", "--memory", "1GiB").code == 0
    assert cli("predict", left, images, "--to", tmp_path / "p.csv", "--memory", "1GiB").code == 0
    others = {"a network, or vectors", "`features.classes`", "groups without a number", "`reduce` = `tsne`, `umap`"}
    of_others = {name for name, by in names.items() if by in others}
    assert of_others >= {"features", "feature_mean", "classes", "neighbor_ids", "embedding"}
    assert arrays(left) == names.keys() - of_others


@pytest.mark.slow
def test_nearest_previous_knows_images_again_among_new_ones(images: Path, tmp_path: Path, cli: Cli) -> None:
    mine, out = tmp_path / "images", tmp_path / "o"
    write_kinds(mine, 10, kinds=range(3))

    def label_of(kind: int) -> int:
        (label,) = {int(value) for value in labels[labels["path"].str.startswith(f"kind{kind}")]["label"]}
        return label

    assert cli("run", mine, "--out", out, "-k", 3, "--size", 16, "--memory", "1GiB").code == 0
    labels = bc.open(out).labels
    before = [label_of(kind) for kind in range(3)]
    (mine / "kind0-00.png").unlink()
    write_kinds(mine, 25, kinds=range(3, 4))  # a kind that is new, and the largest
    assert cli("run", mine, "--out", out, "-k", 4, "--size", 16, "--memory", "1GiB").code == 0
    labels = bc.open(out).labels
    was = json.loads((out / "summary.json").read_text())["nearest_previous"]
    assert [was[label_of(kind)] for kind in range(3)] == before
    assert was[label_of(3)] is None, "it shares none"
    assert "In the fit before" not in (out / "report" / "clusters" / f"{label_of(3):02d}.html").read_text()
