"""What a command says, where it cannot say it, and how it is asked to end: the job goes on, or is saved."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_SECONDS, Background, Cli, command, environment, write_pictures

from bigcluster import outdir
from bigcluster.catalog import list_images
from bigcluster.cli.streams import Outlet
from bigcluster.config import parse_sets, resolve
from bigcluster.errors import ImagesNotFoundError, NoImagesError
from bigcluster.outputs.summary import advice
from bigcluster.units import counted, printable

QUICK = ("--size", 8, "--set", "reduce=none", "--memory", "1GiB")
FAST = (*QUICK, "--set", "report.write=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telling") / "images"
    write_pictures(folder, 12)
    return folder


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A line of sh in which `"$@"` is the command."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *command(*arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


# -- stdout and stderr that are closed or full


@pytest.mark.parametrize(
    ("where", "code", "as_json"),
    [(">&-", 0, False), (">/dev/full", 0, False), (">/dev/full", 1, True), (">&- 2>&- <&-", 0, False)],
)
def test_a_job_is_whole_where_nothing_can_be_told(
    images: Path, tmp_path: Path, where: str, code: int, as_json: bool
) -> None:
    out = tmp_path / "o"
    ran = shell(f'"$@" {where}', "run", images, "--out", out, "-k", 2, *QUICK, *(["--json"] if as_json else []))
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("could not be written to stdout") == (0 if "2>&-" in where else 1)
    assert json.loads((out / "summary.json").read_text())["counts"]["ok"] == 12
    assert (out / "report" / "index.html").is_file()
    assert len((out / "labels.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("line", [("--version",), ("run", "--help"), ("plan", "--images", 100, "-k", 3)])
def test_what_is_told_on_stdout_alone_fails_where_it_cannot_be_told(line: tuple[object, ...]) -> None:
    for where in (">&-", ">/dev/full"):
        ran = shell(f'"$@" {where}', *line)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
        assert "could not be written to stdout" in ran.stderr


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    ran = shell('"$@" | head -1', "plan", "--images", 100, "-k", 3)
    assert (ran.returncode, ran.stderr, ran.stdout.count("\n")) == (0, "", 1)


def test_errors_keep_their_code_where_nothing_can_be_told(tmp_path: Path) -> None:
    assert shell('"$@" 2>&- >&-', "run", tmp_path / "absent", "--out", tmp_path / "o", "-k", 2).returncode == 2
    assert shell('"$@" 2>/dev/full', "run", tmp_path / "absent", "--out", tmp_path / "o", "-k", 2).returncode == 2


def test_names_that_do_not_fit_the_encoding_are_told_in_escapes(tmp_path: Path) -> None:
    line = f"PYTHONIOENCODING=ascii {sys.executable} -m bigcluster run '{tmp_path}/ä\U0001f600' --out o -k 2"
    done = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"\\xe4\\U0001f600" in done.stderr.splitlines()[-1]


def test_an_outlet_goes_on_after_its_first_error() -> None:
    with open("/dev/full", "w") as full:
        outlet = Outlet(full, os.dup(full.fileno()))
        print("x" * 100_000, file=outlet, flush=True)
        print("x", file=outlet, flush=True)
        assert outlet.error is not None
        os.close(outlet.fileno())


# -- names of strangers


@pytest.mark.slow
def test_no_command_prints_an_escape_sequence_of_a_name(tmp_path: Path, cli: Cli) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202eg\r\nFAKE"
    folder, out = tmp_path / f"in{evil.replace('/', '')}", tmp_path / "o"
    write_pictures(folder, 6)
    (folder / f"a{evil}.png").write_bytes((folder / "p000.png").read_bytes())
    said = []
    said.append(cli("run", folder, "--out", out, "-k", 2, *FAST))  # the name of the folder is refused
    folder = folder.rename(tmp_path / "in")
    said.append(cli("run", folder, "--out", out, "-k", 2, *FAST))
    assert said[-1].code == 0, said[-1].err
    for entry in (out / "clusters").rglob("a*.png"):
        entry.unlink()
    damaged = cli("verify", out)
    assert (damaged.code, "FAKE" in damaged.out) == (1, True), "the name is in the answer"
    said += [damaged, cli("predict", out, folder, "--to", tmp_path / f"t{evil}.csv", "--memory", "1GiB")]
    said += [cli("verify", tmp_path / evil), cli("run", tmp_path / evil, "--out", out, "-k", 2), cli(evil)]
    for ran in said:
        for character in ("\x1b", "\x07", "\u202e", "\r"):
            assert character not in ran.out + ran.err
        assert "\nFAKE" not in ran.out + ran.err


def test_printable_shows_what_a_terminal_would_obey() -> None:
    assert printable("ä x\x1b[31m\udce9\u202e\n") == "ä x\\x1b[31m\\udce9\\u202e\\n"


# -- signals


def begin(background: Callable[..., Background], images: Path, out: Path) -> Background:
    """A run that is at work: a large size, so that it takes a while."""
    run = background("run", images, "--out", out, "-k", 2, "--size", "1600x1600", "--memory", "2GiB")
    run.wait_until(lambda: (out / "run.toml").exists() and psutil.Process(run.process.pid).children())
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_that_end_are_interrupts(
    images: Path, tmp_path: Path, background: Callable[..., Background], number: signal.Signals
) -> None:
    run = begin(background, images, tmp_path / "o")
    (worker,) = psutil.Process(run.process.pid).children()
    run.process.send_signal(number)
    if number == signal.SIGHUP:  # a terminal that closes sends several
        run.process.send_signal(number)
    ended = run.end()
    assert ended.code == 130, ended.err
    assert [line for line in ended.err.splitlines() if "interrupted" in line] == [ended.err.splitlines()[-1]]
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_hangup_that_is_ignored_at_the_start_stays_ignored(images: Path, tmp_path: Path) -> None:
    start = ["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh"]
    line = command("run", images, "--out", tmp_path / "o", "-k", 2, "--size", "900x900", "--memory", "2GiB")
    with subprocess.Popen([*start, *line], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while run.poll() is None:
            time.sleep(0.1)
            run.send_signal(signal.SIGHUP)
            run.send_signal(signal.SIGINT)
        assert run.returncode == 0, run.stderr and run.stderr.read()


def test_a_run_that_ignores_ctrl_c_still_ends_by_sigterm(images: Path, tmp_path: Path) -> None:
    """As in the background of a script: what the worker inherits must not make it deaf."""
    start = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    line = command("run", images, "--out", tmp_path / "o", "-k", 2, "--size", "1600x1600", "--memory", "2GiB")
    with subprocess.Popen([*start, *line], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not (tmp_path / "o" / "run.toml").exists():  # it is written by the worker, which is at work then
            assert run.poll() is None, "the run has ended by itself"
            time.sleep(0.01)
        run.terminate()
        assert run.wait(timeout=30) == 130


def test_what_a_library_sends_itself_is_no_ctrl_c(images: Path, tmp_path: Path) -> None:
    """OpenBLAS interrupts its own process where the system starts no thread."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'bigcluster.pipeline.worker' in sys.orig_argv:\n"
        "    import threading, signal, os, time\n"
        "    def play():\n        while 'numpy' not in sys.modules: time.sleep(0.001)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n    threading.Thread(target=play, daemon=True).start()\n"
    )
    known = environment()
    path = f"{tmp_path}{os.pathsep}{known['PYTHONPATH']}"
    done = subprocess.run(
        command("run", images, "--out", tmp_path / "o", "-k", 2, *FAST),
        env=known | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "no memory for threads" in done.stderr.splitlines()[-1]
    assert "interrupted" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 250_000, 400_000])
