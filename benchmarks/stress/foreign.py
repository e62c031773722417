"""Files of a person in the middle of ours: edited tables and pages, files where ours had been, with their size and
time, private folders, notes and arrays in the store. Whatever commands come, each stays, or is in OUT/kept.
"""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.stress.harness import Entry, described, entry_of, labels_alone, refusal, replace_by_copy, tasks
from benchmarks.stress.work import Job, catalog, scratch
from bigcluster.files.kept import KEPT

BESIDE = ("labels.csv", "images.csv", "variance.csv", "memory.csv")
IN_STORE = (
    *("store.zarr/notes.txt", "store.zarr/pixels/notes", "store.zarr/pixels/c/notes", "store.zarr/pixels/c/0/77"),
    *("store.zarr/centers/c/9", "store.zarr/x/y/z", ".bigcluster/marks/notes.json", ".bigcluster/x/y/z"),
)
MODES = (0o644, 0o600, 0o444, 0o755)


class Person:
    """Puts things into OUT, and looks whether they are still there."""

    def __init__(self, out: Path, rng: random.Random) -> None:
        self._out, self._rng, self._put, self._number = out, rng, dict[Path, Entry](), 0
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        acts = (
            *(self._edit_beside, self._edit_equal, self._file_in_our_folder, self._file_at_an_entry),
            *(self._folder, self._empty_folder, self._note_in_store, self._array_in_store, self._profile, self._link),
        )
        act = self._rng.choice(acts)
        act()
        self.counts[act.__name__.strip("_").replace("_", " ")] += 1

    def lost(self) -> list[str]:
        """What is neither where it was put nor in OUT/kept, as it was."""
        kept = Counter(entry_of(path) for path in (self._out / KEPT).rglob("*") if stat.S_ISREG(path.lstat().st_mode))
        lost = []
        for path, entry in self._put.items():
            if os.path.lexists(path) and entry_of(path) == entry:
                continue
            if stat.S_ISREG(entry[0]) and kept[entry]:
                kept[entry] -= 1
            else:
                lost.append(path.relative_to(self._out).as_posix())
        return lost

    def n_kept(self) -> int:
        return sum(not os.path.lexists(path) or entry_of(path) != entry for path, entry in self._put.items())

    def __len__(self) -> int:
        return len(self._put)

    def _write(self, path: Path, data: bytes, mode: int | None = None) -> None:
        if os.path.lexists(path) and path in self._put:
            return  # once is enough
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            path.unlink()
        path.write_bytes(data)
        path.chmod(self._rng.choice(MODES) if mode is None else mode)
        self._put[path] = entry_of(path)

    def _text(self) -> bytes:
        self._number += 1
        return f"mine, number {self._number}\n".encode()

    def _any(self, *patterns: str) -> Path:
        found = [path for pattern in patterns for path in self._out.glob(pattern) if path not in self._put]
        return self._rng.choice([path for path in found if stat.S_ISREG(path.lstat().st_mode)])

    def _edit_beside(self) -> None:
        """As a spreadsheet does: another file at the place."""
        self._write(self._out / self._rng.choice(BESIDE), self._text())

    def _edit_equal(self) -> None:
        """Another content in the size and with the time of what we wrote."""
        path = self._any("report/*.html", "report/*/*", "clusters/*/*")
        found = path.stat()
        data = (self._text() * (found.st_size // 16 + 1))[: found.st_size]
        self._write(path, data, stat.S_IMODE(found.st_mode))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _file_in_our_folder(self) -> None:
        folder = self._rng.choice(("", "clusters", "clusters/00", "report", "report/assets", "store.zarr/pixels/c/0"))
        self._write(self._out / folder / f"mine-{self._number}.txt", self._text())

    def _file_at_an_entry(self) -> None:
        """A name that an entry of the next clustering may want."""
        name = self._any("clusters/*/*").name
        self._write(self._out / "clusters" / f"{self._rng.randrange(4):02d}" / name, self._text())

    def _folder(self) -> None:
        folder = self._out / self._rng.choice(("clusters", "clusters/00", "report", "store.zarr")) / f"m{self._number}"
        self._write(folder / "inner" / "file", self._text())
        for path in (folder, folder / "inner"):
            path.chmod(0o700)
            self._put[path] = entry_of(path)

    def _empty_folder(self) -> None:
        path = self._out / "clusters" / f"{self._rng.randrange(50, 99)}"
        path.mkdir(exist_ok=True)
        path.chmod(0o711)
        self._put[path] = entry_of(path)

    def _note_in_store(self) -> None:
        self._write(self._out / self._rng.choice(IN_STORE), self._text())

    def _array_in_store(self) -> None:
        name = f"mine-{self._number}"
        self._number += 1
        group = zarr.open_group(self._out / "store.zarr", mode="r+")
        group.create_array(name, shape=(4,), chunks=(2,), dtype="i4")[:] = np.arange(4)
        folder = self._out / "store.zarr" / name
        self._put |= {folder / inside: entry for inside, entry in described(folder).items() if inside != "."}

    def _profile(self) -> None:
        name = self._rng.choice(("timeline.csv", "timeline.png", "mprofile.dat", "mprofile-numpy.dat", "notes.md"))
        self._write(self._out / "profile" / name, self._text())

    def _link(self) -> None:
        path = self._out / "clusters" / "00" / f"link-{self._number}"
        self._number += 1
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(self._rng.choice(("nowhere", "/etc", ".", "../../labels.csv")))
        self._put[path] = entry_of(path)


def main(full: bool) -> dict[str, Any]:
    """100 times ten acts of a person and seven commands (4 times where not full)."""
    n_rounds = 100 if full else 4
    acts: Counter[str] = Counter()
    n_put = n_kept = n_commands = n_refused = 0
    with scratch() as folder:
        job = Job(catalog(folder / "images", 24), {"k": 4, "size": "16x16", "components": 3})
        other = Job(job.images, {**job.values, "k": 2, "link": "copy"})
        original, out, beside = folder / "original", folder / "out", folder / "beside"
        job.run(original)
        beside.mkdir()
        pictures, expected = described(job.images), labels_alone(original)
        for number in range(n_rounds):
            rng = random.Random(number)
            replace_by_copy(out, original)
            person, commands = Person(out, rng), tasks(job, other, out, beside)
            for what in rng.sample(list(commands), len(commands)):
                for _ in range(2):
                    person.act()
                n_commands += 1
                n_refused += bool(refusal(commands[what]))
                assert not person.lost(), f"seed {number}: {what} lost {person.lost()}"
            assert not refusal(lambda: job.verify(out)), "verify"
            commands["profile"]()
            job.run(out)
            assert not person.lost(), f"seed {number}: the last run lost {person.lost()}"
            assert labels_alone(out) == expected, f"seed {number}: other labels"
            assert job.verify(out)["ok"], f"seed {number}: {job.verify(out)['damaged'][:5]}"
            assert described(job.images) == pictures, f"seed {number}: the images changed"
            acts += person.counts
            n_put, n_kept = n_put + len(person), n_kept + person.n_kept()
    return {
        "rounds": n_rounds,
        "commands": n_commands,
        "refused": n_refused,
        "acts": dict(acts),
        "put": n_put,
        "moved_to_kept": n_kept,
        "says": f"{n_put} files, folders, links and arrays of a person among ours, {n_commands} commands: every byte "
        f"and every mode is there, {n_kept} in OUT/kept, and the last run's labels are those of an undisturbed one",
    }
