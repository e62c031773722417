"""The chunked arrays and their marks: what is written is read, and what is damaged counts as absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bigcluster.errors import DamagedError, OutError, StoreError
from bigcluster.files.durable import digest_of, replacing
from bigcluster.store import ColumnWriter, Mark, Marks, RowWriter, Store, StoredRows, fingerprint
from bigcluster.store.chunk_grid import CHUNK_BYTES, MOST_COLUMNS, MOST_ROWS, ROW_BLOCK_BYTES, pixel_chunks, row_chunks
from bigcluster.store.chunk_io import chunk_digest, fits_digest
from bigcluster.store.row_source import ArrayRows, DaskRows, RowSource, spans


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def digests_on_disk(store: Store, name: str) -> dict[str, str]:
    files = [path for path in (store.root / name / "c").rglob("*") if path.is_file()]
    return {file.relative_to(store.out).as_posix(): chunk_digest(file.read_bytes()) for file in files}


# -- chunk shapes


@given(st.integers(1, 40_000_000))
@example(1)
@example(129_000)
@example(129_000 * 3)
def test_pixel_chunks_are_neither_tiny_nor_huge(n_values: int) -> None:
    rows, columns = pixel_chunks(n_values)
    assert rows & (rows - 1) == 0, "a power of two: blocks of several arrays line up"
    assert 1 <= columns <= n_values
    assert rows * columns <= CHUNK_BYTES
    assert rows * columns > CHUNK_BYTES // 2 or columns in (n_values, MOST_COLUMNS) or rows == MOST_ROWS
    # A row block as decoded: within its bound, unless one row alone is larger.
    assert rows * n_values <= max(ROW_BLOCK_BYTES, n_values)


@given(st.integers(1, 40_000_000), st.sampled_from([1, 2, 4, 8]))
def test_row_chunks_hold_whole_rows_where_they_can(n_columns: int, itemsize: int) -> None:
    rows, columns = row_chunks(n_columns, itemsize)
    assert rows & (rows - 1) == 0
    assert columns == n_columns or (rows == 1 and columns * itemsize == CHUNK_BYTES)
    assert rows * columns * itemsize <= max(CHUNK_BYTES, n_columns * itemsize)
    assert rows == MOST_ROWS or 2 * rows * n_columns * itemsize > CHUNK_BYTES


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_spans_cover_everything_once(total: int, size: int) -> None:
    found = list(spans(total, size))
    assert [row for a, b in found for row in range(a, b)] == list(range(total))
    assert all(b - a == size for a, b in found[:-1])


# -- rows

small_arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))


@st.composite
def rectangles(draw: st.DrawFn, n_rows: int, n_columns: int) -> tuple[int, int, slice]:
    start = draw(st.integers(0, n_rows))
    stop = draw(st.integers(start, n_rows))
    left = draw(st.integers(0, n_columns))
    right = draw(st.integers(left, n_columns))
    return start, stop, draw(st.sampled_from([slice(None), slice(left, right), slice(None, right), slice(left, None)]))


def check_reads(rows: RowSource, wanted: np.ndarray[Any, Any], data: st.DataObject) -> None:
    assert rows.shape == wanted.shape
    assert rows.dtype == wanted.dtype
    before = wanted.copy()
    spent = None
    for _ in range(4):
        # Often the same place again, whose memory fits; what was read before is the reader's to spoil.
        if spent is None or data.draw(st.booleans()):
            start, stop, columns = data.draw(rectangles(*wanted.shape))
        block = rows.read(start, stop, columns, spent=spent)
        spent = block.copy() if np.shares_memory(block, wanted) else block
        np.testing.assert_array_equal(block, wanted[start:stop, columns])
        assert block.dtype == wanted.dtype
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(wanted, before)


@settings(max_examples=60)
@given(small_arrays, st.integers(1, 7), st.integers(1, 7), st.data())
def test_stored_rows_are_the_good_rows(
    tmp_path_factory: pytest.TempPathFactory, values: Any, rows: int, columns: int, data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("rows") / "s")
    store.save("x", values, (rows, columns))
    ok = data.draw(hnp.arrays(np.bool_, len(values)))
    check_reads(StoredRows(store.array("x"), ok), values[ok], data)
    check_reads(StoredRows(store.array("x")), values, data)


@given(small_arrays, st.data())
def test_arrays_of_numpy_and_dask_read_the_same(values: Any, data: st.DataObject) -> None:
    import dask.array as da

    check_reads(ArrayRows(values), values, data)
    check_reads(DaskRows(da.from_array(values, chunks=(3, 4))), values, data)


def test_dask_arrays_of_the_store_are_the_same_numbers(store: Store) -> None:
    values = np.arange(60, dtype=np.float32).reshape(12, 5)
    store.save("x", values, (5, 2))
    np.testing.assert_array_equal(StoredRows(store.array("x")).dask().compute(scheduler="synchronous"), values)


# -- writing


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 6), st.lists(st.integers(0, 15), max_size=20), st.integers(0, 3))
def test_a_row_writer_takes_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, n_rows: int, n_columns: int, sizes: list[int], chunk_power: int
) -> None:
    store = Store(tmp_path_factory.mktemp("writer") / "s")
    values = np.random.default_rng(0).normal(size=(n_rows, n_columns)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # real chunks would take millions of rows
        patch.setattr("bigcluster.store.row_io.row_chunks", lambda width, itemsize: (2**chunk_power, max(1, width - 1)))
        writer = RowWriter(store, "x", n_rows, n_columns, np.float32)
    start = 0
    for size in [*sizes, n_rows]:
        block = values[start : start + size]
        writer.write(start, block)
        start += len(block)
    digests = writer.close()
    np.testing.assert_array_equal(store.load("x"), values)
    assert digests == digests_on_disk(store, "x"), "what the mark vouches for is all there is"


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(0), st.integers(1, 2**32 - 1))
def test_a_changed_chunk_does_not_fit_its_digest(values: bytes, at: int, burst: int) -> None:
    """Any burst of up to 32 bits, the checksum at the end included; and a chunk that lost or gained a byte."""
    file, name = values + google_crc32c.value(values).to_bytes(4, "little"), "pixels/c/0/0"
    place = at % (8 * len(file) - burst.bit_length() + 1)
    changed = int.from_bytes(file, "little") ^ (burst << place)
    digest = chunk_digest(file)
    assert fits_digest(name, file, digest)
    assert not fits_digest(name, changed.to_bytes(len(file), "little"), digest)
    assert not fits_digest(name, file[:-1], digest)
    assert not fits_digest(name, file + b"\0", digest)
    assert fits_digest("pixels/zarr.json", values, digest_of(values))
    assert not fits_digest("pixels/zarr.json", file, chunk_digest(file))


def test_a_row_writer_refuses_gaps_and_missing_rows(store: Store) -> None:
    writer = RowWriter(store, "x", 10, 2, np.float32)
    writer.write(0, np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="expected row 4, got 5"):
        writer.write(5, np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="of 10 rows"):
        writer.close()


@pytest.mark.parametrize("n_rows", [1, 5, 9])
def test_a_column_writer_knows_the_digests_of_its_files(store: Store, n_rows: int) -> None:
    values = np.random.default_rng(0).normal(size=(n_rows, 11)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigcluster.store.row_io.row_chunks", lambda width, itemsize: (4, min(width, 5)))
        writer = ColumnWriter(store, "x", *values.shape, np.float32)
    for start, stop in spans(11, 3):
        writer.write(start, values[:, start:stop])
    digests = writer.close()
    np.testing.assert_array_equal(store.load("x"), values)
    assert digests == digests_on_disk(store, "x")


def test_only_whole_chunks_are_written(store: Store) -> None:
    store.create("x", (10, 4), np.uint8, (4, 4))
    store.create("y", (4, 10), np.uint8, (4, 4))
    for start, n in ((1, 4), (0, 3), (4, 5)):
        with pytest.raises(ValueError, match="whole chunks"):
            store.write_rows("x", start, np.zeros((n, 4), np.uint8))
        with pytest.raises(ValueError, match="whole chunks"):
            store.write_columns("y", start, np.zeros((4, n), np.uint8))
    assert len(store.write_rows("x", 8, np.ones((2, 4), np.uint8))) == 1


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "?", "<i4", "<i8", "<f4", "<f8"]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=13)
    ),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.data(),
)
def test_chunks_are_those_of_zarr(
    tmp_path_factory: pytest.TempPathFactory, values: Any, chunks: tuple[int, int], data: st.DataObject
) -> None:
    """zarr writes the same bytes and reads ours; any rectangle comes back as numpy would cut it."""
    folder = tmp_path_factory.mktemp("chunks")
    ours, theirs = Store(folder / "ours"), Store(folder / "theirs")
    digests = ours.save("x", values, chunks)
    array = theirs.create("x", values.shape, values.dtype, chunks)
    array[...] = values
    assert digests == digests_on_disk(ours, "x") == digests_on_disk(theirs, "x")
    np.testing.assert_array_equal(ours.load("x"), values)
    spans_ = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in values.shape]
    (top, bottom), (left, right) = spans_
    cut = StoredRows(theirs.array("x")).read(top, bottom, slice(left, right))
    np.testing.assert_array_equal(cut, values[top:bottom, left:right])


@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "gone"])
def test_a_damaged_chunk_is_named(store: Store, damage: str) -> None:
    store.save("x", np.arange(12, dtype=np.float32).reshape(3, 4))
    file = store.root / "x" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[7] ^= damage == "flipped"
    file.write_bytes({"cut": content[:-2], "longer": content + b"x"}.get(damage, content))
    if damage == "gone":
        file.unlink()
    with pytest.raises(DamagedError, match=r"'x' is damaged \(.*x/c/0/0 (is gone|has another|does not fit)"):
        StoredRows(store.array("x")).read(0, 3)


@pytest.mark.parametrize("shape", [(8, 6), (7, 5)])
def test_all_zero_chunks_are_stored(store: Store, shape: tuple[int, int]) -> None:
    store.create("x", shape, np.uint8, (4, 3))
    digests = store.write_rows("x", 0, np.zeros(shape, np.uint8))
    assert len(digests) == 4
    assert digests == digests_on_disk(store, "x")
    again = Store(store.out)
    again.write_rows("x", 0, np.ones(shape, np.uint8))
    digests = again.write_rows("x", 0, np.zeros(shape, np.uint8))
    assert digests == digests_on_disk(store, "x"), "an array that was opened again keeps them too"


def test_a_flipped_byte_is_noticed(store: Store) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    store.save("x", values, (8, 8))
    chunk = store.root / "x" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(Exception, match=r"(?i)checksum|crc"):
        Store(store.out).load("x")


def test_an_array_is_kept_grown_or_replaced(store: Store) -> None:
    store.create("x", (8, 4), np.uint8, (4, 4))
    store.write_rows("x", 0, np.full((8, 4), 7, np.uint8))
    grown = store.create("x", (12, 4), np.uint8, (4, 4))
    assert grown.shape == (12, 4)
    assert (grown[:8] == 7).all()
    with pytest.raises(ValueError, match="is gone"):
        grown[...]  # never zeros for rows that nobody wrote
    assert store.create("x", (8, 4), np.uint8, (4, 4)).shape == (8, 4)
    assert (store.load("x") == 7).all()
    assert store.create("x", (8, 5), np.uint8, (4, 5)).shape == (8, 5)
    with pytest.raises(DamagedError, match="is gone"):
        store.load("x")


def test_an_absent_array_is_an_error_that_says_so(store: Store) -> None:
    with pytest.raises(StoreError, match="'scores'"):
        store.load("scores")


# -- who may open it


def snapshot(folder: Path) -> dict[str, bytes]:
    """The files of the store, without those that went to OUT/kept."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "kept"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_unknown_format_is_refused_untouched(store: Store) -> None:
    store.save("x", np.zeros((2, 2)))
    metadata = store.root / "zarr.json"
    values = json.loads(metadata.read_text())
    values["attributes"]["bigcluster_format"] = 99
    metadata.write_text(json.dumps(values))
    before = snapshot(store.out)
    with pytest.raises(OutError, match="format 99"):
        Store(store.out)
    assert snapshot(store.out) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["", "x"])
