"""Which images there are: folders, globs and manifests, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from clusters import context_of
from conftest import Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.catalog import Listing, list_images, natural_key, root_of
from bigcluster.catalog.file_filter import IMAGE_SUFFIXES, left_out
from bigcluster.errors import ImagesNotFoundError, NoImagesError, OutError, UsageError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.stages.ingest import ingest
from bigcluster.stages.loading.sample import Headers, image_size
from bigcluster.store import Store


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return folder


def names_of(images: Path | str, out: Path) -> list[str]:
    return list(list_images(str(images), out).names)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


part = st.text(st.sampled_from("aB10. -é"), min_size=1, max_size=4).filter(lambda name: name.strip(". ") != "")


@given(st.sets(st.lists(part, min_size=1, max_size=3).map(tuple), max_size=12))
def test_a_folder_is_walked_in_natural_order(
    tmp_path_factory: pytest.TempPathFactory, wanted: set[tuple[str, ...]]
) -> None:
    root = tmp_path_factory.mktemp("walk") / "images"
    root.mkdir()
    visible = []
    for parts in sorted(wanted):
        path = "/".join([*parts[:-1], parts[-1] + ".png"])
        touch(root, path)
        if not any(piece.startswith(".") for piece in path.split("/")):
            visible.append(path)
    # Files and folders of one folder stand in one order, by name.
    expected = sorted(visible, key=lambda path: [natural_key(piece) for piece in path.split("/")])
    if expected:
        assert names_of(root, root.parent / "out") == expected
    else:
        with pytest.raises(NoImagesError):
            list_images(str(root), root.parent / "out")


def test_hidden_files_and_folders_are_skipped(images: Path, out: Path) -> None:
    touch(images, "a.jpg", ".b.jpg", ".hidden/c.jpg", "d/.e.jpg", "d/f.jpg")
    listing = list_images(str(images), out)
    assert list(listing.names) == ["a.jpg", "d/f.jpg"]
    assert listing.ignored == {}


def test_other_files_are_counted_by_suffix(images: Path, out: Path) -> None:
    touch(images, "a.JPG", "b.Png", "c.txt", "d.TXT", "sub/e.xcf", "README", "x.jpg.bak")
    listing = list_images(str(images), out)
    assert list(listing.names) == ["a.JPG", "b.Png"]
    assert listing.ignored == {"": 1, ".bak": 1, ".txt": 2, ".xcf": 1}


def test_copies_that_storage_systems_keep_are_skipped_and_said(images: Path, out: Path) -> None:
    touch(
        images,
        *("a.jpg", "Thumbs.db", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "sub/@eaDir/b.jpg/x.jpg", "sub/b.jpg"),
        *(
            "#recycle/c.jpg",
            "$RECYCLE.BIN/d.jpg",
            "My.photoslibrary/originals/0/e.jpg",
            "My.photoslibrary/Masters/f.jpg",
        ),
        *("My.photoslibrary/resources/derivatives/e.jpg", "My.photoslibrary/Thumbnails/f.jpg"),
    )
    kept = ["My.photoslibrary/Masters/f.jpg", "My.photoslibrary/originals/0/e.jpg", "a.jpg", "sub/b.jpg"]
    listing = list_images(str(images), out)
    assert sorted(listing.names) == kept
    assert left_out(listing.ignored) == (
        "left out: 1 .db, 1 folder #recycle, 1 folder $RECYCLE.BIN, 2 folders @eaDir, 2 folders in .photoslibrary"
    )
    assert sorted(list_images(f"{images}/**/*.jpg", out).names) == kept
    assert names_of(f"{images}/@eaDir/**/*.jpg", out) == ["a.jpg/SYNOPHOTO_THUMB_M.jpg"]  # asked for by its name


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (("*_thumb.jpg",), ["a.jpg", "old/a.jpg", "old/deep/a.jpg", "x/old"]),
        (("old",), ["a.jpg", "a_thumb.jpg"]),
        (("old/",), ["a.jpg", "a_thumb.jpg", "x/old"]),
        (("old/*.jpg",), ["a.jpg", "a_thumb.jpg", "x/old"]),
        (("/old/deep",), ["a.jpg", "a_thumb.jpg", "old/a.jpg", "x/old"]),
        (("*/deep", "a.jpg"), ["a_thumb.jpg", "x/old"]),
        (("A.jpg",), ["a.jpg", "a_thumb.jpg", "old/a.jpg", "old/deep/a.jpg", "x/old"]),
    ],
)
@pytest.mark.parametrize("as_glob", [False, True])
def test_excluded_patterns_are_not_listed(
    images: Path, out: Path, patterns: tuple[str, ...], kept: list[str], as_glob: bool
) -> None:
    touch(images, "a.jpg", "a_thumb.jpg", "old/a.jpg", "old/deep/a.jpg", "x/old/b.jpg", "x/readme.md")
    wanted = [name if name != "x/old" else "x/old/b.jpg" for name in kept]
    wanted = [name for name in wanted if not (patterns == ("old",) or patterns == ("old/",)) or "old/" not in name]
    listing = list_images(f"{images}/**/*" if as_glob else str(images), out, exclude=patterns)
    assert sorted(listing.names) == sorted(wanted)
    excluded = listing.ignored.get("(excluded)", 0)
    assert (excluded > 0) == (len(wanted) < 5)
    assert (f"{excluded} excluded" in left_out(listing.ignored)) == (excluded > 0)


@pytest.mark.slow
def test_exclude_is_kept_and_changes_the_listing_only(images: Path, tmp_path: Path, cli: Cli) -> None:
    write_pictures(images, 6)
    write_pictures(images / "old", 3, first=6)
    touch(images, "notes.txt")
    run = ("run", images, "--out", tmp_path / "o", "-k", 2, "--size", 4, "--set", "report.write=false")
    ran = cli(*run, "--exclude", "old", "--exclude", "p005*")
    assert ran.code == 0, ran.err
    assert "left out: 1 .txt, 2 excluded" in ran.err
    assert 'exclude = ["old", "p005*"]' in (tmp_path / "o" / "run.toml").read_text()
    rows = (tmp_path / "o" / "labels.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows[1:]] == [f"p00{i}.png" for i in range(5)]
    again = cli("run", "--out", tmp_path / "o", "--json")
    assert json.loads(again.out)["counts"]["listed"] == 5
    predicted = cli("predict", tmp_path / "o", images, "--to", tmp_path / "new.csv", "--exclude", "p00[0-3]*", "--json")
    assert predicted.code == 0, predicted.err
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 1 + 5
    everything = cli(*run, "--set", "exclude=[]", "--json")
    assert json.loads(everything.out)["counts"]["listed"] == 9
    table = manifest(images, "path\np000.png\np001.png\n")
    refused = cli("run", table, "--out", tmp_path / "m", "-k", 1, "--exclude", "old")
    assert (refused.code, "manifest" in refused.err) == (2, True)


def test_every_known_suffix_is_listed_in_any_case(images: Path, out: Path) -> None:
    touch(images, *(f"a{suffix}" for suffix in IMAGE_SUFFIXES), *(f"b{suffix.upper()}" for suffix in IMAGE_SUFFIXES))
    assert len(names_of(images, out)) == 2 * len(IMAGE_SUFFIXES)


def test_link_loops_end(images: Path, out: Path) -> None:
    touch(images, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg")
    (images / "sub" / "again").symlink_to("..", target_is_directory=True)
    (images / "self").symlink_to(".", target_is_directory=True)
    listing = list_images(str(images), out)
    assert list(listing.names) == ["a.jpg", "sub/b.jpg", "sub/deep/c.jpg"]
    assert listing.ignored == {"(link loop)": 2}


def test_a_glob_ends_in_link_loops_too(images: Path, out: Path) -> None:
    touch(images, "a.jpg", "sub/b.jpg")
    (images / "sub" / "again").symlink_to("..", target_is_directory=True)
    assert names_of(f"{images}/**/*.jpg", out) == ["a.jpg", "sub/b.jpg"]


def test_a_linked_folder_is_followed_and_a_dangling_link_is_a_file(images: Path, out: Path, tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "b.jpg")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "gone.jpg").symlink_to("nowhere.jpg")
    assert names_of(images, out) == ["gone.jpg", "linked/b.jpg"]


def test_a_glob_lists_what_it_matches_once(images: Path, out: Path) -> None:
    touch(images, "a1.jpg", "a10.jpg", "a2.jpg", "b.jpg", "a.txt", "sub/a3.jpg", ".hidden.jpg", "sub/.x/a.jpg")
    assert names_of(f"{images}/a*.jpg", out) == ["a1.jpg", "a2.jpg", "a10.jpg"]
    assert names_of(f"{images}/**/**/*.jpg", out) == ["a1.jpg", "a2.jpg", "a10.jpg", "b.jpg", "sub/a3.jpg"]
    listing = list_images(f"{images}/*", out)
    assert list(listing.names) == ["a1.jpg", "a2.jpg", "a10.jpg", "b.jpg"]
    assert listing.ignored == {".txt": 1}
    assert listing.root == images.resolve() == root_of(f"{images}/**/*.jpg")


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path: Path, out: Path) -> None:
    folder = touch(tmp_path / "set [1]", "a.jpg")
    assert names_of(folder, out) == ["a.jpg"]


def manifest(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_a_csv_manifest_lists_all_its_rows_in_its_order(images: Path, out: Path) -> None:
    rows = 'title,path,n\r\n"b, ""c""",z.jpg,1\r\n\r\nx,sub/./a.jpg,2\r\n,../images/a.txt,\r\n'
    listing = list_images(str(manifest(images, "\ufeff" + rows)), out)
    assert list(listing.names) == ["z.jpg", "sub/a.jpg", "a.txt"]
    assert listing.manifest is not None
    assert listing.manifest.columns == ("title", "n")
    assert list(listing.manifest.passed_through()) == [('b, "c"', "1"), ("x", "2"), ("", "")]


