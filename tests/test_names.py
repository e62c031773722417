"""Names between the file system, CSV cells and folders of clusters."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bigcluster.catalog import StringArray, from_csv_path, guard_cell, natural_key, to_csv_path
from bigcluster.files.kept import NAME_BYTES
from bigcluster.outputs.folders import EntryNames, cluster_folder

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

# What a file can be called on Linux: any bytes but NUL and the slash; "." and ".." mean something else.
file_names = (
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b".."))
    .map(os.fsdecode)
)
tricky_names = st.text(st.sampled_from("=+-@\t\r\n\\x0e9',\" a.1\udce9é"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(file_names | tricky_names, min_size=1, max_size=3).map("/".join)


@given(paths)
@example("\\xe9.jpg")
@example("\\\\xe9\udce9.jpg")
@example("=1.jpg")
def test_a_csv_path_comes_back_and_is_valid_utf8_and_is_not_run(path: str) -> None:
    cell = to_csv_path(path)
    assert from_csv_path(cell) == path
    cell.encode("utf-8")  # raises where it is not valid
    assert not cell.startswith(FORMULA_STARTS)


@given(st.lists(paths, min_size=1, max_size=5, unique=True))
def test_csv_paths_survive_a_csv_file_and_stay_distinct(names: list[str]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerows([to_csv_path(name), "next"] for name in names)
    raw = file.getvalue().encode("utf-8")
    read = list(csv.reader(io.StringIO(raw.decode("utf-8"), newline="")))
    assert [from_csv_path(cell) for cell, _ in read] == names


@given(file_names | tricky_names)
def test_a_formula_path_names_the_same_file(name: str) -> None:
    cell = to_csv_path(name)
    if name.startswith(FORMULA_STARTS):
        assert cell.startswith("./")
        assert PurePosixPath(cell) == PurePosixPath(to_csv_path("x" + name)[1:])
    else:
        assert not cell.startswith("./") or name.startswith("./")


def test_escapes_are_the_documented_ones() -> None:
    assert to_csv_path(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert to_csv_path("back\\slash.jpg") == "back\\\\slash.jpg"
    assert to_csv_path("=x.jpg") == "./=x.jpg"
    assert to_csv_path("plain é 🐈.jpg") == "plain é 🐈.jpg"


@given(st.text(max_size=20))
def test_a_guarded_cell_is_not_run(cell: str) -> None:
    guarded = guard_cell(cell)
    assert guarded in (cell, "'" + cell)
    if guarded.startswith(FORMULA_STARTS):
        float(guarded)  # a plain number is no formula


@pytest.mark.parametrize(
    "cell", ["=1+1", "-1+1", "+x", "@SUM(A1)", "\tx", "\r", "-", "+", "-1e", "=5", "\n=1", "＝1", "＋1", "－x", "＠a"]
)
def test_text_that_a_spreadsheet_would_run_is_guarded(cell: str) -> None:
    assert guard_cell(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["-5", "+49", "-1.5e-3", "-.5", "x=1", "", " =1"])
def test_numbers_and_other_text_pass(cell: str) -> None:
    assert guard_cell(cell) == cell


@given(st.text(st.sampled_from("abcXYZ -_."), max_size=5), st.integers(0, 10**30), st.integers(0, 10**30))
def test_numbers_inside_names_sort_by_value(stem: str, one: int, other: int) -> None:
    first, second = sorted((one, other))
    if first != second:
        assert natural_key(f"{stem}{first}.jpg") < natural_key(f"{stem}{second}.jpg")
        assert natural_key(f"{stem}{first:06d}.jpg") < natural_key(f"{stem}{second}.jpg")


@given(st.lists(file_names, unique=True, max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    assert len({natural_key(name) for name in names}) == len(names)
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_natural_order_as_people_see_it() -> None:
    wanted = ["A1.jpg", "a2.jpg", "A10.jpg", "b.jpg", "C.jpg"]
    shuffled = wanted[::-1]
    assert sorted(shuffled, key=natural_key) == wanted


@given(st.lists(paths | st.text(st.characters()), max_size=20))
def test_a_string_array_gives_back_every_string(strings: list[str]) -> None:
    built, appended = StringArray(strings), StringArray()
    for string in strings:
        appended.append(string)
    for packed in (built, appended):
        assert len(packed) == len(strings)
        assert list(packed) == strings
        assert [packed[i] for i in range(len(strings))] == strings


same_names = st.sampled_from(["a.jpg", "A.JPG", "a (2).jpg", "A (2).jpg", "a (3).jpg", "ß.png", "SS.png", ".jpg"])
long_names = st.sampled_from([251, 250, 126]).flatmap(
    lambda n: st.sampled_from(["x" * n + ".jpg", "é" * (n // 2) + ".jpg", "\udce9" * n + ".jpg", "x." + "y" * n])
)


@given(st.lists(st.tuples(st.integers(0, 2), same_names | long_names | file_names), max_size=12))
@example([(0, "a." + "y" * 253)] * 3)
def test_folder_names_are_unique_without_case_and_fit(rows: list[tuple[int, str]]) -> None:
    names = EntryNames(3)
    made = [names.of(label, f"somewhere/{i}/{name}") for i, (label, name) in enumerate(rows)]
    assert len({name.casefold() for name in made}) == len(rows)
    for (label, original), name in zip(rows, made, strict=True):
        folder, _, file = name.partition("/")
        assert folder == f"{label:02d}"
        assert "/" not in file
        assert 0 < len(os.fsencode(file)) <= NAME_BYTES
        stem = os.path.splitext(original)[0]
        assert file == original or re.search(r" \(\d+\)", file), (original, file)
        assert file[:3] == original[:3] or len(stem) < 3 or len(os.fsencode(original)) > NAME_BYTES - 5


def test_the_first_of_a_name_keeps_it() -> None:
    names = EntryNames(2)
    rows = [(0, "l/same.jpg"), (0, "r/same.jpg"), (0, "r/SAME.jpg"), (1, "x/same (2).jpg")]
    assert [names.of(*row) for row in rows] == [
        "00/same.jpg",
        "00/same (2).jpg",
        "00/SAME (3).jpg",
        "01/same (2).jpg",
    ]


@pytest.mark.parametrize(("label", "n_clusters", "name"), [(0, 1, "00"), (7, 100, "07"), (7, 101, "007")])
def test_cluster_folders_sort_as_clusters_do(label: int, n_clusters: int, name: str) -> None:
    assert cluster_folder(label, n_clusters) == name
