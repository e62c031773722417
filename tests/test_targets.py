"""Files that a person names for an output: what is there decides how it is written, and nothing of it is harmed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Background, Cli, command, environment, run_cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.errors import StoreError, UsageError
from bigcluster.files import targets
from bigcluster.files.paths import is_url, local_path


def write(path: Path | str, text: str = "new") -> None:
    with targets.writing("--to", targets.named("--to", path)) as file:
        file.write(text)


@pytest.fixture
def device(tmp_path: Path) -> Callable[[str, int, int, int], Path]:
    """Makes a device in a temporary folder that can be opened, or skips the test."""

    def make(name: str, kind: int, major: int, minor: int) -> Path:
        path = tmp_path / name
        try:
            os.mknod(path, kind | 0o666, os.makedev(major, minor))
            if stat.S_ISCHR(kind):
                path.open("wb").close()
        except PermissionError as error:
            pytest.skip(f"no device can be made and opened here: {error}")
        return path

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


@given(
    st.sampled_from([None, 0o644, 0o640, 0o600, 0o666, 0o200, 0o4755]), st.integers(0, 3), st.booleans(), st.booleans()
)
def test_a_file_is_replaced_where_it_lies_with_its_mode_and_links_stay(
    tmp_path_factory: pytest.TempPathFactory, mode: int | None, n_links: int, relative: bool, unnamed: bool
) -> None:
    folder = tmp_path_factory.mktemp("to")
    real = folder / "real.csv"
    if mode is not None:
        real.write_text("old")
        real.chmod(mode)
    path = real
    for i in range(n_links):
        link = folder / f"link{i}"
        link.symlink_to(path.name if relative else path)
        path = link
    with pytest.MonkeyPatch.context() as patched:
        if not unnamed:
            patched.delattr(os, "O_TMPFILE", raising=False)
        write(path)
    assert real.read_text() == "new"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(real.lstat().st_mode) == (0o666 & ~umask if mode is None else mode)
    assert sorted(os.listdir(folder)) == sorted(["real.csv", *(f"link{i}" for i in range(n_links))])
    assert all((folder / f"link{i}").is_symlink() for i in range(n_links))


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_fails_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool, exists: bool
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = folder / "x.csv"
    if exists:
        path.write_text("old")

    def fail() -> None:
        with targets.writing("--to", str(path)) as file:
            file.write("half" * 100_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {name: (folder / name).read_text() for name in os.listdir(folder)} == ({"x.csv": "old"} if exists else {})


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_process_that_is_killed_leaves_nothing(folder: Path) -> None:
    path = folder / "x.csv"
    path.write_text("old")
    code = (
        "import sys, time; from bigcluster.files import targets\n"
        "with targets.writing('--to', sys.argv[1]) as file:\n"
        "    file.write('half'); file.flush(); print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert os.listdir(folder) == ["x.csv"]
    assert path.read_text() == "old"


def test_a_file_that_appears_meanwhile_is_kept(folder: Path) -> None:
    path = folder / "x.csv"

    def meanwhile() -> None:
        with targets.writing("--to", str(path)) as file:
            file.write("new")
            path.write_text("theirs")
            path.chmod(0o444)

    with pytest.raises(UsageError, match="write-protected"):
        meanwhile()
    assert path.read_text() == "theirs"


def test_a_name_that_is_taken_at_the_last_moment_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    path = folder / "x.csv"
    real = os.link

    def late(*arguments: object, **options: object) -> None:
        path.write_text("theirs")
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreError, match="somebody else made"):
        write(path)
    assert path.read_text() == "theirs"
    assert os.listdir(folder) == ["x.csv"]


def test_a_pipe_takes_the_rows_and_stays_a_pipe(folder: Path) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    (folder / "link").symlink_to("fifo")
    for path in (fifo, folder / "link"):
        taken: list[str] = []
        reader = threading.Thread(target=lambda taken=taken: taken.append(fifo.read_text()))
        reader.start()
        write(path, "a,b\r\n")
        reader.join()
        assert taken == ["a,b\n"]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert (folder / "link").is_symlink()


def test_a_character_device_is_written_to_and_stays(device: Callable[[str, int, int, int], Path]) -> None:
    null = device("null", stat.S_IFCHR, 1, 3)
    write(null)
    assert stat.S_ISCHR(null.lstat().st_mode)
    full = device("full", stat.S_IFCHR, 1, 7)
    with pytest.raises(OSError, match="No space left"):
        write(full, "x" * 100_000)
    assert stat.S_ISCHR(full.lstat().st_mode)


def test_block_devices_sockets_and_folders_are_refused(
    folder: Path, tmp_path: Path, device: Callable[[str, int, int, int], Path]
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        with pytest.raises(UsageError, match="is a socket"):
            write(folder / "socket")
    with pytest.raises(UsageError, match="is a folder"):
        write(folder)
    for wrong in (folder / "nowhere" / "x.csv", folder / "socket" / "x.csv"):
        with pytest.raises(UsageError):
            write(wrong)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="Too many levels"):
        write(folder / "loop")
    with pytest.raises(UsageError, match="is a block device"):
        write(device("block", stat.S_IFBLK, 7, 200))


def test_a_write_protected_file_is_refused_to_everybody(folder: Path, permissions: None) -> None:
    path = folder / "x.csv"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(UsageError, match="write-protected"):  # root too
        write(path)
    assert path.read_text() == "old"
    code = "import sys; from bigcluster.files import targets; targets.check('--to', sys.argv[1])"
    closed = folder / "closed"
    closed.mkdir()
    (closed / "mine").write_text("old")
    closed.chmod(0o555)
    try:
        for name in ("mine", "new"):
            line = [*command(unprivileged=True)[:-2], "-c", code, str(closed / name)]
            done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
            assert "its folder may not be written to" in done.stderr, done.stderr
    finally:
        closed.chmod(0o755)


# -- the command


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets") / "images"
    write_pictures(folder, 12)
    return folder


@pytest.fixture(scope="module")
def out(images: Path) -> Path:
    ran = run_cli("run", images, "--out", images.parent / "out", "-k", 2, "--size", 8, "--set", "report.write=false")
    assert ran.code == 0, ran.err
    return images.parent / "out"


def test_predict_writes_to_streams_and_through_links(
    images: Path, out: Path, tmp_path: Path, cli: Cli, device: Callable[[str, int, int, int], Path]
) -> None:
    assert cli("predict", out, images, "--to", tmp_path / "real.csv").code == 0
    expected = (tmp_path / "real.csv").read_bytes()
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "real.csv").chmod(0o640)
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert cli("predict", out, images, "--to", tmp_path / "link.csv").code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == expected
    assert stat.S_IMODE((tmp_path / "real.csv").stat().st_mode) == 0o640
    null = device("null", stat.S_IFCHR, 1, 3)
    assert cli("predict", out, images, "--to", null).code == 0
    assert stat.S_ISCHR(null.lstat().st_mode)
    piped = cli("predict", out, images, "--to", "/dev/stdout", "-q")
    assert piped.code == 0, piped.err
    assert piped.out.encode().startswith(expected)
    protected = tmp_path / "p.csv"
    protected.write_text("theirs")
    protected.chmod(0o400)
    refused = cli("predict", out, images, "--to", protected)
    assert (refused.code, len(refused.error_lines)) == (2, 1), refused.err
    assert protected.read_text() == "theirs"


def test_predict_does_not_wait_for_the_rows_to_refuse(images: Path, out: Path, tmp_path: Path, cli: Cli) -> None:
    """What exists among the images stays; a new file beside them is what was asked for."""
    notes = images / "notes.csv"
    notes.write_text("mine")
    (tmp_path / "to-picture").symlink_to(images / "p000.png")
    (tmp_path / "list.csv").write_text(f"path\nsub/../p.png\n{images}/p001.png\n")
    write_pictures(tmp_path, 1)
    (tmp_path / "p000.png").rename(tmp_path / "p.png")
    picture = (images / "p000.png").read_bytes()
    for source, to in (
        (images, notes),
        (images, tmp_path / "to-picture"),
        (images, images / "p001.png"),
        (tmp_path / "list.csv", tmp_path / "list.csv"),
        (tmp_path / "list.csv", tmp_path / "p.png"),
        (tmp_path / "*.png", tmp_path / "p.png"),
        (tmp_path / "list.csv", notes),  # the images of the model
    ):
        ran = cli("predict", out, source, "--to", to)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran
        assert "would write over" in ran.err
    assert notes.read_text() == "mine"
    assert (images / "p000.png").read_bytes() == picture
    notes.unlink()
    assert cli("predict", out, images, "--to", notes).code == 0
    notes.unlink()


@pytest.mark.parametrize("name", ["labels.csv", "clusters/00/new.csv"])
def test_predict_writes_into_no_out(images: Path, out: Path, tmp_path: Path, cli: Cli, name: str) -> None:
    """Not into its own, and not into that of another run."""
    other = Path(shutil.copytree(out, tmp_path / "other", symlinks=True))
    (tmp_path / "link").symlink_to(other)
    for place in (out, other, tmp_path / "link"):
        before = (place / "labels.csv").read_bytes()
        ran = cli("predict", out, images, "--to", place / name)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran
        assert "where only runs write" in ran.err
        assert (place / "labels.csv").read_bytes() == before
        assert not (place / "clusters" / "00" / "new.csv").exists()


def test_a_killed_predict_leaves_no_file(
    images: Path, out: Path, folder: Path, background: Callable[..., Background], subreaper: None
) -> None:
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    (folder / "x.csv").write_text("old")
    many = folder.parent / "many"
    many.mkdir()
    for i in range(2000):  # it is busy for a while
        os.link(images / "p000.png", many / f"{i}.png")
    run = background("predict", out, many, "--to", folder / "x.csv")
    run.wait_until(lambda: any("#" in link for link in open_files(run.process.pid, folder)))
    run.process.kill()
    run.process.wait()
    assert os.listdir(folder) == ["x.csv"]
    assert (folder / "x.csv").read_text() == "old"


def open_files(pid: int, folder: Path) -> list[str]:
    """Descriptors below a folder that the process's children hold."""
    import psutil

    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{child.pid}/fd").iterdir()]
        except OSError:
            continue
        found += [link for link in links if link.startswith(str(folder))]
    return found