def test_little_address_space_is_one_line(images: Path, tmp_path: Path, limit: int) -> None:
    ran = shell(f'ulimit -v {limit}; "$@"', "run", images, "--out", tmp_path / "o", "-k", 2, *FAST, "-q")
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("warning: the budget is")]
    assert (ran.returncode, len(lines)) == (1, 1), ran.stderr
    assert re.search(r"no more memory|no memory for threads", lines[0])


def test_a_limit_on_the_size_of_files_is_named(images: Path, tmp_path: Path) -> None:
    line = ("run", images, "--out", tmp_path / "o", "-k", 2, "--size", "1200x1200", "--memory", "2GiB", "-q")
    ran = shell('ulimit -f 4096; "$@"', *line)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert "ulimit -f" in ran.stderr
    assert shell('"$@"', *line).returncode == 0, "what is done is kept"


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_profile_that_is_ended_leaves_no_run_behind(
    images: Path,
    tmp_path: Path,
    background: Callable[..., Background],
    subreaper: None,
    by: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    out, temporary = tmp_path / "o", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    started = background("profile", images, "--out", out, "-k", 2, "--size", "1600x1600", "--memory", "2GiB")
    started.wait_until(lambda: (out / "run.toml").exists())
    inner = psutil.Process(started.process.pid).children(recursive=True)
    assert len(inner) >= 2
    started.process.send_signal(by)
    ended = started.end()
    assert ended.code == (130 if by == signal.SIGTERM else -by), ended.err
    psutil.wait_procs(inner, timeout=30)
    alive = [one for one in inner if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert alive == []
    assert len(list(temporary.iterdir())) == (1 if by == signal.SIGKILL else 0)
    assert cli("profile", images, "--out", tmp_path / "o2", "-k", 2, *FAST).code == 0
    assert list(temporary.iterdir()) == [], "what a killed process left is gone too"


# -- quiet, JSON, a log


@pytest.mark.slow
def test_quiet_prints_nothing_but_warnings(tmp_path: Path, cli: Cli) -> None:
    images, out = tmp_path / "in", tmp_path / "o"
    write_pictures(images, 6)
    for line in (
        ("run", images, "--out", out, "-k", 2, *FAST),
        ("sweep", out, "-k", "2:3", "--memory", "1GiB"),
        ("report", out, "--memory", "1GiB"),
        ("predict", out, images, "--to", tmp_path / "p.csv", "--memory", "1GiB"),
        ("verify", out),
        ("demo", tmp_path / "d", "--images", 2),
    ):
        ran = cli(*line, "-q")
        shown = [text for text in ran.err.splitlines() if not text.startswith("warning: ")]
        assert (ran.code, ran.out, shown) == (0, "", []), ran
    (images / "bad.png").write_bytes(b"")
    ran = cli("run", "--out", out, "--memory", "1GiB", "-q")
    assert (ran.code, ran.out) == (3, "")
    assert "warning: 1 image could not be read (1 empty): see" in ran.err


@pytest.mark.parametrize(
    ("line", "kind", "code"),
    [
        (("run", "absent", "--out", "o", "-k", 2), "ImagesNotFoundError", 2),
        (("run", "absent", "--out", "o", "-k", 2, "--nonsense"), "ConfigError", 2),
        (("verify", "absent"), "RunNotFoundError", 2),
        (("run", "--out", "o", "-k", "x"), "ConfigError", 2),
    ],
)
def test_an_error_is_json_where_json_is_asked_for(
    line: tuple[object, ...], kind: str, code: int, tmp_path: Path, cli: Cli
) -> None:
    ran = cli(*line, "--json", cwd=tmp_path)
    error = json.loads(ran.out)["error"]
    assert (ran.code, error["kind"], error["exit_code"]) == (code, kind, code)
    assert ran.error_lines == [f"bigcluster: {error['message']}"]


def test_a_log_has_all_lines_with_their_times(images: Path, tmp_path: Path, cli: Cli) -> None:
    log = tmp_path / "run.log"
    assert cli("run", images, "--out", tmp_path / "o", "-k", 2, *FAST, "-q", "--log", log).code == 0
    assert cli("run", images, "--out", tmp_path / "o", "-k", 99, *FAST, "--log", log).code == 1
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d \S", line) for line in lines)
    said = "\n".join(lines)
    for words in ("started: bigcluster run ", "ingest: 12 images in", "bigcluster: k = 99", "ended with exit code 1"):
        assert words in said
    refused = cli("run", images, "--out", tmp_path / "o", "-k", 2, *FAST, "--log", tmp_path / "no" / "run.log")
    assert (refused.code, "--log" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize("kind", ["picture", "protected", "labels.csv", "block device", "the target"])
def test_a_log_writes_into_no_file_of_others(images: Path, tmp_path: Path, cli: Cli, kind: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\x89PNG and more" if kind != "protected" else b"")
    line = ["verify", tmp_path / "nowhere"]
    if kind == "protected":
        file.chmod(0o444)
    elif kind == "labels.csv":
        file.write_bytes(b"path,label\r\n")
    elif kind == "block device":
        file.unlink()
        try:
            os.mknod(file, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
        except PermissionError:
            pytest.skip("device files are made by root alone")
    elif kind == "the target":
        file.unlink()
        line = ["predict", tmp_path / "nowhere", images, "--to", file]
    before = file.read_bytes() if file.is_file() else None
    ran = cli(*line, "--log", file)
    assert ran.code in (1, 2), ran
    assert len(ran.error_lines) == 1, ran.err
    if before is not None:
        assert ran.code == 2, ran
        assert "--log" in ran.err
        assert file.read_bytes() == before


def test_a_log_on_a_full_disk_ends_nothing(images: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", "-k", 2, *FAST, "-q", "--log", "/dev/full")
    assert (ran.code, ran.err.count("the log cannot be written any more")) == (0, 1)


# -- words


def test_images_that_do_not_exist_are_another_error_than_a_folder_without_any(tmp_path: Path) -> None:
    with pytest.raises(ImagesNotFoundError) as absent:
        list_images(str(tmp_path / "absent"), None)
    assert absent.value.exit_code == 2
    assert isinstance(absent.value, FileNotFoundError)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(NoImagesError, match=r": left out: 1 \.txt$") as empty:
        list_images(str(tmp_path), None)
    assert empty.value.exit_code == 1


def test_both_spellings_of_colours_are_understood() -> None:
    for given, meant in (("grey", "gray"), ("colour", "color"), ("gray", "gray")):
        assert resolve(flags={"features": given}, sets=(), config=None, kept=None).features == meant
    assert parse_sets(["features=grey"]) == {"features": "grey"}


def test_two_dashes_before_a_short_option_are_explained(cli: Cli) -> None:
    ran = cli("run", "x", "--out", "o", "--k", 3)
    assert (ran.code, ran.err) == (
        2,
        "bigcluster: No such option: --k; did you mean -k? (see bigcluster --help)\n",
    )


@pytest.mark.parametrize("option", ["seed", "components", "threads", "variance"])
def test_a_text_where_a_number_is_needed_is_told_in_the_words_of_the_setting(
    option: str, images: Path, tmp_path: Path, cli: Cli
) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", "-k", 2, f"--{option}", "abc")
    assert (ran.code, len(ran.error_lines)) == (2, 1)
    assert f"{option} must be a {'share' if option == 'variance' else 'whole number'}" in ran.err
    assert "not 'abc'" in ran.err


def test_what_was_typed_is_not_called_kept(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "o"
    assert cli("run", images, "--out", out, "-k", 4, *FAST).code == 0
    again = cli("run", "--out", out, "-k", 4, "--memory", "1GiB")
    assert "kept from the last run: size = 8x8, reduce = none, report.write = False (--fresh" in again.err
    again = cli("run", "--out", out, *FAST, "--exclude", "[")
    assert "kept from the last run: k = 4 (--fresh ignores it)" in again.err
    assert 'exclude = ["["], size' in cli("run", "--out", out, "-k", 4).err


def test_a_report_of_a_first_run_that_is_under_way_is_told_so(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "o"
    assert cli("run", images, "--out", out, "-k", 2, *FAST).code == 0
    (out / "summary.json").unlink()
    with outdir.locked(out):
        ran = cli("report", out)
    assert (ran.code, f"OUT is in use by process {os.getpid()}" in ran.err) == (1, True), ran.err
    ended = cli("report", out)
    assert (ended.code, "holds no finished run" in ended.err) == (1, True), ended.err


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([9, 1], "1 of 2 clusters holds a single image"), ([9, 1, 1], "2 of 3 clusters hold one image each")],
)
def test_advice_goes_by_number(sizes: list[int], words: str) -> None:
    assert any(words in line for line in advice(sizes, "kmeans"))


def test_counted() -> None:
    assert [counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert [counted(n, "file", "is", "are") for n in (1, 2)] == ["1 file is", "2 files are"]
