"""Measured peaks against projections, in fresh processes, for every stage and solver."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, command, environment

from benchmarks import memory_matrix, output_scale, workers_matrix
from bigcluster.demo import generate
from bigcluster.planning.footprint import FLOORS
from bigcluster.units import MIB, parse_bytes

pytestmark = pytest.mark.slow
N = 400


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuts")
    generate(folder, N)
    return folder


def kept(summary: dict[str, Any], budget: str) -> None:
    """Every stage that ran within its projection, and the projection within the budget."""
    for name, facts in summary["stages"].items():
        if not facts.get("reused") and facts.get("solver") != "none":
            measured, projected = facts["measured_peak_bytes"], facts["projected_peak_bytes"]
            assert measured <= projected <= parse_bytes(budget), (name, measured / MIB, projected / MIB)
    assert summary["memory"]["measured_peak_bytes"] >= 0.4 * summary["memory"]["projected_peak_bytes"]


SOLVERS = {
    "gram": ("--components", 50),
    "covariance": ("--components", 50, "--size", 16),
    "subspace": ("--set", "pca.solver=subspace", "--components", 50),
    "variance": ("--variance", 0.7),
    "sweep": ("--components", 20, "-k", "2:12"),
    "leiden": ("--components", 20, "-k", "auto", "--set", "algorithm=leiden"),
    "pixels": ("--set", "reduce=none"),
    "minibatch": ("--components", 20, "--set", "kmeans.algorithm=minibatch"),
    "two-level": ("--components", 20, "--set", "kmeans.algorithm=two-level", "-k", 100),
    "dask-ml": ("--components", 20, "--set", "pca.solver=incremental", "--set", "kmeans.algorithm=dask-ml"),
    "colour": ("--components", 20, "--features", "color", "--size", 32),
    "tsne": ("--components", 20, "--set", "reduce=tsne", "--set", "manifold.sample=300"),
    "umap": ("--components", 20, "--set", "reduce=umap", "--set", "manifold.sample=300"),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_keeps_its_projection(solver: str, cuts: Path, tmp_path: Path, cli: Cli) -> None:
    library = {"tsne": "openTSNE", "umap": "umap"}.get(solver)
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is an extra")
    budget = "700MiB" if solver in ("dask-ml", "tsne", "umap") else "400MiB"
    ran = cli("run", cuts, "--out", tmp_path, "-k", 8, "--memory", budget, "--json", *SOLVERS[solver])
    assert ran.code == 0, ran.err
    kept(json.loads(ran.out), budget)


def test_a_network_keeps_its_projection(cuts: Path, tmp_path: Path, cli: Cli, shared: Path) -> None:
    network = shared / "models" / "mobilenetv2.onnx"
    ran = cli("run", cuts, "--out", tmp_path, "-k", 8, "--memory", "400MiB", "--json", "--features", network)
    assert ran.code == 0, ran.err
    kept(json.loads(ran.out), "400MiB")


def test_predict_keeps_its_projection(cuts: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("run", cuts, "--out", tmp_path / "o", "-k", 8, "--memory", "400MiB").code == 0
    ran = cli("predict", tmp_path / "o", cuts, "--to", tmp_path / "new.csv", "--memory", "400MiB", "--json")
    assert ran.code == 0, ran.err
    (facts,) = json.loads(ran.out)["stages"].values()
    assert facts["measured_peak_bytes"] <= facts["projected_peak_bytes"] <= 400 * MIB


def test_the_matrix_keeps_the_promise_and_writes_its_table(
    cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--numbers", "300", "--sizes", "64", "native", "--budgets", "400MiB", "--clusters", "10", "100"]
    code = memory_matrix.main([*arguments, "--images", str(cuts), "--results", str(tmp_path)])
    table = capsys.readouterr().out
    assert code == 0, table
    assert table.count("| kept |") == 4
    cells = json.loads((tmp_path / "memory-matrix.json").read_text())["cells"]
    assert len(cells) == 4
    assert all(cell["measured_bytes"] >= 0.4 * cell["projected_bytes"] for cell in cells), table
    assert not (tmp_path / "memory").exists(), "what it made for the runs is gone"


def test_every_worker_keeps_its_part_of_the_least_budget(
    cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--workers", "2", "--budgets", "least", "--jobs", "gram, k-means"]
    code = workers_matrix.main([*arguments, "--images", str(cuts), "--results", str(tmp_path)])
    table = capsys.readouterr().out
    assert (code, table.count("| kept |")) == (0, 1), table
    (cell,) = json.loads((tmp_path / workers_matrix.FILE).read_text())["cells"]
    assert cell["measured_bytes"] >= 0.5 * cell["projected_bytes"]
    assert cell["worker_measured_bytes"] >= 0.5 * cell["worker_projected_bytes"]


def test_a_worker_above_its_part_is_seen() -> None:
    cell = workers_matrix.Cell(2, "1GiB", "gram, k-means", 1000, 900, 800, 300, 200, 250)
    assert cell.failures == ["a worker above its projection"]
    cell = workers_matrix.Cell(2, "1GiB", "gram, k-means", 1000, 900, 1100, 300, 400, 310)
    assert cell.failures == ["all above the budget", "all above the projection", "a worker above its part"]


def test_a_matrix_is_filled_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier call measured stays; a cell that is measured again is replaced."""
    ran: list[memory_matrix.Cell] = []
    monkeypatch.setattr(memory_matrix, "run_matrix", lambda args: iter(ran))
    file = tmp_path / memory_matrix.FILE
    for cell in (
        memory_matrix.Cell(1000, "native", "1GiB", 10, reason="was refused"),
        memory_matrix.Cell(1000, "64", "1GiB", 10, projected_bytes=300 * MIB, measured_bytes=200 * MIB),
        memory_matrix.Cell(1000, "native", "1GiB", 10, projected_bytes=300 * MIB, measured_bytes=250 * MIB),
    ):
        ran[:] = [cell]
        assert memory_matrix.main(["--results", str(tmp_path)]) == 0
    kept = [(cell["size"], cell["measured_bytes"] // MIB) for cell in json.loads(file.read_text())["cells"]]
    assert kept == [("64", 200), ("native", 250)]
    file.write_text(file.read_text().replace('"components": 100', '"components": 50'))
    with pytest.raises(ValueError, match="of other components"):
        memory_matrix.main(["--results", str(tmp_path)])


def test_outputs_at_scale_keep_their_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", "2000", "--clusters", "20", "--memory", "400MiB", "--work", str(tmp_path)]
    assert output_scale.main(arguments) == 0, capsys.readouterr().out
    assert "| 19 | output |" in capsys.readouterr().out, "the second run replaced the folders of the first"


def test_a_broken_promise_is_seen() -> None:
    cell = memory_matrix.Cell(1, "64", "400MiB", 2, projected_bytes=300 * MIB, measured_bytes=310 * MIB)
    assert cell.failures == ["over the projection"]
    cell = memory_matrix.Cell(1000, "64", "400MiB", 2, projected_bytes=900 * MIB, measured_bytes=410 * MIB)
    assert cell.failures == ["over the budget", "projection padded"]


def test_floors_are_what_an_idle_run_holds(tmp_path: Path, cli: Cli) -> None:
    """Nearly no data: what is left is the floor. Neighbours share pages of libraries, so it may come out lower."""
    images = tmp_path / "images"
    generate(images, 40)
    for name, options in {
        "reduce=none": ("--set", "reduce=none"),
        "own solvers": (),
        "dask-ml's solvers": ("--set", "pca.solver=incremental", "--set", "kmeans.algorithm=dask-ml"),
        "2 workers": ("--workers", 2, "--threads", 1),
    }.items():
        ran = cli("run", images, "--out", tmp_path / name, "-k", 2, "--size", 8, "--memory", "1GiB", "--json", *options)
        assert ran.code == 0, ran.err
        measured = json.loads(ran.out)["memory"]["measured_peak_bytes"]
        assert 0.5 * FLOORS[name] <= measured <= FLOORS[name] + 4 * MIB, (name, measured / MIB)


# -- under a control group


CGROUP = "BIGCLUSTER_TEST_CGROUP"


def scope(limit_bytes: int) -> list[str] | str:
    """What starts a command in a memory control group of its own, or why that cannot be."""
    folder = os.environ.get(CGROUP)
    if folder is not None:  # a group that is ours to make groups in
        group = Path(folder) / f"bigcluster-{os.getpid()}"
        limit, tasks = group / "memory.max", group / "cgroup.procs"
        if not (Path(folder) / "cgroup.controllers").exists():
            limit = group / "memory.limit_in_bytes"
        script = f'mkdir -p "{group}" && echo {limit_bytes} > "{limit}" && echo $$ > "{tasks}" && exec "$@"'
        return ["/bin/sh", "-c", script, "sh"]
    if shutil.which("systemd-run") is None:
        return f"no systemd-run here, and {CGROUP} names no control group that tests may make groups in"
    user = [] if os.geteuid() == 0 else ["--user"]
    start = ["systemd-run", *user, "--scope", "--quiet", "-p", f"MemoryMax={limit_bytes}", "-p", "MemorySwapMax=0"]
    tried = subprocess.run([*start, "true"], capture_output=True, text=True, check=False)
    return start if tried.returncode == 0 else f"systemd-run cannot make a scope: {tried.stderr.strip()}"


def test_a_run_in_a_group_of_its_budget_is_not_killed(cuts: Path, tmp_path: Path) -> None:
    budget = 400 * MIB
    start = scope(budget + 64 * MIB)
    if isinstance(start, str):
        pytest.skip(start)
    ran = subprocess.run(
        [*start, *command("run", cuts, "--out", tmp_path / "o", "-k", 8, "--memory", f"{budget}B")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    if CGROUP in os.environ:
        made = Path(os.environ[CGROUP]) / f"bigcluster-{os.getpid()}"
        assert not (made / "cgroup.procs").read_text(), "a process outlived the run"
        made.rmdir()
