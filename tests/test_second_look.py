"""Codecs that crash, hang or only murmur: it costs the file that did it, and its row says so.

Crashes are real ones: a `sitecustomize` on the path of the processes under test wraps the codec, which then does what
a picture's last bytes ask for.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, encoded, environment, picture, pillow_bytes, write_pictures
from PIL import Image

from benchmarks.stress.possessed import POSSESSED, asking
from bigcluster.catalog import FileRecord, list_images
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import DecodeSpec, damage_in, decode, prepare_codecs
from bigcluster.runtime.events import Progress
from bigcluster.stages.loading import files as files_module
from bigcluster.stages.loading import loader as loader_module
from bigcluster.stages.loading.captured_stderr import ROOM_BYTES, CapturedStderr
from bigcluster.stages.loading.loader import Loader

OPTIONS = ("-k", 2, "--size", 8, "--set", "reduce=none", "--memory", "1GiB")
N = 24


def put_in_front(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from here on run `code` before anything else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))


@pytest.fixture
def possessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec of processes started from here on does what a file's last twelve bytes say."""
    put_in_front(tmp_path / "possessed", POSSESSED, monkeypatch)


def asks(what: str, seed: int) -> bytes:
    """A sound picture with a wish behind its end."""
    return asking(encoded(picture(seed)), what)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def good_rows(out: Path) -> list[dict[str, str]]:
    return [row for row in rows(out / "labels.csv") if row["path"].startswith("p")]


def test_crashes_cost_their_files_alone(tmp_path: Path, cli: Cli, possessed: None) -> None:
    images, good = tmp_path / "images", tmp_path / "good"
    write_pictures(images, N)
    write_pictures(good, N)
    wishes = ("segfault", "abort", "memory", "exit", "with-others")
    for i, wish in enumerate(wishes):
        (images / f"bad-{wish}.png").write_bytes(asks(wish, 100 + i))
    (good / "bad-with-others.png").write_bytes(asks("with-nobody", 104))
    ran = cli("run", images, "--out", tmp_path / "o", *OPTIONS, "--json")
    assert ran.code == 3, ran.err
    assert "over one of 29 images: they are decoded again, one by one" in ran.err
    ledger = {row["path"]: row for row in rows(tmp_path / "o" / "images.csv")}
    assert {name: row["status"] for name, row in ledger.items() if row["status"] != "ok"} == {
        "bad-abort.png": "crashed",
        "bad-exit.png": "crashed",
        "bad-memory.png": "crashed",
        "bad-segfault.png": "crashed",
    }
    assert "SIGSEGV" in ledger["bad-segfault.png"]["reason"]
    assert all(row["bytes"] for row in ledger.values())
    found = json.loads(ran.out)
    assert found["counts"]["listed"] == N + 5 == found["counts"]["ok"] + found["counts"]["failed"]
    assert found["memory"]["measured_peak_bytes"] <= found["memory"]["budget_bytes"]
    assert cli("run", good, "--out", tmp_path / "g", *OPTIONS).code == 0
    assert good_rows(tmp_path / "o") == good_rows(tmp_path / "g")
    again = cli("run", "--out", tmp_path / "o", "--memory", "1GiB")
    assert (again.code, "one by one" in again.err) == (3, False), "what is known to crash is not tried again"


@pytest.mark.slow
def test_a_hang_costs_its_file_alone_and_a_longer_timeout_tries_it_again(
    tmp_path: Path, cli: Cli, possessed: None
) -> None:
    images = tmp_path / "images"
    write_pictures(images, N)
    slow = images / "slow.png"
    slow.write_bytes(asks("hang", 100))
    times = slow.stat()
    ran = cli("run", images, "--out", tmp_path / "o", *OPTIONS, "--set", "image.timeout=3")
    assert ran.code == 3, ran.err
    assert "made no progress for 3 s over one of 25 images" in ran.err
    row = rows(tmp_path / "o" / "images.csv")[-1]
    assert (row["path"], row["status"], row["reason"]) == ("slow.png", "timeout", "not decoded within 3 s")

    predicted = cli("predict", tmp_path / "o", images, "--to", tmp_path / "p.csv", "--memory", "1GiB")
    assert predicted.code == 3, predicted.err
    columns = ("path", "label", "status")
    assert [[row[c] for c in columns] for row in rows(tmp_path / "p.csv")] == [
        [row[c] for c in columns] for row in rows(tmp_path / "o" / "labels.csv")
    ]

    slow.write_bytes(asks("fine", 100))
    os.utime(slow, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cli("run", "--out", tmp_path / "o", "--memory", "1GiB").code == 3, "its size and time are what they were"
    again = cli("run", "--out", tmp_path / "o", "--memory", "1GiB", "--set", "image.timeout=20")
    assert again.code == 0, again.err
    assert "1 decoded, 24 reused" in again.err


def test_a_worker_that_dies_without_a_codec_is_not_started_again(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "images", 3)
    last_words = (
        "import os, sys; 'bigcluster.pipeline.worker' in sys.orig_argv and (os.write(2, b'famous\\n'), os._exit(7))"
    )
    put_in_front(tmp_path / "broken", last_words, monkeypatch)
    ran = cli("run", tmp_path / "images", "--out", tmp_path / "o", *OPTIONS)
    assert ran.code == 1, ran.err
    assert "died (exit status 7); run again to resume" in ran.err
    assert "famous" in ran.err


# -- what codecs murmur


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare_codecs()


def jpeg(seed: int, **options: Any) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)
    return pillow_bytes(Image.fromarray(noise).resize((160, 120)), "JPEG", **options)


