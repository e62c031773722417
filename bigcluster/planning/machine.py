"""How fast this machine is: measured in about a second, once, and kept in the user's cache folder.

Each rate is taken with all cores at work, as a run has them: processors slow down, and share caches and memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bigcluster._version import __version__
from bigcluster.files.durable import digest_of, write_text
from bigcluster.kernels.decode import DecodeSpec, decode, prepare_codecs
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.planning import sample_picture
from bigcluster.planning.rates import Rates
from bigcluster.runtime.blas import available_cores
from bigcluster.units import MIB

_DECIDING = ("numpy", "onnxruntime", "opencv-python-headless", "zarr")
_TRIES = 3
"""Tries of each task; the fastest counts, because what else the machine does is not its rate."""
_DISK_BYTES = 48 * MIB
"""Written and read back: enough that a sync takes longer than opening files, and done in well under a second."""
_SMALL_FILES = 100
"""Files that are opened and linked: opening takes tens of microseconds, so that all of them take some milliseconds."""


def machine_rates() -> Rates:
    """From the cache, or measured and kept there; a cache that cannot be written costs the next call a second."""
    file = _cache_folder() / f"rates-{_machine()}.json"
    try:
        return Rates(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there yet, or not what this version wrote
        pass
    rates = measure_rates()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(rates), indent=2) + "\n")
    except OSError:
        return rates
    return rates


def _cache_folder() -> Path:
    """Source: XDG Base Directory Specification 0.8: a relative path there is to be ignored."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(configured) if os.path.isabs(configured) else Path.home() / ".cache") / "bigcluster"


def _machine() -> str:
    """Names this processor, its cores and the versions that decide the rates."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    versions = [__version__, *(version(name) for name in _DECIDING)]
    what = [platform.node(), platform.machine(), model, available_cores(), versions]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def measure_rates() -> Rates:
    """Measure them now, on all cores."""
    cores = available_cores()
    with ThreadPoolExecutor(cores) as pool, tempfile.TemporaryDirectory(dir=_disk_folder()) as folder:

        def together(task: Callable[[], object]) -> float:
            """Seconds of a task that every core does at once; the fastest of a few tries."""
            return min(_seconds(lambda: list(pool.map(lambda _: task(), range(cores)))) for _ in range(_TRIES))

        full, reduced, other = _decode_seconds(together)
        written, read, small, linked = _disk_rates(Path(folder))
        return Rates(
            measured_on=datetime.now(UTC).strftime("%Y-%m-%d"),
            cores=cores,
            file_seconds=small,
            jpeg_pixel_seconds=full,
            reduced_pixel_seconds=reduced,
            other_pixel_seconds=other,
            integer_ops_per_second=_integer_rate(together),
            float_ops_per_second=_float_rate(together),
            write_bytes_per_second=written,
            read_bytes_per_second=read,
            link_seconds=linked,
        )


def _seconds(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def _disk_folder() -> Path:
    """Where the disk is tried: beside the cache where that may be written, for /tmp is often memory."""
    for folder in (_cache_folder(), _cache_folder().parent):
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir())


def _decode_seconds(together: Callable[[Callable[[], object]], float]) -> tuple[float, float, float]:
    """Seconds for each pixel of the file, from bytes in memory: JPEG at full scale, JPEG at a reduced one, PNG."""
    prepare_codecs()
    picture = sample_picture.draw()
    page = np.ascontiguousarray(np.tile(picture, (3, 3)))
    height, width = picture.shape
    small, large = sample_picture.encode_jpeg(picture), sample_picture.encode_jpeg(page)
    repeats = 8  # of a small picture, so that handing a task to a thread does not show

    def of(data: bytes, spec: DecodeSpec, times: int) -> float:
        return together(lambda: [decode(data, spec) for _ in range(times)]) / times

    return (
        of(small, DecodeSpec(width, height), repeats) / picture.size,
        of(large, DecodeSpec(64, 64), 2) / page.size,
        of(sample_picture.encode_png(picture), DecodeSpec(width, height), repeats) / picture.size,
    )


def _integer_rate(together: Callable[[Callable[[], object]], float]) -> float:
    """At the shape in which a Gram matrix is multiplied."""
    m, k, n = 1024, 8192, 512
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (m, k), dtype=np.uint8)
    right = random.integers(-128, 128, (k, n), dtype=np.int8)
    gemm = Gemm()
    sides = gemm.left(left, by_row=True), gemm.right(right, by_row=False)  # laid out once for many products
    gemm.multiply(*sides)  # its self-test
    return 2 * m * k * n / together(lambda: gemm.multiply(*sides))


def _float_rate(together: Callable[[Callable[[], object]], float]) -> float:
    m, k, n = 1024, 1024, 256
    random = np.random.default_rng(0)
    left = random.standard_normal((m, k), dtype=np.float32)
    right = random.standard_normal((k, n), dtype=np.float32)
    return 2 * m * k * n / together(lambda: float_product(left, right))


def _disk_rates(folder: Path) -> tuple[float, float, float, float]:
    """Bytes a second written and synced, and read back; seconds to read a small file, and to link one."""
    block = np.random.default_rng(0).integers(0, 256, 4 * MIB, dtype=np.uint8).tobytes()
    files = [folder / f"block-{i}" for i in range(_DISK_BYTES // len(block))]

    def write() -> None:
        for file in files:
            with open(file, "wb") as out:
                out.write(block)
                out.flush()
                os.fsync(out.fileno())

    page = block[: 48 * 1024]
    small = [folder / f"small-{i}" for i in range(_SMALL_FILES)]
    for file in small:
        file.write_bytes(page)
    written = _DISK_BYTES / _seconds(write)
    read = _DISK_BYTES / _seconds(lambda: [file.read_bytes() for file in files])
    opened = _seconds(lambda: [digest_of(file.read_bytes()) for file in small]) / len(small)

    def link() -> None:
        for file in small:
            os.link(file, folder / f"link-{file.name}")

    linked = _seconds(link) / len(small)
    return written, read, opened, linked