def test_damaged_metadata_is_an_error_with_one_line(store: Store, name: str, content: bytes) -> None:
    store.commit("stage", "print", store.save("x", np.zeros((2, 2))), {})
    (store.root / name / "zarr.json").write_bytes(content)
    Marks(store.out).remove("metadata", name or "store")
    with pytest.raises(StoreError, match=r"damaged; delete") as caught:
        Store(store.out).load("x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["", "x"])
def test_damaged_metadata_are_put_back(store: Store, name: str, content: bytes | None) -> None:
    store.save("x", np.arange(6.0).reshape(2, 3))
    before = snapshot(store.out)
    file = store.root / name / "zarr.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    np.testing.assert_array_equal(Store(store.out).load("x"), np.arange(6.0).reshape(2, 3))
    assert snapshot(store.out) == before


def test_a_store_opens_again(store: Store) -> None:
    store.save("x", np.arange(4))
    np.testing.assert_array_equal(Store(store.out).load("x"), np.arange(4))


# -- marks

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
marks = st.builds(
    Mark,
    st.text(),
    st.dictionaries(
        st.from_regex(r"(store\.zarr|\.bigcluster)(/[a-z0-9][a-z0-9_.-]*){1,3}", fullmatch=True), st.text(), max_size=3
    ),
    st.dictionaries(st.text(), json_values, max_size=3),
)


@given(marks)
def test_a_mark_comes_back_whole(tmp_path_factory: pytest.TempPathFactory, mark: Mark) -> None:
    found = Marks(tmp_path_factory.mktemp("marks"))
    found.write("stage", mark, "b")
    assert found.read("stage", "b") == mark
    assert found.read("stage") is None
    found.remove("stage", "b")
    assert found.read("stage", "b") is None


@given(st.data())
def test_a_damaged_mark_counts_as_absent(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("marks")
    mark = Mark("abc", {"store.zarr/pixels/c/0": "12"}, {"records": [[1, None, "x"]], "square_sum": 10**40})
    Marks(root).write("stage", mark)
    path = Marks(root).path("stage")
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    assert Marks(root).read("stage") is None


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "{}", '{"mark": 1, "seal": 2}', '{"mark": {}}'])
def test_other_json_is_no_mark(tmp_path: Path, text: str) -> None:
    path = Marks(tmp_path).path("stage")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert Marks(tmp_path).read("stage") is None


