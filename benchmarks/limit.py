"""T*: what this machine could do at best, from rates measured now.

    T* = max(N / decode rate, bytes / disk rate where the page cache cannot hold the files)
       + PCA operations / GEMM rate at the same shapes
       + dense finish
       + max(k-means operations / GEMM rate at its shapes, bytes of scores / memory rate)

Each part is the cheapest known way to do it, at full rate, without copies, overlap or start-up. Runs in a process of
its own: `python -m benchmarks.limit --images DIR --components 64`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from benchmarks.data import image_files, read_grey
from benchmarks.measure import cpu_count

SAMPLE_FILES = 2048
OVERSAMPLING = 100
APPLICATIONS = 4
"""Reads of the pixels by a subspace iteration that is accurate to a thousandth of the variance."""
KRYLOV = 2.25
"""Lanczos vectors per eigenvector wanted: 1,800 gave 800 to four digits."""
KMEANS_BLOCK = 4096


@dataclass(frozen=True)
class Work:
    """N images of d values, r components, k clusters; passes of k-means, and starts that share them."""

    n_images: int
    n_values: int
    n_components: int
    n_clusters: int
    passes: int
    starts: int


@dataclass(frozen=True)
class Rates:
    """Per second: images, bytes, operations (a multiply-add is two)."""

    decode: float
    disk_bytes: float
    gemm: float
    gemm_kernel: str
    gemm_float32: float
    gemm_kmeans: float
    memory_bytes: float


def best_seconds(task: Callable[[], Any], times: int = 3) -> float:
    """The shortest of several runs after one that warms up."""
    task()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def on_all_cores(task: Callable[[int], Any], count: int) -> Callable[[], None]:
    """task(0) ... task(count - 1) over as many threads as there are cores."""

    def run() -> None:
        with ThreadPoolExecutor(cpu_count()) as pool:
            for _ in pool.map(task, range(count)):
                pass

    return run


def decode_rate(files: Sequence[Path], side: int | None) -> float:
    """Images per second on all cores, from the page cache; scaled while decoding where the target allows it."""
    cv2.setNumThreads(1)
    flag = cv2.IMREAD_GRAYSCALE
    if side is not None:
        shape = read_grey(files[0]).shape
        for factor, reduced in ((2, cv2.IMREAD_REDUCED_GRAYSCALE_2), (4, cv2.IMREAD_REDUCED_GRAYSCALE_4)):
            flag = reduced if min(shape[:2]) // factor >= side else flag

    def decode(index: int) -> None:
        picture = cv2.imdecode(np.fromfile(files[index], np.uint8), flag)
        if side is not None:
            cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)

    return len(files) / best_seconds(on_all_cores(decode, len(files)), times=2)


def disk_rate(files: Sequence[Path]) -> float:
    """Bytes per second of files that are not in the page cache, as far as the system lets go of them."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    began = time.perf_counter()
    on_all_cores(lambda index: files[index].read_bytes(), len(files))()
    return sum(file.stat().st_size for file in files) / (time.perf_counter() - began)


def float32_rate(m: int, k: int, n: int) -> float:
    """Operations per second of (m, k) @ (k, n) in float32, BLAS on all cores."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    out = np.empty((m, n), np.float32)
    with threadpool_limits(cpu_count()):
        return 2 * m * k * n / best_seconds(lambda: np.matmul(a, b, out=out))


def float32_block_rate(m: int, k: int, n: int) -> float:
    """The same as one block per core at a time: products too small to be worth sharing."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    count = 8 * cpu_count()
    outs = [np.empty((m, n), np.float32) for _ in range(count)]
    with threadpool_limits(1):
        seconds = best_seconds(on_all_cores(lambda index: np.matmul(a, b, out=outs[index]), count))
    return 2 * m * k * n * count / seconds


def integer_rate(m: int, k: int, n: int) -> float:
    """The same of exact 8-bit products, one per core at a time, sides laid out; 0 where there is no integer kernel."""
    try:
        from bigcluster.kernels.linalg.gemm import Gemm
    except ImportError:
        return 0.0
    gemm = Gemm("auto")
    rng = np.random.default_rng(0)
    left = gemm.left(rng.integers(0, 256, (m, k), np.uint8), by_row=True)
    right = gemm.right(rng.integers(-128, 128, (k, n), np.int8), by_row=False)
    count = 2 * cpu_count()
    totals = [np.zeros((m, n), np.int32) for _ in range(count)]
    seconds = best_seconds(on_all_cores(lambda index: gemm.add_product(totals[index], left, right), count))
    return 0.0 if gemm.kernel != "integer" else 2 * m * k * n * count / seconds


