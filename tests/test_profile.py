"""Memory-profiling runs: files that memory-profiler's reader opens, and naive ways whose MemoryError is a result."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mprof
import pytest
from conftest import Cli, write_pictures

import bigcluster as bc
from bigcluster.errors import ConfigError, ProfiledRunError
from bigcluster.units import MIB

pytestmark = pytest.mark.slow
N = 60
OPTIONS = ("-k", 3, "--size", 16, "--components", 4, "--memory", "1GiB")


@dataclass(frozen=True)
class Profiled:
    images: Path
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Profiled:
    """One profile with both naive ways, the second of which may hold less than its libraries do."""
    images = tmp_path_factory.mktemp("images")
    write_pictures(images, N)
    out = tmp_path_factory.mktemp("profiled") / "o"
    ran = cli("profile", images, "--out", out, *OPTIONS, "--compare", "numpy", "--compare", "naive-dask")
    assert ran.code == 0, ran.err
    return Profiled(images, out / "profile", ran.out)


def test_memory_profilers_reader_opens_the_dat_and_finds_the_stages(profiled: Profiled) -> None:
    read = mprof.read_mprofile_file(str(profiled.folder / "mprofile.dat"))
    assert len(read["mem_usage"]) == len(read["timestamp"]) >= 5
    assert read["timestamp"] == sorted(read["timestamp"])
    assert list(read["func_timestamp"]) == ["ingest", "reduce", "cluster", "output", "report"]
    for spans in read["func_timestamp"].values():
        ((start, stop, *_),) = spans
        assert read["timestamp"][0] <= start <= stop <= read["timestamp"][-1] + 1
    assert max(read["mem_usage"]) * MIB == pytest.approx(ways(profiled)["bigcluster"], rel=0.01)
    assert max(read["mem_usage"]) > 60, "the working process is a child"
    assert "bigcluster run" in read["cmd_line"]


def ways(profiled: Profiled) -> dict[str, int]:
    found = json.loads((profiled.folder / "comparison.json").read_text())
    assert isinstance(found, list)
    return {way["name"]: way["peak_bytes"] for way in found}


def summary(profiled: Profiled) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((profiled.folder.parent / "summary.json").read_text())
    return found


def test_the_timeline_is_a_table_and_a_picture(profiled: Profiled) -> None:
    with (profiled.folder / "timeline.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    took = {name: stage["seconds"] for name, stage in summary(profiled)["stages"].items()}
    # Several samples each; a short one may see none, but for the longest.
    long = {max(took, key=lambda name: took[name]), *(name for name, seconds in took.items() if seconds > 0.5)}
    assert long | {""} <= {row["stage"] for row in rows} <= {"", *took}
    assert float(rows[0]["seconds"]) == 0
    assert max(int(row["bytes"]) for row in rows) == pytest.approx(ways(profiled)["bigcluster"], rel=0.01)
    assert (profiled.folder / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_three_ways_are_compared_in_print_and_in_files(profiled: Profiled) -> None:
    assert list(ways(profiled)) == ["bigcluster", "numpy", "naive-dask"]
    with (profiled.folder / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ended"] for row in rows] == ["done", "done", "done"], rows
    for row in rows:
        assert (profiled.folder / row["dat"]).is_file()
        assert row["name"] in profiled.printed
    assert "measured, 1 GiB promised" in profiled.printed


def test_a_naive_way_that_runs_out_of_memory_is_a_result(profiled: Profiled, tmp_path: Path) -> None:
    big = {"n_clusters": 3, "size": "1200x1200", "components": 4, "memory": "2GiB", "compare": ["numpy"]}
    found = bc.profile(profiled.images, tmp_path / "o", limit="600MiB", **big)
    assert found.ways[1].ended.startswith(("MemoryError", "_ArrayMemoryError")), found.ways[1].ended
    assert found.ways[1].limit_bytes == 600 * MIB
    assert found.peak_bytes <= 2048 * MIB
    assert bc.open(tmp_path / "o").summary["counts"]["ok"] == N, "the run itself is whole"
    assert sorted(file.name for file in found.folder.glob("mprofile*")) == ["mprofile-numpy.dat", "mprofile.dat"]


def test_a_run_that_fails_gives_its_exit_code(tmp_path: Path, cli: Cli) -> None:
    images = tmp_path / "images"
    write_pictures(images, 3)
    ran = cli("profile", images, "--out", tmp_path / "o", *OPTIONS)
    assert ran.code == 1
    (line,) = ran.error_lines
    assert line.startswith("bigcluster: components = 4 needs as many good images")
    ran = cli("profile", tmp_path / "nothing", "--out", tmp_path / "o2", *OPTIONS, "--json")
    assert ran.code == 2
    (line,) = ran.error_lines
    assert json.loads(ran.out)["error"]["message"] == line.removeprefix("bigcluster: ")
    assert "does not exist" in line
    ran = cli("profile", images, "--out", tmp_path / "o", "-k", 2, "--memory", "10MB")
    assert ran.code == 2
    with pytest.raises(ProfiledRunError, match="image") as failed:
        bc.profile(images, tmp_path / "o", n_clusters=9)
    assert failed.value.exit_code == 1
    with pytest.raises(ConfigError, match="numpy and naive-dask, not 'pandas'"):
        bc.profile(images, tmp_path / "o", n_clusters=2, compare=["pandas"])


def test_a_finished_out_is_profiled_anew_and_stays_as_it_is(profiled: Profiled, tmp_path: Path, cli: Cli) -> None:
    out = Path(shutil.copytree(profiled.folder.parent, tmp_path / "o", symlinks=True))
    (profiled.images / "broken.png").write_bytes(b"no picture")
    before = {path: path.read_bytes() for path in (out / "labels.csv", out / "summary.json", out / "run.toml")}
    ran = cli("profile", profiled.images, "--out", out, *OPTIONS, "-k", 2, "--json")
    (profiled.images / "broken.png").unlink()
    assert ran.code == 3, ran.err
    found = json.loads(ran.out)["run"]
    assert not any(stage["reused"] for stage in found["stages"].values() if "reused" in stage)
    assert found["stages"]["ingest"]["images_decoded"] == N + 1
    assert found["n_clusters"] == 2
    assert "done anew" in ran.err
    # That folder is removed: an entry in it would be lost with it, where its image was deleted meanwhile.
    assert "without entries under clusters/" in ran.err
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in out.iterdir() if path.name.endswith(".partial")) == [], "its own place is gone"
    with (out / "profile" / "images.csv").open(newline="") as file:
        assert sum(row["status"] != "ok" for row in csv.DictReader(file)) == 1


def test_failures_are_printed_wherever_the_exit_code_is_3(tmp_path: Path, cli: Cli) -> None:
    images, out = tmp_path / "images", tmp_path / "o"
    write_pictures(images, 8)
    (images / "broken.png").write_bytes(b"")
    ran = cli("profile", images, "--out", out, *OPTIONS)
    assert ran.code == 3
    assert f"1 image could not be read (1 empty): see {out}/profile/images.csv" in ran.out
    ran = cli("predict", out, images, "--to", tmp_path / "p.csv")
    assert ran.code == 3
    assert f"1 image could not be read (1 empty): see {tmp_path}/p.csv" in ran.out
