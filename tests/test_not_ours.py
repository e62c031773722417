"""Each known way in which files of a person were harmed, once: links at our names, look-alikes, last copies, folders
that belong to somebody else.

The law about any such thing is in test_law_of_others.py; many of them at once are in benchmarks/stress.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import Cli, picture, run_cli, write_pictures

from benchmarks.stress.harness import make_deep, remove_deep
from benchmarks.stress.hostile_outs import forge
from bigcluster import outdir
from bigcluster.catalog import list_images
from bigcluster.config import resolve
from bigcluster.errors import NoImagesError, OutError, StoreError, UsageError
from bigcluster.files.durable import TOKEN, digest_of, unlink_below
from bigcluster.files.kept import KEPT, save, set_aside
from bigcluster.outdir import last_copies
from bigcluster.outdir.holder import HOLDER
from bigcluster.outdir.last_copies import OtherCopies
from bigcluster.outdir.owned import known_file, short_digest
from bigcluster.pipeline.run import run as run_pipeline
from bigcluster.pipeline.verify import verify as verify_pipeline
from bigcluster.profiling import publish as profiles
from bigcluster.runtime.events import silent
from bigcluster.runtime.resources import Resources
from bigcluster.store import Mark, Marks, Store
from bigcluster.units import GIB

N_IMAGES = 12
BUDGET = Resources(GIB, 2)


def run(images: Path, out: Path, **values: Any) -> dict[str, Any]:
    """A run in this process, without a report unless it is asked for."""
    given = {"images": str(images), "out": str(out), "k": 4, "size": 8, "reduce": "none", "report.write": False}
    return run_pipeline(resolve(flags=given | values, sets=(), config=None, kept=None), BUDGET)


def verify(out: Path) -> dict[str, Any]:
    return verify_pipeline(resolve(flags={"out": str(out)}, sets=(), config=None, kept=None), BUDGET)


def contents(*folders: Path) -> list[bytes]:
    """Of all regular files below, ascending."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path.read_bytes() for path in files)


def described(root: Path) -> dict[str, tuple[Any, ...]]:
    """Every entry below a folder: kind and mode, with the content or the target."""
    found = {}
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        inside: Any = None
        if stat.S_ISLNK(mode):
            inside = path.readlink()
        elif stat.S_ISREG(mode):
            inside = path.read_bytes()
        found[str(path.relative_to(root))] = mode, inside
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "in", N_IMAGES)
    return tmp_path / "in"


