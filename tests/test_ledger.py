"""The ledger in columns: what goes in comes out, a stranger's tables are refused, and every record is parsed once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.catalog import FileRecord, Listing, StringArray
from bigcluster.catalog.ledger import Ledger
from bigcluster.config import Settings, resolve
from bigcluster.files.bounded import limit_parsing
from bigcluster.files.durable import digest_of
from bigcluster.outputs.tables import file_cells
from bigcluster.pipeline.report import report
from bigcluster.pipeline.run import run
from bigcluster.pipeline.verify import verify
from bigcluster.runtime.resources import Resources
from bigcluster.stages.pixel_blocks import Block, Table, write_block
from bigcluster.store import Mark, Store, read_table, write_table

numbers = st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
failed = st.builds(
    FileRecord,
    numbers,
    st.none() | st.integers(-(2**70), 2**70),
    numbers,
    numbers,
    st.just("") | st.binary(min_size=16, max_size=16).filter(any).map(bytes.hex),
    st.sampled_from(["missing", "damaged", "too_large", "timeout"]),
    st.text(st.characters(exclude_categories=["Cs"])),
    numbers,
    st.none() | st.floats(0, 1e9),
)
whole = st.integers(0, 2**63 - 1)
good = st.builds(
    FileRecord,
    whole,
    whole,
    whole,
    whole,
    st.binary(min_size=16, max_size=16).filter(any).map(bytes.hex),
    st.just("ok"),
    st.sampled_from(["", "no end marker"]),
)
ledgers = st.lists(good | failed, max_size=9)


@given(ledgers)
def test_records_come_back_as_they_were(records: list[FileRecord]) -> None:
    ledger = Ledger.of(records)
    assert list(ledger) == [ledger[row] for row in range(len(records))] == records
    backwards = list(range(len(records)))[::-1]
    assert ledger.at(backwards) == records[::-1]
    again = Ledger.from_columns(ledger.to_columns())
    assert list(again) == records
    assert again.contents() == ledger.contents()
    assert ledger.ok.tolist() == [record.ok for record in records]
    assert sum(ledger.counts().values()) == len(records)
    facts = [(r.ok, r.n_bytes, r.mtime_ns, int(r.digest[:16] or "0", 16)) for r in records]
    assert list(ledger.identities()) == facts


@given(ledgers, ledgers, st.integers(0, 3))
def test_a_part_takes_the_place_of_what_was_there(before: list[FileRecord], part: list[FileRecord], start: int) -> None:
    rows = (before + part)[: start + len(part)] + before
    ledger = Ledger.of(rows)
    start = min(start, len(rows) - len(part))
    ledger.put(start, Ledger.of(part))
    expected = rows[:start] + part + rows[start + len(part) :]
    assert list(ledger) == expected
    first = min(1, len(rows))
    assert list(ledger.part(first, len(ledger))) == expected[first:]


@given(ledgers, ledgers)
def test_contents_are_equal_exactly_where_digests_and_statuses_are(
    one: list[FileRecord], other: list[FileRecord]
) -> None:
    same = [(r.digest, r.status) for r in one] == [(r.digest, r.status) for r in other]
    assert (Ledger.of(one).contents() == Ledger.of(other).contents()) == same


names = st.text(st.characters(exclude_categories=["Cs"])) | st.binary(max_size=5).map(
    lambda b: b.decode("utf-8", "surrogateescape")
)


@given(st.lists(names))
def test_strings_come_back_from_their_columns(strings: list[str]) -> None:
    column = StringArray(strings)
    assert list(StringArray.from_columns(*column.to_columns())) == strings
    first = min(1, len(strings))
    assert list(StringArray.from_columns(*column.to_columns(first, len(strings)))) == strings[first:]


@pytest.mark.slow
def test_the_table_of_the_largest_block_is_read_where_a_million_images_are_clustered(tmp_path: Path) -> None:
    """65,536 rows, the most that a block has, with half of what 1 GiB leaves; none of them is a picture."""
    record = FileRecord(1234567, 1_700_000_000_000_000_000, 8, 8, "ab" * 16, "damaged", "the reason " * 9, 1 << 40)
    names = StringArray(f"folder-{i % 100}/sub-folder/picture-{i:07d}.jpg" for i in range(65_536))
    block = Block(0, 0, len(names))
    ledger = Ledger.of([record] * len(names))
    digests, payload = write_block(Store(tmp_path), block, Listing(tmp_path, names), ledger, 1)
    mark = Mark("", digests, payload)
    limit_parsing(((1 << 30) - (126 << 20)) // 2)
    try:
        table = Table.of(tmp_path, mark)
        assert table is not None
        read, read_names = table.records(), table.names()
        assert read is not None
        assert read_names is not None
        assert list(read) == list(ledger)
        assert list(read_names) == list(names)
    finally:
        limit_parsing(None)


COLUMNS = Ledger.of(
    [
        FileRecord(100, -5, 4, 4, "ab" * 16, "ok", ""),
        FileRecord(None, None, None, None, "", "missing", "no such file"),
        FileRecord(7, 1 << 64, None, None, "00" * 15 + "01", "too_large", "needs more", 1 << 40, None),
        FileRecord(7, 0, None, None, "cd" * 16, "timeout", "", None, 2.5),
    ]
).to_columns()


@given(st.data())
def test_columns_of_a_stranger_are_records_or_refused(data: st.DataObject) -> None:
    """Whatever numbers stand in them: what is taken for a ledger can be read, and written as a table."""
    columns = {name: values.copy() for name, values in COLUMNS.items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=3, unique=True)):
        values = columns[name]
        kind = data.draw(st.sampled_from(["value", "length", "type", "gone"]))
        if kind == "value" and len(values):
            raw = values.view(np.uint8)
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        elif kind == "length":
            columns[name] = np.resize(values, data.draw(st.integers(0, 6)))
        elif kind == "type":
            columns[name] = np.nan_to_num(values).astype(data.draw(st.sampled_from(["u1", "u4", "i8", "f8"])))
        else:
            columns.pop(name, None)
    try:
        ledger = Ledger.from_columns(columns)
    except ValueError:
        return
    for record, cells in zip(ledger, file_cells(ledger), strict=True):
        assert len("".join(map(str, cells)).encode()) > 0
        assert record.status in cells
    assert sum(ledger.counts().values()) == len(ledger)


@given(st.data())
def test_a_table_of_a_stranger_is_columns_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its digest fits: it was written so."""
    out = tmp_path_factory.mktemp("table")
    ((file, _),) = write_table(out, "000000", COLUMNS).items()
    raw = bytearray((out / file).read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (out / file).write_bytes(raw)
    assert read_table(out, Mark("", {file: "0" * 32})) is None
    columns = read_table(out, Mark("", {file: digest_of(bytes(raw))}))
    assert columns is None or all(len(values.shape) == 1 for values in columns.values())


class Job:
    """A folder of 20 pictures, and the settings of runs over it."""

    def __init__(self, folder: Path) -> None:
        self.images, self.out = folder / "images", folder / "out"
        write_pictures(self.images, 20)

    def settings(self, **values: Any) -> Settings:
        flags = {"images": str(self.images), "out": str(self.out), "k": 2, "size": 8, "components": 2} | values
        return resolve(flags=flags, sets=(), config=None, kept=None)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Says how many records were parsed since it was asked last."""
    n_records = 0
    real = Ledger.from_columns.__func__  # type: ignore[attr-defined]

    def counting(cls: type[Ledger], columns: Any) -> Ledger:
        nonlocal n_records
        ledger: Ledger = real(cls, columns)
        n_records += len(ledger)
        return ledger

    def taken() -> int:
        nonlocal n_records
        before, n_records = n_records, 0
        return before

    monkeypatch.setattr(Ledger, "from_columns", classmethod(counting))
    return taken


def test_a_record_is_parsed_once_in_a_run_at_most(tmp_path: Path, parsed: Callable[[], int]) -> None:
    job, budget = Job(tmp_path), Resources(1 << 30, 2)
    run(job.settings(), budget)
    assert parsed() == 0, "a fresh run has the records in memory"
    run(job.settings(), budget)
    assert parsed() == 20, "a reused one reads them once"
    run(job.settings(k=3), budget)
    assert parsed() == 20
    (job.images / "new.png").write_bytes(next(job.images.iterdir()).read_bytes() + b"x")
    run(job.settings(), budget)
    assert parsed() == 20, "rows that move to another place too"
    report(job.settings(), budget)
    assert parsed() == 21
    verify(job.settings(), budget)
    assert parsed() == 21


def test_a_long_column_alone_takes_no_memory_for_its_rows() -> None:
    columns = Ledger.of([]).to_columns() | {"status": np.zeros(10_000_000, np.uint8)}
    tracemalloc.start()
    with pytest.raises(ValueError, match="another length"):
        Ledger.from_columns(columns)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("content", [b'{"columns": []}\n', b'{"columns": "x"}\n', b"[]\n", b'{"columns": {"a": 3}}\n'])
def test_a_table_without_named_columns_counts_as_damaged(tmp_path: Path, content: bytes) -> None:
    digest = digest_of(content)
    file = tmp_path / ".bigcluster" / "ledger" / f"000000-{digest}.columns"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert read_table(tmp_path, Mark("x", {str(file.relative_to(tmp_path)): digest})) is None