def test_manifest_paths_that_are_not_utf8_name_their_files(images: Path, out: Path) -> None:
    listing = list_images(str(manifest(images, b"path\ncaf\xe9.jpg\n")), out)
    assert list(listing.names) == [os.fsdecode(b"caf\xe9.jpg")]


def test_a_parquet_manifest_says_the_same_as_a_csv(images: Path, out: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    table = pa.table({"n": [1, None, -3], "path": ["b.jpg", "a.jpg", "sub/c.jpg"], "t": ["x", "", None]})
    file = images / "list.PARQUET"
    pq.write_table(table, file)
    listing = list_images(str(file), out)
    assert list(listing.names) == ["b.jpg", "a.jpg", "sub/c.jpg"]
    assert listing.manifest is not None
    assert listing.manifest.columns == ("n", "t")
    assert list(listing.manifest.passed_through()) == [("1", "x"), ("", ""), ("-3", "")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("file,label\na.jpg,1\n", "'path'"),
        ("path,label\na.jpg\n", "line 2"),
        ("path,path,x\na.jpg,b,c\n", "has 2 columns named 'path'; give all but one another name"),
        ("title; path\nx; a.jpg\n", "has a column named ' path': remove the spaces around it"),
        ("path\n" + '"' + "a" * 200_000 + '"\n', "cannot read"),
    ],
)
def test_bad_csv_manifests_are_refused_with_their_fault(images: Path, out: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        list_images(str(manifest(images, text)), out)


def test_bad_parquet_is_refused(images: Path, out: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    with pytest.raises(UsageError, match="cannot read"):
        list_images(str(manifest(images, b"not parquet at all", "list.parquet")), out)


def test_an_empty_manifest_has_no_images(images: Path, out: Path) -> None:
    with pytest.raises(NoImagesError, match=r"list\.csv: it has no rows$"):
        list_images(str(manifest(images, "path\n")), out)


def statuses(listing: Listing, tmp_path: Path) -> list[tuple[str, str]]:
    store = Store(tmp_path)
    spec = DecodeSpec(8, 8)
    done = ingest(
        context_of(store, threads=1),
        listing,
        spec,
        block_shape=(16, 64),
        in_flight=1,
    )
    return [(record.status, record.reason) for record in done.read_ledger()]


def test_manifest_rows_that_leave_the_root_are_not_read_unless_permitted(
    images: Path, out: Path, tmp_path: Path
) -> None:
    write_pictures(images, 1)
    secret = write_pictures(tmp_path / "secret", 1)[0]
    (images / "link.png").symlink_to(secret)
    rows = f"path\np000.png\n../secret/p000.png\n{secret}\nlink.png\n"
    listing = list_images(str(manifest(images, rows)), out)
    found = statuses(listing, tmp_path)
    assert [status for status, _ in found] == ["ok", "unreadable", "unreadable", "unreadable"]
    assert all("outside" in reason for _, reason in found[1:])
    permitted = list_images(str(images / "list.csv"), out, allow_outside=True)
    # The same store: what was refused before is looked at again, and what was permitted is refused again.
    assert [status for status, _ in statuses(permitted, tmp_path)] == ["ok"] * 4
    assert [status for status, _ in statuses(listing, tmp_path)] == ["ok", *["unreadable"] * 3]


def test_odd_manifest_rows_are_rows_with_a_status(images: Path, out: Path, tmp_path: Path) -> None:
    write_pictures(images, 1)
    (images / "loop.png").symlink_to("loop.png")
    os.mkfifo(images / "fifo.png")
    rows = f"path,n\np000.png,1\nloop.png,2\nfifo.png,3\n.,4\n,5\nmissing.png,6\n{'x' * 300}.png,7\n"
    listing = list_images(str(manifest(images, rows)), out)
    with Headers(listing, 20, 64 << 20) as headers:
        assert image_size(listing, "native", headers) == (24, 32)
    assert [status for status, _ in statuses(listing, tmp_path)] == [
        "ok",
        *["unreadable"] * 4,
        "missing",
        "unreadable",
    ]


def test_out_inside_images_is_refused(images: Path) -> None:
    touch(images, "a.jpg")
    for out in (images, images / "out", images / "deep" / "out"):
        with pytest.raises(OutError, match="inside IMAGES"):
            list_images(str(images), out)


def test_out_inside_images_through_a_link_is_refused(images: Path, tmp_path: Path) -> None:
    touch(images, "a.jpg")
    (tmp_path / "link").symlink_to(images)
    with pytest.raises(OutError, match="inside IMAGES"):
        list_images(str(images), tmp_path / "link" / "out")


def test_images_inside_out_are_refused(tmp_path: Path) -> None:
    out = touch(tmp_path / "out", "clusters/00/a.jpg", "list/x")
    for images in (out / "clusters", f"{out}/clusters/*/*.jpg", manifest(tmp_path, "path\nout/clusters/00/a.jpg\n")):
        with pytest.raises(OutError, match="inside OUT"):
            list_images(str(images), out)


def test_what_is_not_there_says_so(tmp_path: Path, out: Path) -> None:
    with pytest.raises(ImagesNotFoundError, match="does not exist"):
        list_images(str(tmp_path / "nowhere"), out)
    with pytest.raises(ImagesNotFoundError, match=r"there is no folder .*/nowhere$"):
        list_images(f"{tmp_path}/nowhere/*.jpg", out)
    with pytest.raises(NoImagesError, match=r"no images in .*: nothing matches$"):
        list_images(f"{tmp_path}/*.jpg", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match=r"no images in .*: nothing is there$"):
        list_images(str(tmp_path / "empty"), out)
    with pytest.raises(UsageError, match="manifest"):
        list_images(str(manifest(tmp_path, "x", "one.jpg")), out)


def test_an_unreadable_folder_is_counted(images: Path, tmp_path: Path, cli: Cli, permissions: None) -> None:
    write_pictures(images, 3)
    closed = images / "closed"
    write_pictures(closed, 1)
    closed.chmod(0)
    try:
        ran = cli("run", images, "--out", tmp_path / "o", "-k", 1, "--size", 4, "--set", "reduce=none", "--json",
                  unprivileged=True)  # fmt: skip
    finally:
        closed.chmod(0o755)
    assert ran.code == 3, ran.err
    assert '"(unreadable folder)": 1' in ran.out
