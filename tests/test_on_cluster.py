"""Runs on worker processes, started or joined: the same labels, what is refused before it begins, and what is kept."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PATIENCE_SECONDS, Cli, Ran, environment, write_pictures
from distributed import Client
from distributed.security import Security

import bigcluster as bc
from bigcluster.errors import ConfigError, MemoryBudgetError
from bigcluster.pipeline.attestation import arithmetic

N = 60
RUN = ("-k", 3, "--size", "16", "--components", 5, "--memory", "1GiB", "--set", "report.write=false", "--link", "none")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on_cluster") / "images"
    write_pictures(folder, N)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a run without workers."""
    out = tmp_path_factory.mktemp("alone") / "out"
    bc.run(
        images,
        out,
        n_clusters=3,
        size=16,
        components=5,
        memory="1GiB",
        threads=1,
        link="none",
        set={"report.write": False},
    )
    return out


def same(out: Path, other: Path) -> bool:
    return all((out / name).read_bytes() == (other / name).read_bytes() for name in ("labels.csv", "images.csv"))


@contextmanager
def dask(part: str, *arguments: object, extra: Mapping[str, str] | None = None, before: str = "") -> Iterator[int]:
    """A scheduler or worker of dask, as people start them. before : Python that it runs first. Yields its process."""
    code = f"import sys; {before}\nfrom distributed.cli.dask_{part} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(extra), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in tree:
            one.kill()
        process.wait()
        psutil.wait_procs(tree, timeout=PATIENCE_SECONDS)


