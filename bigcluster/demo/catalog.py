"""Writes the catalog: the cuts in folders, and truth.csv beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock

import cv2

from bigcluster.config.checks import whole_number
from bigcluster.demo.jpeg import encode
from bigcluster.demo.styles import draw_cut
from bigcluster.errors import OutError, StoreError
from bigcluster.files.durable import replacing
from bigcluster.runtime.threads import EmbeddedRuntime

CUTS_PER_HALL = 2048
"""Cuts of a folder: as many as a file manager opens at once."""
CUTS_PER_TASK = 32
"""Cuts of a task: enough that handing it to a thread costs nothing, few enough for a progress bar."""

# Drawing is a hundred short calls, each of which gives up the interpreter lock and wants it back, so threads that draw
# at the same time hinder each other. Encoding and writing are long calls: those of other threads run meanwhile.
_DRAWING = Lock()


def generate(
    directory: Path,
    images: int,
    *,
    seed: int = 0,
    hostile: bool = False,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw a synthetic catalog: `images` grey cuts, 300 x 430 pixels, JPEG, and truth.csv beside them.

    directory : created where it is missing; must be empty. Cut i depends on (seed, i) alone, so a longer catalog
        begins with the shorter one.
    hostile : adds the files of a bad day in a folder of their own, see `hostile.HOSTILE`; truth.csv leaves them out.
    threads : None for as many as this process has processors.
    on_progress : called from this thread with the number of cuts written so far.

    Returns the path of truth.csv: `path,style`, one row per cut in listing order, RFC 4180. It is written last, so a
    catalog without it is unfinished.
    Raises ConfigError for bad numbers, OutError for a directory that is not empty, StoreError if it cannot be written.
    """
    _check_numbers(images, seed, threads)
    try:
        _check_empty(directory)
        with _one_opencv_thread():
            return _write(directory, images, seed, hostile, threads, on_progress)
    except OSError as error:
        raise StoreError(f"the catalog cannot be written to {directory}: {error.strerror or error}") from error


def cut_path(index: int) -> str:
    """Where cut `index` lies, relative to the catalog; natural order is the order of the cuts."""
    return f"hall-{index // CUTS_PER_HALL + 1:03d}/cut-{index + 1:06d}.jpg"


def _check_numbers(images: int, seed: int, threads: int | None) -> None:
    for name, value, least in (("images", images, 1), ("seed", seed, 0), ("threads", threads, 1)):
        if value is not None:
            whole_number(least)(name, value)


def _check_empty(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise OutError(f"{directory} is a file; name a folder for the catalog")
    if directory.is_dir() and any(directory.iterdir()):
        raise OutError(f"{directory} is not empty; name a new or an empty folder for the catalog")


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Our threads draw whole cuts; OpenCV's own would only compete with them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _write(
    directory: Path,
    images: int,
    seed: int,
    hostile: bool,
    threads: int | None,
    on_progress: Callable[[int], None] | None,
) -> Path:
    for first in range(0, images, CUTS_PER_HALL):
        (directory / cut_path(first)).parent.mkdir(parents=True, exist_ok=True)
    # Names that all cuts of a style share: 8 bytes a cut, and no unfinished file for a kill to leave behind.
    styles: list[str] = []
    runtime = EmbeddedRuntime(threads)

    def draw(first: int) -> list[str]:
        return _draw_task(directory, seed, range(first, min(first + CUTS_PER_TASK, images)))

    # Twice as many tasks as threads, so that a long one does not leave the others without work.
    tasks = runtime.map(draw, range(0, images, CUTS_PER_TASK), in_flight=2 * runtime.threads)
    with closing(tasks):
        for drawn in tasks:
            styles += drawn
            if on_progress is not None:
                on_progress(len(styles))
    if hostile:
        # Pillow is only needed here.
        from bigcluster.demo.hostile import write_hostile

        write_hostile(directory, seed)
    truth = directory / "truth.csv"
    with replacing(truth) as file:
        rows = csv.writer(file)
        rows.writerow(("path", "style"))
        rows.writerows((cut_path(i), style) for i, style in enumerate(styles))
    return truth


def _draw_task(directory: Path, seed: int, indices: range) -> list[str]:
    """Draw, encode and write the cuts of these numbers; return their styles."""
    styles = []
    for index in indices:
        with _DRAWING:
            page, style = draw_cut(seed, index)
        _write_file(os.path.join(directory, cut_path(index)), encode(page))
        styles.append(style.name)
    return styles


def _write_file(path: str, content: bytes) -> None:
    """Three system calls; `open` makes twice as many, and wants the interpreter lock back after each."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        written = os.write(descriptor, content)
        while written < len(content):  # a signal, or a disk about to be full
            written += os.write(descriptor, content[written:])
    finally:
        os.close(descriptor)
