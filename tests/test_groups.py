"""Groups without a number: a run without -k finds the communities of the graph of neighbors of networks' features and
vectors, and takes the choice of a sweep on pixels."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bigcluster as bc
from bigcluster.config import Settings, resolve
from bigcluster.config.ks import MOST_CLUSTERS, auto_ks
from bigcluster.errors import ConfigError, MemoryBudgetError, StoreError
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.pipeline.plan import plan_absent
from bigcluster.pipeline.predict import predict
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import run as run_here
from bigcluster.pipeline.verify import verify
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.communities import votes
from bigcluster.solvers.communities.footprint import neighbors_for
from bigcluster.stages.membership import LEIDEN
from bigcluster.store import Store
from bigcluster.store.payloads import has_form
from bigcluster.units import GIB, MIB

N, D = 120, 12
HERE = Resources(512 * MIB, 2)
"""For jobs in the process of the tests."""
FAST = ["report.write=false", "link=none", "size=8"]


def planted(sizes: tuple[int, ...] = (60, 36, 24), spread: float = 0.15, seed: int = 0) -> NDArray[np.float32]:
    """Directions around some axes, in a random order."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (np.eye(len(sizes), D)[truth] + spread * rng.standard_normal((len(truth), D))).astype(np.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups") / "images"
    write_pictures(folder, N, width=8, height=8)
    return folder


