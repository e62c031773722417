"""Manifests: encodings and delimiters, what is refused before anything is done, and rows that stay with their own."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Background, Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.catalog import Listing, list_images, to_csv_path
from bigcluster.errors import InputChangedError, UsageError

cells = st.text(st.sampled_from("ab,;\t\"'\n é€漢=0"), max_size=6)
plain = st.text(st.sampled_from("ab é"), min_size=1, max_size=4).map(lambda name: f"x{name}.png")
tables = st.lists(st.tuples(plain, cells, cells), min_size=1, max_size=6)
ENCODINGS = {
    "utf-8": ("utf-8", "auto"),
    "utf-8 with a mark": ("utf-8-sig", "auto"),
    "utf-16 with a mark": ("utf-16", "auto"),
    "utf-16 without a mark": ("utf-16-be", "auto"),
    "utf-32 with a mark": ("utf-32", "auto"),
    "utf-8, said": ("utf-8-sig", "utf-8"),
    "utf-16, said": ("utf-16-le", "utf-16-le"),
    "gb18030": ("gb18030", "gb18030"),
}


def written(folder: Path, content: bytes | str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows: list[tuple[str, ...]], delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def passed(listing: Listing) -> list[tuple[str, ...]]:
    assert listing.manifest is not None
    return list(listing.manifest.passed_through())


@given(tables, st.sampled_from(sorted(ENCODINGS)), st.sampled_from(",;\t"))
def test_every_encoding_and_delimiter_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], encoding: str, delimiter: str
) -> None:
    stored, said = ENCODINGS[encoding]
    text = as_csv([("title", "path", "n"), *((one, path, other) for path, one, other in rows)], delimiter)
    path = written(tmp_path_factory.mktemp("m"), text.encode(stored))
    listing = list_images(str(path), None, encoding=said)
    assert list(listing.names) == [os.path.normpath(name) for name, _, _ in rows]
    assert listing.manifest is not None
    assert listing.manifest.columns == ("title", "n")
    assert passed(listing) == [(one, other) for _, one, other in rows]


@given(tables, st.data())
def test_a_manifest_that_was_cut_short_in_a_quote_is_refused_with_the_line_of_the_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    whole = [as_csv([row]) for row in [("path", "title", "n"), *rows]]
    at = data.draw(st.integers(1, len(rows)))
    text = "".join(whole[:at]) + f'"{rows[at - 1][0]}' + "".join(whole[at:]).replace('"', "")
    path = written(tmp_path_factory.mktemp("m"), text)
    lines = "".join(whole[:at]).replace("\r\n", "\n").count("\n")
    with pytest.raises(UsageError, match=rf"line {lines + 1}: a quote is opened and not closed"):
        list_images(str(path), None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'path,t\na.png,"x\nb.png,y\n', "line 2: a quote is opened and not closed"),
        (b'path,t\na.png,"x"y\nb.png,y\n', "line 2: a quote in a quoted cell is neither doubled"),
        (b'path,t\na.png,x\nb.png,"y\nc.png,"z"\n', "line 3: a quote in a quoted cell is neither doubled"),
        (b"path,t\na.png,x\n\nb.png\n", "line 4 of the manifest list.csv has 1 cell, and its header has 2"),
        (b"path,t\na.png,x\nb.png,y,z\n", "line 3 of the manifest list.csv has 3 cells, and its header has 2"),
        (b"path;t\na.png,x\n", "line 2 of the manifest list.csv has 1 cell, and its header has 2"),
        (b"path,title\n0.png,caf\xe9\n", "line 2 .* not UTF-8 in the column 'title'; set manifest.encoding"),
        (b"path,\xe9\n0.png,x\n", r"line 1 .* not UTF-8 in the column '.udce9'; set manifest.encoding"),
        ("path\n0.png\n".encode("utf-16")[:-1], "not UTF-16; set manifest.encoding"),
        (b"\xef\xbb\xbffile;n\n0.png;1\n", "needs a column named 'path'; it has file;n"),
        (b"\n\n", "is empty"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_done(
    tmp_path: Path, cli: Cli, content: bytes, says: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError, match=says):
        list_images(str(path), tmp_path / "out")
    if b"caf" in content or b'"z"' in content:
        ran = cli("run", path, "--out", tmp_path / "out", "-k", 1)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", ["a.png,x\0y", "a\0.png,x"])
@pytest.mark.parametrize("kind", ["list.csv", "list.parquet"])
def test_a_nul_is_refused_with_its_row_and_column(tmp_path: Path, cli: Cli, row: str, kind: str) -> None:
    path, note = row.split(",")
    if kind == "list.csv":
        manifest = written(tmp_path, f"path,note\r\nb.png,\r\n{row}\r\n")
    else:
        pandas = pytest.importorskip("pandas")
        manifest = tmp_path / kind
        pandas.DataFrame({"path": ["b.png", path], "note": ["", note]}).to_parquet(manifest)
    column = "note" if "\0" in note else "path"
    ran = cli("run", manifest, "--out", tmp_path / "o", "-k", 1)
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err
    assert f"line 3 of the manifest {kind} has a NUL character in the column '{column}'" in ran.err
    with pytest.raises(UsageError, match="NUL"):
        list_images(str(written(tmp_path, "path,no\0te\r\na.png,x\r\n", "header.csv")), None)


def test_an_encoding_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"path,t\na.png,\x81\n")
    with pytest.raises(UsageError, match="is not cp1252; set"):
        list_images(str(path), None, encoding="cp1252")


def test_a_manifest_in_windows_1252_runs_where_its_encoding_is_named(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "p000.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))  # a name of an old system
    (tmp_path / "p001.png").rename(tmp_path / "été.png")
    rows = "path;title\ncafé.png;crème\nété.png;brûlée\np002.png;£\nüber.png;x\n".encode("cp1252")
    line = ("run", written(tmp_path, rows), "--out", tmp_path / "out", "-k", 1, "--set", "reduce=none", "--size", 8)
    assert cli(*line).code == 2
    ran = cli(*line, "--set", "manifest.encoding=windows-1252")
    assert ran.code == 3, ran.err
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        found = [(row["path"], row["status"], row["title"]) for row in csv.DictReader(file)]
    assert found == [
        ("caf\\xe9.png", "ok", "crème"),
        ("été.png", "ok", "brûlée"),
        ("p002.png", "ok", "£"),
        ("über.png", "missing", "x"),
    ]
    assert cli("run", "--out", tmp_path / "out").code == 3, "the encoding is kept"


@given(st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & set(b'\0/\n\r",') and raw.strip(b".")))
def test_paths_keep_their_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = written(tmp_path_factory.mktemp("m"), b"path,t\nd/" + raw + b".png,x\n")
    (name,) = list_images(str(path), None).names
    assert os.fsencode(name) == b"d/" + raw + b".png"
    to_csv_path(name).encode()


def test_urls_and_absolute_paths_are_rows(tmp_path: Path, cli: Cli) -> None:
    inside, outside = tmp_path / "in", tmp_path / "elsewhere"
    write_pictures(inside, 2)
    write_pictures(outside, 1)
    rows = f"path\np000.png\n{inside}/p001.png\ns3://bucket/a.png\nhttp://host/../b.png\n{outside}/p000.png\n"
    ran = cli("run", written(inside, rows), "--out", tmp_path / "out", "-k", 1, "--set", "reduce=none", "--size", 8,
              "--set", "manifest.allow_outside=true")  # fmt: skip
    assert ran.code == 3, ran.err
    with (tmp_path / "out" / "images.csv").open(newline="", encoding="utf-8") as file:
        found = [(row["path"], row["status"], row["reason"]) for row in csv.DictReader(file)]
    assert found == [
        ("p000.png", "ok", ""),
        ("p001.png", "ok", ""),
        ("s3://bucket/a.png", "missing", "a URL: only files on disks are read"),
        ("http://host/../b.png", "missing", "a URL: only files on disks are read"),
        (f"{outside}/p000.png", "ok", ""),
    ]


def test_binary_columns_and_equal_names_of_a_parquet_manifest(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    paths = pa.array([b"caf\xe9.png", b"b.png"], pa.binary())
    table = pa.Table.from_arrays([pa.array(["1", "2"]), paths, pa.array([3, None])], ["n", "path", "n"])
    pq.write_table(table, tmp_path / "list.parquet")
    listing = list_images(str(tmp_path / "list.parquet"), None)
    assert list(listing.names) == [os.fsdecode(b"caf\xe9.png"), "b.png"]
    assert passed(listing) == [("1", "3"), ("2", "")]
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"caf\xe9"))
    for columns in ([pa.array(["a.png"]), broken], [pa.array(["a.png"]), pa.array([b"\xe9"], pa.binary())]):
        pq.write_table(pa.Table.from_arrays(columns, ["path", "t"]), tmp_path / "bad.parquet")
        with pytest.raises(UsageError, match=r"not (UTF-8|utf-8)"):
            list_images(str(tmp_path / "bad.parquet"), None)


# -- edited while it is used

ROWS = [f"p{i:04d}.png,t{i}\n" for i in range(700)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[::-1],
        lambda rows: [*rows[:600], rows[600].replace("t", "x"), *rows[601:]],
        lambda rows: rows[:-1],
        lambda rows: [*rows, "more.png,t\n"],
        lambda rows: [*rows, *ROWS],
        lambda rows: rows[:256],
        lambda rows: [],
        lambda rows: [*rows[:5], "broken\n"],
        lambda rows: [*rows[:5], '"broken\n'],
        None,
    ],
)
def test_no_row_of_a_changed_manifest_is_used(tmp_path: Path, edit: Callable[[list[str]], list[str]] | None) -> None:
    path = written(tmp_path, "path,t\n" + "".join(ROWS))
    listing = list_images(str(path), None)
    assert passed(listing) == [(f"t{i}",) for i in range(700)]
    if edit is None:
        path.unlink()
    else:
        written(tmp_path, "path,t\n" + "".join(edit(list(ROWS))))
    assert listing.manifest is not None
    used: list[tuple[str, ...]] = []
    with pytest.raises(InputChangedError, match="run again"):
        used.extend(listing.manifest.passed_through())  # keeps what came before the error
    assert used == [(f"t{i}",) for i in range(len(used))]
    written(tmp_path, "t,path\n" + "".join(ROWS))
    with pytest.raises(InputChangedError, match="another header"):
        passed(listing)


def test_a_manifest_that_is_sorted_anew_during_a_run_ends_it_and_the_next_run_is_right(
    tmp_path: Path, cli: Cli, background: Callable[..., Background], subreaper: None
) -> None:
    write_pictures(tmp_path, 40)
    rows = [f"p{i:03d}.png,title {i}\n" for i in range(40)]
    path = written(tmp_path, "path,title\n" + "".join(rows))
    line = ("run", path, "--out", tmp_path / "out", "-k", 2, "--size", "900x900", "--set", "report.write=false")
    run = background(*line)
    run.wait_until(lambda: (tmp_path / "out" / "run.toml").exists())  # it is listed
    run.process.send_signal(signal.SIGSTOP)
    replacement = written(tmp_path, "path,title\n" + "".join(rows[::-1]), "new.csv")
    replacement.replace(path)
    run.process.send_signal(signal.SIGCONT)
    ended = run.end()
    said = [text for text in ended.err.splitlines() if text.startswith("bigcluster: ")]
    assert (ended.code, len(said)) == (1, 1), ended
    assert "was changed after its images were listed" in said[0]
    assert not (tmp_path / "out" / "labels.csv").exists()
    assert cli(*line).code == 0
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        found = [(row["path"], row["title"]) for row in csv.DictReader(file)]
    assert found == [(f"p{i:03d}.png", f"title {i}") for i in range(39, -1, -1)]
