"""The most probable classes of images, and of clusters: the tables, the names, and what an independent script says."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from networks import TABLE, conv_net, model_of, picture_input, save, weights
from numpy.typing import NDArray
from onnx import helper
from test_store_contents import arrays, arrays_of_the_readme

import bigcluster as bc
from bigcluster.errors import DamagedError, StoreError
from bigcluster.models.registry import imagenet_labels
from bigcluster.runtime.onnx_runtime import onnx_runtime
from bigcluster.stages import classes as stage
from bigcluster.stages.classes import ClusterClasses, ImageClasses, classes_of_clusters
from bigcluster.store import Marks

NAMES = ["=1+1", "one, uno", "two", "three", "four", "five", "six"]


@dataclass(frozen=True)
class Rows:
    """Stored classes in memory."""

    values: NDArray[np.float32]
    chunks: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self.values.shape
        return n_rows, n_columns

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.values[start:stop]


def in_memory(numbers: NDArray[np.int64], n_classes: int, block_rows: int = 3) -> ImageClasses:
    values = np.hstack([numbers, np.ones_like(numbers)]).astype(np.float32)
    names = tuple(f"c{i}, other" for i in range(n_classes))
    return ImageClasses(names, numbers.shape[1], Rows(values, (block_rows, 9)))  # type: ignore[arg-type]


# -- which classes stand out


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.booleans())
def test_classes_of_clusters_are_those_of_their_definition(
    seed: int, n_rows: int, n_clusters: int, n_classes: int, few_at_once: bool
) -> None:
    rng = np.random.default_rng(seed)
    n_clusters, per_image = min(n_clusters, n_rows), int(rng.integers(1, n_classes + 1))
    numbers = np.stack([rng.permutation(n_classes)[:per_image] for _ in range(n_rows)])
    labels = np.append(np.arange(n_clusters), rng.integers(0, n_clusters, n_rows - n_clusters)).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "CLASS_COUNT_BYTES", 8 * n_classes if few_at_once else 10**6)
        found = classes_of_clusters(in_memory(numbers, n_classes), labels, n_clusters)
    for cluster in range(n_clusters):
        members = numbers[labels == cluster]
        expected = []
        for one in range(n_classes):
            images = int((members == one).any(axis=1).sum())
            if images == 0:
                continue
            share = images / len(members)
            lift = share / ((numbers == one).any(axis=1).mean())
            if lift > 1 + 1e-12 and share >= 0.1 and (images >= 2 or len(members) == 1):
                expected.append((round(share * np.log(lift), 9), -one, share, lift))
        expected.sort(reverse=True)
        # They are rounded to 5 and 4 digits, and the other way round where they are in the middle.
        assert [number for one in found.of(cluster) for number in (one.share, one.lift)] == pytest.approx(
            [number for _, _, share, lift in expected[:3] for number in (share, lift)], abs=6e-5
        )


def test_a_name_is_made_of_first_synonyms() -> None:
    def named(*names: str) -> str:
        numbers = np.array([[*range(len(names)), *[-1] * (3 - len(names))]], np.int32)
        ones = np.ones((1, 3), np.float32)
        return ClusterClasses(names, numbers, ones, ones).name(0)

    assert named("jean, blue jean, denim", "suit, suit of clothes", "buckle") == "jean, suit"
    assert named("crane, bird", "crane, machine") == "crane"
    assert named() == ""
    assert len(named("x" * 500)) == 40


def test_a_number_that_no_class_has_is_damage() -> None:
    with pytest.raises(DamagedError, match="a number that no class has"):
        classes_of_clusters(in_memory(np.array([[0], [7]]), 7), np.zeros(2, np.int32), 1)


# -- the files of a run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    (folder / "names.txt").write_text("\n".join(NAMES))
    return save(folder, conv_net(), table=TABLE.format(size=16) + "labels = 'names.txt'\n")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures and a broken one, listed by a manifest that has a column of our name."""
    folder = tmp_path_factory.mktemp("classes")
    files = write_pictures(folder / "in", 40)
    (folder / "in" / "p007 bad.png").write_bytes(b"no picture")
    listed = [*(file.name for file in files[:8]), "p007 bad.png", *(file.name for file in files[8:])]
    table = ["path,cluster_name", *(f"in/{name},mine" for name in listed)]
    (folder / "all.csv").write_text("\n".join(table) + "\n")
    return folder / "all.csv"


