"""Files -> pixels: whose row is whose, in whatever chunks, whatever stands beside it, and what a second look redoes."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import context_of
from conftest import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcluster.catalog import FileRecord, Listing, list_images
from bigcluster.errors import DamagedError, OutError
from bigcluster.files.bounded import open_regular
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import DecodeSpec, decode, prepare_codecs
from bigcluster.kernels.linalg.loops import pixel_sums
from bigcluster.outputs.summary import counts
from bigcluster.stages.ingest import Ingested, check_recipe, ingest, pixel_rows
from bigcluster.stages.loading import files as stage
from bigcluster.store import Store
from bigcluster.store.marks import Marks

SPEC = DecodeSpec(6, 4)
GOOD = [encoded(picture(seed)) for seed in range(8)]
BAD = {
    "empty": b"",
    "unsupported": b"this is text",
    "truncated": GOOD[0][: len(GOOD[0]) // 2],
    "damaged": b"\x89PNG" + bytes(40),
}


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare_codecs()


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many files were decoded since the last question."""
    number = 0
    lock = threading.Lock()

    def counted(data: bytes, spec: DecodeSpec) -> Any:
        nonlocal number
        with lock:
            number += 1
        return decode(data, spec)

    def since() -> int:
        nonlocal number
        found, number = number, 0
        return found

    monkeypatch.setattr(stage, "decode", counted)
    return since


def bring_in(
    images: Path,
    store: Path,
    *,
    rows: int = 4,
    columns: int = 10,
    threads: int = 2,
    spec: DecodeSpec = SPEC,
    rehash: bool = False,
) -> tuple[Listing, Store, Ingested]:
    listing = list_images(str(images), images.parent / "out")
    opened = Store(store)
    done = ingest(
        context_of(opened, threads=threads),
        listing,
        spec,
        block_shape=(rows, min(columns, spec.n_values)),
        in_flight=2,
        rehash=rehash,
    )
    return listing, opened, done


