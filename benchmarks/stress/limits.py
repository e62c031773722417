"""Hostile files against the memory budget: every command stays below it, ends in time, and says what was wrong.

The process tree is looked at from outside (PSS). Each case is a folder, a manifest or an OUT that a stranger may have
made, see hostile_files.py and hostile_outs.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.stress.hostile_files import FOLDERS, MANIFESTS, PICTURES
from benchmarks.stress.hostile_outs import OUTS
from benchmarks.stress.tree import Watched, watch
from benchmarks.stress.work import scratch
from bigcluster.units import MIB

BUDGET_MIB = 256
OPEN_MIB = 64
"""What `bc.open` may take of a hostile OUT beyond what it takes of a sound one."""
MOST_SECONDS = 120.0
SOUND_PICTURES = 4
ROOT = Path(__file__).parents[2]
SMALL = ("webp_sparse", "tiff_tile", "csv_equal", "links", "codec", "mark_fifo")
"""The cases that are run where the figure is not to take minutes."""


def main(full: bool) -> dict[str, Any]:
    """Pictures and manifests with run, plan and predict; an OUT with verify, report, predict, run, and bc.open."""
    with scratch() as folder:
        sound = _sound_out(folder)
        rows = [*_cases(folder, sound, full), *_out_cases(folder, sound, full)]
    worst = max((row for row in rows if row["command"] != "open"), key=lambda row: row["peak_mib"])
    opened = max((row["peak_mib"] for row in rows if row["command"] == "open"), default=0)
    broken = [row for row in rows if row["fault"]]
    assert not broken, f"{len(broken)} of {len(rows)}: {broken[:5]}"
    says = f"{len(rows)} commands on hostile input within {BUDGET_MIB} MiB; most: {worst['peak_mib']} ({worst['case']})"
    says += f"; bc.open of a hostile OUT adds up to {opened} MiB to what a sound one takes"
    return {"commands": len(rows), "broken": 0, "worst_mib": worst["peak_mib"], "rows": rows, "says": says}


def _cases(folder: Path, sound: Path, full: bool) -> Iterator[dict[str, Any]]:
    for name, maker in (PICTURES | FOLDERS).items():
        if full or name in SMALL:
            images = _sound_pictures(folder / name)
            maker(images)
            yield from _commands(name, images, folder, sound, full)
            shutil.rmtree(images)
    for name, (file, maker) in MANIFESTS.items():
        if full or name in SMALL:
            (folder / name).mkdir()
            maker(folder / name)
            yield from _commands(name, folder / name / file, folder, sound, full)
            shutil.rmtree(folder / name)


def _commands(name: str, images: Path, folder: Path, sound: Path, full: bool) -> Iterator[dict[str, Any]]:
    out = folder / f"{name}-out"
    given = ["-k", "2", "--size", "32", "--set", "image.timeout=5"]
    yield _row(name, ["run", str(images), "--out", str(out), *given], folder)
    if full:
        yield _row(name, ["plan", str(images), "--out", str(out), *given], folder)
        yield _row(name, ["predict", str(sound), str(images), "--to", str(folder / "new.csv")], folder)
    shutil.rmtree(out, ignore_errors=True)


def _out_cases(folder: Path, sound: Path, full: bool) -> Iterator[dict[str, Any]]:
    usual = {name: _opened(sound, name, folder).peak_bytes for name in PROPERTIES} if full else {}
    images = folder / "sound"
    for name, maker in OUTS.items():
        if not (full or name in SMALL):
            continue
        for command in ("verify", "report", "predict", "run") if full else ("verify",):
            out = _changed(sound, folder / f"{name}-out", maker)
            given = {
                "predict": [str(out), str(images), "--to", str(folder / "new.csv")],
                "run": [str(images), "--out", str(out), "-k", "2", "--size", "32"],
            }
            yield _row(name, [command, *given.get(command, [str(out)])], folder)
        out = _changed(sound, folder / f"{name}-out", maker)
        for property_name, usual_bytes in usual.items():
            found = _opened(out, property_name, folder)
            more_mib = round(max(0, found.peak_bytes - usual_bytes) / MIB, 1)
            fault = _fault(found, 0) or (f"{property_name} takes {more_mib} MiB more" if more_mib > OPEN_MIB else "")
            row = {"case": name, "command": "open", "peak_mib": more_mib, "seconds": round(found.seconds, 1)}
            yield row | {"code": found.code, "said": f"{property_name}: {found.said.strip()[-300:]}", "fault": fault}
        shutil.rmtree(out)


def _changed(sound: Path, out: Path, maker: Callable[[Path], None]) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(sound, out, symlinks=True)
    maker(out)
    return out


def _opened(out: Path, name: str, folder: Path) -> Watched:
    """One property of bc.open in a process of its own; errors of ours are as good as values."""
    code = f"""
import bigcluster as bc
from bigcluster.errors import BigclusterError
try:
    found = bc.open({str(out)!r})
    print(len(str({PROPERTIES[name]})))
except BigclusterError as error:
    print(type(error).__name__, str(error)[:200])
"""
    command = [sys.executable, "-c", code]
    return watch(command, environment=_environment(), most_seconds=MOST_SECONDS, cwd=folder)


PROPERTIES = {
    "summary": "found.summary",
    "labels": "found.labels",
    "images": "found.images",
    "centers": "found.centers",
    "scores": "found.scores[:2].compute()",
    "_repr_html_": "found._repr_html_()",
}
"""Of what bc.open returns."""


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _row(name: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    quiet = ["--quiet"] if arguments[0] != "plan" else []
    command = [*arguments, "--memory", f"{BUDGET_MIB}MiB", "--threads", "2", *quiet]
    found = watch(
        [sys.executable, "-m", "bigcluster", *command],
        environment=_environment(),
        most_seconds=MOST_SECONDS,
        cwd=folder,
    )
    peak_mib = round(found.peak_bytes / MIB, 1)
    row = {"case": name, "command": arguments[0], "peak_mib": peak_mib, "seconds": round(found.seconds, 1)}
    return row | {"code": found.code, "said": found.said.strip()[-300:], "fault": _fault(found, peak_mib)}


def _fault(found: Watched, peak_mib: float) -> str:
    if found.code is None:
        return "it did not end"
    if "Traceback" in found.said or found.code not in (0, 1, 2, 3):
        return f"it ended with {found.code}: {found.said[-300:]}"
    return f"it held {peak_mib} MiB" if peak_mib > BUDGET_MIB else ""


def _sound_pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(SOUND_PICTURES):
        values = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"sound-{i}.{'jpg' if i % 2 else 'png'}")
    return folder


def _sound_out(folder: Path) -> Path:
    """The OUT of a finished run of sound pictures."""
    images, out = _sound_pictures(folder / "sound"), folder / "sound-out"
    done = _row("sound", ["run", str(images), "--out", str(out), "-k", "2", "--size", "32"], folder)
    assert done["code"] == 0, done
    return out
