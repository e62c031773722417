"""One time and one peak of a run, whoever tells them: lines on stderr, the summary, summary.json, the report."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from conftest import Cli, write_pictures

from bigcluster.pipeline.job import Stages
from bigcluster.runtime.events import Event, Progress, StageFinished
from bigcluster.runtime.sampler import MemorySampler
from bigcluster.units import show_bytes, show_seconds

STAGE = re.compile(
    r'</span>(\w+)</th><td>(\w*).*?</td><td class="n">(.*?)</td>.*?</td><td class="n">.*?</td><td class="n">(.*?)</td>'
)


def test_everybody_tells_the_same_time_and_peak(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "images", 12)
    ran = cli("run", tmp_path / "images", "--out", tmp_path / "o", "-k", 3, "--size", 16, "--memory", "1GiB")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    page = (tmp_path / "o" / "report" / "index.html").read_text()
    seconds, peak = show_seconds(summary["seconds"]), show_bytes(summary["memory"]["measured_peak_bytes"])
    assert f"time: {seconds}\n" in ran.out
    assert f"memory: {peak} measured" in ran.out
    assert f"<dt>Time</dt><dd>{seconds}</dd>" in page
    assert f"<dt>Peak memory</dt><dd>{peak}<small>" in page
    stages = summary["stages"]
    shown = {
        name: (facts.get("solver", ""), show_seconds(facts["seconds"]), show_bytes(facts["measured_peak_bytes"]))
        for name, facts in stages.items()
    }
    assert {name: tuple(rest) for name, *rest in STAGE.findall(page)} == shown
    assert list(stages)[-1] == "report", "its own stage is in all of them"
    for name, facts in stages.items():
        assert re.search(rf"^{name}: .* in {re.escape(show_seconds(facts['seconds']))}$", ran.err, re.MULTILINE), name
    assert sum(facts["seconds"] for facts in stages.values()) <= summary["seconds"]
    with (tmp_path / "o" / "memory.csv").open(newline="") as file:
        readings = list(csv.DictReader(file))
    assert summary["memory"]["measured_peak_bytes"] == max(int(row["bytes"]) for row in readings)
    assert peak == show_bytes(max(facts["measured_peak_bytes"] for facts in stages.values()))


def test_an_account_that_is_closed_stays_as_it_is() -> None:
    told: list[Event] = []
    progress = Progress(told.append)
    with MemorySampler() as sampler:
        stages = Stages(sampler, progress)
        with stages.measure("one", 5) as facts, progress.stage("one", 1, "steps"):
            facts["solver"] = "first"
            account = stages.close()
            grown = bytearray(b"x" * 50_000_000)
            facts["files"] = 3
        peaks = {**stages.facts["one"]}
        sampler.enter("one")
        del grown
    assert stages.close() is account
    assert stages.facts["one"] == peaks
    assert (peaks["solver"], peaks["files"], peaks["projected_peak_bytes"]) == ("first", 3, 5)
    assert peaks["measured_peak_bytes"] == account.peak_bytes
    (finished,) = [event for event in told if isinstance(event, StageFinished)]
    assert finished.seconds == peaks["seconds"]
