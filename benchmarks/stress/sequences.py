"""Sequences of real commands, SIGKILLs among them, while a person puts files, folders and links everywhere: whatever is
theirs is there afterwards, and a last run ends well where nothing of theirs stands in its way.

Every sequence has a seed, which is printed where it fails. BIGCLUSTER_FIRST_SEED goes on from one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.stress.kills import kill_now
from benchmarks.stress.person import Person, there
from benchmarks.stress.work import scratch

ROOT = Path(__file__).parents[2]
N_IMAGES = 9
MOST_KILL_SECONDS = 2.5
"""A small run takes about two seconds; most of them are killed before they end."""
PATIENCE_SECONDS = 120
FIRST_SEED = "BIGCLUSTER_FIRST_SEED"
NAMES = (
    *("labels.csv", "run.toml", "summary.json", "notes.txt", "clusters/00/p0.png", "clusters/01/mine.txt"),
    *("clusters/Mine/p1.png", "clusters/00/p3.png/inner", "report/index.html", "report/mine.html", "kept/labels.csv"),
    *("store.zarr/notes.txt", "store.zarr/pixels/c/0/0", "store.zarr/mine/zarr.json", ".x.partial", "profile/mine"),
    *(".bigcluster/marks/ingest/000000.json", ".bigcluster/marks/other/1.json", "sweep.csv", "memory.csv"),
)
LINKED = ("labels.csv", "clusters", "store.zarr", "report", "report/index.html", ".lock", "kept", "sweep.png")


def main(full: bool) -> dict[str, Any]:
    """100 sequences of eight steps; where not full, 10 of four."""
    first, number, steps = int(os.environ.get(FIRST_SEED, "0")), 100 if full else 10, 8 if full else 4
    done: Counter[str] = Counter()
    for seed in range(first, number):
        try:
            done.update(_sequence(seed, steps))
        except AssertionError as error:
            raise AssertionError(f"seed {seed} ({FIRST_SEED}={seed} begins with it): {error}") from error
    return {
        "sequences": number - first,
        "done": dict(done),
        "says": f"{number - first} sequences of {done['commands']} commands, {done['killed']} of them killed, and "
        f"{done['acts']} acts of a person: every byte, mode and name of theirs is there",
    }


def _sequence(seed: int, n_steps: int) -> Counter[str]:
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    with scratch() as folder:
        root = folder.resolve()
        images, out, person = root / "images", root / "out", Person(root)
        contents = _draw(images, rng)
        person.file(root / "beside" / "victim", b"precious", 0o600)
        person.folder(root / "beside" / "empty")
        person.file(images / "notes.txt", b"notes among the images")
        for _ in range(n_steps):
            what = rng.choice(("run", "run", "other", "act", "act", "lose"))
            if what in ("run", "other"):
                done["commands"] += 1
                done["killed"] += _command(rng, what, images, out, root)
            elif what == "act":
                done["acts"] += 1
                _act(rng, person, out)
                contents = there(root, contents)
            elif (left := sorted(images.glob("*.png"))) and len(left) > N_IMAGES // 2:
                rng.choice(left).unlink()
                contents = there(root, contents)
            person.check(out)
            assert there(root, contents) == contents, "a picture has lost its last copy"
    return done


def _draw(images: Path, rng: random.Random) -> list[bytes]:
    """Small PNG pictures; returns their contents."""
    images.mkdir()
    for number in range(N_IMAGES):
        tones = np.array([[rng.randrange(256) for _ in range(8)] for _ in range(8)], np.uint8)
        cv2.imwrite(str(images / f"p{number}.png"), tones)
    return [path.read_bytes() for path in sorted(images.glob("*.png"))]


def _act(rng: random.Random, person: Person, out: Path) -> None:
    path = out / rng.choice(NAMES)
    match rng.choice(("file", "file", "replace", "folder", "link")):
        case "file":
            person.file(path, rng.choice((b"", b"mine", bytes(68))), rng.choice((0o644, 0o600, 0o444)))
        case "replace":
            person.replace(path, b"mine, and mine alone")
        case "folder":
            person.folder(path)
        case _:
            person.link(out / rng.choice(LINKED), rng.choice(("../beside", "../beside/victim", "nowhere", "/dev/null")))


def _command(rng: random.Random, what: str, images: Path, out: Path, root: Path) -> bool:
    """One command, killed at a random moment or not; whether it was killed. It says no more than a line, or it ends
    well."""
    k, link = rng.randint(1, 3), rng.choice(("hardlink", "hardlink", "symlink", "copy", "none"))
    run = ["run", images, "--out", out, "-k", k, "--size", 8, "--link", link, "--set", "reduce=none", "--threads", 1]
    others = (
        ["verify", out],
        ["sweep", out, "-k", "2:3"],
        ["report", out],
        ["predict", out, images, "--to", root / "predicted.csv"],
    )
    command = run if what == "run" else rng.choice(others)
    arguments = [sys.executable, "-m", "bigcluster", *map(str, command), "--quiet"]
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    if rng.random() < 0.4:
        time.sleep(rng.uniform(0.2, MOST_KILL_SECONDS))
        kill_now(process, "supervisor")  # a worker that is left must not write while the files are compared
    said = process.stderr.read()
    code = process.wait(PATIENCE_SECONDS)
    assert "Traceback" not in said, said
    assert code in (0, 1, 2, 3, -signal.SIGKILL), f"exit code {code}: {said}"
    return code == -signal.SIGKILL