def fill(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def check(listing: Listing, store: Store, done: Ingested, contents: dict[str, bytes], spec: DecodeSpec = SPEC) -> None:
    """Every row against a decode of its own file: pixels, status, digest, and the sums over good rows."""
    assert sorted(listing.names) == sorted(contents)
    ledger = list(done.read_ledger())
    stored = store.load("pixels")
    good = []
    for row, (name, record) in enumerate(zip(listing.names, ledger, strict=True)):
        wanted = decode(contents[name], spec)
        assert (record.status, record.reason) == (wanted.status, wanted.reason), name
        assert record.digest == digest_of(contents[name])
        assert record.n_bytes == len(contents[name])
        assert (record.width, record.height) == (wanted.width, wanted.height)
        assert done.ok[row] == record.ok == (wanted.pixels is not None)
        if wanted.pixels is not None:
            np.testing.assert_array_equal(stored[row], wanted.pixels, err_msg=name)
            good.append(wanted.pixels.astype(object))
        else:
            assert not stored[row].any()
    np.testing.assert_array_equal(done.column_sums, sum(good, np.zeros(spec.n_values, object)).astype(np.int64))
    assert done.square_sum == sum(int((x * x).sum()) for x in good)
    np.testing.assert_array_equal(
        pixel_rows(store, done.ok).read(0, len(good)), np.array(good, np.uint8).reshape(len(good), spec.n_values)
    )


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Good pictures, each another one where possible, among bad files; names that tempt a mix-up."""
    names = draw(
        st.lists(
            st.sampled_from(
                [f"{d}{n}.png" for d in ("", "a/", "a/b/", "B/", "=") for n in (0, 1, 2, 10, "1 (2)", "é")]
            ),
            unique=True,
            min_size=1,
            max_size=14,
        )
    )
    return {name: draw(st.sampled_from(GOOD + list(BAD.values()))) for name in names}


@settings(max_examples=25)
@given(folders(), st.integers(1, 5), st.integers(1, 24), st.integers(1, 3))
def test_the_row_of_a_path_is_that_paths_picture(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], rows: int, columns: int, threads: int
) -> None:
    root = tmp_path_factory.mktemp("rows")
    found = bring_in(fill(root / "images", contents), root / "s", rows=rows, columns=columns, threads=threads)
    check(*found, contents)


@settings(max_examples=15)
@given(folders(), st.tuples(st.integers(1, 20), st.integers(1, 24)), st.tuples(st.integers(1, 20), st.integers(1, 24)))
def test_any_chunking_gives_the_same_pixels_and_sums(
    tmp_path_factory: pytest.TempPathFactory,
    contents: dict[str, bytes],
    one: tuple[int, int],
    other: tuple[int, int],
) -> None:
    root = tmp_path_factory.mktemp("chunks")
    images = fill(root / "images", contents)
    _, first_store, first = bring_in(images, root / "one", rows=one[0], columns=one[1], threads=1)
    _, second_store, second = bring_in(images, root / "other", rows=other[0], columns=other[1], threads=2)
    np.testing.assert_array_equal(first_store.load("pixels"), second_store.load("pixels"))
    np.testing.assert_array_equal(first.column_sums, second.column_sums)
    np.testing.assert_array_equal(first.ok, second.ok)
    assert first.square_sum == second.square_sum


@settings(max_examples=20)
@given(
    st.lists(st.tuples(folders(), st.integers(0, 2**14 - 1), st.booleans()), min_size=2, max_size=3), st.integers(1, 4)
)
def test_a_folder_that_changes_is_followed(
    tmp_path_factory: pytest.TempPathFactory, states: list[tuple[dict[str, bytes], int, bool]], rows: int
) -> None:
    """Files added, removed, replaced and touched between runs into one store: each time as if it were the first."""
    root = tmp_path_factory.mktemp("changes")
    images = root / "images"
    present: dict[str, bytes] = {}
    for moment, (contents, touched, rehash) in enumerate(states):
        for name in present.keys() - contents.keys():
            (images / name).unlink()
        changed = {name for name, data in contents.items() if present.get(name) != data}
        for i, (name, data) in enumerate(contents.items()):
            if name in changed or touched >> i & 1:
                fill(images, {name: data})
                os.utime(images / name, ns=(moment * 10**9, moment * 10**9))
        present = contents
        listing, store, done = bring_in(images, root / "s", rows=rows, rehash=rehash)
        check(listing, store, done, contents)
        assert done.n_decoded == len(changed), "what is stored already is copied"
    assert done.fingerprint == bring_in(images, root / "fresh", rows=rows)[2].fingerprint


@given(folders())
@settings(max_examples=15)
def test_ledger_counts_add_up(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("counts")
    images = fill(root / "images", contents)
    (images / "notes.txt").write_text("x")
    listing, _, done = bring_in(images, root / "s")
    found = counts(listing, done.read_ledger().counts())
    assert found["listed"] == len(contents) == found["ok"] + found["failed"]
    assert found["ok"] == sum(data in GOOD for data in contents.values()) == done.ok.sum()
    assert found["failed_by_status"] == dict(
        sorted(Counter(s for data in contents.values() for s, bad in BAD.items() if bad == data).items())
    )
    assert (found["ignored"], found["ignored_by_suffix"]) == (1, {".txt": 1})


ALL = {f"{i:02d}.png": data for i, data in enumerate([*GOOD, *BAD.values()])}  # 12 files: 3 blocks of 4


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", ALL)


def test_a_second_ingest_decodes_nothing(images: Path, tmp_path: Path, decodes: Callable[[], int]) -> None:
    _, _, first = bring_in(images, tmp_path / "s")
    assert decodes() == 12
    assert (first.blocks_reused, first.n_blocks, first.reused) == (0, 3, False)
    _, _, second = bring_in(images, tmp_path / "s", threads=1)
    assert decodes() == 0
    assert second.reused
    assert second.fingerprint == first.fingerprint
    assert second.square_sum == first.square_sum


def change(path: Path, data: bytes) -> None:
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_a_changed_file_is_decoded_alone(images: Path, tmp_path: Path, decodes: Callable[[], int]) -> None:
    _, _, first = bring_in(images, tmp_path / "s")
    decodes()
    swapped = bytes(GOOD[0])
    change(images / "05.png", swapped)
    listing, store, second = bring_in(images, tmp_path / "s")
    assert decodes() == 1
    assert second.n_decoded == 1
    assert second.blocks_reused == 2
    assert second.fingerprint != first.fingerprint
    check(listing, store, second, ALL | {"05.png": swapped})


def test_a_touched_file_is_looked_at_and_changes_nothing(
    images: Path, tmp_path: Path, decodes: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, first = bring_in(images, tmp_path / "s")
    decodes()
    change(images / "05.png", ALL["05.png"])
    pixels = (tmp_path / "s" / "store.zarr" / "pixels" / "c" / "1" / "0").stat().st_mtime_ns
    _, _, second = bring_in(images, tmp_path / "s")
    assert decodes() == 0
    assert second.reused
    assert second.fingerprint == first.fingerprint, "the same content: what follows need not be redone"
    assert (tmp_path / "s" / "store.zarr" / "pixels" / "c" / "1" / "0").stat().st_mtime_ns == pixels
    monkeypatch.setattr(stage, "digest_of", None)
    assert bring_in(images, tmp_path / "s")[2].reused, "its new time is known now: no file is read"


def test_an_added_or_removed_file_is_noticed(images: Path, tmp_path: Path, decodes: Callable[[], int]) -> None:
    bring_in(images, tmp_path / "s")
    decodes()
    fill(images, {"00-first.png": GOOD[1]})  # before all others: every row moves
    check(*bring_in(images, tmp_path / "s"), ALL | {"00-first.png": GOOD[1]})
    assert decodes() == 1
    (images / "00-first.png").unlink()
    (images / "06.png").unlink()
    check(*bring_in(images, tmp_path / "s"), {name: data for name, data in ALL.items() if name != "06.png"})
    assert decodes() == 0


def test_a_damaged_mark_or_a_lost_chunk_redoes_the_block(
    images: Path, tmp_path: Path, decodes: Callable[[], int]
) -> None:
    _, store, first = bring_in(images, tmp_path / "s")
    decodes()
    mark = store.out / ".bigcluster" / "marks" / "ingest" / "000001.json"
    mark.write_bytes(mark.read_bytes()[:-3])
    (store.root / "pixels" / "c" / "0" / "0").unlink()
    listing, store, second = bring_in(images, tmp_path / "s")
    assert decodes() == 8
    assert second.fingerprint == first.fingerprint
    check(listing, store, second, ALL)


def test_rehash_finds_what_size_and_time_hide(images: Path, tmp_path: Path, decodes: Callable[[], int]) -> None:
    _, _, first = bring_in(images, tmp_path / "s")
    decodes()
    times = (images / "05.png").stat()
    hidden = bytes(reversed(ALL["05.png"]))
    (images / "05.png").write_bytes(hidden)
    os.utime(images / "05.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert bring_in(images, tmp_path / "s")[2].reused
    listing, store, done = bring_in(images, tmp_path / "s", rehash=True)
    assert decodes() == done.n_decoded == 1
    check(listing, store, done, ALL | {"05.png": hidden})
    assert bring_in(images, tmp_path / "s", rehash=True)[2].reused
    assert decodes() == 0
    assert done.fingerprint != first.fingerprint


class Killed(BaseException):
    """Not an error that any code would handle."""


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Every change of the store is a step; after so many of them the process is no more."""
    n_done = 0

    def counted(kind: type, name: str) -> None:
        change = getattr(kind, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_done
            if n_done >= steps:
                raise Killed
            n_done += 1
            return change(*args, **kwargs)

        patch.setattr(kind, name, step)

    with monkeypatch.context() as patch:
        for name in ("write_rows", "move_rows", "drop_rows", "create", "save", "remove"):
            counted(Store, name)
        for name in ("write", "remove"):
            counted(Marks, name)
        yield


def shuffled(folder: Path, moment: int) -> dict[str, bytes]:
    """ALL with a file in front, one gone from the middle, one changed and one touched."""
    contents = ALL | {"00-first.png": GOOD[3], "06.png": GOOD[2]}
    del contents["04.png"]
    (folder / "04.png").unlink()
    for name in ("00-first.png", "06.png", "02.png"):
        fill(folder, {name: contents[name]})
        os.utime(folder / name, ns=(moment, moment))
    return contents


def test_killed_at_any_step_of_a_rewrite_it_goes_on(
    images: Path, tmp_path: Path, decodes: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_in(images, tmp_path / "before")
    contents = shuffled(images, 10**9)
    wanted = bring_in(images, tmp_path / "fresh")[2].fingerprint
    for n_steps in range(1000):
        folder = tmp_path / f"killed-{n_steps}"
        shutil.copytree(tmp_path / "before", folder)
        decodes()
        try:
            with killed_after(monkeypatch, n_steps):
                bring_in(images, folder, threads=1)
        except Killed:
            n_before = decodes()
        else:
            break
        listing, store, done = bring_in(images, folder)
        check(listing, store, done, contents)
        assert done.fingerprint == wanted
        assert n_before + decodes() <= 2 + 2, "what is new; and of the two blocks in flight once more"
        assert not (folder / "retired").exists()
        assert store.marks.blocks("retired") == []
        shutil.rmtree(folder)
    assert n_steps > 20


@pytest.mark.parametrize("n_steps", range(4, 40, 4))
def test_killed_and_changed_and_killed_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int
) -> None:
    """Blocks of two generations are retired at once, with the same names in both."""
    folder = tmp_path / "s"
    bring_in(images, folder)
    contents = shuffled(images, 10**9)
    with suppress(Killed), killed_after(monkeypatch, n_steps):
        bring_in(images, folder, threads=1)
    for name in ("00.png", "07.png"):
        (images / name).unlink()
        del contents[name]
    change(images / "05.png", GOOD[0])
    with suppress(Killed), killed_after(monkeypatch, n_steps):
        bring_in(images, folder, threads=1)
    check(*bring_in(images, folder), contents | {"05.png": GOOD[0]})


def test_damage_in_a_retired_block_is_noticed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_in(images, tmp_path / "s")
    fill(images, {"00-first.png": GOOD[1]})
    with suppress(Killed), killed_after(monkeypatch, 14):
        bring_in(images, tmp_path / "s", threads=1)
    chunk = next(
        path for path in sorted((tmp_path / "s" / "store.zarr" / "retired" / "c").rglob("*")) if path.is_file()
    )
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedError, match="retired"):
        bring_in(images, tmp_path / "s")
    assert Store(tmp_path / "s").drop_damaged() == [chunk.relative_to(tmp_path / "s").as_posix()]
    check(*bring_in(images, tmp_path / "s"), ALL | {"00-first.png": GOOD[1]})


@pytest.mark.parametrize("fail_at", [1, 5, 9])
def test_an_interrupted_ingest_goes_on_where_it_stopped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    seen: list[bytes] = []

    def failing(data: bytes, spec: DecodeSpec) -> Any:
        if len(seen) == fail_at:
            raise RuntimeError("power cut")
        seen.append(data)
        return decode(data, spec)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "decode", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            bring_in(images, tmp_path / "s", threads=1)
    listing, store, done = bring_in(images, tmp_path / "s")
    check(listing, store, done, ALL)
    assert done.fingerprint == bring_in(images, tmp_path / "fresh")[2].fingerprint


def test_another_recipe_is_refused_unless_permitted(images: Path, tmp_path: Path) -> None:
    _, store, _ = bring_in(images, tmp_path / "s")
    check_recipe(store, DecodeSpec(6, 4, max_bytes=10**9), None, replace=False)  # the budget is no part of it
    other = DecodeSpec(5, 4, color=True)
    with pytest.raises(OutError, match=r"\(features gray -> color, size 6x4 -> 5x4\).*--replace"):
        check_recipe(store, other, None, replace=False)
    check_recipe(store, other, None, replace=True)
    check(*bring_in(images, tmp_path / "s", spec=other), ALL, other)
    check(*bring_in(images, tmp_path / "s"), ALL)


def test_a_file_too_large_for_the_budget_is_retried_with_a_larger_one(
    images: Path, tmp_path: Path, decodes: Callable[[], int]
) -> None:
    _, _, small = bring_in(images, tmp_path / "s", spec=DecodeSpec(6, 4, max_bytes=1000))
    ledger: list[FileRecord] = list(small.read_ledger())
    assert {record.status for record in ledger[:8]} == {"too_large"}
    assert all(record.needed_bytes for record in ledger[:8])
    decodes()
    bring_in(images, tmp_path / "s", spec=DecodeSpec(6, 4, max_bytes=1001))
    assert decodes() == 0, "still too small for any: nothing to retry"
    check(*bring_in(images, tmp_path / "s", spec=DecodeSpec(6, 4, max_bytes=10**8)), ALL)


def test_what_is_no_file_is_a_row_and_is_not_retried(tmp_path: Path, decodes: Callable[[], int]) -> None:
    images = fill(tmp_path / "images", {"a.png": GOOD[0]})
    (images / "device.png").symlink_to("/dev/zero")
    (images / "folder-link.png").symlink_to(images)
    (images / "gone.png").symlink_to("nowhere.png")
    (images / "loop.png").symlink_to("loop.png")
    os.mkfifo(images / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        short = Path(f"/tmp/bigcluster-{os.getpid()}.png")  # a socket's path may have 107 bytes
        listener.bind(str(short))
        (images / "socket.png").symlink_to(short)
        try:
            listing, _, done = bring_in(images, tmp_path / "s")
            found = dict(zip(listing.names, done.read_ledger(), strict=True))
            assert bring_in(images, tmp_path / "s")[2].reused
        finally:
            short.unlink()
    assert {name: record.status for name, record in found.items()} == {
        "a.png": "ok",
        "device.png": "unreadable",
        "gone.png": "missing",
        "loop.png": "unreadable",
        "pipe.png": "unreadable",
        "socket.png": "unreadable",
    }
    assert found["loop.png"].reason == "Too many levels of symbolic links"
    assert found["device.png"].reason == "not a regular file"
    assert decodes() == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_is_written_to_meanwhile_is_read_again_by_the_next_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def slow_open(path: str, *, follow: bool) -> Any:
        if path.endswith("05.png"):
            change(Path(path), GOOD[1] + b"more")
        return open_regular(path, follow=follow)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "open_regular", slow_open)
        _, store, done = bring_in(images, tmp_path / "s", threads=threads)
    ledger = list(done.read_ledger())
    assert ledger[5].status == "changed_during_run"
    assert not done.ok[5]
    listing, store, done = bring_in(images, tmp_path / "s", threads=threads)
    check(listing, store, done, ALL | {"05.png": GOOD[1] + b"more"})
    assert done.n_decoded == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300))
def test_sums_are_exact(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    block = rng.integers(0, 256, (rows, columns), dtype=np.uint8) | np.uint8(rng.choice([0, 255]))
    sums, square_sum = pixel_sums(block)
    np.testing.assert_array_equal(sums, block.astype(np.int64).sum(axis=0))
    assert square_sum == int((block.astype(np.int64) ** 2).sum())