def test_a_sealed_mark_of_another_kind_is_no_mark(tmp_path: Path) -> None:
    for sealed in ({"fingerprint": "x", "added_later": 1}, ["x"], "x"):
        body = json.dumps(sealed)
        path = Marks(tmp_path).path("stage")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"seal": "{digest_of(body.encode())}", "mark": {body}}}')
        assert json.loads(path.read_text())["mark"] == sealed
        assert Marks(tmp_path).read("stage") is None


def test_a_commit_vouches_for_the_content_of_its_files(store: Store) -> None:
    mark = store.commit("stage", "print", store.save("x", np.arange(10, dtype=np.uint8)), {"n": 1})
    assert store.marks.read("stage") == mark
    assert mark.digests == digests_on_disk(store, "x")


@given(
    st.dictionaries(st.sampled_from("abcd"), json_values, min_size=1),
    st.dictionaries(st.sampled_from("abcd"), json_values),
)
def test_fingerprints_are_equal_exactly_where_values_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint(**one) == fingerprint(**dict(reversed(one.items())))
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(**one) == fingerprint(**other)) == same


# -- files that are written whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as file:
            file.write("half")
            file.flush()
            assert path.read_text() == "before"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "before"
    with replacing(path) as file:
        file.write("after\r\nπ")
    assert path.read_bytes() == "after\r\nπ".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_zarr_may_not_delete_a_folder_of_the_store(store: Store) -> None:
    """As it would where an array is made in place of another one: files of a person may lie there."""
    store.save("labels", np.arange(5, dtype=np.int32))
    theirs = store.root / "labels" / "notes.txt"
    theirs.write_text("theirs")
    with pytest.raises(StoreError, match=r"labels is not deleted as a folder"):
        zarr.create(store=store.array("labels").store, path="labels", shape=(2,), dtype="int32", overwrite=True)
    assert theirs.read_text() == "theirs"
    np.testing.assert_array_equal(store.load("labels"), np.arange(5))