@pytest.fixture
def out(images: Path, tmp_path: Path) -> Path:
    run(images, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody, which must be as it was at the end."""
    folder = tmp_path / "precious"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("precious")
    (folder / "inner" / "done.json").write_text("also precious")
    folder.chmod(0o750)
    before = described(folder)
    yield folder
    assert described(folder) == before


# -- links at our names

NAMES = (
    *(
        ".lock",
        ".holder",
        "run.toml",
        "labels.csv",
        "images.csv",
        "summary.json",
        "memory.csv",
        "variance.csv",
        "sweep.csv",
    ),
    *("sweep.png", "manifest.csv", "store.zarr", ".bigcluster", "clusters", "clusters/00"),
    *("report", "report/index.html", "profile"),
    *("profile/timeline.png", "kept", "store.zarr/zarr.json", ".bigcluster/marks", ".bigcluster/marks/ingest"),
    *(".bigcluster/marks/ingest/done.json", ".bigcluster/marks/metadata/pixels.json", ".bigcluster/made"),
    *("store.zarr/pixels", "store.zarr/pixels/zarr.json", "store.zarr/pixels/c", "store.zarr/pixels/c/0"),
    *("store.zarr/pixels/c/0/0", ".bigcluster/state", ".bigcluster/state/cluster", "store.zarr/centers"),
)


@pytest.mark.parametrize("target", ["file", "", "nowhere", "itself"])
def test_a_link_at_a_name_of_ours_is_refused(images: Path, out: Path, precious: Path, target: str) -> None:
    """As `ln -sf ~/precious OUT/.lock`: the target is as it was, and everything else too."""
    before = described(out)
    for name in NAMES:
        path, aside = out / name, out.parent / "aside"
        was_there, parent_was_there = path.exists(), path.parent.exists()
        if was_there:
            path.rename(aside)
        path.parent.mkdir(parents=True, exist_ok=True)
        leads_to = Path(path.name) if target == "itself" else precious / target
        path.symlink_to(leads_to)
        for command in (lambda: run(images, out, k=3), lambda: verify(out)):
            # Without its metadata a store is that of a stranger, as is one at the end of a link.
            with pytest.raises((UsageError, StoreError), match=r"^[^\n]+$"):
                command()
        assert path.readlink() == leads_to, name
        path.unlink()
        if was_there:
            aside.rename(path)
        elif not parent_was_there:
            path.parent.rmdir()
        assert described(out) == before, name


def test_a_folder_that_becomes_a_link_meanwhile_leads_no_removal_away(tmp_path: Path, precious: Path) -> None:
    """Somebody who may write into OUT exchanges a folder after all names were looked at."""
    marks = Marks(tmp_path / "out")
    marks.path("inner").parent.parent.mkdir(parents=True)
    marks.path("inner").parent.symlink_to(precious / "inner")
    with pytest.raises(OutError, match="is a link"):
        unlink_below(marks.path("inner"), tmp_path / "out")
    with pytest.raises(OutError, match="is a link"):
        marks.remove("inner")


@pytest.mark.parametrize(
    "name", [".clusters.new", ".clusters.old", ".report.new", ".sweep.png.partial", "kept.partial"]
)
@pytest.mark.parametrize("target", ["file", ""])
def test_a_link_at_a_name_of_any_other_kind_is_nothing_to_us(
    images: Path, out: Path, precious: Path, name: str, target: str
) -> None:
    (out / name).symlink_to(precious / target)
    (out / "store.zarr" / "pixels" / "c" / "0" / f"0{name}").write_text("theirs")
    run(images, out, k="2:3")
    assert verify(out)["ok"]
    assert (out / name).readlink() == precious / target
    assert (out / "store.zarr" / "pixels" / "c" / "0" / f"0{name}").read_text() == "theirs"


def test_out_itself_may_be_a_link(images: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    run(images, tmp_path / "out")
    run(images, tmp_path / "out", k=3)
    assert verify(tmp_path / "out")["ok"]
    assert (tmp_path / "out").is_symlink()
    assert len(contents(tmp_path / "disk" / "clusters")) == N_IMAGES


def test_links_of_ours_are_removed_as_links_and_those_of_others_stay(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, link="symlink")
    (out / "clusters" / "00" / "theirs.png").symlink_to(images / "p000.png")
    before = described(images)
    run(images, out, k=3, link="symlink")
    entries = [path for path in (out / "clusters").rglob("*") if path.is_symlink()]
    assert len(entries) == N_IMAGES + 1
    assert (out / "clusters" / "00" / "theirs.png").readlink() == images / "p000.png"
    assert described(images) == before


# -- look-alikes of what we made


def test_inode_size_and_time_of_ours_do_not_make_a_file_ours(tmp_path: Path) -> None:
    """A file system gives the inode of a deleted file to the next one."""
    out, entry = tmp_path, tmp_path / "clusters" / "00" / "p.png"
    entry.parent.mkdir(parents=True)
    entry.write_text("mine!")
    known = known_file(entry.stat(), short_digest(digest_of(b"ours!")), own=False)
    other_copies = OtherCopies(out, lambda row: str(tmp_path / "images" / f"{row}.png"))
    other_copies.remove(str(entry), [known])
    other_copies.remove(str(entry), [known._replace(inode=0)])
    other_copies.close()
    assert entry.read_text() == "mine!"
    assert other_copies.n_kept == 0


def test_an_edited_copy_of_equal_size_and_time_is_the_person_s(images: Path, tmp_path: Path) -> None:
    """As `exiftool -P` edits: the clusters change, and the name is wanted for another picture."""
    out = tmp_path / "out"
    for number, file in enumerate(sorted(images.iterdir())):
        (images / str(number)).mkdir()
        file.rename(images / str(number) / "p.png")
    run(images, out, link="copy")
    edited = {}
    for entry in list((out / "clusters").rglob("*.png")):
        found = entry.stat()
        data = entry.read_bytes()[:-1] + b"\1"
        entry.write_bytes(data)
        os.utime(entry, ns=(found.st_atime_ns, found.st_mtime_ns))
        edited[entry] = data
    run(images, out, k=2, link="copy")
    run(images, out, k=5, link="copy")
    kept = contents(out)
    assert all(data in kept for data in edited.values())


def test_what_others_put_into_profile_stays(out: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "timeline.csv").write_text("ours")
    profiles.publish(made, out, silent)
    (out / "profile" / "notes.csv").write_text("mine")
    (out / "profile" / "timeline.csv").write_text("edited")
    (out / "profile" / "mprofile-numpy.dat").write_text("mine too")
    (made / "timeline.csv").write_text("newer")
    profiles.publish(made, out, silent)
    assert (out / "profile" / "timeline.csv").read_text() == "newer"
    assert (out / "profile" / "notes.csv").read_text() == "mine"
    assert (out / "profile" / "mprofile-numpy.dat").read_text() == "mine too"
    assert (out / KEPT / "profile" / "timeline.csv").read_text() == "edited"


@pytest.mark.parametrize("text", ["", "process 1 on here\n", "unfinished 0123456789abcdef\n"])
def test_a_stray_lock_makes_no_out(images: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / ".lock").write_text(text)
    (folder / "labels.csv").write_text("mine")
    (folder / ".0123456789abcdef-1.partial").write_text("mine")
    before = described(folder)
    for command in (lambda: run(images, folder), lambda: verify(folder)):
        with pytest.raises((OutError, StoreError)):
            command()
    assert described(folder) == before


def test_somebody_s_zarr_group_is_no_store_of_ours(images: Path, tmp_path: Path, cli: Cli) -> None:
    """Whatever command is given its folder as OUT."""
    folder = tmp_path / "work"
    group = zarr.create_group(folder / "store.zarr", zarr_format=3)
    group.create_array("pixels", shape=(4, 3), dtype="u1")[:] = 7
    before = described(folder)
    with pytest.raises(OutError, match="not ours"):
        run(images, folder)
    with pytest.raises(StoreError):
        Store(folder, create=False).array("pixels")
    ran = cli("predict", folder, images, "--to", tmp_path / "p.csv")
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran
    assert described(folder) == before


def test_folders_of_others_keep_mode_and_place(images: Path, out: Path) -> None:
    private, empty = out / "clusters" / "mine", out / "clusters" / "00" / "empty"
    private.mkdir(mode=0o700)
    (private / "p000.png").write_text("mine")
    empty.mkdir()
    (out / "clusters" / "09").mkdir(mode=0o700)
    for k in (11, 3, 2):
        run(images, out, k=k, link="copy" if k == 2 else "hardlink")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert (private / "p000.png").read_text() == "mine"
    assert empty.is_dir()
    assert stat.S_IMODE((out / "clusters" / "09").stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["renamed", "removed"])
@pytest.mark.parametrize("place", ["clusters/03", "clusters"])
def test_a_folder_that_somebody_made_where_one_of_ours_was_stays(images: Path, out: Path, place: str, how: str) -> None:
    """A removed folder gives its inode to the next one that is made."""
    folder = out / place
    assert folder.is_dir()
    if how == "renamed":
        folder.rename(folder.with_name("cats"))
    else:
        shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o711)
    identity = folder.stat().st_ino
    run(images, out, k=2, link="none")
    assert folder.stat().st_ino == identity
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    run(images, out, k=4)
    run(images, out, k=2, link="none")
    assert folder.stat().st_ino == identity
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711


def test_a_renamed_folder_of_a_cluster_is_told_in_one_line(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    line = ("run", images, "--out", out, "--size", 8, "--set", "reduce=none", "--set", "report.write=false", "-k")
    assert "renamed" not in cli(*line, 12).err
    inside = contents(out / "clusters" / "03"), contents(out / "clusters" / "11")
    (out / "clusters" / "03").rename(out / "clusters" / "cats")
    (out / "clusters" / "11").rename(out / "clusters" / "12")
    (out / "clusters" / "mine").mkdir()
    ran = cli(*line, 4)
    assert ran.code == 0
    (said,) = (text for text in ran.err.splitlines() if "renamed" in text)
    assert "clusters/11 to clusters/12, clusters/03 to clusters/cats; a folder that you renamed is yours" in said
    assert "the clusters of this run are in clusters/00 and the numbers after it" in said
    assert (contents(out / "clusters" / "cats"), contents(out / "clusters" / "12")) == inside
    assert sorted(path.name for path in (out / "clusters").iterdir()) == ["00", "01", "02", "03", "12", "cats", "mine"]
    assert "renamed" not in cli(*line, 4).err, "it is told once"


def test_folders_of_ours_go_when_they_are_empty_and_those_of_a_copied_out_stay(
    images: Path, out: Path, tmp_path: Path
) -> None:
    """Nothing tells folders of a copy from those that somebody made."""
    copied = tmp_path / "copied"
    shutil.copytree(out, copied, symlinks=True)
    for folder, left in ((out, 2), (copied, 4)):
        run(images, folder, k=2)
        assert len(list((folder / "clusters").iterdir())) == left
        assert len(contents(folder / "clusters")) == N_IMAGES
        assert verify(folder)["ok"]
    run(images, out, k=2, link="none")
    assert not (out / "clusters").exists()


def test_edited_files_beside_the_store_are_kept(images: Path, out: Path) -> None:
    edited = {name: b"mine: " + name.encode() for name in ("labels.csv", "images.csv", "memory.csv", "summary.json")}
    for name, data in edited.items():
        (out / name).write_bytes(data)
        (out / name).chmod(0o600)
    run(images, out, k=3)
    assert {name: (out / KEPT / name).read_bytes() for name in edited} == edited
    assert all(stat.S_IMODE((out / KEPT / name).stat().st_mode) == 0o600 for name in edited)
    (out / "labels.csv").write_bytes(b"again")
    run(images, out, k=2)
    assert (out / KEPT / "labels (2).csv").read_bytes() == b"again"
    assert verify(out)["ok"]


def test_arrays_and_notes_of_others_in_the_store_stay(images: Path, out: Path) -> None:
    store = out / "store.zarr"
    zarr.open_group(store, mode="r+").create_array("mine", shape=(4,), dtype="i4")[:] = 3
    (store / "notes.txt").write_text("mine")
    (out / ".bigcluster" / "marks" / "ingest" / "notes.json").write_text("mine")
    for place in ("c/notes", "c/0/1000000", "c/1000000", "notes", "c/0/.1"):
        (store / "scores" / place).parent.mkdir(parents=True, exist_ok=True)
        (store / "scores" / place).write_text("mine")
        (store / "pixels" / place).write_text("mine")
    before = described(store / "mine")
    run(images, out, k=3, reduce="pca", components=2)
    run(images, out, k=2, reduce="pca", components=1)
    run(images, out, k=3)
    (images / "p000.png").unlink()
    run(images, out, k=3)
    assert described(store / "mine") == before
    theirs = [path for path in out.rglob("*") if path.is_file() and path.read_bytes() == b"mine"]
    assert len(theirs) == 12
    assert (store / "notes.txt") in theirs


@pytest.mark.parametrize("inside", ["", "c", "c/0"])
def test_an_empty_folder_of_somebody_does_not_go_with_an_array(tmp_path: Path, inside: str) -> None:
    """An array is made in the place where the folder stood, and removed again."""
    store, theirs = Store(tmp_path), tmp_path / "store.zarr" / "scores" / inside
    theirs.mkdir(parents=True)
    theirs.chmod(0o711)
    store.save("scores", np.zeros((4, 2)))
    assert store.load("scores").shape == (4, 2)
    store.remove("scores")
    assert not (tmp_path / "store.zarr" / "scores").exists()
    assert stat.S_IMODE((tmp_path / KEPT / "store.zarr" / "scores" / inside).stat().st_mode) == 0o711


IN_THE_WAY = (
    *("store.zarr/pixels/c/0", "store.zarr/pixels/c", "store.zarr/pixels", "store.zarr/labels/c", "store.zarr/scores"),
    *(".bigcluster/marks/ingest", ".bigcluster/marks/cluster", ".bigcluster/marks", ".bigcluster/made"),
    *(".bigcluster/state", "report/assets"),
)


@pytest.mark.parametrize("place", IN_THE_WAY)
def test_a_file_where_a_folder_of_ours_belongs_goes_to_kept(images: Path, out: Path, place: str) -> None:
    where, is_state = out / place, place.endswith("state")
    for _ in range(2):  # the second one finds the first one in OUT/kept
        if where.is_dir():
            shutil.rmtree(where)
        where.parent.mkdir(exist_ok=True)
        where.write_text("mine")
        line = {"k": 3, "reduce": "pca", "components": 2, "report.write": True}
        run(images, out, **line)
        assert where.is_dir() or is_state
        assert verify(out)["ok"]
    kept = [path for path in (out / KEPT).rglob("*") if path.is_file() and path.read_bytes() == b"mine"]
    assert len(kept) == (0 if is_state else 2)
    assert not is_state or where.read_text() == "mine", "nothing was saved there"


def test_what_is_kept_finds_a_place_beside_a_file(tmp_path: Path) -> None:
    """Where a file was moved to, a folder of the same path may have to be."""
    for name in ("pixels/c", "pixels/c/0", "pixels/c/0"):
        if (tmp_path / "pixels" / "c").is_file():
            (tmp_path / "pixels" / "c").unlink()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        set_aside(tmp_path / name, tmp_path)
    kept = {path.relative_to(tmp_path / KEPT).as_posix() for path in (tmp_path / KEPT).rglob("*") if path.is_file()}
    assert kept == {"pixels/c", "pixels/c (2)/0", "pixels/c (2)/0 (2)"}


def test_a_file_of_ours_that_is_replaced_keeps_the_mode_that_it_was_given(images: Path, out: Path) -> None:
    line: dict[str, Any] = {"reduce": "pca", "components": 2, "report.write": True}
    run(images, out, k=4, **line)
    names = ("labels.csv", "images.csv", "summary.json", "run.toml", "memory.csv", "variance.csv", "report/index.html")
    modes = (0o600, 0o640, 0o666, 0o600, 0o444, 0o604, 0o600)
    modes_of = {out / name: mode for name, mode in zip(names, modes, strict=True)}
    for path, mode in modes_of.items():
        path.chmod(mode)
    before = {path: path.stat().st_mtime_ns for path in modes_of}
    os.utime(images / "p000.png", ns=(0, 0))
    (images / "p001.png").unlink()
    run(images, out, k=3, **line | {"components": 3})
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in modes_of} == modes_of
    assert [path for path in modes_of if path.stat().st_mtime_ns == before[path]] == [], "all of them were replaced"


def test_a_copy_of_out_has_nothing_of_an_earlier_clustering(images: Path, out: Path, tmp_path: Path) -> None:
    """`cp -r` makes files of their own of hard links: they are ours by their content."""
    copied = tmp_path / "copied"
    shutil.copytree(out, copied, symlinks=True, copy_function=shutil.copyfile)
    run(images, copied, k=2)
    assert len(contents(copied / "clusters")) == N_IMAGES
    assert not (copied / KEPT).exists()
    assert verify(copied)["ok"]


@pytest.mark.parametrize("pattern", ["clusters/*/*.png", "report/index.html"])
def test_damage_beside_the_store_is_made_good_and_what_was_there_stays(
    images: Path, tmp_path: Path, pattern: str
) -> None:
    """A flipped byte in equal size and time, which may be an edit of a person: `verify` tells, the next run mends."""
    out = tmp_path / "out"
    run(images, out, link="copy", **{"report.write": True})
    (file, *_) = sorted(out.glob(pattern))
    found, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    flawed = file.read_bytes()
    assert [damage["file"] for damage in verify(out)["damaged"]] == [file.relative_to(out).as_posix()]
    run(images, out, link="copy", **{"report.write": True})
    assert verify(out)["ok"]
    assert file.is_file()
    assert flawed in contents(out)


# -- a mark of a stranger names files that are not in the store


@pytest.mark.parametrize("row", ["x", "", "²", "9" * 5000])
def test_a_mark_that_names_no_row_of_chunks_stops_nothing(tmp_path: Path, row: str) -> None:
    store = Store(tmp_path)
    store.create("pixels", (8, 4), np.uint8, (2, 4))
    store.marks.write("strange", Mark("", {f"store.zarr/pixels/c/{row}/0": "0" * 32}))
    store.create("pixels", (4, 4), np.uint8, (2, 4))
    assert store.array("pixels").shape == (4, 4)
    assert store.marks.read("strange") is None


@pytest.mark.parametrize("name", ["9", "9" * 200])
def test_a_note_among_the_marks_of_earlier_blocks_stops_no_run(images: Path, out: Path, name: str) -> None:
    note = out / ".bigcluster" / "marks" / "retired" / f"{name}.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    (images / "p000.png").unlink()
    assert run(images, out)["counts"]["listed"] == N_IMAGES - 1
    assert [path.read_text() for path in out.rglob(note.name)] == ["mine"]


@pytest.mark.parametrize(
    "name", ["{}/file", ".bigcluster/made/../../../precious/file", "store.zarr/../../precious/file", "/dev/zero"]
)
def test_a_mark_vouches_for_nothing_outside_of_its_store(images: Path, out: Path, precious: Path, name: str) -> None:
    """Anybody can write a sealed mark. What it names is neither read nor removed."""
    marks = Marks(out)
    named = name.format(precious)
    for stage, block in (("entries", "done"), ("state", "cluster"), ("strange", "done"), ("ingest", "0")):
        forge(marks, stage, Mark("", {named: "0" * 32}, {"places": {}, "facts": {}}), block)
        assert marks.read(stage, block) is None
    assert [damage["file"] for damage in verify(out)["damaged"]]
    run(images, out, k=3)
    assert verify(out)["ok"]


# -- the last copy of a picture

LINKS_WITH_CONTENT = ("hardlink", "copy")


@pytest.mark.parametrize(
    ("link", "after"), [("hardlink", "hardlink"), ("copy", "copy"), ("hardlink", "none"), ("copy", "symlink")]
)
def test_the_last_copies_of_deleted_images_are_kept(images: Path, tmp_path: Path, link: str, after: str) -> None:
    out = tmp_path / "out"
    run(images, out, link=link)
    before = contents(images)
    for number in range(6):
        (images / f"p{number:03d}.png").unlink()
    run(images, out, k=3, link=after)
    assert set(contents(images, out / KEPT)) == set(before)
    assert len(contents(out / KEPT)) == 6
    run(images, out, k=2, link=after)
    assert len(contents(out / KEPT)) == 6


@pytest.mark.parametrize("link", ["hardlink", "copy", "symlink"])
def test_nothing_is_kept_of_images_that_are_still_there(images: Path, tmp_path: Path, link: str) -> None:
    out = tmp_path / "out"
    run(images, out, link=link)
    run(images, out, k=3, link="none")
    assert not (out / KEPT).exists()
    assert not (out / "clusters").exists()


def test_originals_that_became_links_to_our_entries_keep_their_content(images: Path, out: Path) -> None:
    """As deduplicators do."""
    before = contents(images)
    for entry in list((out / "clusters").rglob("*.png")):
        (images / entry.name).unlink()
        (images / entry.name).symlink_to(entry)
    links = described(images)
    for k, link in ((3, "hardlink"), (2, "copy"), (4, "symlink"), (3, "none")):
        run(images, out, k=k, link=link)
        assert described(images) == links
        assert all(path.exists() for path in images.iterdir())
        assert len(contents(out / "clusters")) <= 2 * N_IMAGES
    assert set(contents(out)) >= set(before)
    assert not (out / KEPT).exists()


def _in_folders_of_their_own(images: Path) -> list[Path]:
    """Pictures that all have one name, so that another k gives the name of an entry to another picture."""
    moved = []
    for number, file in enumerate(sorted(images.iterdir())):
        (images / f"s{number}").mkdir()
        moved.append(file.rename(images / f"s{number}" / "a.png"))
    return moved


def _check_that_links_show_what_they_showed(images: Path, out: Path, first: str) -> None:
    """Run with every other k and link: the files of the person show the same pictures, and every entry its own."""
    links, shown = described(images), {path: path.read_bytes() for path in images.rglob("*.png")}
    for k, link in ((5, first), (3, "hardlink"), (2, "copy"), (6, "symlink"), (2, "none"), (4, "hardlink")):
        run(images, out, k=k, link=link)
        assert described(images) == links
        assert {path: path.read_bytes() for path in images.rglob("*.png")} == shown
        with (out / "labels.csv").open() as file:
            for row in csv.DictReader(file):
                if row["file"]:
                    assert (out / "clusters" / row["file"]).read_bytes() == shown[images / row["path"]]
        assert verify(out)["ok"]


@pytest.mark.parametrize("link", ["hardlink", "copy", "symlink"])
@pytest.mark.parametrize("through", ["out", "alias"])
def test_no_entry_to_which_an_image_leads_becomes_another_picture(
    images: Path, tmp_path: Path, link: str, through: str
) -> None:
    (tmp_path / "alias").symlink_to("out")
    out, files = tmp_path / "out", _in_folders_of_their_own(images)
    run(images, out, k=3)
    entries = list((out / "clusters").rglob("*.png"))
    for file in files:
        entry = next(entry for entry in entries if entry.samefile(file))
        file.unlink()
        file.symlink_to(tmp_path / through / entry.relative_to(out))
    _check_that_links_show_what_they_showed(images, out, link)


@pytest.mark.parametrize("link", ["hardlink", "copy", "symlink"])
def test_no_entry_that_an_image_passes_on_its_way_becomes_another_picture(
    images: Path, tmp_path: Path, link: str
) -> None:
    """An image that leads to an entry that is a symbolic link to the person's archive."""
    out, files, archive = tmp_path / "out", _in_folders_of_their_own(images), tmp_path / "archive"
    archive.mkdir()
    for number, file in enumerate(files):
        file.symlink_to(file.rename(archive / f"{number}.png"))
    run(images, out, k=3, link="symlink")
    entries = list((out / "clusters").rglob("*.png"))
    for file in files:
        entry = next(entry for entry in entries if entry.samefile(file))
        file.unlink()
        file.symlink_to(entry)
    _check_that_links_show_what_they_showed(images, out, link)


def test_a_link_to_an_entry_that_is_gone_comes_to_show_no_other_picture(images: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "out", _in_folders_of_their_own(images)
    run(images, out, k=3)
    shutil.rmtree(out / "clusters")
    for number in range(3):
        files[number].unlink()
        files[number].symlink_to(out / "clusters" / f"{number:02d}" / "a.png")
    run(images, out, k=3)
    assert not any(files[number].exists() for number in range(3))


def test_a_link_that_is_changed_while_entries_are_made_gets_no_entry(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other.png"
    image = images / "p003.png"
    image.symlink_to(image.rename(tmp_path / "mine.png"))
    other.write_bytes((images / "p004.png").read_bytes())
    link = os.link

    def changing(*args: Any, **kwargs: Any) -> None:
        if HOLDER not in args:
            image.unlink()
            image.symlink_to(other)
        link(*args, **kwargs)

    monkeypatch.setattr(os, "link", changing)
    assert run(images, out)["counts"]["listed"] == N_IMAGES
    assert not list((out / "clusters").rglob("p003*"))


def test_two_names_of_one_file_are_one_content(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(4):
        os.link(images / f"p{number:03d}.png", images / f"q{number:03d}.png")
    run(images, out)
    before = contents(images)
    for number in range(4):
        (images / f"p{number:03d}.png").unlink()
        if number > 1:
            (images / f"q{number:03d}.png").unlink()
    run(images, out, k=3)
    assert set(contents(images, out / KEPT)) == set(before)
    assert len(set(contents(out / KEPT))) == 2


def test_what_is_kept_has_no_name_twice(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    saved = []
    for number in range(2):
        (images / "last.png").write_bytes((images / "p000.png").read_bytes() + bytes([number]))
        saved.append((images / "last.png").read_bytes())
        run(images, out, k=1)
        (images / "last.png").unlink()
        run(images, out, k=1)
    assert set(contents(out / KEPT)) == set(saved)
    (out / KEPT / "notes").write_text("mine")
    run(images, out, k=2)
    assert (out / KEPT / "notes").read_text() == "mine"


def test_an_entry_is_the_last_copy_where_its_image_was_replaced_in_equal_size_and_time(
    images: Path, tmp_path: Path
) -> None:
    """As `cp -p` and a rename do it: the ledger takes the image for what it was."""
    for link in LINKS_WITH_CONTENT:
        out = tmp_path / link
        run(images, out, link=link)
        before = contents(images)
        replaced = []
        for image in sorted(images.iterdir())[:6]:
            found, data = image.stat(), image.read_bytes()
            image.unlink()
            image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            os.utime(image, ns=(found.st_atime_ns, found.st_mtime_ns))
            replaced.append(data)
        run(images, out, k=3, link=link)
        run(images, out, k=2, link=link)
        assert set(contents(images, out)) >= set(before), link
        assert set(contents(out / KEPT)) == set(replaced), link


def test_an_image_is_read_once_for_all_copies_of_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, image = tmp_path / "out", tmp_path / "image.png"
    image.write_bytes(b"picture")
    found, digest, entries = image.stat(), digest_of(b"picture"), []
    for number in range(3):
        entries.append(out / "clusters" / "00" / f"{number}.png")
        entries[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(image, entries[-1])
    read: list[str] = []

    def reading(path: str) -> str:
        read.append(path)
        return digest_of(Path(path).read_bytes())

    monkeypatch.setattr(last_copies, "digest_of_file", reading)
    other_copies = OtherCopies(out, lambda _: str(image))
    other_copies.add(0, short_digest(digest), found.st_size, found.st_mtime_ns)
    for entry in entries:
        other_copies.remove(str(entry), [known_file(found, short_digest(digest), own=True)])
    other_copies.close()
    assert not any(entry.exists() for entry in entries)
    assert read == [str(image)]


@pytest.mark.parametrize("is_listed", [True, False], ids=["image removed", "other entry removed"])
def test_the_other_name_of_a_file_goes_while_ours_is_removed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    """As two commands on two OUTs do it, each of which sees the entry of the other."""
    out, other = tmp_path / "out", tmp_path / "other"
    run(images, out)
    run(images, other)
    before = contents(images)
    originals = {path.name: path for path in images.iterdir()}
    if not is_listed:
        for path in sorted(images.iterdir())[:6]:
            path.unlink()
    elsewhere = {path.name: path for path in (other / "clusters").rglob("*.png")}
    for path in images.iterdir() if is_listed else ():
        elsewhere[path.name].unlink()  # the image and our entry are its two names
    last = originals if is_listed else elsewhere
    real = os.unlink

    def racing(name: Any, *, dir_fd: int | None = None) -> None:
        if str(name).endswith(".png"):
            with suppress(FileNotFoundError):
                real(last[os.path.basename(name)])
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(last_copies.os, "unlink", racing)
    run(images, out, k=3, link="none")
    assert set(contents(images, out / KEPT)) == set(before)
    assert len(contents(out / KEPT)) == (N_IMAGES if is_listed else 6)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (out / KEPT).rglob("*.png"))


def test_a_last_copy_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clusters" / "p.png"
    path.parent.mkdir()
    path.write_bytes(b"picture")
    with path.open("rb") as file:
        path.unlink()
        (tmp_path / KEPT).write_text("in the way")
        with pytest.raises((OutError, StoreError), match=r"^[^\n]+$"):
            save(file, path, tmp_path)
        (tmp_path / KEPT).unlink()

        def refused(*_: Any) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "fchown", refused)  # as for a file of somebody else
        assert save(file, path, tmp_path).read_bytes() == b"picture"
        monkeypatch.setattr(os, "fchmod", refused)
        with pytest.raises(StoreError, match=f"^the last copy of a picture cannot be written to .*/{KEPT}/.*is lost$"):
            save(file, path, tmp_path)


# -- folders of others, mounts, file systems that rename no folders


@pytest.mark.slow
def test_a_folder_of_another_user_in_clusters_is_no_obstacle(
    images: Path, tmp_path: Path, cli: Cli, permissions: None
) -> None:
    out = tmp_path / "out"
    line = ("run", images, "--out", out, "--size", 8, "--set", "reduce=none", "--set", "report.write=false")
    assert run_cli(*line, "-k", 4, unprivileged=True).code == 0
    for place in ("clusters/00", "report", "store.zarr", "store.zarr/pixels"):
        theirs = out / place / "theirs"
        theirs.mkdir(parents=True)
        (theirs / "file").write_text("theirs")
        (theirs / "file").chmod(0o400)
        theirs.chmod(0o500 if os.geteuid() else 0o700)
        if os.geteuid() == 0:
            for path in (theirs / "file", theirs):
                os.chown(path, 12345, 12345)
    for k in (3, 2):
        ran = run_cli(*line, "-k", k, unprivileged=True)
        assert ran.code == 0, ran.err
    for place in ("clusters/00", "report", "store.zarr", "store.zarr/pixels"):
        assert (out / place / "theirs" / "file").read_text() == "theirs"


@pytest.mark.parametrize("place", ["clusters/00", "report", "store.zarr/pixels/c/0"])
def test_folders_of_any_depth_in_our_folders_are_no_obstacle(images: Path, out: Path, place: str) -> None:
    """Deeper than Python's recursion goes, and deeper than a path may be long."""
    (out / place).mkdir(exist_ok=True)
    make_deep(out / place / "1", depth=2500, name="1")
    try:
        run(images, out, k=3)
        assert verify(out)["ok"]
        assert (out / place / "1" / "1" / "1").is_dir()
    finally:
        remove_deep(out / place / "1")


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    """Mounts an empty file system over a folder."""
    mounted: list[Path] = []

    def make(folder: Path) -> None:
        line = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield make
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("inside", "link"), [("theirs", "hardlink"), ("00", "hardlink"), ("", "hardlink"), ("", "copy")]
)
def test_a_mount_in_clusters_is_no_obstacle(
    images: Path, tmp_path: Path, mount: Callable[[Path], None], inside: str, link: str
) -> None:
    out = tmp_path / "out"
    folder = out / "clusters" / inside
    run(images, out, link=link)
    folder.mkdir(exist_ok=True)
    mount(folder)
    (folder / "mine").write_text("mine")
    before = contents(images)
    run(images, out, k=3, link=link)
    (images / "p000.png").unlink()
    (images / "p001.png").unlink()
    run(images, out, k=2, link=link)
    assert (folder / "mine").read_text() == "mine"
    assert verify(out)["ok"]
    if link == "copy":
        assert set(contents(images, out)) >= set(before)


def test_a_folder_that_is_named_like_an_entry_is_no_obstacle(images: Path, out: Path) -> None:
    for cluster in range(4):
        for number in range(N_IMAGES):
            folder = out / "clusters" / f"{cluster:02d}" / f"p{number:03d}.png"
            folder.unlink(missing_ok=True)
            folder.mkdir()
    for k in (4, 3):
        run(images, out, k=k)
    assert len([path for path in (out / "clusters").rglob("*.png") if path.is_dir()]) == 4 * N_IMAGES
    assert len(contents(out / "clusters")) == N_IMAGES
    assert verify(out)["ok"]


def test_a_file_system_that_renames_no_folders_is_no_obstacle(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As overlayfs does, with folders of its lower layer."""
    real_rename, real_replace = os.rename, os.replace

    def refusing(real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
            if stat.S_ISDIR(os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return rename

    monkeypatch.setattr(os, "rename", refusing(real_rename))
    monkeypatch.setattr(os, "replace", refusing(real_replace))
    out = tmp_path / "out"
    for k in (4, 3):
        run(images, out, k=k, **{"report.write": True})
    assert verify(out)["ok"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EBUSY])
def test_what_cannot_be_moved_to_kept_is_one_line_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file, folder = tmp_path / "clusters" / "00" / "p.png", tmp_path / "report"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    file.chmod(0o640)
    os.utime(file, ns=(1, 2))
    folder.mkdir()
    (folder / "mine").write_text("mine")

    def rename(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", rename)
    before = described(tmp_path)
    with pytest.raises(StoreError, match=f"^.*cannot be moved to.*{os.strerror(number)}; move it away yourself$"):
        set_aside(folder, tmp_path)
    if number == errno.EXDEV:  # a file is copied
        moved = set_aside(file, tmp_path)
        assert moved == tmp_path / KEPT / "clusters" / "00" / "p.png"
        assert (moved.read_bytes(), stat.S_IMODE(moved.stat().st_mode), moved.stat().st_mtime_ns) == (b"mine", 0o640, 2)
        assert not file.exists()
    else:
        with pytest.raises(StoreError, match="cannot be moved to"):
            set_aside(file, tmp_path)
        assert before.items() <= described(tmp_path).items()


# -- the lock


def test_a_lock_that_somebody_deletes_holds_all_the_same(out: Path) -> None:
    with outdir.locked(out):
        (out / ".lock").unlink()
        done = run_cli("verify", out)
    assert (done.code, len(done.error_lines)) == (1, 1), done
    assert "OUT is in use" in done.err


def test_pictures_differ() -> None:
    """What these tests build on: no two pictures have one content."""
    assert len({picture(seed).tobytes() for seed in range(N_IMAGES)}) == N_IMAGES
    assert short_digest("f" * 32) == np.iinfo(np.uint64).max


# -- what an attacker found


def test_a_profile_leaves_a_folder_of_somebody_else_alone(images: Path, tmp_path: Path, cli: Cli) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "store.zarr").mkdir(parents=True)
    (theirs / "store.zarr" / "zarr.json").write_text('{"zarr_format":3,"node_type":"group","attributes":{}}')
    before = described(theirs)
    ran = cli("profile", images, "--out", theirs, "-k", 2, "--size", 8)
    assert ran.code in (1, 2), ran
    assert len(ran.error_lines) == 1, ran.err
    assert described(theirs) == before


@pytest.mark.parametrize("digests", [{}, {"store.zarr/nope": "x"}])
def test_a_mark_named_for_the_folder_above_touches_nothing_there(
    images: Path, out: Path, digests: dict[str, str]
) -> None:
    metadata = {"data_type": "uint8", "chunk_grid": {"configuration": {"chunk_shape": [16]}}}
    (out / "zarr.json").write_text(json.dumps(metadata))
    (out / "c" / "0").mkdir(parents=True)
    (out / "c" / "0" / "0").write_bytes(b"x" * 20)
    before = described(out / "c"), (out / "zarr.json").read_bytes()
    forge(Marks(out), "metadata", Mark("", digests, {"shape": [16], "dtype": "uint8", "chunks": [16]}), "..")
    verify(out)
    run(images, out, k=3)
    assert (described(out / "c"), (out / "zarr.json").read_bytes()) == before


def test_a_link_among_the_images_that_leads_into_out_is_not_followed(images: Path, out: Path) -> None:
    (images / "sorted").symlink_to(out / "clusters")
    for _ in range(2):
        assert run(images, out)["counts"]["listed"] == N_IMAGES


@pytest.mark.parametrize("pattern", ["**/*.png", "*/*.png", "*/*/*.png", "sorted*/00/*.png"])
def test_a_link_that_leads_a_glob_into_out_is_not_followed(images: Path, out: Path, pattern: str) -> None:
    shelf = images / "shelf"
    shelf.mkdir()
    for file in images.glob("*.png"):
        file.rename(shelf / file.name)
    for target in (out, out / "clusters", out / "clusters" / "00"):
        (images / "sorted").symlink_to(target)
        if pattern in ("**/*.png", "*/*.png"):
            listing = list_images(str(images / pattern), out)
            assert list(listing.names) == [f"shelf/p{number:03d}.png" for number in range(N_IMAGES)]
        else:
            with pytest.raises(NoImagesError):
                list_images(str(images / pattern), out)
        (images / "sorted").unlink()
    with pytest.raises(OutError, match="lies inside OUT"):
        list_images(f"{out.parent}/*/*/*/*.png", out)


def test_a_file_in_a_folder_of_chunks_stays_when_the_chunks_move(images: Path, out: Path) -> None:
    notes = out / "store.zarr" / "pixels" / "c" / "0" / "notes.txt"
    notes.write_text("mine")
    (images / "a-new.png").write_bytes((images / "p005.png").read_bytes() + b"\0")
    assert run(images, out)["counts"]["listed"] == N_IMAGES + 1
    assert notes.read_text() == "mine"
    assert verify(out)["ok"]


def test_a_forged_table_makes_no_folder_ours(images: Path, out: Path) -> None:
    mine = out / "clusters" / "mydir" / "x.png"
    mine.parent.mkdir()
    shutil.copy2(images / "p000.png", mine)
    Marks(out).remove("entries")
    table = (out / "labels.csv").read_text().splitlines(keepends=True)
    (out / "labels.csv").write_text(table[0] + "p000.png,0,0,1,0,ok,mydir/x.png\r\n" + "".join(table[2:]))
    run(images, out, k=3)
    assert mine.is_file()


def test_a_lock_that_is_another_name_of_a_file_is_refused(images: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"")
    (out / ".lock").unlink()
    os.link(tmp_path / "theirs", out / ".lock")
    with pytest.raises(OutError, match="is not the lock"):
        run(images, out, k=3)
    assert (tmp_path / "theirs").read_bytes() == b""


def test_a_list_larger_than_any_of_ours_is_not_read(images: Path, out: Path) -> None:
    file = out / ".bigcluster" / "made" / "entries-x.list"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 30)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:32]
    Marks(out).write("entries", Mark("", {".bigcluster/made/entries-x.list": digest}))
    tracemalloc.start()
    run(images, out, k=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


def test_a_target_beside_the_images_of_a_glob_is_refused(images: Path, out: Path, cli: Cli) -> None:
    (images / "captions.txt").write_text("captions")
    ran = cli("predict", out, images / "*.png", "--to", images / "captions.txt")
    assert ran.code == 2, ran
    assert (images / "captions.txt").read_text() == "captions"


def test_a_closed_table_is_set_aside(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "closed"
    line = ("run", images, "--out", out, "--size", 8, "--set", "reduce=none", "--set", "report.write=false", "-k")
    assert cli(*line, 3, unprivileged=True).code == 0
    (out / "labels.csv").chmod(0)
    ran = cli(*line, 2, unprivileged=True)
    assert ran.code == 0, ran
    assert stat.S_IMODE((out / KEPT / "labels.csv").stat().st_mode) == 0


def test_the_lock_is_on_disk_before_anything_else_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut, the token in it tells whose the unfinished files are: without it, OUT is a stranger's."""
    synced: list[tuple[int, str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.pread(descriptor, 1000, 0).decode()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with outdir.locked(tmp_path):
        lock = tmp_path / ".lock"
        assert synced[0] == (lock.stat().st_ino, lock.read_text())
        assert synced[1:] == [((tmp_path / HOLDER).stat().st_ino, (tmp_path / HOLDER).read_text())]
        assert f"unfinished {TOKEN}" in lock.read_text()