@pytest.mark.slow
def test_classes_are_written_listed_verified_and_removed(cli: Cli, images: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("run", images, "--out", out, "-k", 3, "--features", network)
    ran = cli(*args, "--set", "features.classes=4")
    assert ran.code == 3, ran.err
    assert "suggested names: 0 " in ran.out
    assert {"features", "feature_mean", "classes"} <= arrays(out) <= arrays_of_the_readme().keys()
    labels, found = rows(out / "labels.csv"), rows(out / "classes.csv")
    assert list(labels[0])[6:] == ["file", "cluster_name", "in_cluster_name"]
    good = [row["path"] for row in labels if row["status"] == "ok"]
    assert [row["path"] for row in found] == [path for path in good for _ in range(4)]
    assert [row["rank"] for row in found] == ["1", "2", "3", "4"] * 40
    assert {row["class"] for row in found} <= {"'=1+1", *NAMES[1:]}
    chances = np.array([float(row["probability"]) for row in found]).reshape(40, 4)
    assert (np.diff(chances, axis=1) <= 0).all()
    assert ((chances.sum(axis=1) <= 1 + 1e-5) & (chances > 0).all(axis=1)).all()

    summary = json.loads((out / "summary.json").read_text())
    for row in labels:
        expected = "" if row["label"] == "-1" else summary["cluster_names"][int(row["label"])]
        assert row["cluster_name"] == (f"'{expected}" if expected.startswith("=") else expected)
    counted = Counter((row["label"], one["class"]) for row in labels for one in found if one["path"] == row["path"])
    for cluster, told in enumerate(summary["cluster_classes"]):
        for one in told:
            name = one["class"] if one["class"] != "=1+1" else "'=1+1"
            assert one["share"] == pytest.approx(
                counted[str(cluster), name] / summary["cluster_sizes"][cluster], abs=1e-4
            )
    assert summary["features"]["kind"] == "network"
    assert summary["features"]["sha256"]
    assert list(bc.open(out).labels["cluster_name"]) == [row["cluster_name"] for row in labels]
    assert cli("verify", out).code == 0

    index = (out / "report" / "index.html").read_text(encoding="utf-8")
    for told in (f"SHA-256 {summary['features']['sha256'][:12]}…, licence: unknown", "made by net.onnx", "(crop)"):
        assert told in index
    for cluster, suggested in enumerate(summary["cluster_names"]):
        assert suggested in index
        page = (out / "report" / "clusters" / f"{cluster:02d}.html").read_text(encoding="utf-8")
        assert f"<h1>Cluster {cluster:02d}: {suggested}</h1>" in page
        assert all(f"<bdi>{one['class']}</bdi>" in page for one in summary["cluster_classes"][cluster])

    for name, old, new in (("classes.csv", ",2,", ",9,"), ("labels.csv", ",mine", "x,mine")):
        before = (out / name).read_bytes()
        (out / name).write_bytes(before.replace(old.encode(), new.encode(), 1))
        assert f"damaged: {name}" in cli("verify", out).out
        (out / name).write_bytes(before)
    (out / "classes.csv").unlink()
    assert cli(*args).code == 3
    assert rows(out / "classes.csv") == found, "the same command makes it again"

    assert cli("predict", out, images, "--to", tmp_path / "new.csv").code == 3
    assert [row["label"] for row in rows(tmp_path / "new.csv")] == [row["label"] for row in labels]
    assert "OUT holds pixels decoded in another way" in cli(*args, "--set", "features.classes=0").err
    assert cli(*args, "--set", "features.classes=0", "--replace").code == 3
    assert not (out / "classes.csv").exists()
    assert "cluster_names" not in json.loads((out / "summary.json").read_text())
    assert list(rows(out / "labels.csv")[0])[6:] == ["file", "cluster_name"], "the manifest's own column"
    assert cli("verify", out).code == 0


def test_long_names_of_classes_and_layers_never_make_pixels_of_features(tmp_path: Path) -> None:
    """A mark that cannot be read again would say nothing of the network, and the pixels would be clustered."""
    layer, names = "f" * 11_000, [f"c{i}" + "," * 300 for i in range(1000)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w0", "b0"], [layer], transB=1),
        helper.make_node("Gemm", [layer, "w", "b"], ["logits"], transB=1),
    ]
    constants = [weights("w0", 8, 3), weights("b0", 8), weights("w", 1000, 8), weights("b", 1000)]
    model = model_of(nodes, [picture_input("NCHW", "float32", 1, 16)], ["logits"], constants)
    network = save(tmp_path, model, table=TABLE.format(size=16) + "labels = 'names.txt'\n")
    write_pictures(tmp_path / "in", 8)
    for _ in ("new", "reused"):
        ran = bc.run(
            tmp_path / "in", out=tmp_path / "out", n_clusters=2, features=str(network), set={"features.classes": 2}
        )
        assert ran.summary["features"]["kind"] == "network"
    found = rows(tmp_path / "out" / "classes.csv")
    assert len(found) == 16
    assert {row["class"] for row in found} <= set(names)
    recipe = Marks(tmp_path / "out").path("recipe")
    assert recipe.stat().st_size < 2000
    recipe.unlink()
    with pytest.raises(StoreError, match="does not say how its pixels were decoded"):
        _ = bc.open(tmp_path / "out").pixels


def test_more_classes_than_the_network_has_are_refused(cli: Cli, images: Path, network: Path, tmp_path: Path) -> None:
    ran = cli("run", images, "--out", tmp_path / "out", "-k", 3, "--features", network, "--set", "features.classes=8")
    assert ran.code == 2
    assert "features.classes = 8, and" in ran.err
    assert "has 7 classes; give features.classes = 7 or fewer" in ran.err
    assert not (tmp_path / "out").exists()


# -- the real network


def by_an_own_script(paths: list[Path], model: Path, n_classes: int) -> dict[str, list[tuple[str, float]]]:
    """The classes of pictures by file name, with OpenCV and ONNX Runtime alone.

    As the conventions of the file say: float32 x / 127.5 - 1, of the largest middle square at 224 pixels.
    """
    session = onnx_runtime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: dict[str, list[tuple[str, float]]] = {}
    for path in paths:
        picture = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = np.ascontiguousarray(picture[top : top + side, left : left + side])
        how = cv2.INTER_LINEAR if 224 <= side < 448 else cv2.INTER_AREA
        small = cv2.resize(square, (224, 224), interpolation=how).astype(np.float32)
        (logits,) = session.run(["logits"], {"input": (small / 127.5 - 1).transpose(2, 0, 1)[np.newaxis]})
        powers = np.exp(logits[0].astype(np.float64))
        shares = powers / powers.sum()
        best = np.argsort(-shares)[:n_classes]
        found[path.name] = [(imagenet_labels()[i], float(shares[i])) for i in best]
    return found


@pytest.mark.slow
def test_classes_of_200_photos_are_those_of_an_independent_script(cli: Cli, shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "mobilenetv2.onnx"
    folders = sorted(folder for folder in (shared / "images" / "clothing").iterdir() if folder.is_dir())
    paths = [path for folder in folders for path in sorted(folder.iterdir())[:20]]
    assert len(paths) == 200
    (tmp_path / "in").mkdir()
    for path in paths:
        (tmp_path / "in" / path.name).symlink_to(path)
    out = tmp_path / "out"
    ran = cli("run", tmp_path / "in", "--out", out, "-k", 10, "--features", model, "--set", "features.classes=5")
    assert ran.code == 0, ran.err
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows(out / "classes.csv"):
        found.setdefault(row["path"], []).append((row["class"], float(row["probability"])))
    expected = by_an_own_script(paths, model, 5)
    assert found.keys() == expected.keys()
    differences = []
    for name, classes in expected.items():
        assert [one for one, _ in found[name]] == [one for one, _ in classes], name
        differences += [abs(a - b) for (_, a), (_, b) in zip(found[name], classes, strict=True)]
    print(f"200 photos, {len(differences)} classes: the same, probabilities within {max(differences):.2e}")
    assert max(differences) <= 1e-5
    names = json.loads((out / "summary.json").read_text())["cluster_names"]
    assert {"jean", "sandal"} & {part for name in names for part in name.split(", ")}, names
