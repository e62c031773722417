"""The main job in real processes: reuse, refusals, interrupts, kills, and the same labels however it is scheduled."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Background, Cli, Ran, encoded, picture, write_pictures

import bigcluster as bc
from bigcluster.errors import ImagesNotFoundError, OutError

N = 40
FAST = ("--size", 8, "--set", "reduce=none", "--memory", "1GiB")
"""Settings of runs that are not about the reduction: no solver is imported, a run takes about two seconds."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures in two folders, a text file and a picture that is none."""
    folder = tmp_path_factory.mktemp("run") / "images"
    write_pictures(folder / "one", N // 2)
    write_pictures(folder / "two", N // 2, first=N // 2)
    (folder / "notes.txt").write_text("x")
    return folder


@pytest.fixture(scope="module")
def finished(images: Path, cli: Cli) -> tuple[Path, Ran]:
    """An OUT of a run with the defaults; tests that change it work on a copy."""
    out = images.parent / "finished"
    return out, cli("run", images, "--out", out, "-k", 3, "--components", 5, "--size", 16, "--json", "--memory", "1GiB")


@pytest.fixture
def out(finished: tuple[Path, Ran], tmp_path: Path) -> Path:
    """A copy of the finished OUT."""
    return Path(shutil.copytree(finished[0], tmp_path / "out", symlinks=True))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def reused(out: Path) -> dict[str, bool]:
    return {name: stage["reused"] for name, stage in summary(out)["stages"].items() if "reused" in stage}


def refused(ran: Ran, code: int, *says: str) -> None:
    """One line on stderr with all of `says`, the exit code, nothing on stdout, no traceback."""
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    errors = [line for line in ran.error_lines if line.startswith("bigcluster: ")]
    assert len(errors) == 1, ran.err
    assert ran.error_lines[-1] == errors[0], ran.err
    assert ran.out == ""
    for piece in says:
        assert piece in errors[0], errors[0]


# -- the main job


def test_end_to_end(finished: tuple[Path, Ran], images: Path) -> None:
    out, ran = finished
    assert ran.code == 0, ran.err
    labels = rows(out / "labels.csv")
    assert [row["path"] for row in labels] == [f"{'one' if i < 20 else 'two'}/p{i:03d}.png" for i in range(N)]
    assert {row["status"] for row in labels} == {"ok"}
    assert [row["path"] for row in rows(out / "images.csv")] == [row["path"] for row in labels]
    assert files_in(out / "clusters") == sorted(row["file"] for row in labels)
    for row in labels:
        assert (out / "clusters" / row["file"]).samefile(images / row["path"])
        assert row["file"].startswith(f"{int(row['label']):02d}/")
        assert float(row["margin"]) >= 0
        assert row["label"] != row["runner_up"]
    found = summary(out)
    sizes = [sum(row["label"] == str(label) for row in labels) for label in range(3)]
    assert found["cluster_sizes"] == sizes == sorted(sizes, reverse=True)
    assert found["counts"] == {
        "listed": N,
        "ok": N,
        "failed": 0,
        "failed_by_status": {},
        "ignored": 1,
        "ignored_by_suffix": {".txt": 1},
        "unreadable_folders": [],
    }
    assert found["inertia"] == pytest.approx(sum(float(row["distance"]) ** 2 for row in labels), rel=1e-4)
    variance = rows(out / "variance.csv")
    assert found["n_components"] == 5
    assert float(variance[4]["cumulative_share"]) == pytest.approx(found["explained_variance_ratio"], abs=2e-6)
    assert set(found["stages"]) == {"ingest", "reduce", "cluster", "output", "report"}
    for stage in found["stages"].values():
        assert stage["seconds"] >= 0
        assert stage["measured_peak_bytes"] > 0
    assert found["memory"]["budget_bytes"] == 2**30


def test_json_is_one_document_and_equals_summary_json(finished: tuple[Path, Ran]) -> None:
    out, ran = finished
    assert json.loads(ran.out) == summary(out)


def test_the_python_api_reads_what_the_run_left(finished: tuple[Path, Ran]) -> None:
    run = bc.open(finished[0])
    assert len(run.labels) == len(run.images) == N
    assert list(run.labels.columns) == ["path", "label", "distance", "runner_up", "margin", "status", "file"]
    scores = run.scores.compute(scheduler="synchronous")
    assert scores.shape == (N, 5)
    assert run.centers.shape == (3, 5)
    nearest = ((scores[:, None] - run.centers) ** 2).sum(axis=2).argmin(axis=1)
    assert nearest.tolist() == run.labels["label"].tolist()
    assert "40 images in 3 clusters" in repr(run)


def test_the_same_command_again_reuses_everything(out: Path, images: Path, cli: Cli) -> None:
    before = (out / "labels.csv").read_bytes()
    ran = cli("run", images, "--out", out, "-k", 3, "--components", 5, "--size", 16, "--memory", "2GiB", "--threads", 1)
    assert ran.code == 0, ran.err
    assert reused(out) == {"ingest": True, "reduce": True, "cluster": True, "report": True}
    assert (out / "labels.csv").read_bytes() == before
    assert len(files_in(out / "clusters")) == N


def test_another_k_reuses_pixels_and_scores_and_kept_settings_are_named(out: Path, cli: Cli) -> None:
    ran = cli("run", "--out", out, "-k", 4, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    assert reused(out) == {"ingest": True, "reduce": True, "cluster": False, "report": False}
    found = summary(out)
    assert found["n_clusters"] == 4
    assert sorted(found["nearest_previous"]) != []
    assert all(0 <= old < 3 for old in found["nearest_previous"])
    kept = next(line for line in ran.err.splitlines() if line.startswith("kept from the last run:"))
    assert "components = 5" in kept
    assert "size = 16x16" in kept
    assert "k = " not in kept
    assert len(files_in(out / "clusters")) == N


def test_fewer_components_do_not_decode_again(out: Path, cli: Cli) -> None:
    assert cli("run", "--out", out, "--components", 2, "--memory", "1GiB").code == 0
    assert reused(out)["ingest"]
    assert summary(out)["n_components"] == 2


def test_another_size_is_refused_without_replace(out: Path, cli: Cli) -> None:
    before = {path: (out / path).read_bytes() for path in files_in(out)}
    refused(cli("run", "--out", out, "--size", 12), 2, "16", "12", "--replace")
    assert {path: (out / path).read_bytes() for path in files_in(out)} == before
    assert cli("run", "--out", out, *FAST, "--replace").code == 0
    assert summary(out)["settings"]["size"] == "8x8"
    assert not (out / "variance.csv").exists(), "of a reduction that this run did not make"


def test_fresh_ignores_kept_settings(out: Path, images: Path, cli: Cli) -> None:
    refused(cli("run", images, "--out", out, "--fresh"), 2, "--replace")
    refused(cli("run", images, "--out", out, "--fresh", "-k", 3), 2, "--replace")  # size 64 by default


def test_run_toml_repeats_the_run(out: Path, cli: Cli, tmp_path: Path) -> None:
    before = (out / "run.toml").read_bytes(), (out / "labels.csv").read_bytes()
    copy = tmp_path / "copy.toml"
    copy.write_text((out / "run.toml").read_text().replace(str(out.parent.parent), str(out.parent.parent)))
    ran = cli("run", "--config", copy, "--out", out, "--memory", "1GiB", "--threads", 1, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert (out / "labels.csv").read_bytes() == before[1]
    for word in ("memory", "threads", "workers", "scheduler"):
        assert not re.search(rf"^{word} =", (out / "run.toml").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_labels_do_not_depend_on_threads_and_memory(
    finished: tuple[Path, Ran], images: Path, cli: Cli, tmp_path: Path
) -> None:
    wanted = (finished[0] / "labels.csv").read_bytes()
    for number, options in enumerate(([], ["--threads", 1], ["--threads", 2, "--memory", "700MiB"])):
        fresh = tmp_path / str(number)
        ran = cli("run", images, "--out", fresh, "-k", 3, "--components", 5, "--size", 16, *options)
        assert ran.code == 0, ran.err
        assert (fresh / "labels.csv").read_bytes() == wanted, options


def test_a_plan_writes_nothing(images: Path, cli: Cli, tmp_path: Path) -> None:
    for command in (["plan", images], ["run", images, "--dry-run"]):
        ran = cli(*command, "--out", tmp_path / "o", "-k", 3, "--memory", "1GiB", "--json")
        assert ran.code == 0, ran.err
        plan = json.loads(ran.out)
        assert [stage["stage"] for stage in plan["stages"]] == ["ingest", "reduce", "cluster", "output", "report"]
        assert all(0 < stage["projected_bytes"] <= 2**30 for stage in plan["stages"])
        assert not (tmp_path / "o").exists()


def test_stderr_has_plain_lines_and_quiet_none(images: Path, cli: Cli, tmp_path: Path) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", "-k", 2, *FAST)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.err + ran.out
    assert "\r" not in ran.err
    assert any(line.startswith("ingest: 40 images in ") for line in ran.err.splitlines())
    assert "40 of 40 images in 2 clusters" in ran.out
    again = cli("run", "--out", tmp_path / "o", "--quiet", "--memory", "1GiB")
    assert (again.code, again.err, again.out) == (0, "", "")


def test_bad_files_are_rows_and_exit_3(images: Path, cli: Cli, tmp_path: Path) -> None:
    hostile = tmp_path / "images"
    shutil.copytree(images, hostile)
    (hostile / "one" / "empty.jpg").write_bytes(b"")
    (hostile / "=text.png").write_text("text")
    (hostile / "cut.png").write_bytes(encoded(picture(1))[:90])
    ran = cli("run", hostile, "--out", tmp_path / "o", "-k", 2, *FAST, "--json")
    assert ran.code == 3, ran.err
    counts = json.loads(ran.out)["counts"]
    assert (counts["listed"], counts["ok"], counts["failed"]) == (43, 40, 3)
    failed = {row["path"]: row for row in rows(tmp_path / "o" / "labels.csv") if row["status"] != "ok"}
    assert {path: row["status"] for path, row in failed.items()} == {
        "./=text.png": "unsupported",
        "cut.png": "truncated",
        "one/empty.jpg": "empty",
    }
    assert {(row["label"], row["distance"], row["file"]) for row in failed.values()} == {("-1", "", "")}
    assert len(files_in(tmp_path / "o" / "clusters")) == N


def test_an_unreadable_file_is_a_row_and_is_tried_again(
    images: Path, cli: Cli, tmp_path: Path, permissions: None
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    closed = folder / "one" / "p003.png"
    closed.chmod(0)
    ran = cli("run", folder, "--out", tmp_path / "o", "-k", 2, *FAST, unprivileged=True)
    assert ran.code == 3, ran.err
    row = rows(tmp_path / "o" / "images.csv")[3]
    assert (row["path"], row["status"], row["reason"]) == ("one/p003.png", "unreadable", "Permission denied")
    assert "1 unreadable" in ran.out
    closed.chmod(0o644)
    assert cli("run", "--out", tmp_path / "o", unprivileged=True).code == 0
    assert rows(tmp_path / "o" / "labels.csv")[3]["status"] == "ok"


# -- interrupts and kills


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough pixels that a run can be caught in the act: links to a few large pictures, in two blocks."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(16):
        (folder / f"large-{i:02d}.png").write_bytes(encoded(picture(i, 600, 800)))
    for i in range(16, 720):
        os.link(folder / f"large-{i % 16:02d}.png", folder / f"large-{i:03d}-more.png")
    return folder


def marks(out: Path, stage: str = "ingest") -> int:
    return len(list((out / ".bigcluster" / "marks" / stage).glob("*.json")))


@pytest.mark.slow
def test_killed_in_every_way_the_same_command_resumes(
    many: Path, tmp_path: Path, cli: Cli, background: Callable[..., Background], subreaper: None
) -> None:
    out = tmp_path / "o"
    options = (
        "-k",
        3,
        "--size",
        "300x430",
        "--set",
        "reduce=none",
        "--set",
        "kmeans.max_iter=2",
        "--set",
        "kmeans.n_init=1",
        "--memory",
        "6GiB",
    )
    command = ("run", many, "--out", out, *options)

    interrupted = background(*command)
    interrupted.wait_until(lambda: marks(out) >= 1)
    interrupted.process.send_signal(signal.SIGINT)
    ran = interrupted.end()
    assert ran.code == 130, ran.err
    assert "Traceback" not in ran.err
    assert ran.err.splitlines()[-1] == "bigcluster: interrupted; what is done is saved, the same command resumes"
    assert not (out / "labels.csv").exists()
    done = marks(out)
    assert done >= 1

    def accepted() -> int:
        """run.toml is written anew once a plan is accepted, just before the first stage."""
        return (out / "run.toml").stat().st_mtime_ns

    before = accepted()
    killed = background(*command)
    killed.wait_until(lambda: accepted() != before and marks(out) == 2)
    workers = psutil.Process(killed.process.pid).children(recursive=True)
    assert workers
    killed.process.send_signal(signal.SIGKILL)
    assert killed.end().code == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "a worker outlived its supervisor"
    assert not (out / "labels.csv").exists()

    orphaned = background(*command)
    orphaned.wait_until(lambda: psutil.Process(orphaned.process.pid).children())
    for worker in psutil.Process(orphaned.process.pid).children():
        worker.kill()
    refused(orphaned.end(), 1, "killed (SIGKILL)", "memory", "run again to resume")

    ran = cli(*command)
    assert ran.code == 0, ran.err
    assert reused(out)["ingest"]
    undisturbed = tmp_path / "undisturbed"
    assert cli("run", many, "--out", undisturbed, *options, "--threads", 1).code == 0
    assert (out / "labels.csv").read_bytes() == (undisturbed / "labels.csv").read_bytes()
    assert files_in(out / "clusters") == files_in(undisturbed / "clusters")


# -- bad input: one line, the right exit code, nothing half-written


def test_no_images(tmp_path: Path, cli: Cli) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("x")
    refused(cli("run", empty, "--out", tmp_path / "o", "-k", 2), 1, "no images", "empty: left out: 1 .txt")
    refused(cli("run", tmp_path / "nowhere", "--out", tmp_path / "o", "-k", 2), 2, "does not exist")
    assert not (tmp_path / "o").exists()


def test_out_inside_images(images: Path, cli: Cli) -> None:
    refused(cli("run", images, "--out", images / "out", "-k", 2), 2, "OUT lies inside IMAGES", "move OUT")
    assert not (images / "out").exists()


def test_out_of_other_images(out: Path, tmp_path: Path, cli: Cli) -> None:
    other = tmp_path / "other"
    write_pictures(other, 5)
    before = (out / "run.toml").read_bytes()
    refused(cli("run", other, "--out", out, "-k", 2), 2, "OUT belongs to the images in", str(other))
    assert (out / "run.toml").read_bytes() == before


def test_images_that_were_renamed(images: Path, tmp_path: Path, cli: Cli) -> None:
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "o"
    shutil.copytree(images, old)
    assert cli("run", old, "--out", out, "-k", 2, *FAST).code == 0
    old.rename(new)
    refused(cli("run", new, "--out", out, "-k", 2, *FAST), 2, f"{old}, which is gone", str(new), f"{out}/run.toml")
    refused(cli("run", "--out", out, *FAST[-2:]), 2, "IMAGES does not exist", str(old))
    settings = out / "run.toml"
    settings.write_text(settings.read_text().replace(f'"{old}"', f'"{new}"'))
    ran = cli("run", new, "--out", out, "-k", 2, *FAST)
    assert ran.code == 0, ran.err
    assert reused(out)["ingest"], "what the message says is true"


def test_out_that_is_not_ours(images: Path, tmp_path: Path, cli: Cli) -> None:
    foreign = tmp_path / "holiday"
    foreign.mkdir()
    (foreign / "diary.txt").write_text("dear")
    refused(cli("run", images, "--out", foreign, "-k", 2), 2, "not ours", "diary.txt")
    refused(cli("run", images, "--out", foreign / "diary.txt", "-k", 2), 2, "is a file")
    assert files_in(tmp_path) == ["holiday/diary.txt"]


def test_k_above_the_number_of_images(images: Path, tmp_path: Path, cli: Cli) -> None:
    refused(cli("run", images, "--out", tmp_path / "o", "-k", 41, *FAST), 1, "k = 41", "40", "-k 40")
    assert not (tmp_path / "o").exists()


def test_k_above_the_number_of_good_images(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "images"
    write_pictures(folder, 3)
    (folder / "bad.jpg").write_bytes(b"")
    (folder / "worse.jpg").write_bytes(b"")
    ran = cli("run", folder, "--out", tmp_path / "o", "-k", 4, *FAST)
    refused(ran, 1, "k = 4", "of 5 listed images 3 could be read", "-k 3")
    assert cli("run", folder, "--out", tmp_path / "o", "-k", 3, *FAST).code == 3, "the next run does not trip"


def test_one_good_image_is_too_few_for_pca(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "images", 1)
    for name in ("y.png", "z.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    says = "there is 1 (2 more could not be read; y.png: empty, "
    refused(cli("run", tmp_path / "images", "--out", tmp_path / "o", "-k", 1), 1, "at least 2 good images", says)


def test_all_images_bad(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a\nb.jpg").write_bytes(b"")
    (folder / "\x1b[31m.jpg").write_text("text")
    ran = cli("run", folder, "--out", tmp_path / "o", "-k", 1, *FAST)
    refused(ran, 1, "not one of 2 listed images", "empty", r"a\nb.jpg", r"\x1b[31m.jpg")
    assert "\x1b" not in ran.err
    write_pictures(folder, 2)
    assert cli("run", folder, "--out", tmp_path / "o", "-k", 1, *FAST).code == 3


def test_an_unwritable_out(images: Path, tmp_path: Path, cli: Cli, permissions: None) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for out in (closed, closed / "deeper"):
        ran = cli("run", images, "--out", out, "-k", 2, *FAST, unprivileged=True)
        refused(ran, 1, "OUT cannot be written", str(out), "Permission denied")
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("solver", ["gram", "subspace"])
def test_all_of_the_variance_is_all_there_is(images: Path, tmp_path: Path, cli: Cli, solver: str) -> None:
    ran = cli("run", images, "--out", tmp_path / "out", "-k", 2, "--variance", 1, "--set", f"pca.solver={solver}")
    assert ran.code == 0, ran.err
    found = summary(tmp_path / "out")
    assert found["explained_variance_ratio"] == pytest.approx(1, abs=1e-3)
    assert N - 3 <= found["n_components"] <= N - 1


def test_wrong_settings(images: Path, tmp_path: Path, cli: Cli) -> None:
    start = ("run", images, "--out", tmp_path / "o", "-k", 2)
    refused(cli(*start, "--set", "kmeans.n_inits=2"), 2, "unknown key 'kmeans.n_inits'", "'kmeans.n_init'")
    refused(cli(*start, "--variance", 0.5, "--components", 3), 2, "exclude each other")
    refused(cli(*start, "--set", "variance=0.5", "--set", "components=3"), 2, "exclude each other")
    refused(cli(*start, "--size", "huge"), 2, "size must be")
    refused(cli(*start, "--memory", "512"), 2, "memory needs a unit")
    refused(cli(*start, "--threads", 0), 2, "threads must be a whole number of at least 1")
    refused(cli(*start, "--config", "nothing"), 2, "no config named")
    refused(cli("run", images, "-k", 2), 2, "OUT is missing")
    refused(cli("run", "--out", tmp_path / "o", "-k", 2), 2, "IMAGES is missing")
    refused(cli("run", images, "--nonsense"), 2, "--nonsense")
    refused(cli("runn"), 2, "runn")
    assert not (tmp_path / "o").exists()


def test_a_budget_that_is_too_small(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", "-k", 2, "--memory", "50MiB")
    refused(ran, 2, "needs", "the budget is 50 MiB", "below the floor", "--memory")
    assert not (tmp_path / "o").exists()
    ran = cli("run", images, "--out", tmp_path / "o", "-k", 2, "--memory", "300MiB", "--size", 9000)
    refused(ran, 2, "stage 'ingest' needs", "the budget is 300 MiB", "--memory", "--size 4500x4500")
    assert not (tmp_path / "o").exists()


def test_native_with_unequal_sizes(images: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "zodd.png").write_bytes(encoded(picture(1, 33, 44)))
    start = ("run", folder, "--out", tmp_path / "o", "-k", 2, *FAST[2:])
    refused(cli(*start, "--size", "native"), 1, "zodd.png is 33x44", "24x32 (40)", "--size")
    ran = cli(*start, "--size", "24x32")
    assert ran.code == 0, "nothing is in the way of another size: " + ran.err
    (folder / "zodd.png").unlink()
    ran = cli(*start, "--size", "native", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["settings"]["size"] == "native"


def test_a_name_that_run_toml_cannot_hold(images: Path, tmp_path: Path, cli: Cli) -> None:
    refused(cli("run", images, "--out", tmp_path / "a\nb", "-k", 2, *FAST), 2, r"a\nb", "rename")
    assert files_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_version(out: Path, cli: Cli) -> None:
    metadata = out / "store.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"bigcluster_format": 3', '"bigcluster_format": 99'))
    before = (out / "run.toml").read_bytes()
    refused(cli("run", "--out", out), 2, "format 99")
    assert (out / "run.toml").read_bytes() == before


# -- the Python API does the same


def test_the_api_runs_and_raises_the_same_errors(images: Path, tmp_path: Path) -> None:
    events: list[str] = []
    run = bc.run(
        images,
        out=tmp_path / "o",
        n_clusters=2,
        memory="1GiB",
        threads=1,
        size=8,
        reduce="none",
        set={"kmeans.n_init": 1},
        listener=lambda event: events.append(type(event).__name__),
    )
    assert sorted(run.labels["label"].unique()) == [0, 1]
    assert run.summary["settings"]["kmeans.n_init"] == 1
    assert "StageFinished" in events
    assert bc.plan(images, tmp_path / "p", n_clusters=2).n_images == N
    with pytest.raises(OutError):
        bc.run(images, out=images / "o", n_clusters=2)
    with pytest.raises(ImagesNotFoundError):
        bc.run(tmp_path / "nowhere", out=tmp_path / "p", n_clusters=2)
