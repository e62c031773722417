"""Workers that die or fall silent: how often another one is started, and what it is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bigcluster.config import Settings, settings_from
from bigcluster.runtime.events import Event, Note
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.supervisor import InternalError, supervise

WORKER = """
import sys

if "bigcluster.pipeline.worker" in sys.orig_argv:
    import json, os, time

    def tell(**message):
        print(json.dumps(message), flush=True)

    request = json.loads(sys.stdin.readline())
    isolate_rows = request["arguments"].get("isolate_rows", [])
    fate = request["arguments"]["fate"]
    for start in range(0, 30, 10):
        span = {"start": start, "stop": start + 10}
        tell(event="DecodingStarted", **span)
        time.sleep(request["arguments"].get("slow", 0))
        if fate.endswith("always") or [start, start + 10] not in isolate_rows:
            if fate.startswith("die"):
                os._exit(9)
            if fate.startswith("hang"):
                time.sleep(3600)
        tell(event="DecodingEnded", **span)
    if fate == "end":
        os._exit(9)
    tell(result={"isolate_rows": isolate_rows})
    os._exit(0)
"""


@pytest.fixture(autouse=True)
def _played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers started from here on play WORKER: three blocks of ten files, and a fate."""
    (tmp_path / "sitecustomize.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))


def play(fate: str, *, timeout: float = 0.1, **arguments: Any) -> tuple[dict[str, Any], list[str]]:
    """The result, and what was said."""
    said: list[str] = []

    def listen(event: Event) -> None:
        assert isinstance(event, Note), "what only the supervisor needs goes no further"
        said.append(event.text)

    settings: Settings = settings_from({"image.timeout": timeout})
    return supervise("run", settings, Resources(2**30, 1), listener=listen, fate=fate, **arguments), said


@pytest.mark.parametrize("fate", ["die", "hang"])
def test_each_block_costs_one_restart_and_the_next_worker_knows_of_it(fate: str) -> None:
    found, said = play(fate, timeout=1 if fate == "hang" else 60)
    assert found["isolate_rows"] == [[0, 10], [10, 20], [20, 30]]
    assert len(said) == 3
    how = "died (exit status 9)" if fate == "die" else "made no progress for 1 s"
    assert all(f"{how} over one of 10 images" in line for line in said)


@pytest.mark.parametrize("fate", ["die always", "end"])
def test_restarts_end(fate: str) -> None:
    with pytest.raises(InternalError, match=r"died \(exit status 9\); run again to resume"):
        play(fate, timeout=60)


def test_a_slow_worker_is_left_alone() -> None:
    """Its life is longer than the timeout, its silences are not."""
    found, said = play("live", timeout=3, slow=1.2)
    assert (found["isolate_rows"], said) == ([], [])