def broken_in_the_middle(data: bytes) -> bytes:
    """The first change in the middle after which libjpeg says something."""
    middle = len(data) // 2
    return data[:middle] + b"\x55\xaa" * 20 + data[middle + 40 :]


def load(folder: Path, *, threads: int = 2, isolate_rows: tuple[tuple[int, int], ...] = ()) -> dict[str, FileRecord]:
    listing = list_images(str(folder), None)
    spec = DecodeSpec(8, 6)
    pixels = np.full((len(listing), spec.n_values), 7, np.uint8)
    with Loader(
        listing, spec, threads=threads, timeout_seconds=20, progress=Progress(), isolate_rows=isolate_rows
    ) as loader:
        found = loader.load(range(len(listing)), pixels, 0)
    for row, record in enumerate(found):
        wanted = decode(Path(listing.path(row)).read_bytes(), spec).pixels
        np.testing.assert_array_equal(pixels[row], wanted if record.ok else 0)
    return dict(zip(listing.names, found, strict=True))


@pytest.mark.parametrize("isolate_rows", [(), ((0, 40),)], ids=["together", "alone"])
def test_a_murmur_is_attributed_to_its_file(tmp_path: Path, isolate_rows: tuple[tuple[int, int], ...]) -> None:
    for i in range(40):
        data = jpeg(i, progressive=i % 3 == 0)
        (tmp_path / f"{i:02d}.jpg").write_bytes(broken_in_the_middle(data) if i % 5 == 0 else data)
    found = load(tmp_path, threads=4, isolate_rows=isolate_rows)
    bad = {name for name, record in found.items() if not record.ok}
    assert bad == {f"{i:02d}.jpg" for i in range(0, 40, 5)}
    for name in bad:
        assert found[name].status == "damaged"
        assert found[name].reason.startswith("Corrupt JPEG data: ")
        assert found[name].width == 160
        assert found[name].digest


def test_cmyk_and_fax_pictures_murmur_too(tmp_path: Path) -> None:
    cmyk = pillow_bytes(Image.open(io.BytesIO(jpeg(1))).convert("CMYK"), "JPEG")
    fax = pillow_bytes(Image.open(io.BytesIO(jpeg(2))).convert("1"), "TIFF", compression="group4")
    for name, data in (("cmyk.jpg", cmyk), ("fax.tif", fax)):
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"broken-{name}").write_bytes(broken_in_the_middle(data))
    assert {name: record.status for name, record in load(tmp_path).items()} == {
        "broken-cmyk.jpg": "damaged",
        "broken-fax.tif": "damaged",
        "cmyk.jpg": "ok",
        "fax.tif": "ok",
    }


@pytest.mark.parametrize(
    "words",
    [
        "Corrupt JPEG data: premature end of data segment",
        "libpng warning: iCCP: x\nCorrupt JPEG data: bad Huffman code",
        "Corrupt JPEG data: 12 extraneous bytes before marker 0xd9",
        "Inconsistent progression sequence for component 0 coefficient 2",
        "libpng warning: IDAT: incorrect data check",
        "Fax4Decode: Bad code word at line 3 of strip 0 (x 7).",
        "Fax3Decode1D: Warning, Line length mismatch at line 1 of strip 0 (got 5, expected 9).",
        "LZWDecode: Corrupted LZW table at scanline 0.",
        "tempfile.tif: Using code not yet in table.",
        "JPEGLib: Unsupported marker type 0x55.",
    ],
)
def test_words_of_damage(words: str) -> None:
    assert damage_in(words, b"whatever") in words.splitlines()
    assert damage_in(words, b"whatever")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "libpng warning: iCCP: known incorrect sRGB profile",
        "libpng warning: IDAT: Too much image data",
        "libpng error: YEND: CRC error",
        "TIFFReadDirectory: Warning, Unknown field with tag 50838 (0xc696) encountered.",
        "Premature end of JPEG file",
        "Invalid SOS parameters for sequential JPEG",
        "Warning: unknown JFIF revision number 2.01",
        "DeprecationWarning: something of Python's",
    ],
)
def test_words_that_leave_the_picture_as_it_is(words: str) -> None:
    assert damage_in(words, b"whatever") == ""


