"""What is lost or changed in the store is noticed, named and made anew: never a wrong label."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Cli, command, environment, write_pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "images"
    write_pictures(folder, 30)
    return folder


@pytest.fixture(scope="module")
def finished(images: Path, cli: Cli) -> Path:
    out = images.parent / "finished"
    ran = cli("run", images, "--out", out, "-k", 3, "--components", 5, "--size", 16)
    assert ran.code == 0, ran.err
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out", symlinks=True))


def chunk(out: Path, array: str) -> Path:
    """A file that holds values of the array."""
    return next(path for path in sorted((out / "store.zarr" / array / "c").rglob("*")) if path.is_file())


@pytest.mark.parametrize("array", ["pixels", "scores", "labels", "distance", "centers", "ok", "explained_variance"])
def test_a_lost_file_is_made_anew(out: Path, finished: Path, cli: Cli, array: str) -> None:
    chunk(out, array).unlink()
    ran = cli("run", "--out", out)
    assert ran.code == 0, ran.err
    assert (out / "labels.csv").read_bytes() == (finished / "labels.csv").read_bytes()


@pytest.mark.parametrize(("array", "k"), [("labels", 3), ("scores", 4), ("explained_variance", 4)])
def test_a_flipped_byte_is_named_and_made_anew(out: Path, images: Path, cli: Cli, array: str, k: int) -> None:
    file = chunk(out, array)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    ran = cli("run", "--out", out, "-k", k)
    assert ran.code == 1, ran.err
    assert "Traceback" not in ran.err
    said = ran.err.splitlines()[-1]
    assert said.startswith("bigcluster: ")
    assert f"{array}/c" in said
    assert "run again" in said
    ran = cli("run", "--out", out, "-k", k)
    assert ran.code == 0, ran.err
    fresh = out.parent / "fresh"
    assert cli("run", images, "--out", fresh, "-k", k, "--components", 5, "--size", 16).code == 0
    assert (out / "labels.csv").read_bytes() == (fresh / "labels.csv").read_bytes()


def test_predict_and_sweep_name_damage_too(out: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("predict", out, images, "--to", tmp_path / "p.csv").code == 0  # makes the components
    for array, command_line in (
        ("components", ("predict", out, images, "--to", tmp_path / "p.csv")),
        ("scores", ("sweep", out, "-k", "2:4")),
    ):
        file = chunk(out, array)
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 4
        file.write_bytes(data)
        ran = cli(*command_line)
        assert ran.code == 1, ran.err
        assert "Traceback" not in ran.err
        assert f"{array}/c" in ran.err.splitlines()[-1]
        assert cli("run", "--out", out).code == 0
        assert cli(*command_line).code == 0


def test_predict_never_mixes_two_runs(out: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    """An ingest of other pictures, then no reduction: the old model no longer fits the pixels, and says so."""
    others = Path(shutil.copytree(images, tmp_path / "images"))
    mine = tmp_path / "mine"
    first = ("run", others, "--out", mine, "-k", 3, "--components", 5, "--size", 16)
    assert cli(*first).code == 0
    for file in others.iterdir():
        file.write_bytes(b"")
    assert cli(*first).code == 1, "nothing could be decoded: the run stopped after the ingest"
    ran = cli("predict", mine, images, "--to", tmp_path / "p.csv")
    assert ran.code == 1, ran.out
    assert "no finished" in ran.err


def test_a_failed_call_does_not_stay_in_the_settings(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli("run", images, "--out", out, "-k", 3, "--size", 16, "--components", 31).code == 1
    (images / "empty.png").write_bytes(b"")
    try:
        ran = cli("run", images, "--out", out, "-k", 3, "--size", 16, "--components", 31)
        assert ran.code == 1, "31 are listed, 30 are good"
        ran = cli("run", images, "--out", out, "-k", 3, "--size", 16)
        assert ran.code == 3, ran.err
        assert "components" not in (out / "run.toml").read_text()
    finally:
        (images / "empty.png").unlink()


def test_a_second_run_on_one_out_is_refused(out: Path, images: Path, cli: Cli) -> None:
    holder = (
        "import sys, fcntl; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.truncate(0); f.write('process 123 on somewhere'); f.flush(); print('held', flush=True); sys.stdin.read()"
    )
    start = [command()[0], "-c", holder, str(out / ".lock")]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ran = cli("run", "--out", out)
        process.communicate(b"")
    assert (ran.code, len(ran.error_lines)) == (1, 1), ran.err
    assert "process 123 on somewhere" in ran.err
    assert cli("run", "--out", out).code == 0


def test_predict_does_not_write_over_what_it_reads(out: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    manifest = images / "list.csv"
    manifest.write_text("path,who\np000.png,=me\np001.png,you\n")
    before = (out / "labels.csv").read_bytes()
    for to in (manifest, out / "labels.csv", tmp_path / "nowhere" / "x.csv", tmp_path):
        ran = cli("predict", out, manifest, "--to", to)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
    assert manifest.read_text().startswith("path,who")
    assert (out / "labels.csv").read_bytes() == before
    assert cli("predict", out, manifest, "--to", tmp_path / "p.csv").code == 0
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0].endswith("novelty,who")
    assert lines[1].endswith(",'=me")
    manifest.unlink()


def test_a_file_that_took_the_place_of_ours_is_kept(out: Path, cli: Cli) -> None:
    entry = next(path for path in sorted((out / "clusters").rglob("*.png")))
    entry.unlink()
    entry.write_text("mine")
    assert cli("run", "--out", out, "-k", 2).code == 0
    kept = [path for path in (out / "clusters").rglob("*.png") if path.read_bytes() == b"mine"]
    assert len(kept) == 1
