"""The work that everybody gets: generated catalogs and matrices, kept between calls, and how their files are listed.

Peers import this module, so it imports nothing heavy itself.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = RESULTS / "data"
TRUTH = "truth.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

Say = Callable[[str], None]


def image_files(images: Path) -> list[Path]:
    """Every image in one order for all peers: that of truth.csv where there is one, else sorted by path."""
    truth = images / TRUTH
    if truth.is_file():
        return [images / name for name, _ in _truth_rows(truth)]
    return sorted(file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES)


def styles(images: Path) -> list[str] | None:
    """The true style of every image, in the order of `image_files`; None for images that were not generated."""
    truth = images / TRUTH
    return [style for _, style in _truth_rows(truth)] if truth.is_file() else None


def _truth_rows(truth: Path) -> list[tuple[str, str]]:
    with open(truth, newline="", encoding="utf-8") as file:
        return [(row["path"], row["style"]) for row in csv.DictReader(file)]


def catalog(n_images: int, shrink: tuple[int, int] | None, say: Say, data: Path = DATA) -> Path:
    """A generated catalog of that many cuts, drawn on first use. shrink : (width, height) of the files, None as drawn.

    truth.csv is written last, so a catalog that has one is whole.
    """
    drawn = data / f"cuts-{n_images}"
    wanted = drawn if shrink is None else data / f"cuts-{n_images}-{shrink[0]}x{shrink[1]}"
    if (wanted / TRUTH).is_file():
        return wanted
    if not (drawn / TRUTH).is_file():
        from bigcluster.demo import generate

        shutil.rmtree(drawn, ignore_errors=True)
        say(f"drawing {n_images} cuts (once)")
        generate(drawn, n_images)
    if shrink is not None:
        say(f"shrinking them to {shrink[0]}x{shrink[1]} (once)")
        _shrink(drawn, wanted, shrink)
        shutil.rmtree(drawn)
    return wanted


def _shrink(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Files of that size on disk: then no peer resizes, and all of them see the same pixels."""
    import cv2

    from bigcluster.demo.jpeg import JPEG_QUALITY

    shutil.rmtree(target, ignore_errors=True)

    def one(file: Path) -> None:
        into = target / file.relative_to(source)
        into.parent.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(read_grey(file), size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(into), small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(one, image_files(source)):
            pass
    shutil.copyfile(source / TRUTH, target / TRUTH)


def read_grey(file: Path) -> Any:
    """(height, width) uint8. Raises OSError."""
    import cv2

    picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise OSError(f"{file} cannot be read")
    return picture


def rows(n_rows: int, n_columns: int, say: Say, data: Path = DATA) -> Path:
    """A matrix like PCA scores: a thousand blobs, the spread of whose columns falls off; .npy, float32.

    The same matrix lies beside it in a store of ours, for streaming: see `rows_store`.
    """
    file = data / f"rows-{n_rows}x{n_columns}.npy"
    if not file.is_file():
        import numpy as np

        say(f"drawing {n_rows} x {n_columns} rows (once)")
        data.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        spread = (1 + np.arange(n_columns)) ** -0.5
        centers = rng.standard_normal((1000, n_columns)) * spread * 2
        x = np.empty((n_rows, n_columns), np.float32)
        blob = rng.integers(0, len(centers), n_rows)
        for start in range(0, n_rows, 65_536):
            part = slice(start, start + 65_536)
            x[part] = centers[blob[part]] + 0.25 * rng.standard_normal((len(x[part]), n_columns))
        unfinished = file.with_suffix(".partial.npy")
        np.save(unfinished, x)
        unfinished.replace(file)
    return file


def rows_store(file: Path) -> Path:
    """Where `file` lies as a store of ours, written on first use."""
    root = file.with_suffix(".zarr")
    finished = root / "written"
    if not finished.is_file():
        import numpy as np

        from bigcluster.store import RowWriter, Store

        shutil.rmtree(root, ignore_errors=True)
        x = np.load(file)
        writer = RowWriter(Store(root), "scores", len(x), x.shape[1], np.float32)
        for start in range(0, len(x), 16_384):
            writer.write(start, x[start : start + 16_384])
        writer.close()
        finished.touch()
    return root


def first_centers(file: Path, n_clusters: int) -> Path:
    """Rows drawn at random as the centers that every peer starts from."""
    into = file.with_name(f"{file.stem}-init-{n_clusters}.npy")
    if not into.is_file():
        import numpy as np

        x = np.load(file, mmap_mode="r")
        chosen = np.random.default_rng(1).choice(len(x), n_clusters, replace=False)
        np.save(into, np.array(x[chosen]))
    return into
