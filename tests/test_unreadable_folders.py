"""Folders that cannot be read for a while: they are named, and nothing of theirs is thrown away."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Ran, run_cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.catalog import list_images
from bigcluster.catalog.file_filter import FileFilter
from bigcluster.catalog.walk import Ignored, NameBudget, fits_glob, match

pytestmark = pytest.mark.usefixtures("permissions")
LINE = ("-k", 2, "--size", 8, "--components", 3, "--set", "report.write=false", "--json")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(("a", "b", "b/deep", "c")):
        write_pictures(folder / name, 4, first=4 * number)
    return folder


@pytest.fixture
def closing() -> Iterator[list[Path]]:
    """Folders that are opened again in the end."""
    closed: list[Path] = []
    yield closed
    for folder in reversed(closed):
        folder.chmod(0o755)


def close(folder: Path, closing: list[Path], mode: int = 0) -> None:
    closing.append(folder)
    folder.chmod(mode)


def run(images: Path | str, out: Path, *more: object) -> Ran:
    return run_cli("run", images, "--out", out, *LINE, *more, unprivileged=True)


def table(out: Path, name: str = "images.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("folder", 0o000),
        pytest.param("folder", 0o444, marks=pytest.mark.slow),
        pytest.param("folder", 0o111, marks=pytest.mark.slow),
        pytest.param("glob", 0o000, marks=pytest.mark.slow),
        ("manifest", 0o000),
    ],
)
def test_what_lies_in_a_closed_folder_keeps_its_rows_and_its_pixels(
    images: Path, tmp_path: Path, closing: list[Path], kind: str, mode: int
) -> None:
    """000: neither names nor files; 444: names, but no file; 111: files, but no names."""
    out = tmp_path / "out"
    source: Path | str = images
    if kind == "glob":
        source = f"{images}/**/*.png"
    if kind == "manifest":
        source = images / "list.csv"
        names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
        source.write_text("path\n" + "".join(f"{name}\n" for name in names))
    assert run(source, out).code == 0
    before, labels = table(out), [(row["path"], row["label"], row["distance"]) for row in table(out, "labels.csv")]
    close(images / "b", closing, mode)
    ran = run(source, out, "-q", "--rehash")
    found = json.loads(ran.out)
    assert found["counts"]["listed"] == found["counts"]["ok"] == 16
    assert found["stages"]["ingest"]["images_decoded"] == 0
    assert table(out) == before
    assert [(row["path"], row["label"], row["distance"]) for row in table(out, "labels.csv")] == labels
    assert ran.code == 3
    if kind == "folder" and mode == 0o444:  # b/deep is seen and cannot be looked into
        assert found["counts"]["unreadable_folders"] == ["b/deep", "b"]
        assert "could not be read (b/deep): 4 images of the last run stay" in ran.err
        assert "files could not be looked at (b): what was decoded of them is kept" in ran.err
    elif kind == "manifest":
        assert found["counts"]["unreadable_folders"] == ["b", "b/deep"]
        assert "files could not be looked at (b, b/deep): what was decoded of them is kept" in ran.err
    else:
        assert found["counts"]["unreadable_folders"] == ["b"]
        assert "could not be read (b): 8 images of the last run stay" in ran.err
    (images / "b").chmod(0o755)
    write_pictures(images / "a", 1, first=90)
    (images / "b" / "p004.png").unlink()
    ran = run(images if kind == "folder" else f"{images}/**/*.png", out)
    found = json.loads(ran.out)
    assert (ran.code, found["stages"]["ingest"]["images_decoded"]) == (0, 1)
    assert found["counts"]["listed"] == 16
    entries = [path for path in (out / "clusters").rglob("*") if path.is_file()]
    assert len(entries) == 16


@pytest.mark.slow
@pytest.mark.parametrize("link", ["hardlink", "copy"])
def test_no_picture_is_lost_while_its_folder_is_closed(
    images: Path, tmp_path: Path, closing: list[Path], link: str
) -> None:
    """Its entry goes and comes back; a copy may be the last one for all that is known, and goes to OUT/kept."""
    out = tmp_path / "out"
    assert run(images, out, "--link", link).code == 0
    before = sorted(path.read_bytes() for path in images.rglob("*.png"))
    close(images / "b", closing)
    assert run(images, out, "--link", link).code == 3
    assert len(list((out / "clusters").rglob("*.png"))) == 8
    (images / "b").chmod(0o755)
    assert run(images, out, "--link", link).code == 0
    assert sorted(path.read_bytes() for path in images.rglob("*.png")) == before
    assert sorted(path.read_bytes() for path in (out / "clusters").rglob("*.png")) == before
    assert len(list((out / "kept").rglob("*.png"))) == (8 if link == "copy" else 0)


def test_pixels_stay_where_other_rows_come_and_go(images: Path, tmp_path: Path, closing: list[Path]) -> None:
    out = tmp_path / "out"
    assert run(images, out).code == 0
    close(images / "b", closing)
    write_pictures(images / "a", 3, first=50)
    (images / "c" / "p012.png").unlink()
    ran = run(images, out)
    found = json.loads(ran.out)
    assert (ran.code, found["counts"]["ok"], found["stages"]["ingest"]["images_decoded"]) == (3, 18, 3)
    names = [row["path"] for row in table(out)]
    (images / "b").chmod(0o755)
    assert list(list_images(str(images), None).names) == names, "the order is that of an open folder"


def test_a_first_run_names_what_it_cannot_read(images: Path, tmp_path: Path, closing: list[Path]) -> None:
    close(images / "b", closing)
    ran = run(images, tmp_path / "out", "-q")
    assert (ran.code, len(ran.error_lines)) == (3, 1)
    assert "warning: a folder could not be read (b): what is there is not listed" in ran.err
    assert json.loads(ran.out)["counts"]["listed"] == 8
    ran = run_cli("plan", images, "-k", 2, unprivileged=True)
    assert ran.code == 0
    assert "could not be read (b)" in ran.err
    ran = run_cli("predict", tmp_path / "out", images, "--to", tmp_path / "p.csv", "-q", unprivileged=True)
    assert ran.code == 3
    assert "could not be read (b)" in ran.err
    close(images, closing)
    ran = run_cli("run", images, "--out", tmp_path / "other", "-k", 2, unprivileged=True)
    assert ran.code == 1
    assert f"could not be read ({images})" in ran.err
    for inside, code, words in (("*.png", 1, f"could not be read ({images})"), ("a", 2, f"cannot be read: {images}/a")):
        ran = run_cli("run", images / inside, "--out", tmp_path / "other", "-k", 2, unprivileged=True)
        assert (ran.code, words in ran.err, "again" in ran.err) == (code, True, False), ran.err
    ran = run(images, tmp_path / "out")
    assert (ran.code, json.loads(ran.out)["counts"]) == (
        3,
        {"listed": 8, "ok": 8, "failed": 0, "failed_by_status": {}, "ignored": 1,
         "ignored_by_suffix": {"(unreadable folder)": 1}, "unreadable_folders": ["."]},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("link", ["none", "symlink", "copy"])
def test_other_entries_do_not_end_the_run(images: Path, tmp_path: Path, closing: list[Path], link: str) -> None:
    out = tmp_path / "out"
    assert run(images, out, "--link", link).code == 0
    close(images / "b", closing)
    ran = run(images, out, "--link", link)
    assert (ran.code, json.loads(ran.out)["counts"]["ok"]) == (3, 16)
    (images / "b").chmod(0o755)
    assert run(images, out, "--link", link).code == 0
    entries = [path for path in (out / "clusters").rglob("*") if not path.is_dir()]
    assert len(entries) == (0 if link == "none" else 16)


def test_files_that_are_gone_are_gone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(images, out).code == 0
    for path in (images / "b" / "deep").iterdir():
        path.unlink()
    (images / "b" / "deep").rmdir()
    ran = run(images, out)
    assert (ran.code, json.loads(ran.out)["counts"]["listed"]) == (0, 12)


def test_links_into_closed_folders_are_named(images: Path, tmp_path: Path, closing: list[Path]) -> None:
    secret = tmp_path / "secret"
    write_pictures(secret / "inner", 2, first=60)
    (images / "link").symlink_to(secret / "inner")
    (images / "x.png").symlink_to(secret / "inner" / "p060.png")
    close(secret, closing)
    ran = run(images, tmp_path / "out")
    counts = json.loads(ran.out)["counts"]
    assert (ran.code, counts["unreadable_folders"], counts["failed_by_status"]) == (3, ["link"], {"unreadable": 1})


NAMES = st.sampled_from(["a", "b", ".h", "a.png", "b.png", "[x]"])


@given(
    st.lists(NAMES, min_size=1, max_size=4),
    st.lists(st.sampled_from(["*", "**", "a", "?", "*.png", ".*", "[ab]", "[[]x]"]), min_size=1, max_size=3),
)
def test_a_pattern_fits_the_paths_that_it_lists(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], parts: list[str]
) -> None:
    root = tmp_path_factory.mktemp("glob") / "in"
    names = [name.removesuffix(".png") for name in names[:-1]] + [names[-1].removesuffix(".png") + ".png"]
    path = root.joinpath(*names)
    path.parent.mkdir(parents=True)
    path.touch()
    pattern, listed = "/".join(parts), "/".join(names)
    ignored = Ignored()
    found = match(root, pattern, ignored, FileFilter((), ignored), NameBudget(None))
    assert found == ([listed] if fits_glob(listed, pattern) else [])
