"""The budget: what there is, what is measured, what happens where memory runs out."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PATIENCE_SECONDS, Background, Cli, command, environment, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.runtime import sampler
from bigcluster.runtime.resources import allowed_memory
from bigcluster.runtime.sampler import Caller, MemorySampler, Reading, Timeline
from bigcluster.units import MIB

SMALL = ("-k", 3, "--size", 16, "--components", 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder, 30)
    return folder


# -- what this process may use


def groups(root: Path, own: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """A fake /sys/fs/cgroup with these files, and a fake /proc/self/cgroup."""
    for name, text in limits.items():
        file = root / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    listed = root / "self"
    listed.write_text(own)
    return root / "cgroup", listed


@pytest.mark.parametrize(
    ("own", "limits", "wanted"),
    [
        ("0::/\n", {"memory.max": "104857600"}, 100),
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": "209715200", "a/b/memory.max": "max"}, 200),
        ("0::/a/b\n", {"a/memory.max": "209715200", "a/b/memory.max": "104857600"}, 100),
        ("5:cpu:/x\n4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "314572800"}, 300),
        ("4:cpu,memory:/docker/1\n", {"memory/memory.limit_in_bytes": "314572800"}, 300),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        ("", {}, None),
    ],
    ids=["v2 root", "v2 parent", "v2 own", "v1 own", "v1 container", "v1 unlimited", "v2 unlimited", "no groups"],
)
def test_limits_of_control_groups_are_read(
    own: str, limits: dict[str, str], wanted: int | None, tmp_path: Path
) -> None:
    found = allowed_memory(*groups(tmp_path, own, limits))
    without = allowed_memory(tmp_path / "nothing", tmp_path / "nothing")
    if wanted is None:
        assert found == without
    else:
        assert (found.n_bytes, found.limit) == (wanted * MIB, "cgroup limit")
    assert without.n_bytes <= psutil.virtual_memory().total


@pytest.mark.parametrize(("kind", "name"), [("RLIMIT_AS", "address space limit"), ("RLIMIT_DATA", "data limit")])
def test_resource_limits_are_read_and_said(kind: str, name: str, images: Path, tmp_path: Path) -> None:
    limit = 3 << 30
    ran = subprocess.run(
        command("run", images, "--out", tmp_path / "o", *SMALL),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(getattr(resource, kind), (limit, limit)),
    )
    assert ran.returncode == 0, ran.stderr
    assert f"memory budget: 1.5 GiB, half of what this process may use: 3 GiB ({name})" in ran.stderr
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["memory"]["budget_bytes"] == limit // 2


def test_a_budget_beyond_the_machine_is_warned_of_and_runs(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *SMALL, "--memory", "1000TB")
    assert ran.code == 0, ran.err
    warnings = [line for line in ran.err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "this process may use" in warnings[0]


def test_a_budget_below_the_floor_names_the_floor_and_a_way_out(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *SMALL, "--memory", "10MB")
    assert ran.code == 2
    (line,) = ran.error_lines
    assert "the budget is 9.54 MiB, below the floor: Python and the libraries alone hold 168 MiB" in line
    assert not (tmp_path / "o").exists()
    enough = line.rsplit("--memory ", 1)[1]
    assert cli("run", images, "--out", tmp_path / "o", *SMALL, "--memory", enough).code == 0


def test_a_refusal_comes_before_any_decode(images: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for file in images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:60])  # a header and nothing to decode
    ran = cli("run", folder, "--out", tmp_path / "o", "-k", 3, "--size", "20000x20000", "--memory", "400MiB")
    assert ran.code == 2, "a decode would have ended in exit code 1: none of the images can be read"
    assert "stage 'ingest' needs" in ran.error_lines[0]


# -- what is measured


def test_the_sampler_sees_children_and_their_children() -> None:
    # the child allocates nothing itself and has a child of its own that does
    inner = f"held = bytearray({80 * MIB}); print('held', flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with (
        subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        MemorySampler(Caller(child.pid), interval_seconds=0.02) as sampler,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        sampler.enter("held")
        child.communicate(b"\n")
    assert 80 * MIB <= sampler.peaks["held"].peak_bytes <= 160 * MIB
    assert sampler.metric in ("pss", "uss", "rss")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_a_spike_between_samples_is_told() -> None:
    spike = "import sys\nfor line in sys.stdin:\n    held = bytearray(int(line)); del held; print('gone', flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", spike], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with MemorySampler(Caller(child.pid), interval_seconds=3600) as sampler:
            sampler.enter("before")
            child.stdin.write(f"{120 * MIB}\n")
            child.stdout.readline()
        child.stdin.close()
    assert sampler.peak_bytes < 60 * MIB
    assert 100 * MIB < sampler.unseen_bytes < 160 * MIB


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1000)), min_size=1, max_size=400), st.integers(2, 40))
def test_a_timeline_stays_small_and_loses_no_peak(readings: list[tuple[str, int]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampler, "MOST_ROWS", most)
        timeline = Timeline()
        for second, (stage, n_bytes) in enumerate(readings):
            timeline.add(Reading(float(second), stage, n_bytes))
    changes = sum(one[0] != other[0] for one, other in pairwise(readings))
    assert len(timeline.rows) <= max(most, changes + 1) + 1
    assert [row.seconds for row in timeline.rows] == sorted(row.seconds for row in timeline.rows)
    for stage in "ab":
        theirs = [n_bytes for name, n_bytes in readings if name == stage]
        kept = [row.n_bytes for row in timeline.rows if row.stage == stage]
        assert max(theirs, default=None) == max(kept, default=None)
    for row in timeline.rows:
        assert readings[int(row.seconds)] == (row.stage, row.n_bytes), "a row is a reading that there was"


def test_a_run_leaves_its_memory_over_time(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *SMALL, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    with (tmp_path / "o" / "memory.csv").open(newline="") as file:
        readings = list(csv.DictReader(file))
    stages = summary["stages"]
    assert list(dict.fromkeys(row["stage"] for row in readings)) == ["list", *stages]
    for name, facts in stages.items():
        sampled = max(int(row["bytes"]) for row in readings if row["stage"] == name)
        assert sampled == facts["measured_peak_bytes"] <= facts["projected_peak_bytes"], name
    assert summary["memory"]["measured_peak_bytes"] == max(int(row["bytes"]) for row in readings)
    assert "measured, 1 GiB promised" in ran.out


def test_a_sample_on_its_way_belongs_to_the_stage_that_it_began_in() -> None:
    looking, go_on = threading.Event(), threading.Event()

    class Slow(MemorySampler):
        def _counted_bytes(self, tree: list[psutil.Process]) -> int:
            looking.set()
            assert go_on.wait(PATIENCE_SECONDS)
            return super()._counted_bytes(tree)

    go_on.set()
    with Slow(interval_seconds=0.01) as sampler:
        sampler.enter("one")
        go_on.clear()
        looking.clear()
        assert looking.wait(PATIENCE_SECONDS)  # the sampler's own thread looks, and is slow
        before = len(sampler.timeline.rows)
        others = [threading.Thread(target=sampler.enter, args=("two",)), threading.Thread(target=sampler.so_far)]
        for other in others:
            other.start()
        time.sleep(0.1)
        meanwhile = [other.is_alive() for other in others], sampler.stage
        go_on.set()
        for other in others:
            other.join()
        peaks, rows = sampler.so_far()
    assert meanwhile == ([True, True], "one"), "nothing is changed or told while somebody looks"
    assert peaks.keys() == {reading.stage for reading in rows}
    assert rows[before - 1].stage == "one"
    assert rows[-1].stage == "two"
    for name, peak_bytes in peaks.items():
        assert peak_bytes == max(reading.n_bytes for reading in rows if reading.stage == name)


def test_a_system_without_pss_names_what_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rich.console import Console

    from bigcluster.cli.display import print_summary

    class Rss:
        rss = 50 * MIB

    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda _: Rss())
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [])  # browsers of other tests
    with MemorySampler() as sampler:
        sampler.enter("stage")
    assert (sampler.metric, sampler.peak_bytes) == ("rss", 50 * MIB)
    found: dict[str, Any] = {
        "counts": {"listed": 2, "ok": 2, "failed": 0},
        "cluster_sizes": [2],
        "n_clusters": 1,
        "inertia": 0.0,
        "explained_variance_ratio": None,
        "sweep": None,
        "advice": [],
        "seconds": 1.5,
        "stages": {},
        "memory": {
            "budget_bytes": 40 * MIB,
            "measured_peak_bytes": sampler.peak_bytes,
            "unseen_bytes": 30 * MIB,
            "metric": sampler.metric,
        },
    }
    with (tmp_path / "said").open("w+") as said:
        print_summary(found, "o", Console(file=said, width=200))
        said.seek(0)
        lines = said.read()
    assert "50 MiB measured (RSS: this system has no PSS), 40 MiB promised" in lines
    assert "up to 30 MiB beyond what was sampled" in lines
    assert "more than was promised" in lines


# -- memory that vanishes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")
def test_memory_that_vanishes_is_one_line_and_a_run_to_resume(
    tmp_path: Path, cli: Cli, background: Callable[..., Background]
) -> None:
    folder = tmp_path / "images"
    first = write_pictures(folder, 1, width=1500, height=1500)[0]
    for number in range(1, 40):
        (folder / f"p{number:03d}.png").write_bytes(first.read_bytes())
    write_pictures(folder, 3, first=100)
    options = ("-k", 3, "--size", "1500x1500", "--components", 3, "--memory", "1GiB", "--threads", 1)
    out = tmp_path / "o"
    running = background("run", folder, "--out", out, *options)
    running.wait_until(lambda: list((out / ".bigcluster" / "marks").rglob("0*")))
    (worker,) = psutil.Process(running.process.pid).children()
    worker.rlimit(psutil.RLIMIT_AS, (64 * MIB, 64 * MIB))  # less than it has: it gets no more
    ran = running.end()
    assert ran.code == 1, ran.err
    assert "the system gave no more memory" in ran.err.splitlines()[-1]
    assert "run again to resume" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err
    assert not (out / "labels.csv").exists()

    again = cli("run", folder, "--out", out, *options, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["stages"]["ingest"]["blocks_reused"] >= 1
    assert cli("run", folder, "--out", tmp_path / "fresh", *options).code == 0
    assert (out / "labels.csv").read_bytes() == (tmp_path / "fresh" / "labels.csv").read_bytes()


def test_a_worker_that_the_system_kills_is_one_line(
    images: Path, tmp_path: Path, cli: Cli, background: Callable[..., Background]
) -> None:
    running = background("run", images, "--out", tmp_path / "o", *SMALL, "--memory", "1GiB")
    running.wait_until(lambda: psutil.Process(running.process.pid).children())
    time.sleep(0.05)
    for worker in psutil.Process(running.process.pid).children():
        worker.kill()
    ran = running.end()
    assert ran.code == 1
    assert "killed (SIGKILL), which is what systems do when memory runs out" in ran.err.splitlines()[-1]
    assert cli("run", images, "--out", tmp_path / "o", *SMALL, "--memory", "1GiB").code == 0
