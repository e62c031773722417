"""This module measures the speed of the machine once, in about a second, and stores it in the cache folder of the user.

Each rate is measured while all cores work, as in a run: then processors are slower and share caches and memory.
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
from bigcluster.files.paths import cache_folder
from bigcluster.files.temporary import temporary_folder
from bigcluster.kernels.decode import DecodeSpec, decode, prepare_codecs
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.planning import sample_picture
from bigcluster.planning.rates import Rates
from bigcluster.runtime.blas import available_cores
from bigcluster.units import MIB

_DECIDING = ("numpy", "onnxruntime", "opencv-python-headless", "zarr")
"""Packages whose versions change the rates."""
_TRIES = 3
"""Number of tries of each task. The fastest one counts, because other work of the machine is no part of its rate."""
_DISK_BYTES = 48 * MIB
"""Bytes that are written and read back: a sync takes longer than opening files, and all takes less than a second."""
_SMALL_FILES = 100
"""Number of files that are opened and linked. Opening one takes tens of microseconds, all of them some milliseconds."""


def machine_rates() -> Rates:
    """Return the rates from the cache, or measure them and store them there.

    Where the cache cannot be written, the next call measures again, which takes about a second.
    """
    file = cache_folder() / f"rates-{_machine()}.json"
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


def _machine() -> str:
    """Return a name of this machine: a hash of its processor, its cores, and the versions that change the rates."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    versions = [__version__, *(version(name) for name in _DECIDING)]
    what = [platform.node(), platform.machine(), model, available_cores(), versions]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def measure_rates() -> Rates:
    """Measure the rates now, on all cores."""
    cores = available_cores()
    with ThreadPoolExecutor(cores) as pool, temporary_folder(_disk_folder()) as folder:

        def together(task: Callable[[], object]) -> float:
            """Return the seconds of a task that all cores do at the same time, in the fastest of a few tries."""
            return min(_seconds(lambda: list(pool.map(lambda _: task(), range(cores)))) for _ in range(_TRIES))

        full, reduced, other = _decode_seconds(together)
        written, read, small, linked = _disk_rates(folder)
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
    """Return the folder for measuring the disk: the cache folder where it is writable, because /tmp is often in
    memory."""
    for folder in (cache_folder(), cache_folder().parent):
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir())


def _decode_seconds(together: Callable[[Callable[[], object]], float]) -> tuple[float, float, float]:
    """Return the seconds per pixel of decoding from memory: a JPEG at full scale, a JPEG at a reduced scale, and a
    PNG."""
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
    """Return the integer operations per second of one thread, for the shapes of a Gram matrix."""
    m, k, n = 1024, 8192, 512
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (m, k), dtype=np.uint8)
    right = random.integers(-128, 128, (k, n), dtype=np.int8)
    gemm = Gemm()
    sides = gemm.left(left, by_row=True), gemm.right(right, by_row=False)  # laid out once for many products
    gemm.multiply(*sides)  # its self-test
    return 2 * m * k * n / together(lambda: gemm.multiply(*sides))


def _float_rate(together: Callable[[Callable[[], object]], float]) -> float:
    """Return the float32 operations per second of one thread."""
    m, k, n = 1024, 1024, 256
    random = np.random.default_rng(0)
    left = random.standard_normal((m, k), dtype=np.float32)
    right = random.standard_normal((k, n), dtype=np.float32)
    return 2 * m * k * n / together(lambda: float_product(left, right))


def _disk_rates(folder: Path) -> tuple[float, float, float, float]:
    """Return the bytes per second of writing with sync and of reading, and the seconds to read and to link a small
    file."""
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
