"""What every test may use: small pictures, the command line as a real process, and a process without root's rights."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from bigcluster.kernels.linalg import floats

CHECKOUT = Path(__file__).parents[1]

if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup: what the tests start would inherit it, and rightly take no SIGHUP for an interrupt.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
PATIENCE_SECONDS = 120

# Deadlines measure the machine; a function-scoped fixture in a law is always one that holds no state between examples.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("laws")


@contextmanager
def float_kernel(*, own: bool) -> Iterator[None]:
    """Float32 products run on our own kernel, where the processor has its instructions, or else on numpy's."""
    with pytest.MonkeyPatch.context() as patch:
        own = own and floats.available()
        patch.setattr(floats, "available", lambda: own)
        yield


class MemoryTiles:
    """Tiles in memory, for solvers under test."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def put(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = array.copy()

    def get(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def delete(self, name: str) -> None:
        self._arrays.pop(name, None)


def picture(seed: int, width: int = 24, height: int = 32) -> NDArray[np.uint8]:
    """(height, width) uint8: a few blocks of tones, different for every seed, that survive resizing and JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST))


def encoded(array: NDArray[Any], suffix: str = ".png") -> bytes:
    """A grey or RGB array as a file of that kind."""
    stored = array[..., ::-1] if array.ndim == 3 and array.shape[2] == 3 else array
    done, data = cv2.imencode(suffix, np.ascontiguousarray(stored))
    assert done
    return bytes(data.tobytes())


KINDS = 4
"""The number of kinds of pictures that `write_kinds` writes."""


def write_kinds(folder: Path, number: int, *, kinds: range = range(KINDS), seed: int = 0) -> None:
    """`number` pictures of each kind: the kind's own picture with noise on it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, kinds.start])
    for kind in kinds:
        for i in range(number):
            noisy = picture(kind).astype(int) + rng.integers(-20, 21, (32, 24))
            (folder / f"kind{kind}-{i:02d}.png").write_bytes(encoded(np.clip(noisy, 0, 255).astype(np.uint8)))


def pillow_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder: Path, number: int, *, first: int = 0, width: int = 24, height: int = 32) -> list[Path]:
    """`number` PNG files, each another picture."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"p{first + i:03d}.png" for i in range(number)]
    for i, file in enumerate(files):
        file.write_bytes(encoded(picture(first + i, width, height)))
    return files


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """stderr without what announces the run."""
        return [line for line in self.err.splitlines() if not line.startswith(("memory budget:", "kept from"))]


Cli = Callable[..., Ran]

_DROP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP: root itself obeys permissions after the next exec
        sys.exit("cannot drop capabilities")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def command(*args: object, unprivileged: bool = False) -> list[str]:
    """The command line of `bigcluster ARGS`."""
    start = [sys.executable, "-c", _DROP] if unprivileged and os.geteuid() == 0 else [sys.executable]
    return [*start, "-m", "bigcluster", *map(str, args)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}
    path = os.pathsep.join(filter(None, (str(CHECKOUT), kept.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": path} | dict(extra or {})


def run_cli(*args: object, cwd: Path | None = None, unprivileged: bool = False) -> Ran:
    done = subprocess.run(
        command(*args, unprivileged=unprivileged),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept for the user stays out of the user's own folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """`cli("run", folder, "--out", out)` in a process of its own."""
    return run_cli


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OUT of a run with its report: 256 pictures in three clusters, some with hostile names."""
    from reporting import make_pictures

    folder = tmp_path_factory.mktemp("made")
    make_pictures(folder / "in")
    ran = run_cli("run", folder / "in", "--out", folder / "out", "-k", 3, "--size", "18x24")
    assert ran.code == 3, ran.err
    return folder / "out"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures beside the checkout."""
    folder = Path(os.environ.get("BIGCLUSTER_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "images").is_dir():
        pytest.skip(f"no real pictures: {folder}/images does not exist; BIGCLUSTER_SHARED names another folder")
    return folder


@pytest.fixture(scope="session")
def permissions() -> None:
    """For tests that need files nobody may read or write: `unprivileged=True` works here, or the test is skipped."""
    if os.name != "posix" or (os.geteuid() == 0 and not sys.platform.startswith("linux")):
        pytest.skip("root's rights cannot be dropped on this system")
    if os.geteuid() == 0:
        tried = subprocess.run([sys.executable, "-c", _DROP, "-c", ""], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"root's rights cannot be dropped here: {tried.stderr.strip()}")


@pytest.fixture(scope="session")
def subreaper() -> None:
    """Orphans of processes that tests kill come to us, so that their end can be seen."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs prctl")
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER


def _hear_interrupts() -> None:
    """Tests that a shell put into the background inherit a deaf ear for SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Background:
    """A command that runs while the test looks on."""

    def __init__(self, *args: object) -> None:
        self.process = subprocess.Popen(
            command(*args),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_interrupts,
        )

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Look every 10 ms; fails where the process ends before, or does not get there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"it ended before: {self.end()}")
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)

    def end(self) -> Ran:
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        return Ran(self.process.returncode, out, err)


@pytest.fixture
def background() -> Iterator[Callable[..., Background]]:
    """`background("run", ...)` starts a command; what still runs at the end of the test is killed."""
    started: list[Background] = []

    def start(*args: object) -> Background:
        started.append(Background(*args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        if one.process.stdout and not one.process.stdout.closed:
            one.process.communicate()
