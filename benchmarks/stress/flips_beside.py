"""Single flipped bytes beside the store, times as they were, as disks do it: in copies under clusters/, in the report,
in a profile, in tables. `verify` finds and names every one; the next run (or profile) makes it good, and keeps what was
there.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.stress.flips import flip_file
from benchmarks.stress.harness import contents, digest, labels_alone, tasks
from benchmarks.stress.work import Job, catalog, scratch
from bigcluster.store.inventory import files_below

PLACES = ("clusters", "report", "profile", "")
"""Of OUT; "" for the files beside the folders."""
NOT_VOUCHED = {".lock", "run.toml"}
"""They may be edited; a run.toml that cannot be read is put back."""


def main(full: bool) -> dict[str, Any]:
    """200 flips (8 where not full), an equal number in every place; then copies of OUT, which are sound."""
    wanted = 200 if full else 8
    rng = random.Random(0)
    flipped: Counter[str] = Counter()
    with scratch() as folder:
        job = Job(catalog(folder / "images", 24), {"k": "3:4", "size": "16x16", "components": 3, "link": "copy"})
        sound, out = folder / "sound", folder / "out"
        job.run(sound)
        tasks(job, job, sound, folder)["profile"]()
        assert job.verify(sound)["ok"], "damaged before anything was flipped"
        expected = labels_alone(sound)
        for number in range(wanted):
            place = PLACES[number % len(PLACES)]
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(sound, out, symlinks=True)
            file = rng.choice(_files(out, place))
            flip_file(file, rng)
            what, flawed = file.relative_to(out).as_posix(), digest(file)
            named = [damage["file"] for damage in job.verify(out)["damaged"]]
            assert what in named, f"flip {number} in {what} was not named: {named}"
            job.run(out)
            if place == "profile":
                tasks(job, job, out, folder)["profile"]()
            again = job.verify(out)
            assert again["ok"], f"flip {number} in {what} is still there after the run: {again['damaged']}"
            assert labels_alone(out) == expected, f"flip {number} in {what}: other labels after the run"
            assert contents(out)[flawed], f"flip {number}: what stood at {what}, perhaps an edit, is gone"
            flipped[place or "tables"] += 1
        _copies(job, sound, folder)
    return {
        "flips": wanted,
        "by_place": dict(flipped),
        "says": f"{flipped.total()} of {wanted} flipped bytes beside the store ({', '.join(flipped)}) found, named and "
        "made good by the next command, which kept what was there; copies of OUT are sound, and hold nothing of an "
        "earlier clustering after another one",
    }


def _files(out: Path, place: str) -> list[Path]:
    """Those that the list of a place vouches for."""
    found = files_below(out / place) if place else (path for path in sorted(out.iterdir()) if path.is_file())
    return [path for path in found if path.stat().st_size and path.name not in NOT_VOUCHED]


def _copies(job: Job, sound: Path, folder: Path) -> None:
    """As `cp -r` and `cp -a` make them, of an OUT with hard links and of one with copies."""
    linked = Job(job.images, {**job.values, "link": "hardlink"})
    linked.run(folder / "linked")
    n_pictures = len(list(job.images.rglob("*.jpg")))
    for one, source in ((job, sound), (linked, folder / "linked")):
        for copy in (shutil.copyfile, shutil.copy2):
            copied = folder / "copied"
            shutil.copytree(source, copied, symlinks=True, copy_function=copy)
            found = one.verify(copied)
            assert found["ok"], f"a copied OUT is not sound: {found['damaged'][:5]}"
            Job(job.images, {**one.values, "k": 2}).run(copied)
            n_entries = len([path for path in files_below(copied / "clusters") if not os.path.islink(path)])
            assert n_entries == n_pictures, f"{n_entries} entries of {n_pictures} pictures after another k"
            assert not (copied / "kept").exists(), "a copied OUT keeps what is there"
            shutil.rmtree(copied)