@contextmanager
def scheduler(folder: Path, *options: object, before: str = "") -> Iterator[Path]:
    file = folder / "scheduler.json"
    listens = ("--host", "127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file)
    with dask("scheduler", *listens, *options, before=before):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield file


@contextmanager
def worker(file: Path, *options: object, extra: Mapping[str, str] | None = None, before: str = "") -> Iterator[None]:
    folder = file.with_name(f"worker-{os.urandom(4).hex()}")
    listens = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    given = (*listens, "--nthreads", 1, "--local-directory", folder, *options)
    with dask("worker", "--scheduler-file", file, *given, extra=extra, before=before):
        yield


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scheduler file of a cluster with one good worker."""
    with scheduler(tmp_path_factory.mktemp("scheduler")) as file, worker(file, "--memory-limit", "2GiB"):
        yield file


def refused(ran: Ran, code: int, *words: str) -> None:
    errors = [line for line in ran.error_lines if line.startswith("bigcluster:")]
    assert (ran.code, len(errors)) == (code, 1), ran.err
    for word in words:
        assert word in errors[0]
    assert "Traceback" not in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_bytes(
    workers: int, images: Path, alone: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "o"
    ran = cli("run", images, "--out", out, *RUN, "--workers", workers, "--threads", 1)
    assert ran.code == 3, ran.err
    assert f"{workers} worker process{'es' * (workers > 1)} of 1 thread" in ran.err
    assert "ingest: 61 images" in ran.err
    assert same(out, alone)
    memory = json.loads((out / "summary.json").read_text())["memory"]
    assert memory["budget_bytes"] == 1 << 30
    assert memory["measured_peak_bytes"] <= memory["budget_bytes"]
    assert memory["measured_peak_bytes"] > (workers + 1) * 40 * 2**20, "all processes count"
    again = cli("run", "--out", out, "--memory", "1GiB")
    assert "ingest: reused" in again.err or "reused" in again.err
    assert same(out, alone)
    assert not [name for name in os.listdir(out) if name.startswith(".") and name not in (".lock", ".bigcluster")]


@pytest.mark.slow
def test_a_joined_cluster_gives_the_same_bytes(
    joined: Path, images: Path, alone: Path, tmp_path: Path, cli: Cli
) -> None:
    ran = cli("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", joined)
    assert ran.code == 3, ran.err
    assert same(tmp_path / "o", alone)
    workers = json.loads((tmp_path / "o" / "summary.json").read_text())["memory"]["workers"]
    assert 0 < workers["measured_peak_bytes"] <= workers["projected_peak_bytes"] <= workers["budget_bytes"] == 1 << 30
    assert workers["host"] == platform.node()
    assert "each of 1 worker: " in ran.out
    table = (tmp_path / "o" / "memory.csv").read_text()
    assert f",{platform.node()},coordinator" in table
    assert f",{platform.node()},{workers['process']}" in table
    address = json.loads(joined.read_text())["address"]
    with Client(address) as client:
        bc.run(images, tmp_path / "p", n_clusters=3, size=16, components=5, link="none", client=client,
               set={"report.write": False})  # fmt: skip
        assert same(tmp_path / "p", alone)
        assert client.scheduler_info()["workers"], "the cluster is still there"


@pytest.mark.slow
def test_sweep_predict_verify_and_report_use_workers_too(
    joined: Path, images: Path, alone: Path, tmp_path: Path, cli: Cli
) -> None:
    out, without, by_two = tmp_path / "o", tmp_path / "without.csv", tmp_path / "by-two.csv"
    shutil.copytree(alone, out)
    assert cli("predict", out, images, "--to", without).code == 3
    ran = cli("predict", out, images, "--to", by_two, "--workers", 2, "--threads", 1, "--memory", "2GiB")
    assert ran.code == 3, ran.err
    assert "2 worker processes of 1 thread" in ran.err
    assert by_two.read_bytes() == without.read_bytes()
    assert not list((out / ".bigcluster" / "ledger").glob("names-*"))

    def pages() -> dict[str, bytes]:
        report = out / "report"
        return {path.relative_to(report).as_posix(): path.read_bytes() for path in report.rglob("*") if path.is_file()}

    assert cli("sweep", out, "-k", "2:4").code == 0
    table = (out / "sweep.csv").read_bytes()
    ran = cli("sweep", out, "-k", "2:4", "--scheduler", joined, "--set", "seed=1")
    assert ran.code == 0, ran.err
    ran = cli("sweep", out, "-k", "2:4", "--scheduler", joined)
    assert ran.code == 0, ran.err
    assert (out / "sweep.csv").read_bytes() == table

    assert cli("report", out).code == 0
    before = pages()
    ran = cli("report", out, "--scheduler", joined)
    assert ran.code == 0, ran.err
    assert pages() == before
    ran = cli("verify", out, "--scheduler", joined, "--json")
    assert (ran.code, json.loads(ran.out)["damaged"]) == (0, []), ran.err
    for pixels in (out / "store.zarr" / "pixels" / "c").rglob("0"):
        if pixels.is_file():
            pixels.write_bytes(pixels.read_bytes()[:-1])
    ran = cli("verify", out, "--scheduler", joined, "--json")
    assert ran.code == 1, ran.err
    assert json.loads(ran.out)["redo"] == ["ingest"]


@pytest.mark.slow
def test_a_run_that_is_killed_on_a_cluster_goes_on_without_it(
    images: Path, alone: Path, tmp_path: Path, cli: Cli
) -> None:
    line = [sys.executable, "-m", "bigcluster", "run", images, "--out", tmp_path / "o", *RUN, "--workers", "2"]
    process = subprocess.Popen([*map(str, line)], env=environment(), stderr=subprocess.PIPE, text=True)
    with process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (tmp_path / "o" / ".bigcluster").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode in (130, 3), err
        _, alive = psutil.wait_procs(tree, timeout=30)
        assert not alive, "workers end with their run"
    assert cli("run", images, "--out", tmp_path / "o", *RUN).code == 3
    assert same(tmp_path / "o", alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_worker_that_dies_or_freezes_during_a_run_changes_no_label(
    name: str, images: Path, alone: Path, tmp_path: Path
) -> None:
    line = [sys.executable, "-m", "bigcluster", "run", images, "--out", tmp_path / "o", *RUN, "--workers", "2"]
    process = subprocess.Popen([*map(str, line)], env=environment(), stderr=subprocess.PIPE, text=True)
    with process:
        marks = tmp_path / "o" / ".bigcluster" / "marks"
        while not (marks.exists() and any(marks.rglob("*.json"))) and process.poll() is None:
            time.sleep(0.01)
        tree = psutil.Process(process.pid).children(recursive=True)
        victim = next(one for one in tree if "spawn_main" in " ".join(one.cmdline()))
        victim.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 3, err
    assert same(tmp_path / "o", alone)


def test_commands_that_read_a_run_refuse_what_a_run_refuses(
    alone: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    run, to = bc.open(alone), tmp_path / "p.csv"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"workers": 0}, "workers must be a whole number of at least 1, not 0"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "--workers starts .* give one of them"),
        ({"scheduler": "tcp://127.0.0.1:1", "threads": 2}, "no --threads"),
        ({"scheduler": "tcp://127.0.0.1:1", "client": 5}, "client and scheduler both name a cluster"),
        ({"client": 5}, "client must be a dask"),
    ]
    for given, words in cases:
        for command in (partial(run.predict, images, to), partial(run.sweep, 3), run.verify, run.report):
            with pytest.raises(ConfigError, match=words):
                command(**given)
    refused(cli("verify", alone, "--scheduler", "tcp://127.0.0.1:1"), 1, "no scheduler of dask answers")
    ran = cli("predict", alone, images, "--to", to, "--scheduler", "tls://127.0.0.1:1")
    refused(ran, 2, "needs certificates", "cluster.tls_ca")
    ran = cli("predict", alone, images, "--to", to, "--set", "kmeans.n_init=2")
    refused(ran, 2, "--set may name", "cluster.*", "not kmeans.n_init")
    ran = cli("sweep", alone, "--resolution", 1, "--workers", 2)
    refused(ran, 2, "groups the stored graph in one process")
    assert not to.exists()


def test_what_cannot_be_joined_is_refused_before_anything_is_written(images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "o"
    (tmp_path / "s.json").write_text("{}")
    start = ("run", images, "--out", out, *RUN)
    for options, code, words in (
        (("--workers", 0), 2, ("workers must be a whole number of at least 1, not 0",)),
        (("--workers", 2, "--scheduler", "tcp://127.0.0.1:1"), 2, ("--workers starts", "give one of them")),
        (("--scheduler", "tcp://127.0.0.1:1"), 1, ("no scheduler of dask answers at tcp://127.0.0.1:1",)),
        (("--scheduler", "tls://127.0.0.1:1"), 2, ("needs certificates", "cluster.tls_ca")),
    ):
        refused(cli(*start, *options), code, *words)
    for kind, words, given in (
        (ConfigError, "tcp://HOST:PORT", {"scheduler": "tcp://127.0.0.1"}),
        (ConfigError, "cannot read the scheduler file", {"scheduler": tmp_path / "none.json"}),
        (ConfigError, "is no scheduler file", {"scheduler": tmp_path / "s.json"}),
        (ConfigError, "no --threads", {"scheduler": "tcp://127.0.0.1:1", "threads": 2}),
        (ConfigError, "client must be a dask", {"client": 5}),
        (MemoryBudgetError, "1,000 workers would hold .* at most --workers 12", {"workers": 1000, "memory": "1GiB"}),
        (
            MemoryBudgetError,
            "the process that starts the job needs .* use --memory",
            {"workers": 2, "memory": "300MiB"},
        ),
    ):
        with pytest.raises(kind, match=words):
            bc.run(images, out, n_clusters=3, **given)  # type: ignore[arg-type]
    assert not out.exists()


@pytest.mark.slow
def test_a_worker_that_lacks_something_is_named(joined: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "o"
    start = ("run", images, "--out", out, *RUN, "--scheduler", joined, "--set", "cluster.min_workers=2")
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"before": "sys.modules['bigcluster'] = None"}, ("cannot do the work", "bigcluster")),
        ({"before": "import bigcluster._version as v; v.__version__ = '0.0.1'"}, ("it has bigcluster 0.0.1",)),
    ]
    for case, words in cases:
        with worker(joined, "--memory-limit", "2GiB", "--no-nanny", **case):
            refused(cli(*start), 1, "the worker tcp://127.0.0.1", *words)
    with worker(joined, "--memory-limit", "1GiB"):
        refused(cli(*start), 1, "the worker tcp://127.0.0.1", "768 MiB", "use a smaller --memory")
    with worker(joined, "--memory-limit", "200MiB"):
        without_memory = [part for part in start if part not in ("--memory", "1GiB")]
        refused(cli(*without_memory), 2, "150 MiB", "the worker tcp://127.0.0.1", "allows no larger budget")
    assert not (out / "labels.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["images", "out"])
def test_a_worker_that_sees_other_folders_is_named(
    what: str, joined: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this process may not make a mount namespace")
    out = tmp_path / "o"
    out.mkdir()
    hidden = {"images": images, "out": out}[what]
    before = (
        "import ctypes, subprocess; assert ctypes.CDLL(None).unshare(0x20000) == 0; "
        "subprocess.run(['mount', '--make-rprivate', '/'], check=True); "
        f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(hidden)!r}], check=True); "
        "import bigcluster.pipeline.attestation as attestation; attestation.SHARED_SECONDS = 1"
    )
    with worker(joined, "--memory-limit", "2GiB", "--no-nanny", before=before):
        start = ("run", images, "--out", out, *RUN, "--scheduler", joined, "--set", "cluster.min_workers=2")
        words = {"images": "cannot read", "out": "OUT must be on a disk that all workers share"}[what]
        refused(cli(*start), 1, "the worker tcp://127.0.0.1", words, str(hidden))
    assert not (out / "labels.csv").exists()


@pytest.mark.slow
def test_workers_with_other_processors_are_refused(joined: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    code = "from bigcluster.pipeline.attestation import arithmetic; print(arithmetic())"
    older = environment({"OPENBLAS_CORETYPE": "Prescott"})
    done = subprocess.run([sys.executable, "-c", code], env=older, capture_output=True, text=True, check=True)
    if done.stdout.strip() == arithmetic():
        pytest.skip("the kernels of OpenBLAS round alike on this processor")
    with worker(joined, "--memory-limit", "2GiB", extra={"OPENBLAS_CORETYPE": "Prescott"}):
        start = ("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", joined)
        refused(cli(*start, "--set", "cluster.min_workers=2"), 1, "round numbers in another way")


def test_too_few_workers_are_waited_for_and_then_named(tmp_path: Path, images: Path, cli: Cli) -> None:
    with scheduler(tmp_path) as file:
        options = ("--scheduler", file, "--set", "cluster.patience=1")
        ran = cli("run", images, "--out", tmp_path / "o", *RUN, *options)
        assert "the cluster has 0 workers, and 1 are needed: waiting for 1 s" in ran.err
        refused(ran, 1, "they did not come for 1 s")
        assert not (tmp_path / "o").exists()


def test_a_scheduler_of_another_version_is_refused(tmp_path: Path, images: Path, cli: Cli) -> None:
    before = "import distributed; from distributed import versions as v; v._version_cached = lambda name: '2020.1.0'"
    with scheduler(tmp_path, before=before) as file, worker(file):
        ran = cli("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", file)
        refused(ran, 1, "has dask.distributed 2020.1.0, and this process has", "install the same version")
        assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_tls_with_certificates(joined: Path, images: Path, alone: Path, tmp_path: Path, cli: Cli) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
         "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    files = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    mine = [item for name, file in (("ca", cert), ("cert", cert), ("key", key))
            for item in ("--set", f"cluster.tls_{name}={file}")]  # fmt: skip
    with scheduler(tmp_path, *files, "--protocol", "tls") as file, worker(file, *files, "--protocol", "tls"):
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        start = ("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", address)
        refused(cli(*start), 2, "needs certificates")
        refused(cli(*start, *mine, "--set", f"cluster.tls_key={tmp_path}/none"), 2, "cluster.tls_key: there is no file")
        plain = ("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", address.replace("tls", "tcp"))
        refused(cli(*plain), 1, "no scheduler of dask answers")
        plain_one = json.loads(joined.read_text())["address"].replace("tcp", "tls")
        start_there = ("run", images, "--out", tmp_path / "o", *RUN, "--scheduler", plain_one)
        refused(cli(*start_there, *mine), 1, "no scheduler of dask answers at tls://")
        ran = cli(*start, *mine)
        assert ran.code == 3, ran.err
        assert same(tmp_path / "o", alone)
        security = Security(tls_ca_file=str(cert), tls_client_cert=str(cert), tls_client_key=str(key))
        with Client(address, security=security) as client:
            bc.run(images, tmp_path / "p", n_clusters=3, size=16, components=5, link="none", client=client,
                   set={"report.write": False})  # fmt: skip
        assert same(tmp_path / "p", alone)
