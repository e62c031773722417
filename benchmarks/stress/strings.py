"""Strings of strangers and side channels: names of files, cells of manifests, a stranger's summary and tables, depths
and numbers without measure, a TMPDIR without room, processes that are killed.

What is shown is text and nothing else, what cannot be done is one line, and nothing is left behind.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import bigcluster as bc
from benchmarks.stress.harness import PATIENCE_SECONDS, ROOT, command, contents, make_deep, remove_deep, said
from benchmarks.stress.work import Job, catalog, scratch
from bigcluster.errors import BigclusterError
from bigcluster.estimators.pca import PCA

NAMES = (
    *("\x1b[2J\x1b]0;owned\x07.jpg", "\x9b31m.jpg", "a\rb.jpg", "a\nbigcluster: all is well.jpg", "\u202egpj.exe.jpg"),
    *(
        "<img src=x onerror=alert(1)>.jpg",
        "'\"&.jpg",
        "=cmd|' A0'!A0.jpg",
        "\u2066\u200b.jpg",
        "a\u2028b.jpg",
        "\x7f.jpg",
    ),
)
CELLS = ("=1+1", "+A1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", " =1")
"""What a spreadsheet may run; the last one, which begins with a blank, it shows as text."""
GUARDED = CELLS[:-1]
FAST = ("--size", "16", "--components", "3", "--memory", "1GiB", "--set", "report.write=false")
N_IMAGES = 16


def main(full: bool) -> dict[str, Any]:
    """All of it; where not full, without what takes many processes."""
    counts: dict[str, int] = {}
    with scratch() as folder:
        images = catalog(folder / "images", N_IMAGES)
        pictures = sorted(images.rglob("*.jpg"))
        counts["names"] = _names_on_terminals(folder, pictures)
        counts["notebooks"] = _notebooks(folder, images)
        counts["cells"] = _cells(folder, images, pictures)
        counts["shares"] = _shares()
        for name, task in (FURTHER if full else {}).items():
            counts[name] = task(folder, images)
            print(f"strings: {name}: {counts[name]}", file=sys.stderr, flush=True)
    return {
        **counts,
        "says": "; ".join(f"{number} {what}" for what, number in counts.items()) + ": text stayed text, what cannot be "
        "done was one line, and nothing was left behind",
    }


def _is_plain(text: str) -> bool:
    """Whether a terminal only shows it: no control characters and no marks that turn the order of what is read."""
    return all(letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp") for letter in text)


def _names_on_terminals(folder: Path, pictures: list[Path]) -> int:
    """Hostile names, good and broken pictures, through `run` and `verify` of damaged entries."""
    hostile, out = folder / "hostile", folder / "hostile-out"
    hostile.mkdir()
    for number, name in enumerate(NAMES):
        shutil.copyfile(pictures[number], hostile / name)
        (hostile / f"broken-{name}").write_bytes(b"no picture")
    lines: list[list[object]] = [["run", hostile, "--out", out, "-k", 2, *FAST[:-2]], ["verify", out]]
    for number, line in enumerate(lines):
        if number == 1:
            for entry in (out / "clusters").rglob("*.jpg"):
                entry.unlink()
                entry.write_text("not it")
        done = command(*line)
        assert done.returncode == (1 if number else 3), done.stderr
        assert _is_plain(done.stdout + done.stderr), f"{line[0]}: {done.stdout + done.stderr!r}"
    for page in (out / "report").rglob("*.html"):
        assert "<img src=x onerror" not in page.read_text(encoding="utf-8"), f"{page.name} runs a name"
    return 2 * len(NAMES)


def _notebooks(folder: Path, images: Path) -> int:
    """A stranger's OUT, shown in a notebook: a summary that holds HTML, tables that name files elsewhere."""
    secret, out = folder / "secret.jpg", folder / "strange"
    shutil.copyfile(next(images.rglob("*.jpg")), secret)
    Job(images, {"k": 3, "size": "16x16", "components": 3}).run(out)
    before = (out / "summary.json").read_text(encoding="utf-8")
    code = "<script>alert(1)</script>"
    tampered = 0
    for name in json.loads(before):
        summary = json.loads(before)
        summary[name] = code if not isinstance(summary[name], list) else [code]
        (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        tampered += _shows_nothing(out, code, b"")
    (out / "summary.json").write_text(before, encoding="utf-8")
    rows = list(csv.reader((out / "labels.csv").read_text(encoding="utf-8").splitlines()))
    for file in ("../../secret.jpg", str(secret), "../clusters/../../secret.jpg"):
        with (out / "labels.csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([rows[0], *([secret, *row[1:6], file, *row[7:]] for row in rows[1:])])
        tampered += _shows_nothing(out, code, secret.read_bytes())
    return tampered


def _shows_nothing(out: Path, code: str, secret: bytes) -> int:
    try:
        shown = str(bc.open(out)._repr_html_())
    except BigclusterError:
        return 1
    assert code not in shown, "a notebook runs what a summary says"
    assert not secret or base64.b64encode(secret)[:200].decode() not in shown, "a notebook shows a file of somebody"
    return 1


def _cells(folder: Path, images: Path, pictures: list[Path]) -> int:
    """Cells and names of columns of a manifest, in labels.csv and in the table of a predict."""
    manifest, out, to = folder / "manifest.csv", folder / "cells", folder / "predicted.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "said", "=1+1"])
        for number, picture in enumerate(pictures):
            cell = CELLS[number % len(CELLS)]
            writer.writerow([picture.relative_to(folder), cell, cell])
    job = Job(manifest, {"k": 2, "size": "16x16", "components": 3, "report.write": False})
    job.run(out)
    job.predict(out, to)
    for table in (out / "labels.csv", to):
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        cells = [cell for row in rows for cell in row[-2:]]
        bare = [cell for cell in cells if cell.startswith(GUARDED) or cell[:1] in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"]
        assert not [cell for cell in bare if cell], f"{table.name} has cells that a spreadsheet runs: {bare[:3]}"
        assert sum(cell.startswith("'") for cell in cells) > len(pictures), f"{table.name} guards nothing"
    return 4 * len(pictures)


def _shares() -> int:
    """One value that is not zero: its variance is all that there is, and no more."""
    for solver in ("gram", "covariance", "subspace"):
        for shape in ((40, 30), (30, 40), (200, 8)):
            x = np.zeros(shape)
            x[3, 5] = 1
            ratio = PCA(3, solver=solver).fit(x).explained_variance_ratio_
            assert 0 <= ratio.min() <= ratio.sum() <= 1 + 1e-6, f"{solver}, {shape}: shares {ratio}"
    return 9


# -- with many processes


def _depths_and_numbers(folder: Path, images: Path) -> int:
    """Folders, settings and numbers without measure: one line and exit code 2, or done."""
    deep = folder / "deep"
    make_deep(deep)
    shutil.copytree(images, deep / "pictures")
    try:
        return _absurd(folder, images, deep)
    finally:
        remove_deep(deep)


def _absurd(folder: Path, images: Path, deep: Path) -> int:
    config = folder / "config.toml"
    attempts: list[tuple[str, list[object]]] = [("", ["plan", deep, "-k", 2])]
    for text in ("k = " + "[" * 5000, "a." * 5000 + "b = 1", "k = " + "9" * 5000, 'k = "1:500000000"', "k = 1e999"):
        attempts.append((text, ["plan", images, "--config", config]))
    for value in ("9" * 5000, "1:" + "9" * 5000, "-1", "1e5000", "3:2"):
        attempts.append(("", ["plan", images, "-k", value]))
    for text, line in attempts:
        config.write_text(text)
        done = command(*line)
        if line[1] != deep:
            assert done.returncode == 2, f"{line} {text[:20]}: exit code {done.returncode}: {done.stderr[-500:]}"
            assert len(said(done)) == 1, f"{line} {text[:20]}: {done.stderr[-500:]}"
        assert done.returncode in (0, 1, 2), f"{line} {text[:20]}: {done.stderr[-500:]}"
        assert len(said(done)) <= 1, f"{line} {text[:20]}: {done.stderr[-500:]}"
    return len(attempts)


def _settings_of_a_sweep(folder: Path, images: Path) -> int:
    out = folder / "swept"
    Job(images, {"k": 3, "size": "16x16", "components": 3, "report.write": False}).run(out)
    done = command("sweep", out, "-k", "2:4", "--set", "seed=1")
    assert done.returncode == 0, done.stderr
    return 1


def _full_tmpdir(folder: Path, images: Path) -> int:
    """Damaged pictures are damaged, whatever room there is for what codecs say."""
    damaged, rng = folder / "damaged", random.Random(0)
    shutil.copytree(images, damaged)
    for picture in damaged.rglob("*.jpg"):
        data = bytearray(picture.read_bytes())
        for _ in range(40):
            data[rng.randrange(len(data) // 2, len(data) - 2)] ^= 1 << rng.randrange(8)
        picture.write_bytes(data)
    shutil.copytree(images, damaged / "sound")
    found = []
    for number, place in enumerate(("/tmp", "/dev/full", "/nowhere", "/proc")):
        out = folder / f"tmpdir-{number}"
        done = command("run", damaged, "--out", out, "-k", 2, *FAST, variables={"TMPDIR": place})
        assert done.returncode in (0, 3), f"TMPDIR={place}: {done.stderr}"
        with (out / "images.csv").open(newline="", encoding="utf-8") as file:
            found.append([(row["path"], row["status"]) for row in csv.DictReader(file)])
    assert {status for _, status in found[0]} > {"ok"}, "nothing was damaged"
    assert all(one == found[0] for one in found), "other statuses with another TMPDIR"
    return len(found)


def _deleted_lock(folder: Path, images: Path) -> int:
    """Another run is refused, whatever became of OUT/.lock."""
    out = folder / "locked"
    refused = 0
    for remove in (lambda: (out / ".lock").unlink(), lambda: (out / ".lock").write_text("")):
        shutil.rmtree(out, ignore_errors=True)
        process = _start(["run", images, "--out", out, "-k", 2, "--size", "800x800", "--set", "reduce=none"])
        _wait_until(process, lambda: (out / "run.toml").exists())
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            child.suspend()
        remove()
        done = command("run", images, "--out", out, "-k", 2, *FAST)
        assert done.returncode == 1, f"two runs at once: {done.stderr}"
        assert "in use" in done.stderr, done.stderr
        refused += 1
        for child in children:
            child.resume()
        process.kill()
        process.wait()
        _all_gone(children)
    return refused


def _killed(folder: Path, images: Path) -> int:
    """A profile and a predict that are killed leave no process and no file beside their own."""
    out, to = folder / "killed", folder / "table" / "t.csv"
    to.parent.mkdir()
    Job(images, {"k": 2, "size": "400x400", "reduce": "none", "report.write": False}).run(out)
    before = contents(images)
    lines: list[list[object]] = [
        ["profile", images, "--out", folder / "profiled", "-k", 2, "--size", "600x600", "--set", "reduce=none"],
        ["predict", out, images, "--to", to],
    ]
    n_killed = 0
    for line in lines:
        for delay in (0.1, 0.6, 1.2):
            process = _start(line)
            _wait_until(process, lambda p=process: len(psutil.Process(p.pid).children(recursive=True)) > 0)  # type: ignore[misc]
            time.sleep(delay)
            try:
                children = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                children = []
            process.send_signal(signal.SIGKILL)
            process.wait()
            _all_gone(children)
            left = [path.name for path in to.parent.iterdir() if path.name != to.name]
            assert not left, f"{line[0]} left {left}"
            n_killed += 1
    assert contents(images) == before
    return n_killed


FURTHER: dict[str, Callable[[Path, Path], int]] = {
    "depths and numbers": _depths_and_numbers,
    "sweeps with a seed": _settings_of_a_sweep,
    "places for TMPDIR": _full_tmpdir,
    "deleted locks": _deleted_lock,
    "killed commands": _killed,
}


def _start(line: Iterable[object]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "bigcluster", *map(str, line)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def _all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"left behind: {alive}"