def with_vectors(folder: Path, x: NDArray[np.float32]) -> Path:
    """Write vectors of the first len(x) pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "v.npy", x)
    with (folder / "v.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([f"p{i:03d}.png"] for i in range(len(x)))])
    return folder / "v.npy"


def few_images(folder: Path, n: int) -> Path:
    write_pictures(folder, n, width=8, height=8)
    return folder


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> bc.Run:
    """A finished run without k, on planted groups."""
    folder = tmp_path_factory.mktemp("done")
    return bc.run(
        images, folder / "out", features=with_vectors(folder / "in", planted()), set=[*FAST, "resolution=0.5"]
    )


def stored(run: bc.Run, name: str) -> NDArray[Any]:
    return np.asarray(Store(run.out, create=False).array(name)[...])


def test_planted_groups_are_found_without_a_number(done: bc.Run) -> None:
    summary = done.summary
    truth = planted().argmax(axis=1)
    assert summary["algorithm"] == LEIDEN
    assert summary["inertia"] is None
    assert summary["modularity"] > 0.4
    assert summary["cluster_sizes"] == [60, 36, 24]
    np.testing.assert_array_equal(done.labels["label"], truth)  # numbered by size, as the axes are here
    assert summary["stages"]["neighbors"]["metric"] == "cosine"
    for stage in ("neighbors", "cluster"):
        facts = summary["stages"][stage]
        assert facts["measured_peak_bytes"] <= facts["projected_peak_bytes"]
    assert done.verify()["ok"]


def test_what_the_columns_mean(done: bc.Run) -> None:
    """Distance to the mean of the community; the runner-up and the margin are of the votes of the neighbors."""
    rows, labels = to_unit_length(stored(done, "scores")), stored(done, "labels")
    means = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in range(3)])
    np.testing.assert_allclose(done.centers, means, rtol=1e-12)
    table, counted = done.labels, votes(labels[stored(done, "neighbor_ids")], labels)
    np.testing.assert_allclose(table["distance"], np.linalg.norm(rows - means[labels], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(table["runner_up"].fillna(-1), counted.runner_up)
    np.testing.assert_allclose(table["margin"], counted.shares - counted.runner_up_shares, rtol=1e-5)
    assert table["runner_up"].isna().any()
    assert (table["margin"][table["runner_up"].isna()] == 1).all()


@pytest.mark.parametrize("memory", [400 * MIB, 2 * GIB])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_labels_depend_on_neither_budget_nor_threads(
    memory: int, threads: int, done: bc.Run, images: Path, tmp_path: Path
) -> None:
    flags = {"images": str(images), "out": str(tmp_path / "out"), "features": done.summary["settings"]["features"]}
    chosen = resolve(flags=flags, sets=[*FAST, "resolution=0.5"], config=None, kept=None)
    run_here(chosen, Resources(memory, threads))
    assert (tmp_path / "out" / "labels.csv").read_bytes() == (done.out / "labels.csv").read_bytes()


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_an_image_of_the_model_gets_its_own_label(reduce: str, images: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((N, D)).astype(np.float32)  # no groups: most images have other votes
    run = bc.run(images, tmp_path / "out", features=with_vectors(tmp_path / "in", x), reduce=reduce, set=FAST)
    assert (run.labels["margin"] < 0).any(), "some image has more neighbors in another community"
    predicted = run.predict(images, tmp_path / "p.csv")
    np.testing.assert_array_equal(predicted["label"], run.labels["label"])
    np.testing.assert_allclose(predicted["distance"], run.labels["distance"], rtol=1e-4)


def test_groups_of_one_size_are_numbered_by_their_smallest_path(images: Path, tmp_path: Path) -> None:
    x = planted((40, 40, 40))
    flags = {"images": str(images), "out": str(tmp_path / "out"), "features": str(with_vectors(tmp_path / "in", x))}
    chosen = resolve(flags=flags, sets=[*FAST, "resolution=0.5"], config=None, kept=None)
    assert run_here(chosen, HERE)["cluster_sizes"] == [40, 40, 40]
    labels = bc.open(tmp_path / "out").labels["label"].tolist()  # in the order of the paths
    assert list(dict.fromkeys(labels)) == [0, 1, 2]


def test_new_images_go_where_their_neighbors_are(done: bc.Run, tmp_path: Path) -> None:
    images, new = few_images(tmp_path / "new", 30), planted((15, 9, 6), seed=7)
    predicted = done.predict(images, tmp_path / "p.csv", features=with_vectors(tmp_path / "in", new))
    np.testing.assert_array_equal(predicted["label"], new.argmax(axis=1))
    assert predicted["margin"].notna().all()
    assert predicted["novelty"].notna().all()


def test_other_settings_do_not_search_the_neighbors_again(done: bc.Run, images: Path, tmp_path: Path) -> None:
    out, features = tmp_path / "out", done.summary["settings"]["features"]
    first = bc.run(images, out, features=features, set=[*FAST, "resolution=0.5"])
    labels = (out / "labels.csv").read_bytes()
    finer = bc.run(out=out, set=["resolution=4"])
    assert finer.summary["stages"]["neighbors"]["reused"]
    assert finer.summary["n_clusters"] > 3
    kmeans = bc.run(out=out, n_clusters=3)
    assert kmeans.summary["inertia"] > 0
    assert "neighbors" not in kmeans.summary["stages"]
    assert kmeans.verify()["ok"]
    back = bc.run(out=out, n_clusters="auto", set=["resolution=0.5"])
    assert back.summary["stages"]["neighbors"]["reused"]
    assert (out / "labels.csv").read_bytes() == labels
    assert first.verify()["ok"]


def test_verify_finds_damage_of_the_graph_and_the_next_run_mends_it(done: bc.Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = bc.run(images, out, features=done.summary["settings"]["features"], set=[*FAST, "resolution=0.5"])
    labels = (out / "labels.csv").read_bytes()
    chunk = next(path for path in (out / "store.zarr" / "neighbor_ids" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    found = run.verify()
    assert not found["ok"]
    assert "neighbors" in found["redo"]
    again = bc.run(out=out)
    assert not again.summary["stages"]["neighbors"]["reused"]
    assert (out / "labels.csv").read_bytes() == labels
    assert again.verify()["ok"]


def test_verify_compares_labels_with_the_stored_graph(done: bc.Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = bc.run(images, out, features=done.summary["settings"]["features"], set=[*FAST, "resolution=0.5"])
    store = Store(out)
    mark = store.mark("cluster")
    assert mark is not None
    margin = store.load("margin")
    margin[0] -= 0.25
    digests = dict(mark.digests) | store.save("margin", margin)
    store.commit("cluster", mark.fingerprint, digests, mark.payload)
    found = run.verify()
    assert "cluster" in found["redo"]
    assert any("votes" in damage["what"] for damage in found["damaged"])


def test_a_graph_that_names_other_rows_is_searched_again(done: bc.Run, images: Path, tmp_path: Path) -> None:
    """Anybody can write an array and the mark that vouches for it."""
    out = tmp_path / "out"
    run = bc.run(images, out, features=done.summary["settings"]["features"], set=[*FAST, "resolution=0.5"])
    labels, store = (out / "labels.csv").read_bytes(), Store(out)
    mark = store.mark("neighbors")
    assert mark is not None
    forged = store.load("neighbor_ids")
    forged[3, 1] = N
    store.commit("neighbors", mark.fingerprint, dict(mark.digests) | store.save("neighbor_ids", forged), mark.payload)
    assert "neighbors" in run.verify()["redo"]
    store.commit("neighbors", mark.fingerprint, dict(mark.digests) | store.save("neighbor_ids", forged), mark.payload)
    again = bc.run(out=out, seed=0)
    assert not again.summary["stages"]["neighbors"]["reused"]
    assert (out / "labels.csv").read_bytes() == labels
    assert again.verify()["ok"]


def test_a_mark_of_groups_without_its_facts_counts_as_none(done: bc.Run) -> None:
    mark = Store(done.out, create=False).mark("cluster")
    assert mark is not None
    assert has_form("cluster", "done", mark.fingerprint, mark.payload)
    for name in ("modularity", "resolution", "n_neighbors", "metric"):
        facts = {key: value for key, value in mark.payload["facts"].items() if key != name}
        assert not has_form("cluster", "done", mark.fingerprint, {**mark.payload, "facts": facts})
    assert not has_form("cluster", "done", mark.fingerprint, {**mark.payload, "inertia": 1.0})


def equal(n: int) -> NDArray[np.float32]:
    return np.ones((n, D), np.float32)


def duplicates() -> NDArray[np.float32]:
    """Two groups of equal rows, with more of them than neighbors."""
    return np.repeat(np.eye(2, D), 40, axis=0).astype(np.float32)


def zeros() -> NDArray[np.float32]:
    x = planted((20, 20))
    x[::5] = 0
    return x


@pytest.mark.parametrize(
    ("x", "reduce", "more", "sizes"),
    [
        (equal(30), "none", [], [30]),
        (equal(2), "none", [], [2]),
        (planted((1, 1)), "pca", [], [2]),
        (planted((1, 1)), "pca", ["resolution=100"], [1, 1]),
        (planted((1, 1, 1)), "pca", ["resolution=100"], [1, 1, 1]),
        (equal(1), "none", [], [1]),
        (duplicates(), "pca", [], [40, 40]),
        (planted((20, 20)), "pca", ["resolution=1e6"], [1] * 40),
        (planted((20, 20)), "pca", ["resolution=1e-9"], None),
    ],
    ids=["equal", "two equal", "two", "two alone", "three alone", "one", "duplicates", "all alone", "few"],
)
def test_unusual_rows(
    x: NDArray[np.float32], reduce: str, more: list[str], sizes: list[int] | None, tmp_path: Path
) -> None:
    images, features = few_images(tmp_path / "images", len(x)), with_vectors(tmp_path / "in", x)
    flags = {"images": str(images), "out": str(tmp_path / "out"), "features": str(features), "reduce": reduce}
    chosen = resolve(flags=flags, sets=[*FAST, *more, "features.normalize=none"], config=None, kept=None)
    summary = run_here(chosen, HERE)
    assert sizes is None or sorted(summary["cluster_sizes"]) == sorted(sizes)
    assert sizes is not None or summary["n_clusters"] <= 2
    assert verify(chosen, HERE)["damaged"] == []
    assert predict(chosen, HERE, images=str(images), to=str(tmp_path / "p.csv"))["counts"]["ok"] == len(x)
    report(chosen, HERE)


def test_vectors_of_zeros_have_neighbors_too(tmp_path: Path) -> None:
    x = zeros()
    images = few_images(tmp_path / "images", len(x))
    run = bc.run(
        images, tmp_path / "out", features=with_vectors(tmp_path / "in", x), reduce="none",
        set=[*FAST, "features.normalize=none"],
    )  # fmt: skip
    assert run.summary["counts"]["ok"] == len(x)
    assert run.verify()["ok"]
    assert np.isfinite(stored(run, "neighbor_distances")).all()
    predicted = run.predict(images, tmp_path / "p.csv")
    np.testing.assert_array_equal(predicted["label"], run.labels["label"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-k", 10, "--set", "algorithm=leiden"], "exclude each other"),
        (["-k", "2:9", "--set", "algorithm=leiden"], "exclude each other"),
        (["--set", "resolution=0"], "resolution must be a number above 0"),
        (["--set", "resolution=-1"], "resolution must be a number above 0"),
        (["--set", "resolution=nan"], "resolution must be a number above 0"),
        (["--set", "resolution=inf"], "resolution must be a number above 0"),
        (["--set", "resolution=2"], "k-means clusters here"),
        (["--set", "algorithm=leiden", "--set", "reduce=none"], "use reduce = pca"),
        (["--set", "algorithm=hdbscan"], "auto, kmeans, leiden"),
        (["-k", "atuo"], "k must be auto, a number"),
    ],
)
def test_one_clear_line_where_settings_do_not_fit(
    arguments: list[object], says: str, images: Path, tmp_path: Path, cli: Cli
) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *arguments)
    assert ran.code == 2
    assert len(ran.error_lines) == 1
    assert says in ran.err
    assert not (tmp_path / "o").exists()


def test_pixels_without_a_number_take_the_choice_of_a_sweep(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *(f"--set={value}" for value in FAST), "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert summary["algorithm"] == "kmeans"
    assert summary["settings"]["k"] == "auto"
    assert summary["sweep"]["k"] == summary["n_clusters"]
    assert "elbow" in summary["sweep"]["reason"], "how sure the choice is"
    again = bc.run(out=tmp_path / "o")
    assert again.summary["stages"]["sweep"]["reused"]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_pixels_without_a_number(n: int, tmp_path: Path) -> None:
    flags = {"images": str(few_images(tmp_path / "images", n)), "out": str(tmp_path / "out")}
    chosen = resolve(flags=flags, sets=FAST, config=None, kept=None)
    assert run_here(chosen, HERE)["n_clusters"] == max(1, n // 2)
    assert verify(chosen, HERE)["ok"]


def test_only_good_images_count_for_the_numbers_that_are_tried(tmp_path: Path) -> None:
    folder = few_images(tmp_path / "images", 40)
    for path in sorted(folder.glob("*.png"))[10:]:
        path.write_bytes(b"no picture")
    run = bc.run(folder, tmp_path / "out", set=FAST)
    assert run.summary["counts"]["ok"] == 10
    assert 2 <= run.summary["n_clusters"] <= 5


def test_pixels_have_communities_where_they_are_asked_for(images: Path, tmp_path: Path) -> None:
    run = bc.run(images, tmp_path / "out", set=["link=none", "size=8", "algorithm=leiden"])  # with its report
    assert run.summary["algorithm"] == LEIDEN
    assert run.summary["stages"]["neighbors"]["metric"] == "euclidean"
    assert run.verify()["ok"]


def test_the_report_says_how_groups_were_found(done: bc.Run) -> None:
    done.report()
    pages = done.out / "report"
    assert "Modularity" in (pages / "index.html").read_text(encoding="utf-8")
    assert "groups were found without a number" in (pages / "k.html").read_text(encoding="utf-8")
    assert "share of the neighbors" in (pages / "clusters" / "00.html").read_text(encoding="utf-8")
    assert done.verify()["ok"]


def test_the_report_says_how_many_neighbors_are_in_the_runner_up(images: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((N, D)).astype(np.float32)  # no groups
    flags = {"images": str(images), "out": str(tmp_path / "out"), "features": str(with_vectors(tmp_path / "in", x))}
    chosen = resolve(flags=flags, sets=FAST, config=None, kept=None)
    run_here(chosen, HERE)
    report(chosen, HERE)
    pages = (tmp_path / "out" / "report" / "clusters").glob("*.html")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert re.search(r"</a>, \d+% fewer of its neighbors<", text)
    assert re.search(r"</a>, \d+% more of its neighbors<", text)
    assert "farther</span></figcaption>" not in text


@given(st.integers(0, 10**7))
def test_what_auto_tries_fits_the_images(n: int) -> None:
    ks = auto_ks(n)
    assert ks
    assert ks[0] >= 1
    assert ks[-1] <= max(1, n)
    assert list(ks) == sorted(set(ks))
    assert Settings().for_images(n).ks == ks
    assert neighbors_for(max(1, n)) in range(3, 16)


@settings(max_examples=60)
@given(
    st.sampled_from(["gray", "mobilenetv2", "v.npy"]),
    st.sampled_from([None, "auto", 7, "2:9"]),
    st.sampled_from([None, "auto", "kmeans", "leiden"]),
    st.sampled_from([None, "auto", 7, "2:9"]),
    st.sampled_from([None, "kmeans", "leiden"]),
)
def test_a_number_and_leiden_never_go_together(
    features: str, k: Any, algorithm: str | None, kept_k: Any, kept_algorithm: str | None
) -> None:
    """What a call says counts, and what it does not say follows from it; only a call that says both is refused."""
    kept = {"k": kept_k, "algorithm": kept_algorithm}
    if kept_algorithm == "leiden" and kept_k not in (None, "auto"):
        kept["k"] = None
    kept = {name: value for name, value in kept.items() if value is not None}
    call = {"features": features, "k": k, "algorithm": algorithm}
    if algorithm == "leiden" and k not in (None, "auto"):
        with pytest.raises(ConfigError, match="exclude each other"):
            resolve(flags=call, sets=(), config=None, kept=kept)
        return
    found = resolve(flags=call, sets=(), config=None, kept=kept)
    assert k is None or found.k == k
    assert algorithm is None or found.algorithm == algorithm
    assert found.finds_communities == (not found.ks)
    assert not (found.algorithm == "leiden" and found.k != "auto")
    if k not in (None, "auto"):
        assert not found.finds_communities
        assert found.ks[-1] <= MOST_CLUSTERS


def test_a_plan_says_what_groups_hold_and_is_refused_with_the_fix() -> None:
    chosen = resolve(flags={"features": "gray"}, sets=("algorithm=leiden", "components=64"), config=None, kept=None)
    small, large = (plan_absent(chosen, 1_000_000, Resources(n * GIB, 2)) for n in (2, 4))
    assert large.stage("neighbors").projected_bytes < 2 * GIB < large.stage("cluster").projected_bytes < 4 * GIB
    large.check()
    with pytest.raises(MemoryBudgetError, match=r"stage 'cluster' needs .* -k with a number"):
        small.check()


def test_a_sweep_of_resolutions_uses_the_stored_graph(done: bc.Run, cli: Cli) -> None:
    graph = {path: path.stat().st_mtime_ns for path in (done.out / "store.zarr" / "neighbor_ids").rglob("*")}
    ran = cli("sweep", done.out, "--resolution", "0.5,0.1, 4", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [row["resolution"] for row in found["rows"]] == [0.1, 0.5, 4]
    assert found["in_use"] == 0.5
    counts = [row["n_clusters"] for row in found["rows"]]
    assert counts[1] == done.summary["n_clusters"] == 3
    assert counts == sorted(counts)
    assert graph == {path: path.stat().st_mtime_ns for path in (done.out / "store.zarr" / "neighbor_ids").rglob("*")}
    assert list(done.sweep()["resolution"]) == [0.25, 0.5, 1, 2, 4]
    assert done.verify()["ok"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resolution", "0"], "resolution must be a number above 0"),
        (["--resolution", "1,nan"], "resolution must be a number above 0"),
        (["--resolution", ""], "resolution must be a number above 0"),
        (["--resolution", 1, "-k", 3], "exclude each other"),
        (["--resolution", 1, "--set", "kmeans.n_init=2"], "may name seed"),
    ],
)
def test_a_sweep_of_wrong_resolutions(arguments: list[object], says: str, done: bc.Run, cli: Cli) -> None:
    ran = cli("sweep", done.out, *arguments)
    assert ran.code == 2
    assert len(ran.error_lines) == 1
    assert says in ran.err


def test_a_sweep_of_resolutions_needs_a_graph(images: Path, tmp_path: Path) -> None:
    run = bc.run(images, tmp_path / "out", n_clusters=2, set=FAST)
    with pytest.raises(ConfigError, match="-k 5:20"):
        run.sweep()
    with pytest.raises(StoreError, match="no graph"):
        run.sweep(resolution=1)
