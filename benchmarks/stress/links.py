"""A link, a device or a FIFO of somebody at every name that is ours inside OUT, before every command: it is refused in
one line, and neither what it leads to nor anything else is touched.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.stress.harness import command, described, differences, refusal, replace_by_copy, said, tasks
from benchmarks.stress.work import Job, catalog, scratch

MORE_NAMES = (
    *("manifest.csv", "sweep.csv", "sweep.png", "kept", "profile", "profile/timeline.png", ".bigcluster/state"),
    *(".bigcluster/state/cluster", ".bigcluster/marks/state", ".bigcluster/marks/state/cluster.json"),
    *("store.zarr/retired", "store.zarr/components", "store.zarr/norms", "store.zarr/sweep_centers"),
)
"""Beyond what a run leaves: what other commands and interrupted runs make."""
NOT_OURS = (".clusters.new", ".clusters.old", ".report.new", ".sweep.png.partial", "kept.new", ".lock.partial", "a")
"""Names that were ours once, or look so."""
PROCESSES = ("run", "predict", "verify", "report", "sweep")


def main(full: bool) -> dict[str, Any]:
    """All names, kinds and commands (an eightieth of them where not full); commands as processes for some."""
    rng = random.Random(0)
    with scratch() as folder:
        job = Job(catalog(folder / "images", 24), {"k": 3, "size": "16x16", "components": 3})
        other = Job(job.images, {**job.values, "k": 2})
        original, out, precious = folder / "original", folder / "out", folder / "precious"
        job.run(original)
        (precious / "inner").mkdir(parents=True)
        for name in ("file", "inner/file", "zarr.json", "index.html"):
            (precious / name).write_text(f"precious: {name}")
        replace_by_copy(out, original)
        kinds = _kinds(precious)
        beside = folder / "beside"
        beside.mkdir()
        commands = tasks(job, other, out, beside)
        names = [*_names(original), *MORE_NAMES]
        cases = list(product(names, kinds, commands))
        tried = cases if full else rng.sample(cases, len(cases) // 80)
        refused = sum(
            _one_case(out, name, kinds[kind], kind, commands[what], what, folder) for name, kind, what in tried
        )
        n_processes = _as_processes(job, out, precious, names, rng, 40 if full else 2)
        n_strange = _strange_names(out, original, kinds, commands, full)
        _out_as_a_link(job, other, folder, precious)
    return {
        "names": len(names),
        "kinds": list(kinds),
        "commands": list(commands),
        "tried": len(tried),
        "refused": refused,
        "processes": n_processes,
        "names_of_others": n_strange,
        "says": f"{len(tried)} times a link, a device or a FIFO at one of {len(names)} names of ours, before one of "
        f"{len(commands)} commands, {n_processes} of them as processes besides: {refused} refused in one line, and "
        f"nothing else in OUT or behind the link changed; {n_strange} at names of others: left alone",
    }


def _kinds(precious: Path) -> dict[str, Callable[[Path], None]]:
    """What somebody puts at a name."""
    return {
        "link to a file": lambda path: path.symlink_to(precious / "file"),
        "link to a folder": lambda path: path.symlink_to(precious),
        "relative link": lambda path: path.symlink_to(os.path.relpath(precious / "inner", path.parent)),
        "dangling link": lambda path: path.symlink_to(precious / "nowhere"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "link to a device": lambda path: path.symlink_to("/dev/zero"),
        "FIFO": lambda path: os.mkfifo(path),
    }


def _names(out: Path) -> list[str]:
    """Our files and folders but for the entries of clusters/, where links are of every day."""
    found = (path.relative_to(out) for path in sorted(out.rglob("*")))
    return [name.as_posix() for name in found if name.parts[0] != "clusters" or len(name.parts) < 3]


def _one_case(
    out: Path, name: str, put: Callable[[Path], None], kind: str, task: Callable[[], Any], what: str, folder: Path
) -> int:
    """Put something at a name, give the command, look at everything, take it away again."""
    path, aside = out / name, folder / "aside"
    new_folders = [parent for parent in path.parents if not parent.exists()]
    if os.path.lexists(path):
        path.rename(aside)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path)
    before = described(folder, without=("out/.lock", "beside/predicted.csv"))
    text = refusal(task)
    changed = differences(before, described(folder, without=("out/.lock", "beside/predicted.csv")))
    assert text, f"{what} took a {kind} at {name}"
    assert not changed, f"{what} with a {kind} at {name} changed {changed[:5]}: {text}"
    path.unlink()
    for made in new_folders:
        made.rmdir()
    if os.path.lexists(aside):
        aside.rename(path)
    return 1


def _as_processes(job: Job, out: Path, precious: Path, names: list[str], rng: random.Random, number: int) -> int:
    """Some of the same by the command line: exit code 1 or 2, and one line."""
    before = described(precious)
    for count, name in enumerate(rng.sample([n for n in names if (out / n).exists()], number)):
        path, aside = out / name, precious.parent / "aside"
        path.rename(aside)
        path.symlink_to(precious)
        line: dict[str, list[Any]] = {
            "run": job.arguments(out),
            "predict": ["predict", out, job.images, "--to", precious.parent / "p.csv"],
            "sweep": ["sweep", out, "-k", "2:3"],
        }
        word = PROCESSES[count % len(PROCESSES)]
        done = command(*line.get(word, [word, out]))
        assert done.returncode in (1, 2), f"{word} with a link at {name}: exit code {done.returncode}: {done.stderr}"
        assert len(said(done)) == 1, f"{word} with a link at {name}: {done.stderr}"
        path.unlink()
        aside.rename(path)
    assert described(precious) == before
    return number


def _strange_names(
    out: Path, original: Path, kinds: dict[str, Callable[[Path], None]], commands: dict[str, Any], full: bool
) -> int:
    """Names that are none of ours: what stands there is no obstacle, and stays."""
    replace_by_copy(out, original)
    places = [*NOT_OURS, *(f"clusters/00/{name}" for name in NOT_OURS)]
    put = {}
    for name, kind in product(places, kinds):
        path = out / f"{name}-{kind.replace(' ', '-')}"
        kinds[kind](path)
        put[path.relative_to(out).as_posix()] = described(out)[path.relative_to(out).as_posix()]
    for task in commands.values() if full else [commands["run with another k"]]:
        assert not refusal(task), refusal(task)
    after = described(out)
    assert put.items() <= after.items(), [name for name in put if put[name] != after.get(name)]
    return len(put)


def _out_as_a_link(job: Job, other: Job, folder: Path, precious: Path) -> None:
    """OUT itself may be a link, as to another disk."""
    (folder / "disk").mkdir()
    (folder / "linked").symlink_to("disk")
    before = described(precious)
    for one in (job, other):
        one.run(folder / "linked")
    assert job.verify(folder / "linked")["ok"]
    assert (folder / "linked").is_symlink()
    assert (folder / "disk" / "labels.csv").is_file()
    assert described(precious) == before
    shutil.rmtree(folder / "disk")