def memory_rate() -> float:
    """Bytes per second read by all cores."""
    x = np.ones((cpu_count(), 2**24), np.float32)  # 64 MiB each: larger than caches
    with threadpool_limits(1):
        return x.nbytes / best_seconds(on_all_cores(lambda index: np.dot(x[index], x[index]), len(x)))


def eigh_seconds(size: int) -> float:
    """All eigenvectors of a symmetric matrix of that size."""
    x = np.random.default_rng(0).standard_normal((size, size))
    x += x.T
    with threadpool_limits(cpu_count()):
        # once where it takes seconds
        return best_seconds(lambda: np.linalg.eigh(x), times=3 if size < 1000 else 1)


def measure_rates(files: Sequence[Path], work: Work, side: int | None) -> Rates:
    step = max(1, len(files) // SAMPLE_FILES)
    sample = files[::step][:SAMPLE_FILES]
    rows, depth = min(1024, work.n_images), min(16_384, work.n_values)
    wide = rows, depth, rows
    exact, plain = integer_rate(*wide), float32_rate(*wide)
    return Rates(
        decode=decode_rate(sample, side),
        disk_bytes=disk_rate(sample),
        gemm=max(exact, plain),
        gemm_kernel="8-bit integer" if exact > plain else "float32",
        gemm_float32=plain,
        gemm_kmeans=float32_block_rate(KMEANS_BLOCK, work.n_components, work.n_clusters * work.starts),
        memory_bytes=memory_rate(),
    )


def pca_ways(work: Work, rates: Rates) -> dict[str, tuple[float, float]]:
    """(multiplication, dense finish) in seconds of every way to the scores."""
    n, d, r = work.n_images, work.n_values, work.n_components
    small = min(n, d)
    wide = min(small, r + OVERSAMPLING)
    sized: dict[int, float] = {}

    def eigh(size: int) -> float:
        if size not in sized:
            sized[size] = eigh_seconds(size)
        return sized[size]

    def leading(size: int) -> float:
        """r eigenvectors of a square matrix of that size: Lanczos with full reorthogonalisation, or all of them."""
        m = min(size, int(KRYLOV * r))
        if m == size:
            return eigh(size)
        return (2 * size**2 * m + 2 * size * m**2 + 2 * size * m * r) / rates.gemm_float32 + eigh(m)

    # a symmetric product needs half of its entries: one operation per multiply-add of the whole
    ways = {}
    if n <= 40_000:
        ways["gram"] = (n * n * d / rates.gemm, leading(n))
    if d <= 10_000:
        ways["covariance"] = ((n * d * d + 2 * n * d * r) / rates.gemm, leading(d))
    orthonormal = APPLICATIONS * 2 * small * wide**2 / rates.gemm_float32
    ways["subspace"] = (APPLICATIONS * 4 * n * d * wide / rates.gemm, orthonormal + eigh(wide))
    return ways


def decode_seconds(n_images: int, file_bytes: int, rates: Rates, page_cache: int) -> float:
    """Of all files. Those that fit in the page cache were drawn or read before any case, and no case waits for them."""
    decoded = n_images / rates.decode
    return decoded if file_bytes <= page_cache else max(decoded, file_bytes / rates.disk_bytes)


def limit(files: Sequence[Path], work: Work, side: int | None = None) -> dict[str, Any]:
    """T* and what it is made of."""
    rates = measure_rates(files, work, side)
    ways = pca_ways(work, rates)
    solver = min(ways, key=lambda name: sum(ways[name]))
    n, r, k = work.n_images, work.n_components, work.n_clusters
    file_bytes = sum(file.stat().st_size for file in files)
    kmeans_operations = 2 * n * r * k * work.starts * work.passes
    parts = {
        "decode": decode_seconds(n, file_bytes, rates, psutil.virtual_memory().available),
        "pca": ways[solver][0],
        "finish": ways[solver][1],
        "kmeans": max(kmeans_operations / rates.gemm_kmeans, 4 * n * r * work.passes / rates.memory_bytes),
    }
    return {
        "limit_seconds": sum(parts.values()),
        "parts": parts,
        "pca_way": solver,
        "work": asdict(work),
        "rates": asdict(rates),
    }


def main() -> None:
    """Print the limit of a folder of images as one JSON line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--side", type=int, help="resized to SIDE x SIDE; default: as the files are")
    arguments.add_argument("--components", type=int, default=64)
    arguments.add_argument("--clusters", type=int, default=10)
    arguments.add_argument("--passes", type=int, default=20, help="of k-means")
    arguments.add_argument("--starts", type=int, default=4, help="of k-means, in the same passes")
    arguments.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    files = image_files(args.images)
    n_values = args.side**2 if args.side else read_grey(files[0]).size
    work = Work(len(files), n_values, args.components, args.clusters, args.passes, args.starts)
    print(json.dumps(limit(files, work, args.side)))


if __name__ == "__main__":
    main()
