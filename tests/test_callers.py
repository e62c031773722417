"""The budget of a job that Python calls is the job's: what the caller held before does not count, and is told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from conftest import environment

from bigcluster.demo import generate
from bigcluster.runtime.sampler import Caller, MemorySampler, ProcessMemory
from bigcluster.units import MIB

HELD = 300 * MIB
CALLER = """
import json, logging, os, sys
import bigcluster as bc

logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
held = bytearray(os.urandom(1 << 20) * {held_mib})
run = bc.run({images!r}, out={out!r}, n_clusters=3, size="32", memory="250MiB")
print(json.dumps({{"memory": run.summary["memory"], "notebook": run._repr_html_()}}))
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """What a caller that holds much finds: memory of the summary, what a notebook shows, what was logged."""
    folder = tmp_path_factory.mktemp("called")
    generate(folder / "cuts", 46)
    script = folder / "script.py"
    script.write_text(
        CALLER.format(held_mib=HELD // MIB, images=str(folder / "cuts"), out=str(folder / "out")), encoding="utf-8"
    )
    ran = subprocess.run([sys.executable, str(script)], env=environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    return found["memory"], found["notebook"], ran.stderr


@pytest.mark.slow
def test_what_the_caller_held_before_does_not_count(called: tuple[dict[str, Any], str, str]) -> None:
    memory, _, _ = called
    assert 80 * MIB < memory["measured_peak_bytes"] <= memory["budget_bytes"] == 250 * MIB
    assert HELD <= memory["held_before_bytes"] < HELD + 150 * MIB


@pytest.mark.slow
def test_what_the_caller_held_before_is_told(called: tuple[dict[str, Any], str, str]) -> None:
    memory, notebook, logged = called
    told = f"250 MiB promised; the calling process held {memory['held_before_bytes'] / MIB:.0f} MiB before"
    assert told in notebook
    assert told in logged
    assert "more than was promised" not in notebook + logged


def test_growth_of_the_caller_counts() -> None:
    with MemorySampler(Caller.now(), interval_seconds=3600) as sampler:
        sampler.enter("before")
        grown = bytearray(b"x" * (60 * MIB))
        sampler.enter("after")
        del grown
    assert sampler.held_before_bytes > 20 * MIB
    assert sampler.peaks["before"].peak_bytes < 20 * MIB
    assert 55 * MIB < sampler.peaks["after"].peak_bytes < 200 * MIB


def test_children_of_before_and_children_of_the_job_are_told_apart() -> None:
    holds = f"held = bytearray(b'x' * {80 * MIB}); print('held', flush=True); input()"

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    with start() as old:
        caller = Caller.now()
        with MemorySampler(caller, interval_seconds=3600) as sampler:
            sampler.enter("nothing new")
            with start() as new:
                sampler.enter("one new")
                new.communicate(b"\n")
        old.communicate(b"\n")
    assert caller.before[old.pid].n_bytes >= 80 * MIB
    assert sampler.peaks["nothing new"].peak_bytes < 40 * MIB
    assert 80 * MIB <= sampler.peaks["one new"].peak_bytes < 160 * MIB
    assert Caller.from_json(json.loads(json.dumps(caller.to_json()))) == caller


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_a_spike_from_before_the_job_is_not_the_jobs() -> None:
    spike = bytearray(b"x" * (150 * MIB))
    del spike
    caller = Caller.now()
    with MemorySampler(caller, interval_seconds=3600) as sampler:
        sampler.enter("job")
    assert sampler.unseen_bytes == 0
    less = {pid: ProcessMemory(held.n_bytes, 0) for pid, held in caller.before.items()}
    with MemorySampler(Caller(caller.pid, less)) as sampler:
        sampler.enter("job")
    assert sampler.unseen_bytes > 50 * MIB, "one that the job made would have been seen"