def test_filling_before_the_end_of_a_jpeg_is_no_damage(tmp_path: Path) -> None:
    data = jpeg(3)
    (tmp_path / "filled.jpg").write_bytes(data[:-2] + bytes(64) + data[-2:])
    (tmp_path / "other.jpg").write_bytes(data[:-2] + b"something of the picture that is left" + data[-2:])
    assert {name: record.status for name, record in load(tmp_path).items()} == {
        "filled.jpg": "ok",
        "other.jpg": "damaged",
    }


def test_harmless_remarks_cost_no_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many a folder holds nothing but pictures with an odd colour profile."""
    monkeypatch.setattr(loader_module, "load_alone", None)
    monkeypatch.setattr(loader_module, "_MOST_STDERR_BYTES", 100)
    seen: list[int] = []
    monkeypatch.setattr(
        CapturedStderr, "take", lambda words, take=CapturedStderr.take: seen.append(words.n_bytes()) or take(words)
    )
    for i in range(20):
        buffer = io.BytesIO()
        Image.fromarray(picture(i)).convert("RGB").save(buffer, "PNG", icc_profile=b"no profile at all" * 20)
        (tmp_path / f"{i:02d}.png").write_bytes(buffer.getvalue())
    assert {record.status for record in load(tmp_path, threads=3).values()} == {"ok"}
    assert seen[0] > 100, "libpng did remark on them, and its remarks were thrown away"


@pytest.mark.parametrize("isolate_rows", [(), ((0, 40),)], ids=["together", "alone"])
def test_a_full_folder_for_temporary_files_hides_no_damage(
    tmp_path: Path, isolate_rows: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/full")
    monkeypatch.setattr("tempfile.tempdir", "/dev/full")
    (tmp_path / "bad.jpg").write_bytes(broken_in_the_middle(jpeg(1)))
    (tmp_path / "good.jpg").write_bytes(jpeg(2))
    assert {name: record.status for name, record in load(tmp_path, isolate_rows=isolate_rows).items()} == {
        "bad.jpg": "damaged",
        "good.jpg": "ok",
    }


def test_where_there_is_no_room_for_words_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg(2))
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    with pytest.raises(OSError, match="No space left"):
        load(tmp_path)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("before", [0, 100_000, 200_000, ROOM_BYTES + 1])
def test_damage_is_seen_however_much_is_said_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """A codec that says harmless things, then something of damage, then harmless things: all is read, or none is ok."""
    remark = b"libpng warning: iCCP: known incorrect sRGB profile\n"

    def _say(digest: str) -> None:
        if digest == wanted:
            for _ in range(before // len(remark) + 1):
                with contextlib.suppress(OSError):
                    os.write(2, remark)
            for line in (b"Corrupt JPEG data: bad Huffman code\n", *[remark] * 3000):
                with contextlib.suppress(OSError):
                    os.write(2, line)

    def decode_aloud(content: Any, spec: DecodeSpec, into: Any) -> FileRecord:
        record: FileRecord = real_decode(content, spec, into)
        _say(record.digest)
        return record

    real_decode = files_module._decode
    for i in range(12):
        (tmp_path / f"{i:02d}.jpg").write_bytes(jpeg(i))
    wanted = digest_of((tmp_path / "05.jpg").read_bytes())
    monkeypatch.setattr(files_module, "_decode", decode_aloud)
    found = load(tmp_path, threads=3)
    assert {name for name, record in found.items() if not record.ok} == {"05.jpg"}
    said = "its codec complained" if before > ROOM_BYTES else "Corrupt JPEG data: bad Huffman code"
    assert found["05.jpg"].reason.startswith(said)


def test_words_are_data_of_strangers() -> None:
    long = "Corrupt JPEG data: \x1b[31m" + "x" * 1000
    assert "\x1b" not in damage_in(long, b"")
    assert len(damage_in(long, b"")) <= 200


def test_no_word_is_lost_that_was_not_about_pictures(tmp_path: Path) -> None:
    """What others print meanwhile comes out when decoding ends."""
    write_pictures(tmp_path / "images", 3)
    code = (
        "import os, sys\nfrom bigcluster.stages.loading.captured_stderr import CapturedStderr\n"
        "with CapturedStderr() as words:\n    os.write(2, b'one')\n    assert words.take() == 'one'\n"
        "    os.write(2, b'two')\n    assert words.n_bytes() == 3\nos.write(2, b' three')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr == "two three"
