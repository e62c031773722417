"""A law: what a person keeps in OUT, in IMAGES and beside them is there after any commands, and after any kills.

What a person puts there keeps its bytes, its mode and its name. It keeps its place too, unless it stands exactly where
a file of ours has to stand: then it is in OUT/kept, under the same path. Links, devices and FIFOs are not touched at
all, and where one stands at a name of ours, the command refuses in one line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stress.person import Person, there
from bigcluster import outdir
from bigcluster.catalog import FileRecord, Listing, list_images
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import BigclusterError
from bigcluster.files.durable import digest_of, remove_folder
from bigcluster.outdir import tree
from bigcluster.outdir.results import OF_A_RUN, ResultFiles
from bigcluster.outdir.tree import OwnedTree
from bigcluster.outputs import folders
from bigcluster.outputs.folders import write_clusters
from bigcluster.store import StageCheckpoints, Store, tidy

# -- over the functions that write, replace and delete in OUT

NAMES = st.sampled_from(
    [
        *("labels.csv", "summary.json", "run.toml", "sweep.png", ".lock", "kept/labels.csv", "notes.txt", "clusters"),
        *("clusters/00", "clusters/00/a.png", "clusters/00/a (2).png", "clusters/01/mine.txt", "clusters/Mine/a.png"),
        *("clusters/01/b.png", "clusters/00/b.png/inner", "clusters/07", "report", "report/index.html", "report/x/y"),
        *("report/pages", "store.zarr/notes.txt", "store.zarr/pixels/c/0/0", "store.zarr/pixels/c/9/9"),
        *("store.zarr/pixels/mine", "store.zarr/mine/zarr.json", "store.zarr/mine/c/0", "store.zarr/scores/zarr.json"),
        *(".bigcluster/marks/pixels/done.json", ".bigcluster/marks/other/1.json", ".bigcluster/state/fit/x.npy"),
        *(".bigcluster/made/entries-0.list", ".x.partial", "store.zarr/.y.partial", "profile/timeline.png"),
        *("store.zarr/scores", "store.zarr/scores/c", "store.zarr/scores/c/0", "store.zarr/pixels/c/0"),
        *(".clusters.new/a", ".clusters.old/a", ".bigcluster/scratch/x.npy", "store.zarr/retired/c/0/0"),
        ".bigcluster/state",
    ]
)
LINKS = ["hardlink", "symlink", "copy", "none"]
FILES = st.tuples(st.just("file"), NAMES, st.sampled_from([b"", b"mine", b"x" * 68]))
REPLACED = st.tuples(st.just("replace"), NAMES, st.sampled_from([b"", b"mine, and mine alone"]))
FOLDERS = st.tuples(st.just("folder"), NAMES, st.just(b""))
REFUSED = st.one_of(
    st.tuples(st.just("link"), NAMES, st.sampled_from([b"/dev/null", b"../beside", b"../beside/victim", b"nowhere"])),
    st.tuples(st.just("fifo"), NAMES, st.just(b"")),
)
RUNS = st.tuples(st.just("run"), st.integers(1, 3), st.sampled_from(LINKS), st.just(0))
KILLS = st.tuples(st.just("run"), st.integers(1, 3), st.sampled_from(LINKS), st.integers(1, 80))
LOST = st.tuples(st.just("lose an image"), st.integers(0, 5))
EXCHANGED = st.tuples(st.just("exchange an image"), st.integers(0, 5))
RENAMED = st.tuples(st.just("rename a cluster"), st.integers(0, 2), st.booleans())
OF_A_PERSON = (FILES, REPLACED, FOLDERS, LOST, EXCHANGED, RENAMED)
STEPS = st.lists(st.one_of(*OF_A_PERSON, RUNS, RUNS, RUNS, RUNS, KILLS, KILLS), min_size=2, max_size=8)
SEQUENCES = st.one_of(
    st.tuples(st.just([]), STEPS),
    st.tuples(st.just([("run", 2, "hardlink", 0)]), STEPS),
    st.tuples(st.just([("run", 3, "copy", 0)]), STEPS),
    st.tuples(st.just([("run", 2, "hardlink", 0)]), st.lists(st.one_of(REFUSED, RUNS, KILLS, FILES), max_size=5)),
)


class Killed(BaseException):
    """Nobody catches it."""


def dying_after(patch: pytest.MonkeyPatch, n_changes: int) -> None:
    """Die before change number `n_changes` of the file system; 0 : never. Nothing is synced: disks are slow."""
    patch.setattr(os, "fsync", lambda _: None)
    patch.setattr(tree, "sync_file_system", lambda _: None)
    patch.setattr(folders, "sync_file_system", lambda _: None)
    left = [n_changes if n_changes else 10**9]

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return original(*args, **kwargs)

        return call

    for name in ("rename", "replace", "link", "symlink", "mkdir", "rmdir", "unlink"):
        patch.setattr(os, name, watched(getattr(os, name)))


class Job:
    """What a run does to OUT, without decoding and clustering."""

    def __init__(self, root: Path) -> None:
        self.images, self.out = root / "images", root / "out"
        self.images.mkdir()
        (self.images / "deeper").mkdir()
        for name in ("a", "b", "c", "deeper/a", "deeper/b"):
            (self.images / f"{name}.png").write_bytes(f"picture {name}".encode() * 3)
        self._decoded: dict[tuple[str, int, int], str] = {}

    def records(self, listing: Listing) -> Iterator[FileRecord]:
        """As in the store: an image of equal size and time is not read again."""
        for row in range(len(listing)):
            path = listing.path(row)
            found = os.stat(path)
            key = path, found.st_size, found.st_mtime_ns
            if key not in self._decoded:
                self._decoded[key] = digest_of(Path(path).read_bytes())
            yield FileRecord(found.st_size, found.st_mtime_ns, 8, 8, self._decoded[key], "ok", "")

    def exchange(self, number: int) -> bytes | None:
        """Another picture under the name of an image, with its size and its time; returns what it holds."""
        images = sorted(self.images.rglob("*.png"))
        if number >= len(images):
            return None
        found, data = images[number].stat(), images[number].read_bytes()
        other = data[:-1] + bytes([data[-1] % 255 + 1])
        images[number].unlink()
        images[number].write_bytes(other)
        os.utime(images[number], ns=(found.st_atime_ns, found.st_mtime_ns))
        return other

    def run(self, k: int, link: str) -> None:
        """As pipeline.run: claim, lock, store, tables, clusters, report, tidy."""
        listing = list_images(str(self.images), self.out)
        outdir.claim(self.out, str(self.images))
        with outdir.locked(self.out):
            outdir.sweep_unfinished(self.out)
            store = Store(self.out)
            files = ResultFiles(self.out)
            with files.writing(OF_A_RUN):
                files.write("run.toml", b"# The settings of the last run.\n")
                pixels = np.full((8, 8), k, np.uint8)
                store.create("pixels", pixels.shape, np.uint8, (8, 8))
                store.commit("pixels", str(k), store.write_rows("pixels", 0, pixels), {})
                state = StageCheckpoints(store, "fit", "print")
                state.save({"k": k}, [("x", np.arange(3))])
                if k == 2:
                    store.commit("scores", str(k), store.save("scores", np.zeros((4, k))), {})
                elif store.has("scores"):
                    store.marks.remove("scores")
                labels = (np.arange(len(listing)) % k).astype(np.int32)
                write_clusters(self.out, listing, Ledger.of(self.records(listing)), labels, k, link)
                with files.text("labels.csv") as file:
                    file.write(f"{k} {link}\n")
                files.write("summary.json", b"{}")
                pages = OwnedTree.of(self.out, "report", "report-pages")
                staging = pages.new_staging()
                (staging / "index.html").write_text(str(k))
                (staging / "pages").mkdir()
                (staging / "pages" / f"{k}.html").write_text(str(k))
                pages.replace_by(staging)
                remove_folder(staging)
            state.clear()
            tidy(store.out)


@settings(max_examples=int(os.environ.get("BIGCLUSTER_SEQUENCES", "150")))
@given(SEQUENCES)
def test_what_a_person_keeps_is_kept(
    tmp_path_factory: pytest.TempPathFactory, sequence: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]
) -> None:
    root = tmp_path_factory.mktemp("law").resolve()
    job, person = Job(root), Person(root)
    person.file(root / "beside" / "victim", b"precious")
    person.folder(root / "beside" / "empty")
    contents = [path.read_bytes() for path in job.images.rglob("*.png")]
    for step in sequence[0] + sequence[1]:
        match step:
            case ("run", k, link, n_changes):
                with pytest.MonkeyPatch.context() as patch, suppress(BigclusterError, Killed):
                    dying_after(patch, n_changes)
                    job.run(k, link)
            case ("lose an image", number):
                images = sorted(job.images.rglob("*.png"))
                if len(images) > 2 and number < len(images):
                    images[number].unlink()
                    contents = there(root, contents)  # where no entry of ours keeps it, it is gone by their own hand
            case ("exchange an image", number):
                other = job.exchange(number)
                contents = there(root, contents) + ([] if other is None else [other])
            case ("rename a cluster", number, anew):
                folder = job.out / "clusters" / f"{number:02d}"
                person.rename(folder, folder.with_name(f"cats {len(person.put)}"))
                if anew and (job.out / "clusters").is_dir():
                    person.folder(folder)
            case ("file" | "replace" as what, name, data):
                getattr(person, what)(job.out / name, data)
                contents = there(root, contents)
            case ("link", name, target):
                person.link(job.out / name, target.decode())
            case (what, name, _):
                getattr(person, what)(job.out / name)
        person.check(job.out)
        assert there(root, contents) == contents, "a picture has lost its last copy"
    shutil.rmtree(root)