# -- URLs


@pytest.mark.parametrize(
    "path", ["s3://b/out", "S3://b", "gs://b", "http://h/x", "file:///tmp/x", "memory://x", "s3:/b/out", "https:/h"]
)
def test_a_url_is_none_of_our_paths(path: str) -> None:
    assert is_url(path)
    with pytest.raises(UsageError, match=r"^OUT is a URL"):
        local_path("OUT", path)


@pytest.mark.parametrize("path", ["C:/x", "c://x", "a/s3://b", "./s3://b", "s3:", "x:y", "10:30/a.jpg", "/s3://x"])
def test_other_paths_with_colons_are_paths(path: str) -> None:
    assert not is_url(path)


def test_urls_are_refused_everywhere(images: Path, out: Path, tmp_path: Path, cli: Cli) -> None:
    url = "s3://bucket/x"
    for line in (
        ("run", url, "--out", tmp_path / "o", "-k", 2),
        ("run", images, "--out", url, "-k", 2),
        ("run", images, "--out", tmp_path / "o", "-k", 2, "--config", url),
        ("run", "--out", tmp_path / "o", "-k", 2, "--set", f"images={url}"),
        ("plan", url, "-k", 2),
        ("profile", images, "--out", url, "-k", 2),
        ("predict", out, url, "--to", tmp_path / "x.csv"),
        ("predict", out, images, "--to", url),
        ("predict", url, images, "--to", tmp_path / "x.csv"),
        ("sweep", url, "-k", "2:3"),
        ("verify", url),
        ("report", url),
        ("demo", url),
    ):
        ran = cli(*line, cwd=tmp_path)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran
        assert "is a URL" in ran.err, ran.err
    assert os.listdir(tmp_path) == []
