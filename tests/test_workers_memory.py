"""The memory of workers: sampled while they work, sent in batches, told by stage, host and process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mprof
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.outputs.summary import memory_lines
from bigcluster.runtime.dask_cluster import memory
from bigcluster.runtime.dask_cluster.memory import SentMemory
from bigcluster.runtime.sampler import MemorySampler
from bigcluster.runtime.workers_memory import ALL, COORDINATOR, ProcessName, WorkersMemory
from bigcluster.units import MIB


def message(process: str, *samples: tuple[float, int], unseen: int = 0) -> dict[str, Any]:
    return {"host": "b", "process": process, "samples": list(samples), "unseen": unseen}


def test_what_a_job_holds_is_sent_at_its_end_and_nothing_stays() -> None:
    sent: list[dict[str, Any]] = []
    meter = SentMemory("one", sent.append)
    with meter.of_job():
        held = np.ones(64 * MIB, np.uint8)
        time.sleep(0.3)
        del held
    assert [one["process"] for one in sent] == ["one"]
    assert json.loads(json.dumps(sent)) == sent, "it is sent as plain values"
    assert all(0 <= age < PATIENCE_SECONDS for age, _ in sent[0]["samples"])
    before = max(n_bytes for _, n_bytes in sent[0]["samples"])
    assert before >= 64 * MIB
    assert "memory-sampler" not in [thread.name for thread in threading.enumerate()]
    with meter.of_job():  # the last sample is new enough
        pass
    assert sum(len(one["samples"]) for one in sent[1:]) <= 1


def test_sampling_short_jobs_takes_a_small_share_of_time() -> None:
    """After a sample that took long, the next one waits, also where each job is short."""
    meter = SentMemory("one", lambda message: None)
    pauses = []
    for _ in range(3):
        with meter.of_job():
            pass
        pauses.append(meter._pause)
    assert pauses[0] > 0
    assert pauses == [pauses[0]] * 3, "one sample was taken, and the pause after it is not over"


def test_a_long_job_sends_what_it_holds_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BATCH_SECONDS", 0.0)
    sent: list[dict[str, Any]] = []
    with SentMemory("one", sent.append).of_job():
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(sent) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_children_of_a_worker_count_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BATCH_SECONDS", 0.0)
    sent: list[dict[str, Any]] = []
    with SentMemory("one", sent.append).of_job():
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not sent:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        alone = sent[-1]["samples"][-1][1]
        code = f"held = b'x' * {100 * MIB}; input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            while sent[-1]["samples"][-1][1] < alone + 90 * MIB:
                assert time.monotonic() < deadline, "the child is not counted"
                time.sleep(0.01)
            child.communicate(b"\n")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3), st.integers(0, 100)), min_size=1, max_size=50))
def test_samples_belong_to_the_stage_in_which_they_were_taken(samples: list[tuple[str, float, int]]) -> None:
    """However late they come: the age of a sample counts, and not the clock of another host."""
    now = time.monotonic()
    edges = {"first": now - 2.0, "second": now - 1.0}

    def place(moment: float) -> tuple[float, str]:
        stage = next((name for name, edge in reversed(edges.items()) if moment >= edge), "")
        return moment - now + 10, stage

    found = WorkersMemory(place)
    for process, age, n_bytes in samples:
        if min(abs(age - 1), abs(age - 2)) > 0.1:  # some time passes until they are taken
            found.add(message(process, (age, n_bytes)))
    expected: dict[str, int] = {}
    for _, age, n_bytes in samples:
        if min(abs(age - 1), abs(age - 2)) > 0.1:
            stage = "second" if age < 1 else "first" if age < 2 else ""
            expected[stage] = max(expected.get(stage, 0), n_bytes)
    assert {stage: found.peak_of(stage) for stage in ("", "first", "second")} == {
        stage: expected.get(stage) for stage in ("", "first", "second")
    }
    largest = found.largest()
    assert (largest.peak_bytes if largest else None) == max(expected.values(), default=None)
    assert sum(len(rows) for rows in found.timelines().values()) <= len(samples)


def test_a_sampler_knows_the_stage_of_a_moment() -> None:
    with MemorySampler() as sampler:
        before = time.monotonic()
        sampler.enter("one")
        during = time.monotonic()
        sampler.enter("two")
        assert [sampler.place(at)[1] for at in (before, during, time.monotonic())] == ["", "one", "two"]
        seconds = [sampler.place(at)[0] for at in (before, during, time.monotonic())]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_a_worker_above_its_budget_is_told() -> None:
    workers = {"number": 2, "budget_bytes": 100 * MIB, "projected_peak_bytes": 90 * MIB, "unseen_bytes": 0}
    told = {"metric": "pss", "measured_peak_bytes": 80 * MIB, "unseen_bytes": 0, "budget_bytes": 300 * MIB}
    where = {"stage": "ingest", "host": "b", "process": "tcp://b:1"}
    lines = list(memory_lines({**told, "workers": {**workers, **where, "measured_peak_bytes": 85 * MIB}}))
    assert lines[1:] == ["each of 2 workers: 85 MiB measured at most (stage ingest, tcp://b:1 on b), 100 MiB promised"]
    lines = list(memory_lines({**told, "workers": {**workers, **where, "measured_peak_bytes": 101 * MIB}}))
    assert "more than was promised" in lines[-1]
    assert len(list(memory_lines({**told, "workers": {**workers, "measured_peak_bytes": None}}))) == 1


@pytest.mark.slow
def test_a_profile_of_workers_has_a_line_for_each_process(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "images", 60)
    line = ("-k", 3, "--size", 16, "--components", 4, "--workers", 2, "--threads", 1, "--memory", "1GiB")
    ran = cli("profile", tmp_path / "images", "--out", tmp_path / "o", *line)
    assert ran.code == 0, ran.err
    assert "each of 2 workers: " in ran.out
    table = (tmp_path / "o" / "profile" / "timeline.csv").read_text().splitlines()
    assert table[0] == "seconds,stage,bytes,process"
    names = {row.rpartition(",")[2] for row in table[1:]}
    assert names == {ALL, "coordinator and scheduler", "worker 1", "worker 2"}
    read = mprof.read_mprofile_file(str(tmp_path / "o" / "profile" / "mprofile.dat"))
    assert len(read["children"]) == 3, "mprof draws them too"
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    memory_of = summary["memory"]["workers"]
    rows = [row.split(",") for row in (tmp_path / "o" / "memory.csv").read_text().splitlines()[1:]]
    of_workers = {ProcessName(row[3], row[4]): int(row[2]) for row in rows if row[4] not in (ALL, COORDINATOR)}
    assert len(of_workers) == 2
    assert 0 < memory_of["measured_peak_bytes"] <= memory_of["projected_peak_bytes"] <= memory_of["budget_bytes"]
    facts = summary["stages"]["ingest"]
    assert 0 < facts["worker_measured_peak_bytes"] <= facts["worker_projected_peak_bytes"]
    assert facts["measured_peak_bytes"] <= facts["projected_peak_bytes"]
