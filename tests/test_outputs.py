"""What a run leaves: the CSV files to the letter, and clusters/, whatever was there and wherever a run was killed."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.catalog import FileRecord, Listing, StringArray, from_csv_path, list_images
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import StoreError
from bigcluster.files.durable import digest_of
from bigcluster.outdir import tree
from bigcluster.outdir.owned import Known, Owned, known_file, short_digest
from bigcluster.outputs import folders, tables
from bigcluster.outputs.folders import Linked, write_clusters
from bigcluster.outputs.summary import counts, summary_text
from bigcluster.planning.footprint import LINK_BYTES
from bigcluster.stages.membership import Membership
from bigcluster.store import Marks
from bigcluster.units import MIB

ODD = [
    '=HYPERLINK("x").jpg',
    "+1.jpg",
    "-minus.jpg",
    "@at.jpg",
    "\ttab.jpg",
    "back\\slash.jpg",
    "comma, comma.jpg",
    "emoji 🐈.jpg",
    "line\nbreak.jpg",
    'said "quotes".jpg',
    os.fsdecode(b"caf\xe9.jpg"),
    "<img src=x onerror=alert(1)>.jpg",
    "NA.jpg",
]


def record(status: str = "ok", reason: str = "") -> FileRecord:
    size = (430, 300) if status == "ok" else (None, None)
    return FileRecord(11, 1_700_000_000_123_456_789, *size, "ab" * 16, status, reason)


def membership(n: int, n_clusters: int = 2) -> Membership:
    labels = (np.arange(n) % n_clusters).astype(np.int32)
    if n_clusters == 1:
        return Membership(labels, np.arange(n) / 3, None, None)
    return Membership(labels, np.arange(n) / 3, (1 - labels).astype(np.int32), np.full(n, 1e-7))


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# -- labels.csv and images.csv


def test_labels_csv_to_the_letter(tmp_path: Path) -> None:
    listing = Listing(tmp_path, StringArray(["a/1.jpg", "=x.jpg", "bad.jpg", 'q"u,o.jpg']))
    ledger = Ledger.of([record(), record(), record("truncated", "ends early"), record()])
    found = Membership(
        np.array([1, 0, 0], np.int32),
        np.array([2622.384444, 0.0, 1e10]),
        np.array([0, 1, 1], np.int32),
        np.array([23.50509, 1 / 3, 0]),
    )
    tables.write_labels(tmp_path / "labels.csv", listing, ledger, found, ["01/1.jpg", "00/=x.jpg", "", '00/q"u,o.jpg'])
    assert (tmp_path / "labels.csv").read_bytes().decode() == (
        "path,label,distance,runner_up,margin,status,file\r\n"
        "a/1.jpg,1,2622.38,0,23.5051,ok,01/1.jpg\r\n"
        "./=x.jpg,0,0,1,0.333333,ok,00/=x.jpg\r\n"
        "bad.jpg,-1,,,,truncated,\r\n"
        '"q""u,o.jpg",0,1e+10,1,0,ok,"00/q""u,o.jpg"\r\n'
    )


def test_one_cluster_has_no_runner_up(tmp_path: Path) -> None:
    listing = Listing(tmp_path, StringArray(["a.jpg"]))
    tables.write_labels(tmp_path / "labels.csv", listing, Ledger.of([record()]), membership(1, 1), [""])
    assert read_csv(tmp_path / "labels.csv")[1] == ["a.jpg", "0", "0", "", "", "ok", ""]


def test_images_csv_to_the_letter(tmp_path: Path) -> None:
    listing = Listing(tmp_path, StringArray(["a.jpg", "-b.jpg", "c.jpg"]))
    gone = FileRecord(None, None, None, None, "", "missing", "no such file")
    ledger = Ledger.of([record(), record("damaged", "=cmd|' /C calc'!A0"), gone])
    tables.write_images(tmp_path / "images.csv", listing, ledger)
    assert (tmp_path / "images.csv").read_bytes().decode() == (
        "id,path,bytes,mtime_ns,width,height,digest,status,reason\r\n"
        f"0,a.jpg,11,1700000000123456789,430,300,{'ab' * 16},ok,\r\n"
        f"1,./-b.jpg,11,1700000000123456789,,,{'ab' * 16},damaged,'=cmd|' /C calc'!A0\r\n"
        "2,c.jpg,,,,,,missing,no such file\r\n"
    )


@given(st.lists(st.sampled_from(ODD) | st.just("plain.jpg"), unique=True, min_size=1), st.data())
def test_odd_names_come_back_and_no_cell_is_run(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("odd")
    statuses = [data.draw(st.sampled_from(["ok", "empty"])) for _ in names]
    ledger = Ledger.of(record(status, "" if status == "ok" else "=reason") for status in statuses)
    listing = Listing(root, StringArray(names))
    found = membership(statuses.count("ok"))
    files = [f"00/{name}" if status == "ok" else "" for name, status in zip(names, statuses, strict=True)]
    tables.write_images(root / "images.csv", listing, ledger)
    tables.write_labels(root / "labels.csv", listing, ledger, found, files)
    labels, images = read_csv(root / "labels.csv"), read_csv(root / "images.csv")
    assert [from_csv_path(row[0]) for row in labels[1:]] == names == [from_csv_path(row[1]) for row in images[1:]]
    assert [row[5] for row in labels[1:]] == statuses == [row[7] for row in images[1:]]
    assert [from_csv_path(row[6]) for row in labels[1:]] == files
    good = iter(range(len(names)))
    for row, status in zip(labels[1:], statuses, strict=True):
        if status == "ok":
            index = next(good)
            assert row[1:5] == [str(index % 2), f"{index / 3:.6g}", str(1 - index % 2), "1e-07"]
        else:
            assert row[1:5] == ["-1", "", "", ""]
            assert row[6] == ""
    cells = [cell for row in labels + images for cell in row if cell != "-1"]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]


def test_manifest_columns_pass_through(tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [
            ["label", "title", "path", "=n", "in_label", "in_path"],
            ["old", "=SUM(A1)", "a.jpg", "-5", "x", "p"],
            ["@x", "it's, fine", "b.jpg", "+1-1", "", ""],
        ]
    )
    (tmp_path / "list.csv").write_text(text.getvalue(), newline="")
    listing = list_images(str(tmp_path / "list.csv"), tmp_path / "out")
    ledger = Ledger.of([record(), record("empty", "x")])
    tables.write_labels(tmp_path / "o.csv", listing, ledger, membership(1), ["00/a.jpg", ""])
    header, first, second = read_csv(tmp_path / "o.csv")
    assert header[7:] == ["in_label", "title", "'=n", "in_in_label", "in_path"]
    assert first == ["a.jpg", "0", "0", "1", "1e-07", "ok", "00/a.jpg", "old", "'=SUM(A1)", "-5", "x", "p"]
    assert second == ["b.jpg", "-1", "", "", "", "empty", "", "'@x", "it's, fine", "'+1-1", "", ""]


def test_variance_csv_is_cumulative(tmp_path: Path) -> None:
    tables.write_variance(tmp_path / "v.csv", np.array([0.5, 0.25, 0.125]))
    assert (tmp_path / "v.csv").read_bytes() == (
        b"n_components,cumulative_share\r\n1,0.500000\r\n2,0.750000\r\n3,0.875000\r\n"
    )


def test_summary_is_strict_json(tmp_path: Path) -> None:
    listing = Listing(tmp_path, StringArray(["a.jpg", "b.jpg", "c.jpg"]), ignored={".txt": 2, ".\udce9": 1})
    found = counts(listing, Ledger.of([record(), record("empty", "x"), record("empty", "x")]).counts())
    (tmp_path / "s.json").write_text(summary_text({"counts": found}), encoding="utf-8")
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["counts"] == {
        "listed": 3,
        "ok": 1,
        "failed": 2,
        "failed_by_status": {"empty": 2},
        "ignored": 3,
        "ignored_by_suffix": {".txt": 2, ".\udce9": 1},
        "unreadable_folders": [],
    }
    with pytest.raises(ValueError, match="JSON"):
        summary_text({"inertia": float("nan")})


# -- clusters/


class Job:
    """Two folders of images with twins, and an OUT for them."""

    names = ("left/same.jpg", "left/x.jpg", "right/same.jpg", "right/SAME.jpg", *sorted(ODD))

    def __init__(self, root: Path) -> None:
        self.images, self.out = root / "images", root / "out"
        self.out.mkdir(parents=True)
        for name in self.names:
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode("utf-8", "surrogateescape"))
        self.listing = Listing(self.images, StringArray(self.names))
        self.ledger = [self.record_of(name) for name in self.names]
        self.ledger[1] = record("damaged")
        self.ok = np.array([record.ok for record in self.ledger])

    def record_of(self, name: str) -> FileRecord:
        found, data = (self.images / name).stat(), (self.images / name).read_bytes()
        return FileRecord(found.st_size, found.st_mtime_ns, 8, 8, digest_of(data), "ok", "")

    def write(self, shift: int = 0, link: str = "hardlink", n_clusters: int = 3) -> Linked:
        """clusters/ of labels that `shift` changes."""
        labels = ((np.arange(int(self.ok.sum())) + shift) % n_clusters).astype(np.int32)
        return write_clusters(self.out, self.listing, Ledger.of(self.ledger), labels, n_clusters, link)

    def inside(self) -> dict[str, bytes]:
        clusters = self.out / "clusters"
        return {p.relative_to(clusters).as_posix(): p.read_bytes() for p in clusters.rglob("*") if p.is_file()}

    def check(self, linked: Linked, foreign: dict[str, bytes] | None = None) -> None:
        """Every good image stands in clusters/ once, under its name, with its content; and so does what is foreign."""
        wanted = {
            file: name.encode("utf-8", "surrogateescape")
            for file, name in zip(linked.files, self.names, strict=True)
            if file
        }
        assert len(wanted) == self.ok.sum()
        assert self.inside() == wanted | (foreign or {})
        assert sorted(p.name for p in self.out.iterdir()) == [".bigcluster", "clusters"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize("link", ["hardlink", "symlink", "copy"])
def test_each_way_of_linking(job: Job, link: str) -> None:
    linked = job.write(link=link)
    job.check(linked)
    entry, source = job.out / "clusters" / linked.files[0], job.images / job.names[0]
    assert entry.is_symlink() == (link == "symlink")
    assert entry.samefile(source) == (link != "copy")
    assert linked.n_symlinks == (job.ok.sum() if link == "symlink" else 0)
    if link == "symlink":
        assert not entry.readlink().is_absolute(), "relative: both folders may move together"
    assert linked.files[1] == ""


def test_no_links_no_folder(job: Job) -> None:
    job.write()
    linked = job.write(link="none")
    assert set(linked.files) == {""}
    assert not (job.out / "clusters").exists()


def test_empty_clusters_have_folders_too(job: Job) -> None:
    job.write(n_clusters=40)
    assert sorted(p.name for p in (job.out / "clusters").iterdir()) == [f"{i:02d}" for i in range(40)]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_there_are_relative_symlinks(job: Job, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    linked = job.write()
    job.check(linked)
    assert linked.n_symlinks == job.ok.sum()


def test_other_errors_of_linking_are_errors(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = job.write()
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="full"):
        job.write(1)
    assert len(job.inside()) == job.ok.sum()
    monkeypatch.undo()
    job.check(job.write())
    assert list(before.files) == list(job.write().files)


def test_a_copy_that_does_not_fit_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="link = copy needs"):
        job.write(link="copy")


def test_an_image_that_vanished_has_no_entry(job: Job) -> None:
    (job.images / "left" / "same.jpg").unlink()
    for link in ("hardlink", "symlink", "copy"):
        linked = job.write(link=link)
        assert linked.n_gone == 1
        assert linked.files[0] == ""
        assert len(job.inside()) == job.ok.sum() - 1


FOREIGN = {"00/notes.txt": b"mine", "README": b"top", "07/deep/er/x.jpg": b"deep", "01/mine.jpg": b"a picture of mine"}


def put(job: Job, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = job.out / "clusters" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["hardlink", "copy", "none"])), max_size=4)
)
def test_foreign_files_are_kept_through_any_runs(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int, str]]
) -> None:
    job = Job(tmp_path_factory.mktemp("foreign"))
    job.check(job.write())
    put(job, FOREIGN)
    for shift, n_clusters, link in runs:
        linked = job.write(shift, link, n_clusters)
        found = job.inside()
        assert FOREIGN.items() <= found.items()
        assert len(found) == len(FOREIGN) + sum(map(bool, linked.files))


def test_an_image_gives_way_to_a_foreign_file_of_its_name(job: Job) -> None:
    linked = job.write()
    place = next(file for file in job.write(1).files if file not in linked.files)
    job.write()
    put(job, {place: b"mine"})
    again = job.write(1)
    assert place not in list(again.files)
    job.check(again, {place: b"mine"})


class Killed(BaseException):
    """Nobody catches it."""


def steps(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> Iterator[int]:
    """Count every change of the file system by write_clusters, and die before number `stop_at`."""
    done = 0

    def watched(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == stop_at:
                raise Killed
            done += 1
            return original(*args, **kwargs)

        return call

    for owner, name in ((os, "rename"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (os, "replace"), (os, "link"),
                        (Marks, "write")):  # fmt: skip
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    yield done


@pytest.mark.parametrize("resumed_shift", [0, 1, 2])
@pytest.mark.parametrize("first_run", [False, True], ids=["replacing", "first"])
def test_killed_at_any_step_the_next_run_puts_it_right(tmp_path: Path, resumed_shift: int, first_run: bool) -> None:
    """Nothing of ours stays twice, nothing of others is lost; also when the second try is killed, one step later."""
    stop_at = 0
    survived = False
    while not survived:
        job = Job(tmp_path / str(stop_at))
        foreign = {} if first_run else FOREIGN
        if not first_run:
            job.check(job.write(0))
            put(job, FOREIGN)
        survived = True
        for shift, extra in ((1, 0), (resumed_shift, 1)):
            with pytest.MonkeyPatch.context() as patch:
                try:
                    next(steps(patch, stop_at + extra))
                    job.write(shift)
                except Killed:
                    survived = False
        job.check(job.write(resumed_shift), foreign)
        stop_at += 1
    assert stop_at > 10, "the steps were counted"


def test_without_our_list_everything_is_kept(job: Job) -> None:
    first = job.write()
    Marks(job.out).remove(folders.CREATED)
    job.write(1)
    found = job.inside()
    assert len(found) == 2 * sum(map(bool, first.files))


@pytest.mark.parametrize("text", ["", "null", "[]", '["00/x"]', "{"])
def test_a_damaged_list_counts_as_absent(job: Job, text: str) -> None:
    job.write()
    put(job, FOREIGN)
    Marks(job.out).path(folders.CREATED).write_text(text)
    job.write(1)
    assert FOREIGN.items() <= job.inside().items()


def test_paths_in_the_list_of_files_are_the_names_in_the_folder(job: Job) -> None:
    linked = job.write()
    made = folders.created(job.out)
    assert made is not None
    assert len(made) == sum(map(bool, linked.files)) + 4, "and the folders"
    for file, of in zip(linked.files, job.ledger, strict=True):
        if file:
            assert made.get(file) == [
                known_file((job.out / "clusters" / file).stat(), short_digest(of.digest), own=False)
            ]
    assert made.get("00/another.jpg") == []


# -- the lists of what we made


words = st.integers(0, 2**64 - 1)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.builds(Known, words, words, words, words)))
def test_a_list_gives_back_what_each_entry_is_known_by(entries: dict[str, Known]) -> None:
    for made in (Owned.of(entries.items()), Owned.from_bytes(bytes(Owned.of(entries.items()).to_bytes()))):
        assert len(made) == len(entries)
        assert {name: made.get(name) for name in entries} == {name: [known] for name, known in entries.items()}
        assert made.get("another/name") == [] or "another/name" in entries
        both = made | Owned.of([(name, known._replace(inode=1)) for name, known in entries.items()])
        assert all(len(both.get(name)) == 2 for name in entries)
        asked = ["another/name", *entries, "another/name"]
        assert both.get_all(asked) == [both.get(name) for name in asked]


def test_a_time_that_no_clock_shows_is_a_time(job: Job) -> None:
    for name, seconds in (("left/same.jpg", -(2**31)), ("right/same.jpg", 2**34 - 1)):
        os.utime(job.images / name, (seconds, seconds))
    job.check(job.write())
    put(job, FOREIGN)
    job.check(job.write(1), FOREIGN)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"x" * 64)], ids=["gone", "damaged"])
def test_a_list_whose_file_is_lost_counts_as_absent(job: Job, spoil: Callable[[Path], Any]) -> None:
    linked = job.write()
    put(job, FOREIGN)
    (file,) = (job.out / ".bigcluster" / "made").iterdir()
    spoil(file)
    assert folders.created(job.out) is None
    job.write(1)
    assert FOREIGN.items() <= job.inside().items()
    assert len(job.inside()) == len(FOREIGN) + 2 * sum(map(bool, linked.files)), "nothing tells ours from others'"


def test_folders_of_many_entries_are_emptied_by_the_batch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "BATCH", 2)
    job.write()
    put(job, FOREIGN)
    job.check(job.write(1), FOREIGN)
    assert [file.name.partition("-")[0] for file in (job.out / ".bigcluster" / "made").iterdir()] == ["entries"], (
        "one list is left"
    )


ROWS = 20_000


def test_tables_and_folders_hold_what_their_plan_says(tmp_path: Path) -> None:
    """Of every row, and no less than half of it; folders that are replaced, so that two lists count."""
    names = StringArray(f"shop-{row % 97:03d}/item-{row:07d}.jpg" for row in range(ROWS))
    listing, found = Listing(tmp_path / "images", names), membership(ROWS, 50)
    for row in range(ROWS):
        path = Path(listing.path(row))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out, labels = tmp_path / "out", found.labels
    out.mkdir()
    ledger = Ledger.of(record() for _ in range(ROWS))
    write_clusters(out, listing, ledger, labels, 50, "hardlink")
    tracemalloc.start()
    linked = write_clusters(out, listing, ledger, labels[::-1], 50, "hardlink")
    tables.write_labels(tmp_path / "labels.csv", listing, ledger, found, linked.files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * ROWS * LINK_BYTES <= peak <= ROWS * LINK_BYTES + 2 * MIB
